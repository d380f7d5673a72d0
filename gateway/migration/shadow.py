"""Asks the side that did not answer, once the answer has left, and says what came of it. No client ever waits for it.

Bounded: what finds no room, or no quiet moment soon, is dropped and counted. Whatever goes wrong here stays here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from time import perf_counter
from typing import Protocol, TypeAlias, TypeVar

import msgspec
import structlog

from gateway.core.comparison.compare import Comparison
from gateway.core.migration.modes import Side
from gateway.core.routing.route import Route
from gateway.core.rpc.model import Call, Fault, FaultCode, Outcome, Reply, Value
from gateway.migration.idle_queue import IdleQueue

ROOM = 64  # observations at one time
# Faults of a side that is away, or whose answer was none to this call: they say nothing of what it would have answered.
NO_ANSWER = frozenset(
    {FaultCode.UNAVAILABLE, FaultCode.BUSY, FaultCode.TIMEOUT, FaultCode.NO_REPLY, FaultCode.PARSE_ERROR}
)
LARGE = 2_000  # values in an outcome; comparing so many takes a millisecond

T = TypeVar("T")

_log = structlog.get_logger("shadow")

Ask: TypeAlias = Callable[[Side, Route, Call], Awaitable[Outcome]]


class Observation(msgspec.Struct, frozen=True):
    """What happened when this side ran; the outcome as the client sees it.

    `code`: what kind of fault that was before it was put in the client's words, which are the same for several.
    """

    side: Side
    outcome: Outcome
    seconds: float
    code: FaultCode | None = None

    @property
    def is_answer(self) -> bool:
        """Whether this side said anything that could be compared."""
        return self.code not in NO_ANSWER


class Observed(msgspec.Struct, frozen=True):
    """A call that both sides have run. `again`: the control, asked a second time to know what is never stable."""

    route: Route
    call: Call
    control: Observation
    candidate: Observation
    again: Outcome | None = None


class Publish(Protocol):
    """Who is told."""

    def compare(self, observed: Observed) -> Comparison:
        """Hold both outcomes against each other; pure, and run in a thread where they are large."""

    def observed(self, observed: Observed, comparison: Comparison) -> None:
        """Remember what came of it."""

    def dropped(self, route: Route) -> None:
        """There was no room to observe a call."""


class Job(msgspec.Struct, frozen=True):
    """A call that was answered and is to be observed. `view`: an outcome as the client of that call sees it."""

    route: Route
    call: Call
    control: Observation
    view: Callable[[Outcome], Outcome]
    noise: bool = False


class Shadow:
    """The observations under way. `ask` never raises but for cancellation, and holds the deadline."""

    def __init__(self, ask: Ask, publish: Publish, room: int = ROOM) -> None:
        self._ask = ask
        self._publish = publish
        self._room = room
        self._running: set[asyncio.Task[None]] = set()
        self._quiet = IdleQueue(self._begin, lambda job: self.drop(job.route))

    def __len__(self) -> int:
        return len(self._running) + len(self._quiet)

    @property
    def is_full(self) -> bool:
        """Whether whatever comes now is dropped."""
        return len(self) >= self._room

    def touch(self) -> None:
        """A message has come or gone: whoever sent it may be back at once."""
        self._quiet.touch()

    def observe(self, job: Job) -> None:
        """Begin when it is quiet, where there is room; called when the answer has left."""
        if self.is_full:
            self.drop(job.route)
        else:
            self._quiet.put(job)

    def _begin(self, job: Job) -> None:
        task = asyncio.get_running_loop().create_task(self._run(job))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def drop(self, route: Route) -> None:
        """A call cannot be observed."""
        self._publish.dropped(route)

    async def drain(self, grace: float) -> int:
        """Let what is under way end for `grace` seconds; returns how many were cut off."""
        self._quiet.begin_all()
        if not self._running:
            return 0
        _, late = await asyncio.wait(self._running, timeout=grace)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)
        return len(late)

    async def _run(self, job: Job) -> None:
        try:
            observed = await self._observed(job)
            if observed is None:
                self.drop(job.route)
                return
            comparison = await aside(observed.control.outcome, partial(self._publish.compare, observed))
            self._publish.observed(observed, comparison)
        except Exception:  # noqa: BLE001 - a bug costs this observation and nothing else
            _log.exception("a bug ended this observation", method=job.route.method)

    async def _observed(self, job: Job) -> Observed | None:
        """None: the control did not answer a second time, so that nobody knows what is noise."""
        candidate = await ran(self._ask, job.control.side.other, job.route, job.call, job.view)
        if not job.noise:
            return Observed(job.route, job.call, job.control, candidate)
        again = await ran(self._ask, job.control.side, job.route, job.call, job.view)
        return Observed(job.route, job.call, job.control, candidate, again.outcome) if again.is_answer else None


async def ran(ask: Ask, side: Side, route: Route, call: Call, view: Callable[[Outcome], Outcome]) -> Observation:
    """Have a side run a call that no client waits for."""
    started = perf_counter()
    outcome = await ask(side, route, call)
    seconds = perf_counter() - started
    return Observation(side, await aside(outcome, partial(view, outcome)), seconds, code_of(outcome))


def code_of(outcome: Outcome) -> FaultCode | None:
    """What kind of fault it is, if it is one."""
    return outcome.code if isinstance(outcome, Fault) else None


async def aside(measure: Outcome, work: Callable[[], T]) -> T:
    """Do it here where it is quick, and in a thread where it would hold up every other call."""
    return await asyncio.to_thread(work) if _is_large(measure) else work()


def _is_large(outcome: Outcome) -> bool:
    """Whether there are more than LARGE values in it; looks no further."""
    waiting: list[Value] = [outcome.value if isinstance(outcome, Reply) else outcome.data]
    seen = 0
    while waiting:
        value = waiting.pop()
        inside = value if isinstance(value, list) else value.values() if isinstance(value, dict) else ()
        seen += 1 + len(inside)
        if seen > LARGE:
            return True
        waiting.extend(inside)
    return False
