"""Receives the signals of services on one bus, over a connection of its own; makes no calls for clients.

The connection exists while there are subscriptions. When signals may have been lost (a new connection, a new owner of
the bus name, an overflow), the subscriber gets `EventsLost` and reads the state instead.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import suppress
from itertools import count
from typing import Self, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from adapters.dbus.connection import (
    BUS_NAME,
    BusConnectionLimits,
    ConnectError,
    DBusConnection,
    Received,
    ReplyFuture,
    driver,
)
from adapters.dbus.errors import PROPERTIES
from adapters.dbus.pool import BusSettings, Dependencies, delays
from gateway.core.dbus import marshal
from gateway.core.dbus.signature import parse
from gateway.core.dbus.target import MethodCall, Subscription
from gateway.core.interfaces import EventFeed
from gateway.core.logger import LogLimiter
from gateway.core.rpc.model import Event, EventsLost, Fault, FaultCode, Value

BOUND = 1024  # events in the queue of one subscriber

SignalEvent: TypeAlias = "Event | EventsLost"


class SignalQueue(EventFeed):
    """The events of one subscriber, bounded; of a property only the newest value is kept. Iterate with `async for`."""

    def __init__(self, bound: int = BOUND) -> None:
        self._bound = bound
        self._queue: OrderedDict[Hashable, SignalEvent] = OrderedDict()
        self._numbers = count()
        self._more = asyncio.Event()

    def put(self, event: Event) -> bool:
        """Queue an event, merged with an earlier change of the same properties; False if the queue is full."""
        key = next(self._numbers) if event.member else (event.bus_name, event.object_path, event.interface)
        before = self._queue.pop(key, None)
        if before is None and len(self._queue) >= self._bound:
            return False
        if isinstance(before, Event):
            kept = {name: value for name, value in before.properties.items() if name not in event.invalidated}
            invalidated = (before.invalidated - event.properties.keys()) | event.invalidated
            event = replace(event, properties={**kept, **event.properties}, invalidated=invalidated)
        self._queue[key] = event
        self._more.set()
        return True

    def miss(self, missed: EventsLost) -> None:
        """Queue that events may be lost; queued property changes of the bus name are dropped, since the state is read.

        There is always capacity for it: at most one waits for each bus name.
        """
        self._queue.pop(missed.bus_name, None)
        for key, news in [*self._queue.items()]:
            if isinstance(news, Event) and not news.member and news.bus_name == missed.bus_name:
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


OBJECT_MANAGER = "org.freedesktop.DBus.ObjectManager"
# The signals of a subscription to all objects, with their signatures.
CHANGES = {
    (PROPERTIES, "PropertiesChanged"): "sa{sv}as",
    (OBJECT_MANAGER, "InterfacesAdded"): "oa{sa{sv}}",
    (OBJECT_MANAGER, "InterfacesRemoved"): "oas",
}
TIMEOUT = 5.0  # seconds that a bus has to take a match rule
OVERFLOW_LIMIT = 2000  # signals a second to one subscription; past it the match rule is removed for a while
WHOLE_LIMIT = 10_000  # the same, of a subscription to all objects: reading them all again costs more than a signal
IN_FLIGHT = 64  # calls of one connection without a reply
OVERFLOW_PAUSE = 1.0  # seconds without the match rule
REFUSED = 5.0  # seconds before a refused match rule is tried again

log = logging.getLogger(__name__)


class Interest(Struct, eq=False):
    """A subscription, its queue, and the state of its match rules."""

    subscription: Subscription
    feed: EventFeed
    listening: bool = False  # the match rules are in force
    owner: str | None = None  # unique name; empty: no owner, None: unknown
    suspended_until: float = 0.0  # loop time; no match rules before
    heard: int = 0  # signals since `since`
    since: float = 0.0

    def miss(self, why: str) -> None:
        """Notify the subscriber that events may be lost."""
        self.feed.miss(EventsLost(self.subscription.bus_name, self.owner or "", why))


class Signals:
    """The subscriptions of one bus. `add` and `discard` return at once; a task brings the match rules up to date."""

    def __init__(self, bus: BusSettings, dependencies: Dependencies) -> None:
        self._bus = bus
        self._dependencies = dependencies
        self._interests: dict[Interest, None] = {}
        self._draining: list[str] = []  # match rules to be removed
        self._changed = asyncio.Event()
        self._maintainer: asyncio.Task[None] | None = None
        self._connection: DBusConnection | None = None
        self._slots = asyncio.Semaphore(IN_FLIGHT)
        self.heard = 0
        self.overflows = 0
        self._undecoded = LogLimiter(60.0)  # a line a minute for each service and member

    def add(self, interest: Interest) -> None:
        """Add a subscription."""
        self._interests[interest] = None
        self._changed.set()
        if self._maintainer is None:
            self._maintainer = asyncio.get_running_loop().create_task(self._maintain())

    def discard(self, interest: Interest) -> None:
        """Remove a subscription."""
        self._interests.pop(interest, None)
        self._forget_rules(interest)

    async def call(self, call: MethodCall, take: Callable[[Received], None] | None = None) -> ReplyFuture:
        """Make a call over the connection of the signals: what was sent before its reply has arrived before it.

        `take` gets the reply between the signals before and after it.
        """
        async with self._slots:
            connection = self._connection
            if connection is None:
                return Fault(FaultCode.UNAVAILABLE, f"bus '{self._bus.name}' is not connected; the call was not sent")
            answer = await connection.call(call, take=take)
            assert answer is not None, "it is not an oneway call"
            return answer

    async def is_alive(self, seconds: float) -> bool:
        """Return whether the bus answers on this connection, if there is one; else it is closed and replaced."""
        alive = self._connection is None or await self._connection.ping(seconds)
        return alive and (self._maintainer is None or not self._maintainer.done())

    async def close(self) -> None:
        """Remove every subscription and close the connection."""
        self._interests.clear()
        keeper, self._maintainer = self._maintainer, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait({keeper})

    # The connection

    async def _maintain(self) -> None:
        while True:
            while not self._interests:
                self._changed.clear()
                await self._changed.wait()
            connection = await self._connect()
            self._connection = connection
            connection.on_signal = self._on_signal
            connection.ended.add_done_callback(lambda _: self._changed.set())
            try:
                await self._serve(connection)
            finally:
                self._connection = None
                self._draining.clear()
                connection.close()
                await connection.closed()
            for interest in self._interests:
                interest.listening, interest.owner = False, None
                interest.miss(f"bus '{self._bus.name}' is not connected")

    async def _connect(self) -> DBusConnection:
        for pause in delays(self._dependencies.chance):
            with suppress(ConnectError):
                limits = BusConnectionLimits(max_message=self._bus.max_message)
                return await DBusConnection.open(self._bus.address, limits, self._dependencies.gate)
            await self._dependencies.sleep(pause)
        raise AssertionError("there is always one more attempt")

    async def _serve(self, connection: DBusConnection) -> None:
        """Keep the match rules up to date until the connection is lost or no subscription is left."""
        while self._interests and not connection.stale.is_set():
            self._changed.clear()
            try:
                async with asyncio.timeout(TIMEOUT):
                    await self._update_rules(connection)
            except TimeoutError:
                return
            next_attempt = min((one.suspended_until for one in self._interests if not one.listening), default=None)
            with suppress(TimeoutError):
                async with asyncio.timeout_at(next_attempt):
                    await self._changed.wait()

    async def _update_rules(self, connection: DBusConnection) -> None:
        leaving, self._draining = self._draining, []
        for rule in leaving:
            await connection.call(driver("RemoveMatch", rule))
        now = asyncio.get_running_loop().time()
        waiting = [one for one in self._interests if not one.listening and one.suspended_until <= now]
        for interest in waiting:
            await self._begin(connection, interest)
        for interest in waiting:  # all at once: a queue with several subscriptions gets one EventsLost
            if interest.owner is not None:
                interest.miss("subscribed from now on")

    async def _begin(self, connection: DBusConnection, interest: Interest) -> None:
        """Add the rules, then ask for the owner: a change in between is either signalled or in the answer."""
        interest.listening = True
        for rule in _rules(interest.subscription):
            answer = await connection.call(driver("AddMatch", rule))
            if not isinstance(answer, Received):
                return  # the connection is lost
            if answer.error_name:
                why = f"bus '{self._bus.name}' refused the match rule for {interest.subscription.bus_name}"
                log.warning("%s: %s", why, answer.error_name)
                self._suspend(interest, REFUSED)
                return
        answer = await connection.call(driver("GetNameOwner", interest.subscription.bus_name))
        if interest.owner is None and isinstance(answer, Received):  # else a NameOwnerChanged arrived meanwhile
            interest.owner = "" if answer.error_name else str(answer.body[0])

    def _suspend(self, interest: Interest, seconds: float) -> None:
        """Remove the match rules for a while; the state is read when they are back."""
        interest.suspended_until = asyncio.get_running_loop().time() + seconds
        self._forget_rules(interest)

    def _forget_rules(self, interest: Interest) -> None:
        if interest.listening and self._connection is not None:
            self._draining += _rules(interest.subscription)
        interest.listening, interest.owner = False, None
        self._changed.set()

    # Incoming signals

    def _on_signal(self, message: Received) -> None:
        """Deliver a signal; signals that do not come from the owner of the bus name are dropped."""
        if message.sender == BUS_NAME:
            if message.member == "NameOwnerChanged" and message.signature == "sss":
                bus_name, _, owner = message.body
                for interest in self._interests:
                    if interest.listening and interest.subscription.bus_name == bus_name:
                        interest.owner = owner
                        interest.miss(f"its owner is {owner}" if owner else "it has no owner")
            return
        fits = [one for one in self._interests if one.owner == message.sender and _is_wanted(one.subscription, message)]
        if fits:
            self.heard += 1
        for interest in fits:
            self._deliver(interest, message)

    def _deliver(self, interest: Interest, message: Received) -> None:
        wanted, now = interest.subscription, asyncio.get_running_loop().time()
        if now - interest.since >= 1.0:
            interest.since, interest.heard = now, 0
        interest.heard += 1
        limit = WHOLE_LIMIT if wanted.is_whole else OVERFLOW_LIMIT
        if interest.heard > limit:
            self._pause(interest, f"more than {limit} signals in a second")
            return
        try:
            event = _event(wanted, message)
        except (ValueError, marshal.MarshalError) as error:
            what = f"{message.interface}.{message.member}"
            times = self._undecoded.occurred((wanted.bus_name, what))
            if times:
                log.warning("%s %s: cannot be decoded (%d times): %s", message.path, what, times, error)
            return
        if event is not None and not interest.feed.put(event):
            self._pause(interest, "the queue of the subscriber is full")

    def _pause(self, interest: Interest, why: str) -> None:
        self.overflows += 1
        log.warning("%s: %s: its signals are paused for %g s", interest.subscription.bus_name, why, OVERFLOW_PAUSE)
        self._suspend(interest, OVERFLOW_PAUSE)


def _rules(wanted: Subscription) -> Iterator[str]:
    """Match rules, each with a sender. (D-Bus specification, "Match Rules")"""
    yield f"type='signal',sender='{BUS_NAME}',interface='{BUS_NAME}',member='NameOwnerChanged',arg0='{wanted.bus_name}'"
    if wanted.is_whole:
        yield f"type='signal',sender='{wanted.bus_name}'"
        return
    place = f"{'path_namespace' if wanted.below else 'path'}='{wanted.object_path}'"
    what = f"interface='{wanted.interface}',member='{wanted.member}'"
    if not wanted.member:
        what = f"interface='{PROPERTIES}',member='PropertiesChanged',arg0='{wanted.interface}'"
    yield f"type='signal',sender='{wanted.bus_name}',{place},{what}"


def _is_wanted(wanted: Subscription, message: Received) -> bool:
    """Apply the match rules again: signals of other subscriptions come over the same connection."""
    if wanted.is_whole:
        return (message.interface, message.member) in CHANGES
    path = message.path or ""
    if path != wanted.object_path and not (wanted.below and path.startswith(f"{wanted.object_path}/")):
        return False
    if wanted.member:
        return (message.interface, message.member) == (wanted.interface, wanted.member)
    is_change = (message.interface, message.member) == (PROPERTIES, "PropertiesChanged")
    return is_change and message.signature == "sa{sv}as" and message.body[0] == wanted.interface


def _event(wanted: Subscription, message: Received) -> Event | None:
    """Decode a signal; None where no subscribed property changed. Raises ValueError or MarshalError."""
    if wanted.is_whole:
        interface, member = message.interface or "", message.member or ""
        expected = CHANGES[interface, member]
        if message.signature != expected:
            raise ValueError(f"expected signature '{expected}', got '{message.signature}'")
        return Event(wanted.bus_name, message.path or "", interface, member, tuple(message.body))
    where = (wanted.bus_name, message.path or "", wanted.interface)
    if wanted.member:
        if message.signature != wanted.signature:
            raise ValueError(f"expected signature '{wanted.signature}', got '{message.signature}'")
        return Event(*where, wanted.member, tuple(_decoded(message.signature, message.body)))
    _, changed, lost = message.body
    known = wanted.properties
    good = {name: variant for name, variant in changed.items() if known.get(name) == variant.signature}
    properties = {name: _decoded(variant.signature, [variant.value])[0] for name, variant in good.items()}
    # A property of an unexpected type counts as invalidated.
    invalidated = frozenset(name for name in (*changed, *lost) if name in known and name not in properties)
    return Event(*where, properties=properties, invalidated=invalidated) if properties or invalidated else None


def _decoded(signature: str, body: Sequence[object]) -> list[Value]:
    return [marshal.from_dbus(kind)(value) for kind, value in zip(parse(signature), body, strict=True)]
