"""Decides who answers a call, holds its deadline, always returns an outcome. Knows no protocol and no bus."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from time import perf_counter

import structlog

from gateway.core.migration import Mode
from gateway.core.model import Call, Fault, FaultCode, Outcome
from gateway.core.ports import Backend
from gateway.core.route import Effect, Route
from gateway.deadline import Deadlines
from gateway.metrics import Note

UNMAPPED = "<unmapped>"  # service and method of all that has no route: no client's text becomes a label

_log = structlog.get_logger("gateway")


class Dispatcher:
    """One for the whole gateway; `backend` answers, `note` is told of every call."""

    def __init__(self, backend: Backend, note: Note) -> None:
        self._backend = backend
        self._note = note
        self._deadlines = Deadlines()
        self.in_flight = 0

    async def answer(self, route: Route, call: Call) -> Outcome:
        """Answer one call by its route. The route is kept until the end, whatever is reloaded meanwhile."""
        started = perf_counter()
        self.in_flight += 1
        try:
            if route.migration.setting.mode is Mode.OFF:
                outcome: Outcome = Fault(FaultCode.UNAVAILABLE, f"{route.method} is switched off")
            else:
                outcome = await self._ask(route, call)
        finally:
            self.in_flight -= 1
        self._note(route.service, route.method, call, outcome, perf_counter() - started)
        return outcome

    def refuse(self, call: Call, fault: Fault) -> Fault:
        """Account for a call that nobody is asked to answer."""
        self._note(UNMAPPED, UNMAPPED, call, fault, 0.0)
        return fault

    async def _ask(self, route: Route, call: Call) -> Outcome:
        """The one place where a deadline is held, and where an exception becomes words for a client."""
        deadline = self._deadlines.start(route.timeout)
        asked = route.guard or route
        try:
            if route.guard is not None:
                permission = await self._backend.call(route.guard, replace(call, oneway=False))
                if isinstance(permission, Fault):
                    return permission
                asked = route
            return await self._backend.call(route, call)
        except asyncio.CancelledError:
            if deadline.was_the_reason():
                return _timed_out(route, asked)
            raise
        except Exception:  # noqa: BLE001 - the last line of defence: a bug costs its own call and no other
            _log.exception("a bug answered this call", method=route.method, source=route.source)
            return Fault(FaultCode.INTERNAL, "internal error")
        finally:
            deadline.lift()


def _timed_out(route: Route, asked: Route) -> Fault:
    """`asked` is the route or its guard: past a guard's silence nothing was executed."""
    if asked is not route:
        known = f"; {route.method} was not called"
    else:
        known = "" if route.effect is Effect.READ else "; it may have been executed"
    return Fault(FaultCode.TIMEOUT, f"no answer from {asked.target.bus_name} within {route.timeout:g} s{known}")
