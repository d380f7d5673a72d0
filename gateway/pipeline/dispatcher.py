"""Decides who answers a call, holds its deadline, always returns an outcome. Knows no protocol and no bus."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace
from time import perf_counter
from typing import TypeAlias

import structlog

from gateway.core.interfaces import NOT_SENT, Backend, UpstreamBackend, Wanted, always
from gateway.core.migration.modes import Mode, Side
from gateway.core.routing import policy
from gateway.core.routing.policy import CallPlan
from gateway.core.routing.route import Effect, Route
from gateway.core.rpc.model import ABANDONED, WITHDRAWN, Answer, Call, Fault, FaultCode, Outcome, RequestMetadata
from gateway.migration.active_overrides import ActiveOverrides
from gateway.ops.metrics import Note
from gateway.pipeline.deadline import Deadlines

UNMAPPED = "<unmapped>"  # service and method of all that has no route: no client's text becomes a label

# Faults after which it is certain that nothing was executed: such a call may be asked elsewhere.
NOT_EXECUTED = frozenset({FaultCode.UNAVAILABLE, FaultCode.BUSY})

_log = structlog.get_logger("gateway")

FellBack: TypeAlias = Callable[[Route, Side, Fault, float], object]  # the side that did not, and after how many seconds


def _ignore(route: Route, side: Side, fault: Fault, seconds: float) -> None:
    """Tell nobody."""


class Dispatcher:
    """One for the whole gateway; `backend` and `upstreams` answer, `note` is told of every call.

    `observing`, `observing_upstreams`: the same for calls that are only observed, which take no room from the others
    and start nothing.
    """

    def __init__(
        self,
        backend: Backend,
        note: Note,
        *,
        upstreams: UpstreamBackend | None = None,
        observing: Backend | None = None,
        observing_upstreams: UpstreamBackend | None = None,
        toggles: ActiveOverrides | None = None,
        on_fallback: FellBack = _ignore,  # told of a fault that no client sees: the other side is asked instead
    ) -> None:
        self._backend = backend
        self._upstreams = upstreams
        self._observing = observing or backend
        self._observing_upstreams = observing_upstreams or upstreams
        self._deadlines = Deadlines()
        self._on_fallback = on_fallback
        self.note = note
        self.toggles = toggles or ActiveOverrides()
        self.toggles.subscribe(self._review)
        self.in_flight = 0

    def plan(self, route: Route, call: Call, forced: Side | None = None) -> CallPlan:
        """Who answers, by the setting that holds now; the setting of a call holds for its forms that return a task."""
        governed = route.task_of or route
        plan = policy.plan_call(governed, self.toggles.setting(governed), call, forced)
        return plan if route.task_of is None else policy.task_plan(governed, plan)

    async def answer(self, route: Route, call: Call) -> Outcome:
        """Answer one call by its route."""
        outcome, _ = await self.answered(route, call, self.plan(route, call))
        return outcome

    async def answered(
        self, route: Route, call: Call, plan: CallPlan, forced: Side | None = None
    ) -> tuple[Outcome, Side | None]:
        """Answer one call, and say who did. The route is kept until the end, whatever is reloaded meanwhile.

        A call that waits for its legacy service when its mode changes goes to the side that answers now. `forced`: the
        side that the client asked for; the mode does not change that.
        """
        started = perf_counter()
        side = plan.answer
        self.in_flight += 1
        try:
            if side is None:
                return self._off(route, call, plan, started), None
            unmoved = always if side is Side.DBUS else lambda: self.plan(route, call, forced).answer is Side.LEGACY
            outcome = await self._ask(side, route, call, self._backend, self._upstreams, unmoved)
            if isinstance(outcome, Fault) and outcome.code in NOT_EXECUTED:
                if not unmoved():
                    plan = self.plan(route, call, forced)
                    side = plan.answer
                    if side is None:
                        return self._off(route, call, plan, started), None
                    outcome = await self._ask(side, route, call, self._backend, self._upstreams)
                elif plan.fallback:
                    self._on_fallback(route, side, outcome, perf_counter() - started)
                    side = side.other
                    outcome = await self._ask(side, route, call, self._backend, self._upstreams)
        except asyncio.CancelledError as error:
            self.left([(route, call)], error, perf_counter() - started, side)
            raise
        finally:
            self.in_flight -= 1
        self.note(route.service, route.method, call, outcome, perf_counter() - started, side)
        return outcome, side

    def left(
        self, calls: Iterable[tuple[Route, Call]], error: asyncio.CancelledError, seconds: float, side: Side | None
    ) -> None:
        """Account for calls whose client has left, or which the end of the gateway has cut off."""
        came_to = WITHDRAWN if NOT_SENT in error.args else ABANDONED
        for route, call in calls:
            self.note(route.service, route.method, call, came_to, seconds, side)
            if came_to is ABANDONED and route.effect is Effect.WRITE and route.service != UNMAPPED:
                _log.warning(
                    "nobody waits for this call any more: it is unknown whether it was executed",
                    method=route.method,
                    side=side.value if side is not None else "",
                    peer=call.peer.address,
                )

    def _off(self, route: Route, call: Call, plan: CallPlan, started: float) -> Fault:
        off = self.toggles.setting(route.task_of or route).mode is Mode.OFF
        why = "is switched off" if off else f"has no side that answers: {plan.why}"
        fault = Fault(FaultCode.UNAVAILABLE, f"{route.method} {why}")
        self.note(route.service, route.method, call, fault, perf_counter() - started, None)
        return fault

    def _review(self) -> None:
        """Modes may have changed: what waits for a legacy service may not have to."""
        if self._upstreams is not None:
            self._upstreams.review()

    async def observe(self, side: Side, route: Route, call: Call) -> Outcome:
        """Ask a side whose answer no client will see; counted and noted by whoever wants it."""
        return await self._ask(side, route, call, self._observing, self._observing_upstreams, hurried=True)

    async def forward(
        self, upstream: str, body: bytes, carried: RequestMetadata, *, repeatable: bool = False, wanted: Wanted = always
    ) -> Answer | Fault:
        """Send a whole message to a legacy service as it came; the caller notes what its calls came to.

        `repeatable`: none of them does harm when it runs twice. `wanted`: see ports.Wanted.
        """
        if self._upstreams is None:
            return _nobody(upstream)
        seconds = self._upstreams.patience(upstream)
        deadline = self._deadlines.start(seconds)
        self.in_flight += 1
        try:
            return await self._upstreams.forward(upstream, body, carried, repeatable=repeatable, wanted=wanted)
        except asyncio.CancelledError as error:
            if deadline.was_the_reason():
                known = "it was not sent" if NOT_SENT in error.args else "it may have been executed"
                text = f"no answer from the legacy service '{upstream}' within {seconds:g} s; {known}"
                return Fault(FaultCode.TIMEOUT, text)
            raise
        finally:
            deadline.lift()
            self.in_flight -= 1

    def speaks(self, upstream: str, codec: str, dialect: str) -> bool:
        """Whether a legacy service takes messages of this codec and dialect as they are."""
        return self._upstreams is not None and self._upstreams.speaks(upstream, codec, dialect)

    def refuse(self, call: Call, fault: Fault, route: Route | None = None) -> Fault:
        """Account for a call that nobody is asked to answer; no `route`: it is not mapped."""
        service, method = (UNMAPPED, UNMAPPED) if route is None else (route.service, route.method)
        self.note(service, method, call, fault, 0.0, None)
        return fault

    async def _ask(
        self,
        side: Side,
        route: Route,
        call: Call,
        bus: Backend,
        upstreams: UpstreamBackend | None,
        wanted: Wanted = always,
        *,
        hurried: bool = False,
    ) -> Outcome:
        """The one place where a deadline is held, and where an exception becomes words for a client.

        `hurried`: a legacy service has the time of the route too, though nobody hurried it before.
        """
        seconds = route.timeout if side is Side.DBUS or hurried else self._patience(route)
        deadline = self._deadlines.start(seconds)
        asked = route.guard or route
        try:
            if side is Side.LEGACY:
                asked = route
                if upstreams is None:
                    return _nobody(route.migration.upstream)
                return await upstreams.call(route, call, wanted)
            if route.guard is not None:
                permission = await bus.call(route.guard, replace(call, oneway=False))
                if isinstance(permission, Fault):
                    return permission
                asked = route
            return await bus.call(route, call)
        except asyncio.CancelledError as error:
            if asked is not route and NOT_SENT not in error.args:
                error.args = (*error.args, NOT_SENT)
            if deadline.was_the_reason():
                return _timed_out(side, route, asked, seconds, sent=NOT_SENT not in error.args)
            raise
        except Exception:  # noqa: BLE001 - the last line of defence: a bug costs its own call and no other
            _log.exception("a bug answered this call", method=route.method, source=route.source)
            return Fault(FaultCode.INTERNAL, "internal error")
        finally:
            deadline.lift()

    def _patience(self, route: Route) -> float:
        upstream = route.migration.upstream
        return route.timeout if self._upstreams is None or upstream is None else self._upstreams.patience(upstream)


def _nobody(upstream: str | None) -> Fault:
    return Fault(FaultCode.UNAVAILABLE, f"no legacy service '{upstream or ''}' is configured; the call was not sent")


def _timed_out(side: Side, route: Route, asked: Route, seconds: float, *, sent: bool) -> Fault:
    """`asked` is the route or its guard: past a guard's silence nothing was executed."""
    whom = f"the legacy service '{route.migration.upstream}'" if side is Side.LEGACY else asked.target.bus_name
    if asked is not route:
        known = f"; {route.method} was not called"
    elif not sent:
        known = "; the call was not sent"
    else:
        known = "" if route.effect is Effect.READ else "; it may have been executed"
    return Fault(FaultCode.TIMEOUT, f"no answer from {whom} within {seconds:g} s{known}")
