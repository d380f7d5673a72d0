"""Hears the signals of services on one bus, over a connection of its own; knows no call and no meaning of a signal.

The connection is there while somebody subscribes. Whenever signals may have been lost (a new connection, a new owner of
the bus name, a overflow), the subscriber is told so, and reads.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Self, TypeAlias

from adapters.dbus.connection import BUS_NAME, BUS_PATH, BusConnectionLimits, ConnectError, DBusConnection, Received
from adapters.dbus.pool import BusSettings, Dependencies, delays
from gateway.core.dbus import marshal
from gateway.core.dbus.signature import parse
from gateway.core.dbus.target import MethodCall, Subscription
from gateway.core.rpc.model import Event, EventsLost, Value

# What one subscriber has still to hear: bounded, and of a property only the last value; knows no bus.


BOUND = 1024  # events that wait to be heard

SignalEvent: TypeAlias = "Event | EventsLost"


class SignalQueue:
    """`async for news in feed:` never ends by itself."""

    def __init__(self, bound: int = BOUND) -> None:
        self._bound = bound
        self._queue: OrderedDict[Hashable, SignalEvent] = OrderedDict()
        self._numbers = count()
        self._more = asyncio.Event()

    def put(self, event: Event) -> bool:
        """Take an event, whatever else is known of its properties; false when there is no room, and it is lost."""
        key = self._key(event)
        before = self._queue.pop(key, None)
        if before is None and len(self._queue) >= self._bound:
            return False
        self._queue[key] = event if not isinstance(before, Event) else _together(before, event)
        self._more.set()
        return True

    def miss(self, missed: EventsLost) -> None:
        """Tell that events may have been lost; what is read then is newer than all that was told before of properties.

        There is always room for it: of each bus name one waits at most.
        """
        self._queue.pop(missed.bus_name, None)
        stale = [key for key, news in self._queue.items() if isinstance(news, Event) and _is_outdated(news, missed)]
        for key in stale:
            del self._queue[key]
        self._queue[missed.bus_name] = missed
        self._more.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SignalEvent:
        while not self._queue:
            self._more.clear()
            await self._more.wait()
        return self._queue.popitem(last=False)[1]

    def _key(self, event: Event) -> Hashable:
        """Events of one key are heard as one."""
        if event.member:
            return next(self._numbers)
        return event.bus_name, event.object_path, event.interface


def _is_outdated(event: Event, missed: EventsLost) -> bool:
    return not event.member and event.bus_name == missed.bus_name


def _together(before: Event, after: Event) -> Event:
    return Event(
        after.bus_name,
        after.object_path,
        after.interface,
        properties={**_without(before, after), **after.properties},
        invalidated=(before.invalidated - after.properties.keys()) | after.invalidated,
    )


def _without(before: Event, after: Event) -> dict[str, Value]:
    return {name: value for name, value in before.properties.items() if name not in after.invalidated}


PROPERTIES = "org.freedesktop.DBus.Properties"
TIMEOUT = 5.0  # seconds that a bus has to take a match rule
OVERFLOW_LIMIT = (
    2000  # signals to one subscription within a second; past it the bus is asked to send no more for a while
)
OVERFLOW_PAUSE = 1.0  # seconds of that while
REFUSED = 5.0  # seconds before a match rule is tried again that the bus would not take

log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class Interest:
    """A subscription, whom it is for, and how far the bus knows of it."""

    subscription: Subscription
    feed: SignalQueue
    listening: bool = False  # the bus has the match rules
    owner: str | None = None  # unique name; empty for nobody, None while we do not know
    deaf_until: float = 0.0  # of the loop's clock: no match rules before
    heard: int = 0  # signals since `since`
    since: float = 0.0
    rules: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.rules = tuple(_rules(self.subscription))

    def miss(self, why: str) -> None:
        """Tell the subscriber that he may have missed something."""
        self.feed.miss(EventsLost(self.subscription.bus_name, self.owner or "", why))


class Signals:
    """All interests in one bus. `add` and `discard` return at once; a task of this object tells the bus."""

    def __init__(self, bus: BusSettings, around: Dependencies) -> None:
        self._bus = bus
        self._around = around
        self._interests: dict[Interest, None] = {}
        self._leaving: list[str] = []  # match rules that the bus is to forget
        self._changed = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._connection: DBusConnection | None = None
        self.heard = 0
        self.overflows = 0

    def add(self, interest: Interest) -> None:
        """Begin to listen."""
        self._interests[interest] = None
        self._changed.set()
        if self._keeper is None:
            self._keeper = asyncio.get_running_loop().create_task(self._keep())

    def discard(self, interest: Interest) -> None:
        """Listen no more for it."""
        self._interests.pop(interest, None)
        self._forget_rules(interest)

    async def is_alive(self, patience: float) -> bool:
        """Whether the bus answers on this connection too, where there is one; a mute one is closed, and made anew."""
        alive = self._connection is None or await self._connection.ping(patience)
        return alive and (self._keeper is None or not self._keeper.done())

    async def close(self) -> None:
        """End, with whatever was subscribed."""
        self._interests.clear()
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait({keeper})

    # The connection

    async def _keep(self) -> None:
        while True:
            while not self._interests:
                self._changed.clear()
                await self._changed.wait()
            connection = await self._connect()
            self._connection = connection
            connection.on_signal = self._hear
            connection.ended.add_done_callback(lambda _: self._changed.set())
            try:
                await self._serve(connection)
            finally:
                self._connection = None
                self._leaving.clear()
                connection.close()
                await connection.closed()
            for interest in self._interests:
                interest.listening, interest.owner = False, None
                interest.miss(f"bus '{self._bus.name}' is not connected")

    async def _connect(self) -> DBusConnection:
        for pause in delays(self._around.chance):
            with suppress(ConnectError):
                return await DBusConnection.open(
                    self._bus.address, BusConnectionLimits(max_message=self._bus.max_message)
                )
            await self._around.sleep(pause)
        raise AssertionError("there is always one more attempt")

    async def _serve(self, connection: DBusConnection) -> None:
        """Bring the bus's match rules to what is wanted, until the connection is gone or nobody listens."""
        while self._interests and not connection.worn.is_set():
            self._changed.clear()
            try:
                async with asyncio.timeout(TIMEOUT):
                    await self._tell(connection)
            except TimeoutError:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout_at(self._next_attempt()):
                    await self._changed.wait()

    def _next_attempt(self) -> float | None:
        return min((one.deaf_until for one in self._interests if not one.listening), default=None)

    async def _tell(self, connection: DBusConnection) -> None:
        leaving, self._leaving = self._leaving, []
        for rule in leaving:
            await connection.call(_driver("RemoveMatch", rule))
        now = asyncio.get_running_loop().time()
        waiting = [one for one in self._interests if not one.listening and one.deaf_until <= now]
        for interest in waiting:
            await self._begin(connection, interest)
        for interest in waiting:  # all at once: who has several is told once
            if interest.owner is not None:
                interest.miss("listening from now on")

    async def _begin(self, connection: DBusConnection, interest: Interest) -> None:
        """Rules first, and only then who owns the name: what comes between is heard, or is told by the answer."""
        interest.listening = True
        for rule in interest.rules:
            answer = await connection.call(_driver("AddMatch", rule))
            if not isinstance(answer, Received):
                return  # the connection is lost
            if answer.error_name:
                self._refused(interest, answer.error_name)
                return
        answer = await connection.call(_driver("GetNameOwner", interest.subscription.bus_name))
        if interest.owner is None and isinstance(answer, Received):  # or else its change was heard meanwhile
            interest.owner = "" if answer.error_name else str(answer.body[0])

    def _refused(self, interest: Interest, why: str) -> None:
        log.warning("bus '%s' takes no match rule for %s: %s", self._bus.name, interest.subscription.bus_name, why)
        self._be_deaf(interest, REFUSED)

    def _be_deaf(self, interest: Interest, seconds: float) -> None:
        """Make the bus send nothing for a while; when it does again, what was missed is read."""
        interest.deaf_until = asyncio.get_running_loop().time() + seconds
        self._forget_rules(interest)

    def _forget_rules(self, interest: Interest) -> None:
        if interest.listening and self._connection is not None:
            self._leaving += interest.rules
        interest.listening, interest.owner = False, None
        self._changed.set()

    # What comes in

    def _hear(self, message: Received) -> None:
        """A signal; what does not come from the owner of the bus name is for nobody."""
        if message.sender == BUS_NAME:
            if message.member == "NameOwnerChanged" and message.signature == "sss":
                self._new_owner(*message.body)
            return
        fits = [one for one in self._interests if one.owner == message.sender and _is_wanted(one.subscription, message)]
        if fits:
            self.heard += 1
        for interest in fits:
            self._pass_on(interest, message)

    def _new_owner(self, bus_name: str, _before: str, owner: str) -> None:
        for interest in self._interests:
            if interest.listening and interest.subscription.bus_name == bus_name:
                interest.owner = owner
                interest.miss(f"its owner is {owner}" if owner else "nobody owns it")

    def _pass_on(self, interest: Interest, message: Received) -> None:
        if self._is_storm(interest):
            self._too_much(interest, f"more than {OVERFLOW_LIMIT} signals in a second")
            return
        try:
            event = _event(interest.subscription, message)
        except (ValueError, marshal.MarshalError) as error:
            log.warning("%s %s.%s: not understood: %s", message.path, message.interface, message.member, error)
            return
        if event is not None and not interest.feed.put(event):
            self._too_much(interest, "more signals than were heard in time")

    def _is_storm(self, interest: Interest) -> bool:
        now = asyncio.get_running_loop().time()
        if now - interest.since >= 1.0:
            interest.since, interest.heard = now, 0
        interest.heard += 1
        return interest.heard > OVERFLOW_LIMIT

    def _too_much(self, interest: Interest, why: str) -> None:
        self.overflows += 1
        log.warning("%s: %s: deaf to it for %g s", interest.subscription.bus_name, why, OVERFLOW_PAUSE)
        self._be_deaf(interest, OVERFLOW_PAUSE)


def _rules(wanted: Subscription) -> Iterator[str]:
    """Match rules, each with a sender. (D-Bus specification, "Match Rules")"""
    yield f"type='signal',sender='{BUS_NAME}',interface='{BUS_NAME}',member='NameOwnerChanged',arg0='{wanted.bus_name}'"
    place = f"{'path_namespace' if wanted.below else 'path'}='{wanted.object_path}'"
    what = f"interface='{wanted.interface}',member='{wanted.member}'"
    if not wanted.member:
        what = f"interface='{PROPERTIES}',member='PropertiesChanged',arg0='{wanted.interface}'"
    yield f"type='signal',sender='{wanted.bus_name}',{place},{what}"


def _is_wanted(wanted: Subscription, message: Received) -> bool:
    """The same that the match rules say: another subscription's signals come over the same connection."""
    path = message.path or ""
    if path != wanted.object_path and not (wanted.below and path.startswith(f"{wanted.object_path}/")):
        return False
    if wanted.member:
        return (message.interface, message.member) == (wanted.interface, wanted.member)
    is_change = (message.interface, message.member) == (PROPERTIES, "PropertiesChanged")
    return is_change and message.signature == "sa{sv}as" and message.body[0] == wanted.interface


def _event(wanted: Subscription, message: Received) -> Event | None:
    """What it tells; raises ValueError or MarshalError. None when no property of interest has changed."""
    where = (wanted.bus_name, message.path or "", wanted.interface)
    if wanted.member:
        if message.signature != wanted.signature:
            raise ValueError(f"expected signature '{wanted.signature}', got '{message.signature}'")
        return Event(*where, wanted.member, tuple(_decoded(message.signature, message.body)))
    properties, invalidated = _changes(wanted, *message.body[1:])
    return Event(*where, properties=properties, invalidated=invalidated) if properties or invalidated else None


def _changes(wanted: Subscription, changed: dict[str, Any], lost: list[str]) -> tuple[dict[str, Value], frozenset[str]]:
    """The new values; a property of another type than promised is as good as invalidated: reading it says why."""
    known = wanted.properties
    good = {name: variant for name, variant in changed.items() if known.get(name) == variant.signature}
    values = {name: _decoded(variant.signature, [variant.value])[0] for name, variant in good.items()}
    return values, frozenset(name for name in (*changed, *lost) if name in known and name not in values)


def _decoded(signature: str, body: Sequence[object]) -> list[Value]:
    return [marshal.from_dbus(kind)(value) for kind, value in zip(parse(signature), body, strict=True)]


def _driver(member: str, text: str) -> MethodCall:
    """A call to the bus itself. (D-Bus specification, "Message Bus Messages")"""
    return MethodCall(BUS_NAME, BUS_PATH, BUS_NAME, member, "s", [text])
