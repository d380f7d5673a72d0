"""Has each call answered by the side that its plan names, within a deadline, and reports each call that has ended.

A call always has an outcome: a deadline that passes becomes a TIMEOUT fault, an exception an INTERNAL fault. Only the
cancellation of the client's task passes through. Log, metrics, call statistics, sessions and recordings are listeners:
each gets the same `CallFinished` record, and one that is not configured is not in the tuple.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, TypeAlias

import msgspec
from msgspec.structs import replace

from gateway.core.interfaces import (
    NOT_SENT,
    AnsweredMessage,
    Backend,
    HttpExchange,
    SentMessage,
    UpstreamBackend,
    Wanted,
    always,
)
from gateway.core.logger import Logger
from gateway.core.migration.modes import Mode, Side
from gateway.core.routing import policy
from gateway.core.routing.policy import CallPlan
from gateway.core.routing.route import (
    CallFinished,
    CallListener,
    Effect,
    LocalTarget,
    Route,
    TaskObject,
)
from gateway.core.rpc.model import (
    ABANDONED,
    WITHDRAWN,
    Answer,
    Call,
    Fault,
    FaultCode,
    Outcome,
    RefusedCall,
    Reply,
    RequestMetadata,
    Value,
)
from gateway.core.rpc.trace_context import KEY
from gateway.migration.active_overrides import ActiveOverrides
from gateway.pipeline.waiting import TOO_MANY, Deadline, Deadlines, slot_freed

if TYPE_CHECKING:  # imported where the config has a collector
    from gateway.ops.traces import Tracer

_DBUS = Side.DBUS  # an attribute of an enum is slow to read

UNMAPPED = "<unmapped>"  # service and method of every call without a route: a client's text never becomes a label

# Faults after which it is certain that nothing was executed: the other side may be asked.
NOT_EXECUTED = frozenset({FaultCode.UNAVAILABLE, FaultCode.BUSY})

LOOK_FIRST, LOOK_LAST = 0.05, 1.0  # seconds between two looks at an object that stands for an operation

_log = Logger()

EventAnswer: TypeAlias = Callable[[Route, Call], Awaitable[Outcome]]  # of a route with `events`
View: TypeAlias = Callable[[Outcome], Outcome]  # an outcome -> the same as the client reads it


class PlannedCall(msgspec.Struct, frozen=True):
    """A call, its route and the side that answers. `forced`: the side that the client asked for."""

    call: Call
    route: Route
    plan: CallPlan
    forced: Side | None = None


# What is known of an entry of a message; see endpoint.py.
Entry: TypeAlias = PlannedCall | RefusedCall | Fault


class Dispatcher:
    """One for the whole gateway: `backend` is the D-Bus side, `upstreams` are the legacy services.

    `observing`, `observing_upstreams`: the same for calls that are only observed. They take no capacity from the calls
    of clients, and start no service.
    """

    def __init__(
        self,
        backend: Backend,
        *listeners: CallListener,
        upstreams: UpstreamBackend,
        observing: Backend | None = None,
        observing_upstreams: UpstreamBackend | None = None,
        toggles: ActiveOverrides | None = None,
        on_fallback: Callable[[Route, Call, Side, Fault, float], object] | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self._backend = backend
        self._upstreams = upstreams
        self._observing = observing or backend
        self._observing_upstreams = observing_upstreams or upstreams
        # Whether a legacy service understands messages of a codec and dialect as the client wrote them.
        self.speaks: Callable[[str, str, str], bool] = upstreams.speaks
        self._deadlines = Deadlines()
        self._on_fallback = on_fallback
        self._tracer = tracer
        self._listeners = listeners
        self.toggles = toggles or ActiveOverrides()
        self.toggles.subscribe(upstreams.review)  # a call that waits for its legacy service may go elsewhere
        self.in_flight = 0
        self.events: EventAnswer | None = None  # answers routes with `events`

    def wait(self, change: int) -> None:
        """A call begins to wait for events (1), or goes on (-1): while it waits it is not in flight."""
        self.in_flight -= change

    # Listeners

    def add_listener(self, listener: CallListener) -> None:
        """Hand every call that ends from now on to `listener` too."""
        self._listeners = (*self._listeners, listener)

    def remove_listener(self, listener: CallListener) -> None:
        """Hand no more calls to `listener`."""
        self._listeners = tuple(each for each in self._listeners if each != listener)

    def finish(self, finished: CallFinished) -> CallFinished:
        """Report a call that has ended."""
        for listener in self._listeners:
            listener(finished)
        return finished

    def refuse(self, call: Call, fault: Fault, route: Route) -> Fault:
        """Report a call that no side is asked to answer."""
        self.finish(CallFinished(route, call, fault, None, 0.0))
        return fault

    def abandon(
        self, calls: Iterable[tuple[Route, Call]], error: asyncio.CancelledError, seconds: float, side: Side | None
    ) -> None:
        """Report calls whose client has left, or that the end of the gateway has cut off."""
        outcome = withdrawn_or_abandoned(error)
        for route, call in calls:
            self.finish(CallFinished(route, call, outcome, side, seconds))
            if outcome is ABANDONED and route.effect is Effect.WRITE and route.service != UNMAPPED:
                _log.warning(
                    "the client left before the reply to its call: it is unknown whether the call was executed",
                    method=route.method,
                    side=side.value if side is not None else "",
                    peer=call.peer.address,
                )

    # Calls

    def plan(self, route: Route, call: Call, forced: Side | None = None) -> CallPlan:
        """The side that answers by the current mode. The mode of a method governs its forms that return a task too."""
        if isinstance(route.target, LocalTarget):
            return policy.LOCAL
        governed = route.task_of or route
        if forced is None:
            plan = self.toggles.plan(governed, call)
        else:
            plan = policy.plan_call(governed, self.toggles.setting(governed), call, forced)
        return plan if route.task_of is None else policy.task_plan(governed, plan)

    async def answer(self, route: Route, call: Call) -> Outcome:
        """Answer one call by its route."""
        return (await self.run(PlannedCall(call, route, self.plan(route, call)))).outcome

    async def run(self, planned: PlannedCall, view: View | None = None) -> CallFinished:
        """Answer a planned call. It keeps its route until the end, whatever is reloaded meanwhile.

        A call that still waits for its legacy service when its mode changes goes to the side that answers then.
        """
        route, call, plan = planned.route, planned.call, planned.plan
        started = perf_counter()
        side = plan.answer
        self.in_flight += 1
        try:
            if side is _DBUS and route.is_direct:  # the usual case: as in `_ask`
                deadline = self._deadlines.start(route.timeout)
                try:
                    outcome = await self._backend.call(route, call)
                except asyncio.CancelledError as error:
                    if not deadline.was_the_reason():
                        raise
                    outcome = _timed_out(_DBUS, route, route, route.timeout, sent=NOT_SENT not in error.args)
                except Exception:  # noqa: BLE001 - the last line of defence: a bug costs its own call and no other
                    outcome = _internal_error(route)
                finally:
                    deadline.lift()
            elif side is None:
                outcome = await self._answer_without_side(route, call, plan)
            else:
                unmoved = always if side is _DBUS else lambda: self._stays(planned)
                outcome = await self._ask(side, route, call, unmoved)
            if isinstance(outcome, Fault) and outcome.code in NOT_EXECUTED and side is not None:
                side, found = self._instead(planned, side, outcome, started)
                if found is not None:
                    outcome = found
                elif side is not None:
                    outcome = await self._ask(side, route, call)
        except asyncio.CancelledError as error:
            self.abandon([(route, call)], error, perf_counter() - started, side)
            raise
        finally:
            self.in_flight -= 1
        return self.finish(CallFinished(route, call, outcome, side, perf_counter() - started, view, started))

    def _stays(self, planned: PlannedCall) -> bool:
        """Whether the mode of a call that its legacy service is to answer is still the same."""
        return self.plan(planned.route, planned.call, planned.forced).answer is Side.LEGACY

    def _instead(
        self, planned: PlannedCall, side: Side, fault: Fault, started: float
    ) -> tuple[Side | None, Fault | None]:
        """The side to ask after one that executed nothing; or the side and the fault with which the call ends."""
        route, call = planned.route, planned.call
        if side is Side.LEGACY and not self._stays(planned):
            plan = self.plan(route, call, planned.forced)
            if plan.answer is None or (plan.answer is _DBUS and route.task_of is not None):
                return None, self._off(route, plan)  # of a task the caller expects the reference, and not the result
            return plan.answer, None
        if not planned.plan.fallback:
            return side, fault
        if self._on_fallback is not None:
            self._on_fallback(route, call, side, fault, perf_counter() - started)
        return side.other, None

    async def admit(self, route: Route, call: Call) -> Fault | None:
        """Why a call that D-Bus would answer is refused before it is made: its parameters or its session."""
        refused = await self._backend.check(route, call)
        if refused is not None:
            return refused
        return None if route.session_check is None else await self.check_session(route.session_check, call)

    async def check_session(self, check: Route, call: Call) -> Fault | None:
        """Make a session check for a call; the fault is why its session is not valid."""
        outcome = await self._ask(Side.DBUS, check, replace(call, oneway=False))
        return outcome if isinstance(outcome, Fault) else None

    async def observe(self, side: Side, route: Route, call: Call) -> Outcome:
        """Ask a side whose outcome no client sees. Of the listeners only a tracer hears of it."""
        if self._tracer is None or KEY not in call.extensions:
            return await self._ask(side, route, call, observed=True)
        call, started = self._tracer.beside(call), perf_counter()
        outcome = await self._ask(side, route, call, observed=True)
        self._tracer.finished(CallFinished(route, call, outcome, side, perf_counter() - started, started=started))
        return outcome

    async def _answer_without_side(self, route: Route, call: Call, plan: CallPlan) -> Outcome:
        if not isinstance(route.target, LocalTarget):
            return self._off(route, plan)
        deadline = self._deadlines.start(route.timeout)
        try:
            return await route.target.answer(call)
        except asyncio.CancelledError:
            if deadline.was_the_reason():
                return Fault(FaultCode.TIMEOUT, f"no answer from the gateway itself within {route.timeout:g} s")
            raise
        except Exception:  # noqa: BLE001 - the last line of defence: a bug costs its own call and no other
            return _internal_error(route)
        finally:
            deadline.lift()

    def _off(self, route: Route, plan: CallPlan) -> Fault:
        off = self.toggles.setting(route.task_of or route).mode is Mode.OFF
        why = "is switched off" if off else f"has no side that answers: {plan.why}"
        return Fault(FaultCode.UNAVAILABLE, f"{route.method} {why}")

    async def _ask(
        self, side: Side, route: Route, call: Call, wanted: Wanted = always, *, observed: bool = False
    ) -> Outcome:
        """Ask one side, within its deadline.

        A legacy service has its own timeout, which is long by default because its clients never set one. When it is
        only observed it has the timeout of the route.
        """
        bus = self._observing if observed else self._backend
        upstream = route.migration.upstream if side is Side.LEGACY and not observed else None
        seconds = route.timeout if upstream is None else self._upstreams.timeout(upstream)
        deadline = self._deadlines.start(seconds)
        asked = route
        try:
            if side is Side.LEGACY:
                upstreams = self._observing_upstreams if observed else self._upstreams
                return await upstreams.call(route, call, wanted)
            if route.session_check is not None and not route.events:
                asked = route.session_check
                permission = await bus.call(asked, replace(call, oneway=False))
                if isinstance(permission, Fault):
                    return permission
                asked = route
            outcome = await (bus.call(route, call) if not route.waits else self._wait_for(bus, route, call))
            if route.follows is not None and isinstance(outcome, Reply):
                return await self._follow(bus, route, call, route.follows, outcome.value)
            return outcome
        except asyncio.CancelledError as error:
            executes_nothing = asked is not route or (route.events and side is Side.DBUS)
            if executes_nothing and NOT_SENT not in error.args:
                error.args = (*error.args, NOT_SENT)
            if deadline.was_the_reason():
                return _timed_out(side, route, asked, seconds, sent=NOT_SENT not in error.args)
            raise
        except Exception:  # noqa: BLE001 - the last line of defence: a bug costs its own call and no other
            return _internal_error(route)
        finally:
            deadline.lift()

    async def _wait_for(self, bus: Backend, route: Route, call: Call) -> Outcome:
        """Make a call that waits for something to happen: at its service, or for events of the gateway."""
        if route.events:  # the event hub checks the session itself
            assert self.events is not None, "it is set before the first call"
            return await self.events(route, call)
        with slot_freed(call, self.wait) as is_free:
            return await bus.call(route, call) if is_free else TOO_MANY

    async def _follow(self, bus: Backend, route: Route, call: Call, follows: TaskObject, path: Value) -> Outcome:
        """Wait for the end of an operation that a D-Bus object stands for."""
        about = Call(route.method, (path,))
        cancel = None if follows.cancel is None else partial(bus.call, follows.cancel, about)
        pause = LOOK_FIRST
        while True:
            try:
                read = await bus.call(follows.read, about)
            except asyncio.CancelledError as error:  # the operation itself has begun
                error.args = tuple(each for each in error.args if each != NOT_SENT)
                raise
            if isinstance(read, Fault):
                text = f"{path!s:.200} cannot be read any more, it is unknown how {route.method} ended: {read.message}"
                return Fault(FaultCode.NO_REPLY, text)
            state = read.value if isinstance(read.value, dict) else {}
            ended = _ended(state, route, call)
            if ended is not None:
                return ended
            progress = state.get("progress")
            if follows.notify is not None:
                follows.notify(float(progress) if isinstance(progress, int | float) else 0.0, cancel)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LOOK_LAST)

    # Whole messages

    async def forward(
        self,
        upstream: str,
        body: bytes,
        metadata: RequestMetadata,
        *,
        repeatable: bool = False,
        wanted: Wanted = always,
    ) -> Answer | Fault:
        """Pass a whole message through to a legacy service. The caller reports the calls of the message.

        `repeatable`: no call of it does harm when it runs twice. `wanted`: see interfaces.Wanted.
        """
        deadline = self._deadlines.start(self._upstreams.timeout(upstream))
        self.in_flight += 1
        try:
            return await self._upstreams.forward(upstream, body, metadata, repeatable=repeatable, wanted=wanted)
        except asyncio.CancelledError as error:
            if deadline.was_the_reason():
                return too_late(upstream, deadline, sent=NOT_SENT not in error.args)
            raise
        finally:
            self.end_passed(deadline)

    def forward_at_once(
        self, upstream: str, body: bytes, metadata: RequestMetadata, passed: AnsweredMessage, *, repeatable: bool
    ) -> tuple[SentMessage, Deadline] | None:
        """The same without a task: `passed` gets the answer, and is cancelled past the deadline.

        None: that is not possible now, and nothing was sent. The caller ends the message by `end_passed`.
        """
        begun = self._upstreams.send_at_once(upstream, body, metadata, passed, repeatable=repeatable)
        if begun is None:
            return None
        sent, timeout = begun
        self.in_flight += 1
        return sent, self._deadlines.start_for(passed, timeout)

    async def forward_again(
        self, upstream: str, sent: SentMessage, deadline: Deadline, send: Callable[[], Awaitable[Answer | Fault]]
    ) -> Answer | Fault:
        """Send a message again whose connection has ended, in a task and within the same deadline."""
        deadline.hand_over()
        try:
            if deadline.passed:  # before this task has begun
                sent.withdraw()
                return too_late(upstream, deadline)
            return await send()
        except asyncio.CancelledError:
            if deadline.was_the_reason():
                return too_late(upstream, deadline)
            raise
        finally:
            self.end_passed(deadline)

    def end_passed(self, deadline: Deadline) -> None:
        """A message that was passed through has ended."""
        deadline.waiting.pop(deadline, None)
        self.in_flight -= 1

    async def relay(self, upstream: str, exchange: HttpExchange) -> Answer | Fault:
        """Stream one exchange to an upstream; see UpstreamBackend. The caller reports it."""
        self.in_flight += 1
        try:
            return await self._upstreams.relay(upstream, exchange)
        finally:
            self.in_flight -= 1


def too_late(upstream: str, deadline: Deadline, *, sent: bool = True) -> Fault:
    """The deadline of a message that was passed through has passed."""
    known = "it may have been executed" if sent else "it was not sent"
    text = f"no answer from the legacy service '{upstream}' within {deadline.seconds:g} s; {known}"
    return Fault(FaultCode.TIMEOUT, text)


def withdrawn_or_abandoned(error: asyncio.CancelledError) -> Fault:
    """The outcome of a call whose client has left, or that the end of the gateway has cut off."""
    return WITHDRAWN if NOT_SENT in error.args else ABANDONED


def _ended(state: Mapping[str, Value], route: Route, call: Call) -> Outcome | None:
    """The outcome of an operation by the state of its object; None while it goes on."""
    if state.get("status") == "success":
        return Reply(state.get("result"))
    if state.get("status") not in ("failure", "cancelled"):
        return None
    error = state.get("error")
    words = [str(each) for each in error] if isinstance(error, list) and error else [str(state["status"])]
    message = ", ".join(words[1:]) or words[0]
    fault = Fault(FaultCode.REMOTE, message, name=words[0], data=[*words[1:]])
    return route.map_error(fault, call)


def _internal_error(route: Route) -> Fault:
    """Log the exception that is being handled; its text never reaches a client."""
    _log.exception("a bug answered this call", method=route.method, source=route.source)
    return Fault(FaultCode.INTERNAL, "internal error")


def _timed_out(side: Side, route: Route, asked: Route, seconds: float, *, sent: bool) -> Fault:
    """`asked` is the route or its session check. When the check does not answer, the call itself was not made."""
    callee = f"the legacy service '{route.migration.upstream}'" if side is Side.LEGACY else asked.bus_target.bus_name
    if asked is not route:
        known = f"; {route.method} was not called"
    elif not sent:
        known = "; the call was not sent"
    else:
        known = "" if route.effect is Effect.READ else "; it may have been executed"
    return Fault(FaultCode.TIMEOUT, f"no answer from {callee} within {seconds:g} s{known}")
