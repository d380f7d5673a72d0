"""The path of a message: bytes -> codec -> dialect -> dispatcher -> dialect -> codec -> bytes.

Each entry of a message is planned, then answered: `RpcEndpoint.answer`, and `receive` for transports that can wait for
an answer without a task. When one legacy service answers every call of a message and understands it as the client wrote
it, its bytes are passed through (`passthrough.py`).

An entry of a message is one of three:

- a planned call, which has a route and a side that answers;
- a refused call (`RefusedCall`), which was read and which no side may execute: it is never passed through;
- an unreadable entry (`Fault`), which is passed through only where every mapped method is in mode `legacy`, because it
  may hold a call that a mode governs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from time import perf_counter
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

from msgspec.structs import replace

from gateway.core.dbus.names import quoted
from gateway.core.interfaces import AnswerLater, AnswerTaker, Codec, Dialect, Endpoint
from gateway.core.logger import Logger
from gateway.core.migration.modes import Mode, Side
from gateway.core.routing.policy import LOCAL, CallPlan
from gateway.core.routing.route import CallFinished, Route
from gateway.core.rpc.model import (
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
    Value,
    is_large,
)
from gateway.core.rpc.trace_context import KEY
from gateway.mapping.table import EndpointKey, EndpointTable
from gateway.migration.shadow import Job, Observation, Shadow, code_of
from gateway.pipeline.dispatcher import UNMAPPED, Dispatcher, Entry, PlannedCall, View
from gateway.pipeline.introspection import answer_unknown, introspection_routes
from gateway.pipeline.origins import Origins, SideOverride
from gateway.pipeline.passthrough import PASSED_THROUGH, READ_AT_ONCE, WholeMessage, passes_to, unmapped_route
from gateway.pipeline.sessions import Sessions, session_over
from gateway.pipeline.task_methods import TaskMethods, with_own
from gateway.pipeline.tasks import Cancel, Tasks
from gateway.pipeline.waiting import AfterAnswers

if TYPE_CHECKING:  # imported where the config has a collector
    from gateway.ops.traces import Tracer

_log = Logger()

_DBUS = Side.DBUS

_Readable: TypeAlias = PlannedCall | RefusedCall


class RpcEndpoint(Endpoint):
    """One path of one listener.

    `tasks` runs the calls that ask for a task; None: each of them is refused. `trusts_root`: root logs in without a
    password.

    `on_logout` gets the session of each logout. `further`: methods that the gateway itself answers here. `discover`
    makes the OpenRPC document; None: there is none.

    `concurrency`: entries of a batch that run at one time; with 1 they run in their order. `client` reads the answers
    of legacy services, which may be longer than a request may be; None: `codec` reads them. `on_refused` gets the fault
    of each message that holds no call or was not read. `shadow` observes calls; None: no call is observed. `tracer`:
    None: no call is traced.
    """

    def __init__(
        self,
        table: EndpointTable,
        codec: Codec,
        dialect: Dialect,
        dispatcher: Dispatcher,
        *,
        concurrency: int = 1,
        client: Codec | None = None,
        on_refused: Callable[[Fault], object] | None = None,
        shadow: Shadow | None = None,
        override: SideOverride | None = None,
        sessions: Sessions | None = None,
        tasks: Tasks | None = None,
        trusts_root: bool = False,
        on_logout: Callable[[str], object] | None = None,
        discover: Callable[[], Awaitable[Value]] | None = None,
        further: Mapping[str, Route] = MappingProxyType({}),
        tracer: Tracer | None = None,
    ) -> None:
        self.table = table
        self.codec = codec
        self.client = client or codec
        self.dialect = dialect
        self.dispatcher = dispatcher
        self._trusts_root = trusts_root
        self._tracer = tracer
        self._on_logout = on_logout
        self._logout = next((route for route in table.routes.values() if route.closes is not None), None)
        self._tasks = tasks if table.spelling.task_prefixes else None
        self._task_methods = TaskMethods(self._tasks, table, self._check_session)
        others = {**self._task_methods.routes, **further}
        setting = dispatcher.toggles.setting
        introspection = introspection_routes(
            table, codec.name, others, lambda route: setting(route).mode is not Mode.OFF, discover
        )
        self.local_routes = {**introspection, **further}
        self._concurrency = concurrency
        self._on_refused = on_refused
        self.shadow = shadow
        # A message comes or goes: observations wait until the gateway is idle.
        self.touch: Callable[[], object] = tuple if shadow is None else shadow.touch
        self.override = override
        self._is_simple = tracer is None and override is None
        self.sessions = sessions or Sessions()
        # What a call carries of its way here. `listener` marks the call of a client, which may be recorded.
        self.origin: Mapping[str, object] = {
            "protocol": codec.name,
            "dialect": dialect.name,
            "path": table.key.path,
            "agent": "",
        }
        self._origins = Origins({**self.origin, "listener": table.key.listener})
        unknown = partial(answer_unknown, table, dialect, dispatcher.toggles, self._check_session)
        self._unmapped = unmapped_route(table.passthrough_to, unknown)
        self.after = AfterAnswers(str(table.key))
        # In place of an entry that could not be read.
        self.unread = PlannedCall(Call(UNMAPPED, extensions=self._origins.client), self._unmapped, PASSED_THROUGH)

    async def answer(self, body: bytes, peer: Peer, carried: RequestMetadata = NO_METADATA) -> Answer:
        """Answer one message; raises nothing but the cancellation of its task."""
        self.touch()
        arrived = perf_counter() if self._tracer is not None else 0.0
        try:
            if len(body) > READ_AT_ONCE:
                envelope = await asyncio.to_thread(self._decode, body, peer, carried)
            else:
                envelope = self._decode(body, peer, carried)
            if self._task_methods.is_shared:
                await self._task_methods.look_up(envelope.entries, self.dialect)
            later = self._begin(body, envelope, peer, carried, arrived)
        except Exception:  # noqa: BLE001 - a codec that raises is a bug; the client still gets a fault of its protocol
            return self.internal_error()
        assert later is not None, "no client waits without a task"
        return await later()

    def receive(self, body: bytes, peer: Peer, carried: RequestMetadata, client: AnswerTaker) -> AnswerLater | None:
        """See Endpoint: a message that a legacy service answers is passed through at once where that is possible."""
        if len(body) > READ_AT_ONCE or self._task_methods.is_shared:
            return partial(self.answer, body, peer, carried)
        self.touch()
        arrived = perf_counter() if self._tracer is not None else 0.0
        try:
            return self._begin(body, self._decode(body, peer, carried), peer, carried, arrived, client)
        except Exception:  # noqa: BLE001 - see above
            return partial(_already, self.internal_error())

    def _begin(
        self,
        body: bytes,
        envelope: Envelope,
        peer: Peer,
        carried: RequestMetadata,
        arrived: float,
        client: AnswerTaker | None = None,
    ) -> AnswerLater | None:
        """Plan a message that was read; returns what answers it in a task, or None where `client` waits without one."""
        entries = self._plan_entries(envelope, peer, carried, arrived)
        only = entries[0] if len(entries) == 1 else None
        is_migrated = isinstance(only, PlannedCall) and only.plan.answer is _DBUS  # the usual case
        upstream = None if is_migrated else passes_to(self, entries)
        if upstream is None:
            return partial(self._guarded, partial(self.answer_each, envelope, entries))
        message = WholeMessage(self, upstream, body, carried, envelope, entries, perf_counter())
        return None if client is not None and message.send(client) else partial(self._guarded, message.answer)

    async def _guarded(self, answer: AnswerLater) -> Answer:
        """Answer a message that was read."""
        try:
            return await answer()
        except Exception:  # noqa: BLE001 - see above
            return self.internal_error()
        finally:
            self.touch()

    def internal_error(self) -> Answer:
        """Log the exception that is being handled; returns the answer in its place."""
        _log.exception("a bug answered this message", endpoint=str(self.table.key))
        return self.refuse(Fault(FaultCode.INTERNAL, "internal error"))

    def _decode(self, body: bytes, peer: Peer, carried: RequestMetadata) -> Envelope:
        envelope = self.codec.decode(body, "" if body.isascii() else carried.charset)
        return envelope if self.dialect.has_notifications else _without_notification(envelope, peer)

    def refuse(self, fault: Fault) -> Answer:
        """Encode the reason why a message was not read."""
        return self._encode(Envelope((fault,)), (fault,))

    async def _encode_answer(self, envelope: Envelope, outcomes: Sequence[Outcome]) -> Answer:
        """Encode the outcomes of a message: large ones in a thread, so that other calls go on."""
        for outcome in outcomes:
            if isinstance(outcome, Reply) and is_large(outcome.value):
                return await asyncio.to_thread(self._encode, envelope, outcomes)
        return self._encode(envelope, outcomes)

    def _encode(self, envelope: Envelope, outcomes: Sequence[Outcome]) -> Answer:
        entry = envelope.entries[0] if len(envelope.entries) == 1 and not envelope.batch else None
        fault = entry if isinstance(entry, Fault) else None  # of a message that holds no call at all
        if fault is not None and self._on_refused is not None:
            self._on_refused(fault)
        answer = self.codec.encode(envelope, outcomes)
        return Answer(answer, self.codec.content_type, fault, as_page=self.dialect.malformed_as_page)

    # Planning

    def _plan_entries(
        self, envelope: Envelope, peer: Peer, metadata: RequestMetadata, arrived: float = 0.0
    ) -> list[Entry]:
        is_alone = len(envelope.entries) == 1
        origin = self._origins.of(metadata, is_alone=is_alone)
        if is_alone and self._is_simple and isinstance(only := envelope.entries[0], Call):  # the usual case
            read = self.dialect.unwrap_call(only)
            return [self.plan(Call(read.method, read.params, read.named, read.oneway, peer, origin))]
        return [
            entry if isinstance(entry, Fault) else self._plan_entry(entry, peer, metadata, origin, arrived)
            for entry in envelope.entries
        ]

    def _plan_entry(
        self, entry: Call, peer: Peer, metadata: RequestMetadata, origin: Mapping[str, object], arrived: float
    ) -> _Readable:
        read = self.dialect.unwrap_call(entry)
        if self._tracer is not None:
            trace = self._tracer.begin(read, metadata, arrived)
            origin = origin if trace is None else {**origin, KEY: trace}
        call = Call(read.method, read.params, read.named, read.oneway, peer, origin)
        if self.override is None:
            return self.plan(call)
        forced, call = self.override.extract(call, metadata)
        return self.plan(call, forced)

    def plan(self, call: Call, forced: Side | None = None) -> _Readable:
        """Find the route of a call and the side that answers it. `forced`: the side that the client asked for."""
        mapped, task_prefix = self.table.routes.get(call.method), ""
        if mapped is None:  # unmapped, or another form of a mapped name
            mapped, task_prefix = self.table.find(call.method)
        own = self._task_methods.route(call, is_mapped=mapped is not None) if self._task_methods.routes else None
        if own is not None:
            mapped = None
        route = own or mapped or self.local_routes.get(call.method) or self._unmapped
        if call.peer.domid is not None and not self._may_call(call.peer.domid, route, call):
            fault = Fault(FaultCode.ACCESS_DENIED, f"domain {call.peer.domid} may not call {quoted(call.method)}")
            return RefusedCall(call, self.dispatcher.refuse(call, fault, route))
        if mapped is None:
            passed = route is self._unmapped and self.table.passthrough_to is not None
            return PlannedCall(call, route, PASSED_THROUGH if passed else LOCAL)
        if route.root_login is not None and self._trusts_root and call.peer.uid == 0:
            route = route.root_login
        if route.session is not None or route.login is not None:
            user = self.sessions.user(route, call)
            if user:
                call = self._origins.with_user(call, user, is_login=route.login is not None)
        plan = self.dispatcher.plan(route, call, forced)
        if plan.answer is Side.DBUS and route.session_check is not None and self.sessions.is_over(route, call):
            return RefusedCall(call, self.dispatcher.refuse(call, session_over(route, call), route))
        return (
            PlannedCall(call, route, plan, forced)
            if not task_prefix
            else self._plan_task(call, route, task_prefix, plan, forced)
        )

    def _plan_task(self, call: Call, route: Route, prefix: str, plan: CallPlan, forced: Side | None) -> _Readable:
        """Plan the form of a call that returns a task; `plan` is that of the call itself."""
        task = self._task_methods.form(route, prefix)
        task_plan = self.dispatcher.plan(task, call, forced)
        runs_here = task_plan.answer is Side.DBUS
        if (task_plan.answer is not None and not (runs_here and self._tasks is None)) or plan.answer is None:
            return PlannedCall(call, task, task_plan, forced)  # a method that is off is off as a task too
        why = f"No async mode for this operation (rpc: {call.method})"
        fault = Fault(FaultCode.APPLICATION, f"{why}: {task_plan.why}", name="Fault", data=[why])
        return RefusedCall(call, self.dispatcher.refuse(call, fault, task))

    # Tasks

    async def begin_task(self, entry: PlannedCall) -> Outcome:
        """Answer a call that asks for a task with its reference; the call is checked first and made afterwards."""
        route, call = entry.route.task_of, entry.call
        assert route is not None, "the plan of a task"
        assert self._tasks is not None, "the plan of a task"
        refused = await self.dispatcher.admit(route, call)
        if refused is not None:
            return self.dispatcher.refuse(call, refused, entry.route)
        alone = replace(entry, call=replace(call, oneway=False))

        async def run(notify: Callable[[float, Cancel | None], None]) -> Outcome:
            follows = alone.route.follows
            if follows is None:
                return (await self.dispatcher.run(alone)).outcome
            watched = replace(alone.route, follows=replace(follows, notify=notify))
            return (await self.dispatcher.run(replace(alone, route=watched))).outcome

        owner = (route.session(call) if route.session is not None else None) or ""
        task = await self._tasks.begin(entry.route.method, owner, call, run)
        return self.dispatcher.refuse(call, task, entry.route) if isinstance(task, Fault) else Reply(task.ref)

    async def _check_session(self, call: Call) -> Fault | None:
        check = self.table.session_check
        return None if check is None else await self.dispatcher.check_session(check, call)

    def _may_call(self, domid: int, route: Route, call: Call) -> bool:
        """Whether the mapping allows a domain this call, for the method or for the whole endpoint."""
        domains = route.domains
        if domains is None and self.table.exposure is not None:
            domains = self.table.exposure.domains
        return domains is None or domains.allow(domid, call.named)

    # Answering call by call

    async def answer_each(self, envelope: Envelope, entries: Sequence[Entry]) -> Answer:
        """Answer a message whose entries are planned, call by call."""
        only = entries[0] if len(entries) == 1 else None
        if isinstance(only, PlannedCall) and only.plan.answer is _DBUS and only.route.task_of is None:
            view = partial(self.view, envelope, 0, only.call)  # the usual case: as in `_answer_entry`
            outcome = self._ended(only, await self.dispatcher.run(only, view), view)
            if not isinstance(outcome, Reply) or not is_large(outcome.value):
                return self._encode(envelope, (self.dialect.wrap_outcome(outcome, only.call),))
            wrapped = await asyncio.to_thread(self.dialect.wrap_outcome, outcome, only.call)
            return await asyncio.to_thread(self._encode, envelope, (wrapped,))
        return await self._encode_answer(envelope, await self._answer_entries(envelope, entries))

    async def _answer_entries(self, envelope: Envelope, entries: Sequence[Entry]) -> Sequence[Outcome]:
        """Answer the entries in their order, which old clients rely on, or several at a time where so configured."""
        if len(entries) == 1:
            return (await self._answer_entry(envelope, entries, 0),)
        if self._concurrency == 1:
            return [await self._answer_entry(envelope, entries, at) for at in range(len(entries))]
        capacity = asyncio.Semaphore(self._concurrency)

        async def answer(at: int) -> Outcome:
            async with capacity:
                return await self._answer_entry(envelope, entries, at)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(answer(at)) for at in range(len(entries))]
        return [task.result() for task in tasks]

    async def _answer_entry(self, envelope: Envelope, entries: Sequence[Entry], at: int) -> Outcome:
        """A fault of framing skips the dialect, whose conventions are for application outcomes."""
        entry = entries[at]
        if isinstance(entry, Fault):
            return entry
        if isinstance(entry, RefusedCall):
            return self.dialect.wrap_outcome(entry.fault, entry.call)
        if entry.route.task_of is not None and entry.plan.answer is Side.DBUS:
            return self.dialect.wrap_outcome(await self.begin_task(entry), entry.call)
        view = partial(self.view, envelope, at, entry.call)
        outcome = self._ended(entry, await self.dispatcher.run(entry, view), view)
        if isinstance(outcome, Reply) and is_large(outcome.value):
            return await asyncio.to_thread(self.dialect.wrap_outcome, outcome, entry.call)
        return self.dialect.wrap_outcome(outcome, entry.call)

    def _ended(self, entry: PlannedCall, finished: CallFinished, view: View) -> Outcome:
        """The outcome of a call that has ended, before the client's dialect."""
        route = entry.route
        if route.login is not None or route.closes is not None:
            self.sessions.learn(finished, self._logout)
            session = route.closes(entry.call) if route.closes is not None else None
            if session and isinstance(finished.outcome, Reply) and self._on_logout is not None:
                self._on_logout(session)
        if entry.plan.candidate is not None and finished.side is entry.plan.answer:  # not where the call fell back
            self.after.do(self.observe, entry, finished, view, code_of(finished.outcome))
        outcome = finished.outcome
        if self._tasks is not None and finished.side is Side.DBUS:
            outcome = with_own(self._tasks, route.method, outcome)
        return outcome

    def view(self, envelope: Envelope, at: int, call: Call, outcome: Outcome) -> Outcome:
        """The outcome of one call of a message as its client reads it in its own protocol."""
        if envelope.batch:  # else it is alone
            tags = envelope.tags[at : at + 1] if isinstance(envelope.tags, tuple) else envelope.tags
            envelope = Envelope(envelope.entries[at : at + 1], tags)
        body = self.codec.encode(envelope, (self.dialect.wrap_outcome(outcome, call),))
        return self.dialect.unwrap_outcome(self.client.decode_answers(body or b"", envelope)[0], call)

    def observe(self, planned: PlannedCall, finished: CallFinished, view: View, code: FaultCode | None) -> None:
        """Have the other side run the call too. `code`: the kind of fault of this side's outcome, if it is one."""
        if self.shadow is None or finished.side is None or planned.call.oneway:
            return
        if not self.shadow.wants(planned.route, planned.call):
            return
        answered = Observation(finished.side, finished.outcome, finished.seconds, code, finished.started)
        raw = finished.view is not None
        self.shadow.observe(Job(planned.route, planned.call, answered, view, planned.plan.noise, raw))


class Endpoints:
    """The endpoints of the live mapping, by listener and path. A reload replaces all of them at once."""

    def __init__(self, exchanges: Mapping[EndpointKey, RpcEndpoint] = MappingProxyType({})) -> None:
        self.replace(exchanges)

    def replace(self, exchanges: Mapping[EndpointKey, RpcEndpoint]) -> None:
        """Serve these endpoints from now on."""
        self.exchanges = exchanges
        self._paths: dict[str, dict[str, RpcEndpoint]] = {}
        for key, exchange in sorted(exchanges.items(), key=lambda item: -len(item[0].path)):  # "/" is tried last
            self._paths.setdefault(key.listener, {})[key.path] = exchange

    def resolve(self, listener: str, path: str) -> RpcEndpoint | None:
        """The endpoint with the longest path that is `path` or above it: "/a/b" is below "/a", "/ab" is not."""
        paths = self._paths.get(listener, {})
        exact = paths.get(path)
        if exact is not None:
            return exact
        return next((exchange for above, exchange in paths.items() if _is_below(path, above)), None)


def _is_below(path: str, above: str) -> bool:
    return path.startswith(above) and (above.endswith("/") or path[len(above)] == "/")


async def _already(answer: Answer) -> Answer:
    return answer


def _without_notification(envelope: Envelope, peer: Peer) -> Envelope:
    """The message; a notification alone is refused, before a side executes it.

    Over a WebSocket JSON-RPC 2.0 holds whole: no server of the dialect has one.
    """
    entry = envelope.entries[0] if envelope.entries else None
    is_websocket = peer.connection is not None and peer.connection.subscriber is not None
    if envelope.batch or is_websocket or not isinstance(entry, Call) or not entry.oneway:
        return envelope
    found = "expected text or an integer, got none or null: a call without an answer is not taken here"
    return Envelope((Fault(FaultCode.INVALID_REQUEST, f"$.id: {found}"),))
