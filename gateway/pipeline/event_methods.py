"""The event methods of XenAPI, answered from the event hub: `event.from`, `inject`, and the deprecated `next`.

A call that waits holds its token and its subscription, and no slot of the calls that work: from its beginning to its
answer, since all that it does is to wait, for the session check or for a change. Its session is checked
before it waits, over the connection of the signals: everything that the service sent before is known then, so no client
sees a state that is older than what it has read. The session is checked again before an answer that was waited for.

xapi's rules: a token is opaque; the empty one is the beginning. A batch is never empty before its time is over. An
object appears once in a batch, with its newest record: as `add` when it is new since the token, else as `mod`, or as
`del` when it is gone. A token of another process is continued where it is certain what its client has
(gateway/events/saved.py). One that cannot be continued is answered with EVENTS_LOST: the client begins anew.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from math import isnan
from typing import TypeAlias

import msgspec

from gateway.core.dbus.target import MethodCall
from gateway.core.routing.route import Route, encode_arguments
from gateway.core.rpc.model import Call, Fault, FaultCode, Outcome, Reply, Value
from gateway.events.changes import (
    BEGINNING,
    NOTHING,
    ObjectChange,
    ObjectId,
    ObjectState,
    Token,
    Wanted,
    change_since,
    event_record,
    event_records,
    parse_token,
)
from gateway.events.hub import EventHub, ServiceEvents, Waiter
from gateway.events.saved import Missed
from gateway.pipeline.sessions import session_over
from gateway.pipeline.waiting import TOO_MANY, slot_freed

DAY = 86_400.0  # seconds
LONGEST = 2**53 / 1e9  # seconds; beyond it, below zero and for no number, a timeout is a day
FRESH = 5.0  # seconds for which a session that was checked need not be checked again
CHECK = 60.0  # seconds between two checks of the session of a call that waits
FIRST_READ = 30.0  # seconds that a call waits for the first state of the service, whatever its timeout is
RETRY = 1.0  # seconds before a session is checked again that could not be checked
# Faults of a session check that say nothing of the session: its service is away. Who waits goes on waiting.
UNCHECKED = frozenset({FaultCode.UNAVAILABLE, FaultCode.BUSY, FaultCode.TIMEOUT, FaultCode.NO_REPLY})
MOST_REGISTERED = 10_000  # sessions; the one that was registered first is forgotten first
MOST_SUBSCRIBED = 128 * 1024  # bytes of all that a session has registered for, or that a connection subscribes to
MOST_TOLD = 1000  # changes that are listed at one time for a client that is sent them
IN_BATCH = 4  # of these in one message, so that it is short

_Arguments: TypeAlias = Sequence[Value]


class Registration(msgspec.Struct):
    """What a session has registered for, and what it knows."""

    wanted: Wanted
    token: Token


class _Request(msgspec.Struct, frozen=True):
    """A call with what it is about."""

    service: ServiceEvents
    route: Route
    call: Call
    session: str


class Following(msgspec.Struct, frozen=True):
    """A client that is sent changes as they happen: what it wants, and what it knows."""

    request: _Request
    wanted: Wanted
    token: Token


class Batch(msgspec.Struct, frozen=True):
    """Changes for such a client, the oldest first. With `token` it can go on after them, over any connection.

    `is_snapshot`: the full state follows from this batch on; what the client had before is out of date.
    """

    events: list[Value]
    token: Token
    is_snapshot: bool = False


class _Known(msgspec.Struct):
    """Which objects such a client has: those of `base`, unless `told` has another entry for an object."""

    base: Token
    told: dict[ObjectId, bool] = msgspec.field(default_factory=dict)

    def has(self, state: ObjectState) -> bool:
        """Whether the client has an object, which may be gone now."""
        return self.told.get(state.id, state.was_there(self.base.generation))

    def change(self, state: ObjectState) -> ObjectChange | None:
        """The change that the client is told of an object; None for a deleted object that it never had."""
        if state.is_deleted and not self.has(state):
            return None
        change, told = change_since(state, self.base.generation), self.told.get(state.id)
        return change if state.is_deleted or told is None else ObjectChange("mod" if told else "add", state)


_Answer: TypeAlias = Callable[["_Request", _Arguments], Awaitable[Outcome]]


class EventMethods:
    """Answers routes with `events`. `is_allowed`: whether a class that has this route is served now.

    `is_over`: whether the session of a call has ended by a limit. `on_wait` gets 1 when a call begins to wait for
    events, and -1 when it goes on.
    """

    def __init__(
        self,
        hub: EventHub,
        *,
        is_allowed: Callable[[Route], bool] = lambda _route: True,
        is_over: Callable[[Route, Call], bool] = lambda _route, _call: False,
        on_wait: Callable[[int], object] = lambda _change: None,
    ) -> None:
        self.hub = hub
        self._is_allowed = is_allowed
        self._is_over = is_over
        self._on_wait = on_wait
        self._registered: OrderedDict[tuple[str, str], Registration] = OrderedDict()  # by service and session
        self._answers: Mapping[str, _Answer] = {
            "From": self._from,
            "Inject": self._inject,
            "GetCurrentId": self._current_id,
            "Register": self._register,
            "Unregister": self._unregister,
            "Next": self._next,
        }

    async def answer(self, route: Route, call: Call) -> Outcome:
        """Answer one call."""
        request = self._request(route, call)
        if isinstance(request, Fault):
            return request
        encoded = encode_arguments(route, call)
        if not isinstance(encoded, MethodCall):
            return encoded
        with slot_freed(call, self._on_wait) as is_free:
            if not is_free:
                return TOO_MANY
            refused = await self._check(request)
            if refused is not None:
                return refused
            request.service.start()  # for nobody without a session
            return await self._answers[route.events](request, list(encoded.body))  # type: ignore[arg-type]

    def end_session(self, session: str) -> None:
        """A session has ended: wake its calls, and forget what it has registered for."""
        self.hub.end_session(session)
        for service, other in [key for key in self._registered if key[1] == session]:
            del self._registered[service, other]

    def _request(self, route: Route, call: Call) -> _Request | Fault:
        service = self.hub.find(route.service)
        if service is None:
            return Fault(FaultCode.UNAVAILABLE, f"{route.source}: the file has no classes, so there are no events")
        return _Request(service, route, call, (route.session(call) if route.session is not None else None) or "")

    # Clients that are sent changes

    async def begin(self, route: Route, call: Call, classes: Value, token: str) -> Following | Fault:
        """A client that is to be sent changes; `route` is that of `event.from`, and `call` has the session."""
        request = self._request(route, call)
        if isinstance(request, Fault):
            return request
        known = parse_token(token)
        if known is None:
            return _fault("EVENT_FROM_TOKEN_PARSE_FAILURE", token)
        wanted = self._subscription(request, classes)
        if isinstance(wanted, Fault):
            return wanted
        refused = await self._check(request)
        if refused is not None:
            return refused
        request.service.start()
        return Following(request, wanted, known)

    async def follow(self, following: Following, heartbeat: float) -> AsyncGenerator[Batch | Fault | None]:
        """The changes for such a client, as it takes them; None every `heartbeat` seconds without one.

        It ends with a fault when the session has ended, and without one when the gateway stops. A client that takes
        nothing holds the changes of one batch, and gets the newest state when it goes on. Where it was interrupted
        among several batches and goes on, a change may be of an object, and a deletion too, that it has not had.
        """
        request, service, loop = following.request, following.request.service, asyncio.get_running_loop()
        token, checked, is_fresh = following.token, loop.time(), True
        known = _Known(token)
        with Waiter(service, following.wanted, request.session) as waiter:
            while not service.is_released:
                if waiter.is_ended or (not is_fresh and loop.time() - checked >= FRESH):
                    refused = await self._check(request, is_over=waiter.is_ended)
                    if refused is not None and refused.code in UNCHECKED:
                        await waiter.wait(min(RETRY, heartbeat))
                        yield None
                        continue
                    if refused is not None:
                        yield refused
                        return
                    checked, is_fresh = loop.time(), True
                batches, newest = await self._next_batches(service, token, following.wanted, known)
                if waiter.is_ended:
                    continue
                is_told = False
                for batch in batches:
                    is_told, is_fresh, token = True, False, batch.token
                    yield batch
                    del batch  # while a client waits, nothing is held for it
                if not is_told:
                    token, is_fresh = newest, False
                    del batches
                    before = service.log.generation
                    await waiter.wait(heartbeat)
                    if service.log.generation == before and not waiter.is_ended and not service.is_released:
                        yield None

    async def _next_batches(
        self, service: ServiceEvents, token: Token, wanted: Wanted, known: _Known
    ) -> tuple[Iterable[Batch], Token]:
        """The next changes since a token, for a client of which this is known; and the token of now."""
        if not service.is_read:
            return (), token
        missed = await self._missed_since(service, token, wanted)
        if missed is not None and len(missed.changes) < MOST_TOLD:
            return _batches(missed.changes, missed.newest, known, meanwhile=token), missed.newest
        is_snapshot = token == BEGINNING or not service.log.can_continue(token)
        changes = self._told(service, *((BEGINNING, wanted) if is_snapshot else (token, wanted, known)))
        newest = service.log.token
        return _batches(changes, newest, known, is_snapshot=is_snapshot), newest

    async def _check(self, request: _Request, *, is_over: bool = False) -> Fault | None:
        """Why the session is not valid. Once it is, everything that the service has sent before is known."""
        check = request.route.session_check
        if is_over or (check is not None and self._is_over(request.route, request.call)):
            return session_over(request.route, request.call)
        if check is None:
            return None
        try:
            async with asyncio.timeout(check.timeout):
                outcome = await request.service.source.ask(check, request.call)
        except TimeoutError:
            text = f"no answer from {check.bus_target.bus_name} within {check.timeout:g} s"
            return Fault(FaultCode.TIMEOUT, f"{text}; {request.route.method} was not called")
        return outcome if isinstance(outcome, Fault) else None

    # event.from

    async def _from(self, request: _Request, arguments: _Arguments) -> Outcome:
        classes, text, timeout = arguments
        wanted = self._subscription(request, classes)
        if isinstance(wanted, Fault):
            return wanted
        token = parse_token(str(text))
        if token is None:
            return _fault("EVENT_FROM_TOKEN_PARSE_FAILURE", str(text))
        await self._until_read(request)  # from then on a timeout of 0 has an answer
        found = await self._wait_for_changes(request, wanted, lambda: token, seconds_of(timeout))
        if isinstance(found, Fault):
            return found
        changes, newest = found
        log = request.service.log
        names = dict.fromkeys((*request.service.classes, *(own.name for own in request.service.own)))
        counts: dict[str, Value] = {
            name: log.count(name) for name in wanted.concerned(names) if self._serves(request.service, name)
        }
        return Reply({"events": event_records(changes), "valid_ref_counts": counts, "token": str(newest)})

    async def _wait_for_changes(
        self, request: _Request, wanted: Wanted, since: Callable[[], Token], seconds: float
    ) -> tuple[list[ObjectChange], Token] | Fault:
        """Wait for changes since a token; returns them, and the token of now. None before the time is over."""
        loop, service = asyncio.get_running_loop(), request.service
        checked = loop.time()
        end, is_fresh = checked + seconds, True  # the session was checked in this step
        continued: Token | None = None  # in place of a token of another process since which nothing has changed
        with Waiter(service, wanted, request.session) as waiter:
            while True:
                token, now = continued or since(), loop.time()
                changes: list[ObjectChange] = []
                if service.is_read and service.log.can_continue(token):
                    changes, newest = self._told(service, token, wanted), service.log.token
                elif service.is_read:
                    missed = await self._missed_since(service, token, wanted)
                    if missed is None:
                        return _fault("EVENTS_LOST")
                    changes, newest = missed
                    continued = None if changes else newest
                else:
                    newest = token
                is_last = bool(changes) or now >= end or service.is_released
                if waiter.is_ended or (not is_fresh and now - checked >= (FRESH if is_last else CHECK)):
                    refused = await self._check(request, is_over=waiter.is_ended)
                    if refused is not None and refused.code in UNCHECKED and now < end and not service.is_released:
                        await waiter.wait(min(RETRY, end - now))
                        continue
                    if refused is not None:
                        return refused
                    checked, is_fresh = loop.time(), True
                elif is_last:
                    return changes, newest
                else:
                    is_fresh = False
                    await waiter.wait(min(end - now, CHECK))

    def _told(
        self, service: ServiceEvents, token: Token, wanted: Wanted, known: _Known | None = None
    ) -> list[ObjectChange]:
        """The changes since a token that a client may see; it has what there was then, unless more is known of it."""
        changes = map((known or _Known(token)).change, service.log.changed_since(token.generation, wanted))
        return self._served(service, [each for each in changes if each is not None])

    async def _missed_since(self, service: ServiceEvents, token: Token, wanted: Wanted) -> Missed | None:
        """The same for a token of another process. None: it is of this one, or it is not certain what is missed."""
        if service.recalled is None or service.log.can_continue(token):
            return None
        missed = await service.recalled.missed_since(token, wanted)
        return missed and missed._replace(changes=self._served(service, missed.changes))

    def _served(self, service: ServiceEvents, changes: list[ObjectChange]) -> list[ObjectChange]:
        """Changes that a client may see: not of a class that is off, and with a record that can be represented."""
        served = {name: self._serves(service, name) for name in {state.id[0] for _, state in changes}}
        return [
            change
            for change in changes
            if served[change.state.id[0]] and (change.operation == "del" or change.state.record is not None)
        ]

    # event.inject and event.get_current_id

    async def _inject(self, request: _Request, arguments: _Arguments) -> Outcome:
        name, ref = map(str, arguments)
        refused = await self._until_read(request)
        if refused is not None:
            return refused
        token = request.service.log.touch((name.lower(), ref))
        if token is None or not self._serves(request.service, name.lower()):
            return _fault("HANDLE_INVALID", name, ref)
        return Reply(str(token))

    async def _current_id(self, request: _Request, _arguments: _Arguments) -> Outcome:
        return await self._until_read(request) or Reply(request.service.log.token.generation)

    async def _until_read(self, request: _Request) -> Fault | None:
        """Wait until the state of the service was read once."""
        loop = asyncio.get_running_loop()
        end = loop.time() + FIRST_READ
        with Waiter(request.service, NOTHING, request.session) as waiter:
            while not request.service.is_read:
                if loop.time() >= end or request.service.is_released:
                    text = f"the objects of {request.route.service} are not read yet"
                    return Fault(FaultCode.UNAVAILABLE, f"{text}; {request.route.method} did nothing")
                await waiter.wait(end - loop.time())
        return None

    # The deprecated methods: the gateway remembers what a session knows

    async def _register(self, request: _Request, arguments: _Arguments) -> Outcome:
        wanted = self._subscription(request, arguments[0])
        if isinstance(wanted, Fault):
            return wanted
        refused = await self._until_read(request)
        if refused is not None:
            return refused
        key = request.route.service, request.session
        known = self._registered.get(key)
        too_much = too_large(wanted if known is None else known.wanted | wanted)
        if too_much is not None:
            return too_much
        if known is None:
            self._registered[key] = Registration(wanted, request.service.log.token)
            if len(self._registered) > MOST_REGISTERED:
                self._registered.popitem(last=False)
        else:
            known.wanted = known.wanted | wanted
        return Reply(None)

    async def _unregister(self, request: _Request, arguments: _Arguments) -> Outcome:
        unwanted = self._subscription(request, arguments[0])
        if isinstance(unwanted, Fault):
            return unwanted
        known = self._registered.get((request.route.service, request.session))
        if known is not None:
            known.wanted = known.wanted.without(unwanted)
        return Reply(None)

    async def _next(self, request: _Request, _arguments: _Arguments) -> Outcome:
        known = self._registered.get((request.route.service, request.session))
        if known is None or known.wanted == NOTHING:
            return _fault("SESSION_NOT_REGISTERED", request.session)
        while True:
            found = await self._wait_for_changes(request, known.wanted, lambda: known.token, DAY)
            if isinstance(found, Fault):
                if found.name == "EVENTS_LOST":
                    known.token = request.service.log.token
                return found
            changes, known.token = found
            if changes or request.service.is_released:
                return Reply(event_records(changes))

    # Subscriptions

    def _subscription(self, request: _Request, classes: Value) -> Wanted | Fault:
        """Read `*`, `vm` or `vm/OpaqueRef:...`. One to a class that is off by name is refused, as its messages are."""
        words = [str(word) for word in classes] if isinstance(classes, list) else []
        names, objects, everything = set(), set(), False
        for word in words:
            name, *refs = word.split("/")
            if len(refs) > 1:
                return _fault("EVENT_SUBSCRIPTION_PARSE_FAILURE", word)
            if word == "*":
                everything = True
            elif refs:
                objects.add((name.lower(), refs[0]))
            else:
                names.add(name.lower())
        off = [each for each in (*names, *(name for name, _ in objects)) if not self._serves(request.service, each)]
        if off:
            name = request.service.classes[min(off)].name
            return Fault(FaultCode.UNAVAILABLE, f"{name}.get_record is switched off, and so are the events of {name}")
        return Wanted(everything, frozenset(names) or NOTHING.classes, frozenset(objects) or NOTHING.objects)

    def _serves(self, service: ServiceEvents, name: str) -> bool:
        """Whether a class, in lower case, is not switched off."""
        each = service.classes.get(name)
        return each is None or all(map(self._is_allowed, each.routes))


def too_large(*held: Wanted) -> Fault | None:
    """Why a session or a connection may not have these subscriptions, which are held until they end."""
    size = sum(each.size for each in held)
    if size <= MOST_SUBSCRIBED:
        return None
    text = f"expected subscriptions of at most {MOST_SUBSCRIBED} bytes together, got {size}; subscribe to classes"
    return Fault(FaultCode.TOO_LARGE, text)


def seconds_of(timeout: Value) -> float:
    """A timeout of a client in seconds, as xapi reads it."""
    seconds = float(timeout) if isinstance(timeout, int | float) else DAY
    return DAY if isnan(seconds) or seconds < 0 or seconds > LONGEST else seconds


def _batches(
    listed: list[ObjectChange],
    newest: Token,
    known: _Known,
    *,
    is_snapshot: bool = False,
    meanwhile: Token | None = None,
) -> Iterator[Batch]:
    """Batches of the first changes in their order. The token of each is the generation of its last change.

    An object that has changed since it was listed is left out: it comes again, with its newest record. `known` is
    updated with each batch. `meanwhile`: the client's token of another process, until it has all of the changes.
    """
    if is_snapshot or meanwhile is not None:
        known.base, known.told = BEGINNING, {}
    changes = [(change, change.state.modified) for change in listed[:MOST_TOLD]]
    left_out: dict[ObjectId, bool] = {}  # and whether the client has it
    for at in range(0, len(changes), IN_BATCH):
        part = changes[at : at + IN_BATCH]
        events: list[Value] = []
        for change, modified in part:
            operation, state = change
            if state.modified == modified:
                known.told[state.id] = operation != "del"
                events.append(event_record(change))
            else:
                left_out[state.id] = operation == "mod" or known.has(state)
        is_last = at + IN_BATCH >= len(changes) and len(listed) < MOST_TOLD
        token = newest if is_last else meanwhile or Token(part[-1][1], newest.epoch)
        if events or is_last:
            yield Batch(events, token, is_snapshot=is_snapshot)
            is_snapshot = False
    if not changes and is_snapshot:
        yield Batch([], newest, is_snapshot=True)
    if len(listed) < MOST_TOLD:
        known.base, known.told = newest, left_out


def _fault(code: str, *arguments: str) -> Fault:
    return Fault(FaultCode.APPLICATION, _TEXTS[code], name=code, data=[*arguments])


_TEXTS: Mapping[str, str] = {
    "EVENTS_LOST": "what has changed since then is not known any more; begin anew",
    "EVENT_FROM_TOKEN_PARSE_FAILURE": "expected a token of an earlier answer, or the empty text",
    "EVENT_SUBSCRIPTION_PARSE_FAILURE": "expected *, a class, or CLASS/REFERENCE",
    "HANDLE_INVALID": "no such object",
    "SESSION_NOT_REGISTERED": "expected a call of event.register before",
}
