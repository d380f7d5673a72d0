"""The path of a message: bytes -> codec -> dialect -> dispatcher -> dialect -> codec -> bytes.

A message whose every call a legacy service answers goes there as it came, and what comes back goes to the client as it
is: decoding then serves only to know where it goes and what came of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import TypeAlias

import structlog

from gateway.core.dbus.names import quoted
from gateway.core.interfaces import Codec, Dialect, Endpoint
from gateway.core.migration.modes import Migration, Mode, Setting, Side
from gateway.core.routing.call_record import UNKEPT, RecordedCall
from gateway.core.routing.policy import CallPlan
from gateway.core.routing.route import Effect, Route, unmapped_route
from gateway.core.rpc import encodings
from gateway.core.rpc.model import (
    HUNG_UP,
    NO_METADATA,
    Answer,
    Call,
    Envelope,
    Fault,
    FaultCode,
    Outcome,
    Peer,
    RefusedCall,
    Reply,
    RequestMetadata,
    charset_of,
    value,
)
from gateway.mapping.table import EndpointKey, EndpointTable
from gateway.migration.shadow import Job, Observation, Shadow, code_of
from gateway.pipeline.dispatcher import NOT_EXECUTED, UNMAPPED, Dispatcher
from gateway.pipeline.introspection import Introspection
from gateway.pipeline.recorder import Recorder
from gateway.pipeline.sessions import Sessions
from gateway.pipeline.side_override import NO_SIDE_OVERRIDE, SideOverride

_log = structlog.get_logger("gateway")

_FORWARDED = CallPlan(Side.LEGACY, None, "the method is not mapped: the legacy service answers")
_FROM_HTTP = 300  # the least status of an answer that is no answer to a call: a redirect is none either
READ_AT_ONCE = 128 * 1024  # bytes of a legacy service's answer; a longer one is read in a thread, lest all others wait
READ_MOST = 32 * 1024**2  # bytes; a longer one is not read at all


def _ignore(_: Fault) -> None:
    """Tell nobody."""


@value
class PlannedCall:
    """One call of a message as the mapping sees it, and who answers it. No route: nobody but the gateway itself."""

    call: Call
    route: Route | None
    plan: CallPlan
    forced: Side | None = None  # by the client


# An entry of a message. What could not be read (a Fault) may go to the legacy service, a refused call never does.
_Passable: TypeAlias = PlannedCall | Fault
_Entry: TypeAlias = _Passable | RefusedCall

_NOBODY = CallPlan(None)


class RpcEndpoint(Endpoint):
    """What stands behind one path of one listener. `concurrency`: entries of a batch at a time; 1 keeps their order."""

    def __init__(
        self,
        table: EndpointTable,
        codec: Codec,
        dialect: Dialect,
        dispatcher: Dispatcher,
        *,
        concurrency: int = 1,
        client: Codec
        | None = None,  # reads answers: our own for `call`, a legacy service's to know what came of a call
        on_refused: Callable[[Fault], object] = _ignore,  # told of each message that held no call, or was not read
        shadow: Shadow | None = None,
        forcing: SideOverride = NO_SIDE_OVERRIDE,
        sessions: Sessions | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self.table = table
        self.codec = codec
        self.client = client or codec
        self.dialect = dialect
        self.dispatcher = dispatcher
        self.builtins = Introspection(table, codec.name)
        self._concurrency = concurrency
        self._on_refused = on_refused
        self._shadow = shadow
        self._forcing = forcing
        self._sessions = Sessions() if sessions is None else sessions  # one that knows nobody yet is false
        self._recorder = recorder or Recorder()
        known = {"protocol": codec.name, "dialect": dialect.name, "path": table.key.path}
        self.known: Mapping[str, object] = {**known, "agent": ""}  # of a caller without headers
        self._tasks: dict[str, Route] = {}
        self._forwarding = None if table.passthrough_to is None else _forwarding(table.passthrough_to)

    async def answer(self, body: bytes, peer: Peer, carried: RequestMetadata = NO_METADATA) -> Answer:
        """Answer one message; never raises but for cancellation."""
        self._touch()
        try:
            envelope = self.codec.decode(body) if body.isascii() else self.codec.decode(body, carried.charset)
            known = {**self.known, "agent": carried.agent} if carried.headers else self.known
            asked = [self._asked(entry, peer, carried, known) for entry in envelope.entries]
            passable = [each for each in asked if not isinstance(each, RefusedCall)]
            upstream = self._verbatim(passable) if len(passable) == len(asked) else None
            if upstream is not None:
                return await self._forward(upstream, body, carried, envelope, passable)
            return await self._one_by_one(envelope, asked)
        except Exception:  # noqa: BLE001 - a codec that raises is a bug; the client still gets a fault of its protocol
            _log.exception("a bug answered this message", endpoint=str(self.table.key))
            return self.refuse(Fault(FaultCode.INTERNAL, "internal error"))
        finally:
            self._touch()

    def refuse(self, fault: Fault) -> Answer:
        """Say in the client's protocol why a message was not read."""
        self._on_refused(fault)
        envelope = Envelope((fault,))
        return Answer(self.codec.encode(envelope, (fault,)), self.codec.content_type, fault)

    def own(self, call: Call) -> Outcome:
        """Answer a call that has no route: a built-in method, or one that nobody knows."""
        outcome = self.builtins.answer(call)
        if outcome is not None:
            return outcome
        return self.dispatcher.refuse(call, Fault(FaultCode.UNKNOWN_METHOD, f"unknown method {quoted(call.method)}"))

    def resolve(
        self, route: Route, task_prefix: str, call: Call, forced: Side | None = None
    ) -> PlannedCall | RefusedCall:
        """Who answers a mapped call. `task_prefix`: it asks for a task, as `EndpointTable.find` has read its name."""
        plan = self.dispatcher.plan(route, call, forced)
        if not task_prefix:
            return PlannedCall(call, route, plan, forced)
        task, switched_off = self._task_route(route, task_prefix), plan.answer is None
        plan = self.dispatcher.plan(task, call, forced)
        if plan.answer is None and not switched_off:
            why = f"{plan.why}; call {route.method} without '{task_prefix}'"
            return RefusedCall(
                call, self.dispatcher.refuse(call, Fault(FaultCode.UNKNOWN_METHOD, why, data=[why]), task)
            )
        return PlannedCall(call, task, plan, forced)

    def _task_route(self, route: Route, prefix: str) -> Route:
        """The route of a form that returns a task: counted under its own name, and never taken for the call itself."""
        name = prefix + route.method
        task = self._tasks.get(name)
        if task is None or task.task_of is not route:
            task = replace(route, method=name, effect=Effect.WRITE, result=None, opens=None, aliases=(), task_of=route)
            self._tasks[name] = task
        return task

    def _may_ask(self, domid: int, route: Route | None, call: Call) -> bool:
        """Whether a domain may call this, as the mapping says it of the method or of the endpoint."""
        domains = None if route is None else route.domains
        if domains is None and self.table.exposure is not None:
            domains = self.table.exposure.domains
        return domains is None or domains.allow(domid, call.named)

    # One call after the other

    async def _one_by_one(self, envelope: Envelope, asked: Sequence[_Entry]) -> Answer:
        alone = len(asked) == 1
        outcomes = (await self._entry(envelope, asked, 0),) if alone else await self._batch(envelope, asked)
        return self._encoded(envelope, outcomes)

    def _encoded(self, envelope: Envelope, outcomes: Sequence[Outcome]) -> Answer:
        fault = _whole_fault(envelope)
        if fault is not None:
            self._on_refused(fault)
        return Answer(self.codec.encode(envelope, outcomes), self.codec.content_type, fault)

    def _asked(self, entry: Call | Fault, peer: Peer, carried: RequestMetadata, known: Mapping[str, object]) -> _Entry:
        if isinstance(entry, Fault):
            return entry
        meant = self.dialect.unwrap_call(entry)
        call = Call(meant.method, meant.params, meant.named, meant.oneway, peer, known)
        forced, call = self._forcing.of(call, carried)
        route, task_prefix = self.table.find(call.method)
        if peer.domid is not None and not self._may_ask(peer.domid, route, call):
            fault = Fault(FaultCode.ACCESS_DENIED, f"domain {peer.domid} may not call {quoted(call.method)}")
            return RefusedCall(call, self.dispatcher.refuse(call, fault, route))
        if route is not None:
            user = self._sessions.user(route, call)
            if user:
                said = {"user": user} if route.opens is None else {"user": user, "login": True}
                call = replace(call, extensions={**call.extensions, **said})
            return self.resolve(route, task_prefix, call, forced)
        return PlannedCall(call, self._forwarding, _NOBODY if self._forwarding is None else _FORWARDED)

    async def _batch(self, envelope: Envelope, asked: Sequence[_Entry]) -> Sequence[Outcome]:
        """Answer the entries in their order, which old clients rely on, or some at a time where the config says so."""
        if self._concurrency == 1:
            return [await self._entry(envelope, asked, at) for at in range(len(asked))]
        room = asyncio.Semaphore(self._concurrency)

        async def within(at: int) -> Outcome:
            async with room:
                return await self._entry(envelope, asked, at)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(within(at)) for at in range(len(asked))]
        return [task.result() for task in tasks]

    async def _entry(self, envelope: Envelope, asked: Sequence[_Entry], at: int) -> Outcome:
        """Framing faults skip the dialect: a convention dresses application outcomes."""
        each = asked[at]
        if isinstance(each, Fault):
            return each
        if isinstance(each, RefusedCall):
            return self.dialect.wrap_outcome(each.fault, each.call)
        if each.route is None:
            return self.dialect.wrap_outcome(self.own(each.call), each.call)
        started = perf_counter()
        outcome, side = await self.dispatcher.answered(each.route, each.call, each.plan, each.forced)
        seconds = perf_counter() - started
        self._sessions.learn(each.route, each.call, outcome)
        if side is not None and each.plan.candidate is not None and side is each.plan.answer:
            ran = Observation(side, outcome, seconds, code_of(outcome), started)
            self._once_it_has_left(self._observe, each, _single(envelope, at), ran, raw=True)
        if self._recorder.active and side is not None:
            view = partial(self.as_seen, _single(envelope, at), each.call)
            self._once_it_has_left(self._record, each, outcome, seconds, side, view)
        return self.dialect.wrap_outcome(outcome, each.call)

    # A whole message as it came

    def _verbatim(self, asked: Sequence[_Passable]) -> str | None:
        """The one legacy service that answers every call of the message and takes it as it is, or None."""
        upstream = self._goes_to(asked[0]) if asked else self.table.passthrough_to  # a system.multicall of no calls
        if upstream is None or not self.dispatcher.speaks(upstream, self.codec.name, self.dialect.name):
            return None
        return upstream if all(self._goes_to(each) == upstream for each in asked) else None

    def _goes_to(self, each: _Passable) -> str | None:
        if isinstance(each, Fault):
            return self.table.passthrough_to
        if each.route is None or each.plan.answer is not Side.LEGACY or self._forcing.changed(each.call):
            return None
        return each.route.migration.upstream

    async def _forward(
        self, upstream: str, body: bytes, carried: RequestMetadata, envelope: Envelope, asked: Sequence[_Passable]
    ) -> Answer:
        def unmoved() -> bool:
            return self._verbatim(self._planned_anew(asked)) == upstream

        started = perf_counter()
        repeatable = all(map(_may_repeat, asked))
        try:
            answer = await self.dispatcher.forward(upstream, body, carried, repeatable=repeatable, wanted=unmoved)
        except asyncio.CancelledError as error:
            calls = [(each.route, each.call) for each in map(self._routed, asked) if each.route is not None]
            self.dispatcher.left(calls, error, perf_counter() - started, Side.LEGACY)
            raise
        seconds = perf_counter() - started
        if isinstance(answer, Fault):
            if answer.code in NOT_EXECUTED and not unmoved():
                return await self._one_by_one(envelope, self._planned_anew(asked))
            return self._not_forwarded(envelope, asked, replace(answer, name=""), seconds)
        self._once_it_has_left(self._account, envelope, asked, answer, seconds, started)
        return answer

    def _planned_anew(self, asked: Sequence[_Passable]) -> Sequence[_Passable]:
        """The same calls by the modes that hold now."""
        return [
            each
            if isinstance(each, Fault) or each.route is None or each.route is self._forwarding
            else replace(each, plan=self.dispatcher.plan(each.route, each.call, each.forced))
            for each in asked
        ]

    def _routed(self, each: _Passable) -> PlannedCall:
        """What could not be read is forwarded as an unmapped call is."""
        return PlannedCall(Call(UNMAPPED), self._forwarding, _FORWARDED) if isinstance(each, Fault) else each

    def _not_forwarded(self, envelope: Envelope, asked: Sequence[_Passable], fault: Fault, seconds: float) -> Answer:
        for each in map(self._routed, asked):
            self._note(each, fault, seconds)
            self._once_it_has_left(self._record, each, fault, seconds)
        outcomes = [fault if isinstance(each, Fault) else self.dialect.wrap_outcome(fault, each.call) for each in asked]
        return Answer(self.codec.encode(envelope, outcomes), self.codec.content_type)

    def _account(
        self, envelope: Envelope, asked: Sequence[_Passable], answer: Answer, seconds: float, started: float
    ) -> None:
        """Note what came of each call of a message that went as it came."""
        if len(answer.body or b"") > READ_MOST:
            self._account_unread(asked, seconds)
            return
        is_short = len(answer.body or b"") <= READ_AT_ONCE
        outcomes = self._read_back(envelope, answer, READ_AT_ONCE) if is_short else None
        if outcomes is not None:
            self._accounted(envelope, asked, outcomes, seconds, started)
            return
        reading = asyncio.get_running_loop().run_in_executor(None, self._read_back, envelope, answer, READ_MOST)
        reading.add_done_callback(lambda done: self._afterwards(self._read, envelope, asked, done, seconds, started))

    def _read(
        self,
        envelope: Envelope,
        asked: Sequence[_Passable],
        done: asyncio.Future[Sequence[Outcome] | None],
        seconds: float,
        started: float,
    ) -> None:
        outcomes = done.result()
        if outcomes is None:
            self._account_unread(asked, seconds)
        else:
            self._accounted(envelope, asked, outcomes, seconds, started)

    def _accounted(
        self,
        envelope: Envelope,
        asked: Sequence[_Passable],
        outcomes: Sequence[Outcome],
        seconds: float,
        started: float,
    ) -> None:
        for at, (each, outcome) in enumerate(zip(map(self._routed, asked), outcomes, strict=True)):
            seen = self.dialect.unwrap_outcome(outcome, each.call)
            self._note(each, seen, seconds)
            self._record(each, seen, seconds)
            if each.plan.candidate is not None:
                of_whole = code_of(seen) if envelope.batch else None  # alone, it is the answer to this call
                ran = Observation(Side.LEGACY, seen, seconds, of_whole, started)
                self._observe(each, _single(envelope, at), ran)

    def _account_unread(self, asked: Sequence[_Passable], seconds: float) -> None:
        """So long an answer is a result: an error is told in a few words."""
        for each in map(self._routed, asked):
            self._note(each, Reply(), seconds)
            self._record(each, UNKEPT, seconds)
            if each.plan.candidate is not None and each.route is not None and self._shadow is not None:
                self._shadow.drop(each.route)

    def _note(self, each: PlannedCall, outcome: Outcome, seconds: float) -> None:
        assert each.route is not None
        self._sessions.learn(each.route, each.call, outcome)
        self.dispatcher.note(each.route.service, each.route.method, each.call, outcome, seconds, Side.LEGACY)

    def _read_back(self, envelope: Envelope, answer: Answer, limit: int) -> Sequence[Outcome] | None:
        """What the legacy service answered to each call; None when the answer, once inflated, is over `limit` bytes."""
        if answer.status is not None and answer.status >= _FROM_HTTP:
            code = FaultCode.PARSE_ERROR if envelope.batch else FaultCode.REMOTE  # of a batch it answers no call
            return [Fault(code, f"HTTP {answer.status}", name=str(answer.status))] * len(envelope.entries)
        try:
            content = encodings.content(answer, limit)
            return self.client.decode_answers(content, envelope, charset_of(answer.content_type))
        except encodings.InflatedTooLargeError:
            return None
        except encodings.EncodingError as error:
            return [Fault(FaultCode.PARSE_ERROR, str(error))] * len(envelope.entries)

    # What happens when the answer has left

    def _once_it_has_left(self, work: Callable[..., None], *what: object, **more: object) -> None:
        """Before the loop turns again the transport has written the answer: nothing here makes a client wait."""
        asyncio.get_running_loop().call_soon(self._afterwards, partial(work, *what, **more))

    def _afterwards(self, work: Callable[..., None], *what: object) -> None:
        try:
            work(*what)
        except Exception:  # noqa: BLE001 - the client has its answer; a bug costs what we know of it
            _log.exception("a bug lost what came of this message", endpoint=str(self.table.key))

    def _record(
        self,
        each: PlannedCall,
        outcome: Outcome,
        seconds: float,
        side: Side = Side.LEGACY,
        view: Callable[[Outcome], Outcome] | None = None,
    ) -> None:
        """Keep the call for whoever records, if it is mapped: nobody knows what is secret in the others."""
        if self._recorder.active and each.route is not None and each.route is not self._forwarding:
            where, call = self.table.key, each.call
            taken = RecordedCall(
                where.listener, where.path, self.codec.name, each.route, call, outcome, side, seconds, view
            )
            self._recorder.take(taken)

    def _touch(self) -> None:
        """A message comes or goes: what nobody waits for is not to be in its way."""
        if self._shadow is not None:
            self._shadow.touch()

    def _observe(self, each: PlannedCall, single: Envelope, ran: Observation, *, raw: bool = False) -> None:
        """Let the other side run too. `raw`: the outcome of `ran` is not yet as the client has it."""
        assert each.route is not None
        if self._shadow is None or each.call.oneway or not self._shadow.wants(each.route, each.call):
            return
        view = partial(self.as_seen, single, each.call)
        self._shadow.observe(Job(each.route, each.call, ran, view, each.plan.noise, raw))

    def as_seen(self, single: Envelope, call: Call, outcome: Outcome) -> Outcome:
        """An outcome as the client of this call has it in its hands: in its own protocol's values."""
        body = self.codec.encode(single, (self.dialect.wrap_outcome(outcome, call),))
        return self.dialect.unwrap_outcome(self.client.decode_answers(body or b"", single)[0], call)


class Endpoints:
    """Every exchange of one revision of the mapping, found by listener and path. Swapped whole on reload."""

    def __init__(self, exchanges: Mapping[EndpointKey, RpcEndpoint]) -> None:
        self.exchanges = exchanges
        self._paths: dict[str, dict[str, RpcEndpoint]] = {}
        # Longest path first: "/" takes what nobody else claims.
        for key, exchange in sorted(exchanges.items(), key=lambda item: -len(item[0].path)):
            self._paths.setdefault(key.listener, {})[key.path] = exchange

    def resolve(self, listener: str, path: str) -> RpcEndpoint | None:
        """The exchange with the longest path that `path` is, or lies below: "/a/b" is below "/a", "/ab" is not."""
        paths = self._paths.get(listener, {})
        exact = paths.get(path)
        if exact is not None:
            return exact
        return next((exchange for above, exchange in paths.items() if _is_below(path, above)), None)


def _is_below(path: str, above: str) -> bool:
    return path.startswith(above) and (above.endswith("/") or path[len(above)] == "/")


def _may_repeat(each: _Passable) -> bool:
    """Whether it is known that a call does no harm when it reaches the legacy service twice."""
    return not isinstance(each, Fault) and each.route is not None and each.route.effect is not Effect.WRITE


def _whole_fault(envelope: Envelope) -> Fault | None:
    """The fault of a message that held no call at all."""
    entry = envelope.entries[0] if len(envelope.entries) == 1 and not envelope.batch else None
    return entry if isinstance(entry, Fault) else None


def _single(envelope: Envelope, at: int) -> Envelope:
    """The message that one entry of a batch would have been alone."""
    if not envelope.batch:
        return envelope
    tags = envelope.tags[at : at + 1] if isinstance(envelope.tags, tuple) else envelope.tags
    return Envelope(envelope.entries[at : at + 1], tags)


def _forwarding(upstream: str) -> Route:
    """The route of all methods that are not mapped."""
    migration = Migration(Setting(Mode.LEGACY), upstream)
    return replace(unmapped_route(UNMAPPED), migration=migration)


# What no endpoint takes, sent to the listener's legacy service as it came; decodes nothing.


# An HTTP status for each reason why nothing came back (RFC 9110 section 15.6); 502 for the others.
STATUSES: dict[FaultCode, tuple[int, str]] = {
    FaultCode.BUSY: (503, "Service Unavailable"),
    FaultCode.TIMEOUT: (504, "Gateway Timeout"),
}
BAD_GATEWAY = (502, "Bad Gateway")
BAD = 400  # the least status that tells of a failure
TEXT = "text/plain"
_ROUTE = unmapped_route(UNMAPPED)


class Passthrough(Endpoint):
    """Other paths, and other verbs than POST. Whatever the legacy service answers goes back byte for byte."""

    def __init__(self, dispatcher: Dispatcher, upstream: str) -> None:
        self._dispatcher = dispatcher
        self._upstream = upstream

    async def answer(self, body: bytes, peer: Peer, carried: RequestMetadata = NO_METADATA) -> Answer:
        """Send one message on; never raises but for cancellation."""
        started = perf_counter()
        known = {"protocol": "http", "agent": carried.agent}
        call = Call(UNMAPPED, peer=peer, extensions=known)
        try:
            answer = await self._dispatcher.forward(self._upstream, body, carried)
        except asyncio.CancelledError as error:
            self._dispatcher.left([(_ROUTE, call)], error, perf_counter() - started, Side.LEGACY)
            raise
        self._dispatcher.note(UNMAPPED, UNMAPPED, call, _came_to(answer), perf_counter() - started, Side.LEGACY)
        if isinstance(answer, Fault) and answer.name == HUNG_UP:
            return Answer(None, TEXT, answer, hang_up=True)
        return self.refuse(answer) if isinstance(answer, Fault) else answer

    def refuse(self, fault: Fault) -> Answer:
        """In plain words, as nothing is known of who asks."""
        status, reason = STATUSES.get(fault.code, BAD_GATEWAY)
        headers = ((b"Content-Type", TEXT.encode()),)
        return Answer(f"{fault.message}\n".encode(), TEXT, fault, status, reason, headers)


def _came_to(answer: Answer | Fault) -> Outcome:
    if isinstance(answer, Fault):
        return answer
    failed = answer.status is not None and answer.status >= BAD
    return Fault(FaultCode.REMOTE, f"HTTP {answer.status}", name=str(answer.status)) if failed else Reply()
