"""Observation of calls: the side that did not answer is called after the answer has left, and both are compared.

The legacy side is the control and the D-Bus side the candidate, whichever of them answered the client. Noise is what
the legacy side varies in when it is called twice.

No client waits for an observation. The sampling of the mapping chooses the calls; quotas bound how many are under way,
the idle queue begins them at once or not at all, and large outcomes are compared in a thread. A call that is not
compared is counted by its reason (`core/admin/counters.py`). An error in an observation ends only this observation.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import perf_counter
from typing import Generic, Protocol, TypeAlias, TypeVar

import msgspec

from gateway.core.admin import counters
from gateway.core.admin.records import Json
from gateway.core.comparison.compare import Comparison
from gateway.core.comparison.equality import Checkpoint, no_checkpoint
from gateway.core.comparison.rules import EVERY_CALL, Sampler
from gateway.core.logger import Logger
from gateway.core.migration.modes import Side
from gateway.core.routing.call_record import inside, weigh
from gateway.core.routing.route import Route
from gateway.core.rpc.model import Call, Fault, FaultCode, Outcome

MAX_OBSERVED = 64  # observations under way
# Large comparisons of one method under way. Each may take seconds; what comes late would count as evidence of a later
# step. Calls are dropped before their outcome is known, else the sample would prefer those with a small one.
MAX_LARGE = 4
MAX_APART = 0.1  # seconds between the end of one call and the beginning of the other; an older pair proves nothing
# Faults of a side that was not reached, or whose answer was not one to this call: there is no answer to compare.
NO_ANSWER = frozenset(
    {FaultCode.UNAVAILABLE, FaultCode.BUSY, FaultCode.TIMEOUT, FaultCode.NO_REPLY, FaultCode.PARSE_ERROR}
)

IDLE_AFTER = 0.001  # seconds without a message; a client that calls again and again leaves less
BUSY_AFTER = 0.003  # seconds that work waits for an idle moment
MAX_AGE = 0.005  # seconds from put to begin
MAX_LAG = 0.05  # seconds from put to begin of the newest, when the event loop itself is late
RATE = 350.0  # begun in a second at most; an observation takes a quarter of a millisecond of the event loop
BURST = 4.0  # begun at once at most, after a pause
TURNS = 2  # of the event loop, after which it has certainly read its sockets: an unread message may be waiting there

INLINE_COST = 12_000  # bytes times the cost of rules; the event loop does so much itself, in about a millisecond
SLICE = 0.0005  # seconds of work between two sleeps
SLEEP = 0.001  # seconds
SWITCH_INTERVAL = 0.0005  # seconds; the default of Python is ten times as long

T = TypeVar("T")

_log = Logger("shadow")

CallSide: TypeAlias = Callable[[Side, Route, Call], Awaitable[Outcome]]
View: TypeAlias = Callable[[Outcome], Outcome]  # an outcome as the client of a call sees it


class Observation(msgspec.Struct, frozen=True):
    """One side's run of a call; the outcome as the client sees it. `started`: by perf_counter.

    `code`: the kind of fault before it was translated for the client, who may see one name for several kinds.
    """

    side: Side
    outcome: Outcome
    seconds: float
    code: FaultCode | None = None
    started: float = 0.0

    @property
    def is_answer(self) -> bool:
        """Whether the side gave an answer that can be compared."""
        return self.code not in NO_ANSWER


class ObservedCall(msgspec.Struct, frozen=True):
    """A call that both sides have run. `again`: the second answer of the control, where noise is wanted.

    `answered`: the side whose answer the client has.
    """

    route: Route
    call: Call
    control: Observation
    candidate: Observation
    again: Outcome | None = None
    answered: Side = Side.LEGACY

    @property
    def observed(self) -> Observation:
        """The run that no client waited for."""
        return self.candidate if self.answered is Side.LEGACY else self.control

    @property
    def apart(self) -> float:
        """Seconds from the end of the first call to the beginning of the second; 0 if they overlap."""
        first, second = sorted((self.control, self.candidate), key=lambda run: run.started)
        return max(second.started - first.started - first.seconds, 0.0)

    @property
    def not_compared(self) -> str | None:
        """Why the two say nothing about each other, as the name of a counter; None: compare them.

        A D-Bus side that is away while the legacy side answers does differ.
        """
        if self.observed.code is FaultCode.BUSY:
            return counters.DROPPED
        if not self.control.is_answer or self.candidate.code is FaultCode.BUSY:
            return counters.UNANSWERED
        return counters.APART if self.apart > MAX_APART else None

    @property
    def cost(self) -> int:
        """Of comparing the two, for Worker.run."""
        outcomes = [self.control.outcome, self.candidate.outcome, *([] if self.again is None else [self.again])]
        values = [each for outcome in outcomes for each in inside(outcome)]
        return weigh(values, INLINE_COST) * self.route.migration.compare.cost


class ComparedCall(msgspec.Struct, frozen=True):
    """The result of a comparison. `document`: the pair as it is kept, when it differs."""

    comparison: Comparison
    document: Json = None


class Publish(Protocol):
    """The receiver of all results."""

    def compare(self, observed: ObservedCall, checkpoint: Checkpoint) -> ComparedCall:
        """Compare both outcomes; pure, and run in a thread where they are large."""

    def observed(self, observed: ObservedCall, result: ComparedCall | str) -> None:
        """Count an observation. A text is the reason why the two were not compared."""

    def not_compared(self, route: Route, reason: str) -> None:
        """Count a call that was not observed."""


class Job(msgspec.Struct, frozen=True):
    """An answered call that is to be observed. `raw`: the outcome in `answered` is not yet as the client sees it."""

    route: Route
    call: Call
    answered: Observation
    view: View
    noise: bool = False
    raw: bool = False


class IdleQueue(Generic[T]):
    """A queue for work without a client: the newest first, within MAX_AGE or never, if possible in an idle moment.

    An observation compares two answers, so the second call must follow the first at once: a value that changes every
    second differs in a fifth of the pairs when the second call comes 200 ms late. Work that has waited longer than
    MAX_AGE is dropped. A token bucket bounds the rate. While no message comes or goes for IDLE_AFTER, work begins; when
    there is no such moment soon, work begins all the same, so that a sample is taken at every load.

    `begin` begins a piece of work; `drop` is called with one that will never begin.
    """

    def __init__(
        self, begin: Callable[[T], None], drop: Callable[[T], None], now: Callable[[], float] = perf_counter
    ) -> None:
        self._begin = begin
        self._drop = drop
        self._now = now
        self._waiting: deque[tuple[float, T]] = deque()  # with the moment of its put; the oldest first
        self._touched = float("-inf")
        self._tokens, self._refilled = BURST, now()
        self._timer: asyncio.Handle | None = None
        self._due = 0.0  # when the timer should fire
        self._lagging = False  # the event loop fires timers too late to wait for one
        self._turns = 0  # of the event loop, since it was found idle

    def __len__(self) -> int:
        return len(self._waiting)

    def touch(self) -> None:
        """A message has come or gone."""
        self._touched = self._now()

    def put(self, work: T) -> None:
        """Begin this soon, or drop it."""
        now = self._now()
        self._waiting.append((now, work))
        if self._lagging or now - self._waiting[0][0] >= BUSY_AFTER:
            self._begin_newest(now)
        if self._timer is None:
            self._look_in(IDLE_AFTER)

    def begin_all(self) -> None:
        """Do not wait any longer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting:
            self._begin(self._waiting.popleft()[1])

    def _look_in(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._due = self._now() + seconds
        self._timer = loop.call_later(seconds, self.look) if seconds else loop.call_soon(self.look)

    def look(self) -> None:
        """Drop what is too old; begin the newest if this is the moment."""
        self._timer = None
        now = self._now()
        self._lagging = now - self._due >= BUSY_AFTER
        if self._lagging and self._waiting and now - self._waiting[-1][0] <= MAX_LAG:
            self._begin_newest(now)  # it waited for this timer, which fired late
        while self._waiting and now - self._waiting[0][0] > MAX_AGE:
            self._drop(self._waiting.popleft()[1])
        if not self._waiting:
            self._turns = 0
            return
        idle = now - self._touched >= IDLE_AFTER
        self._turns = self._turns + 1 if idle else 0
        if self._turns > TURNS or now - self._waiting[0][0] >= BUSY_AFTER:
            self._begin_newest(now)
        if self._waiting:
            self._look_in(0 if 0 < self._turns <= TURNS else IDLE_AFTER)

    def _begin_newest(self, now: float) -> None:
        self._tokens = min(BURST, self._tokens + (now - self._refilled) * RATE)
        self._refilled = now
        if self._tokens >= 1:
            self._tokens -= 1
            self._turns = 0
            self._begin(self._waiting.pop()[1])


class WorkerStoppedError(Exception):
    """The worker stops; the result is not needed any more."""


class Worker:
    """One thread for computations that would delay the event loop: reading, comparing and recording large outcomes.

    The interpreter runs one thread at a time. Two measures keep every pause of the event loop short while the thread
    works: it sleeps after each SLICE of a comparison, and SWITCH_INTERVAL bounds how long it keeps the interpreter when
    the event loop wants it. There is one thread, since several would take turns before the event loop gets its own. It
    starts with the first large computation; `stop` ends it.
    """

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None
        self._stopping = False
        self._resumed = 0.0

    async def run(self, cost: int, compute: Callable[[Checkpoint], T]) -> T:
        """The result of `compute`, which calls its checkpoint often; small computations run at once.

        Raises WorkerStoppedError when the worker stops first.
        """
        if cost <= INLINE_COST:
            return compute(no_checkpoint)
        if self._stopping:
            raise WorkerStoppedError
        if self._thread is None:
            self._thread = ThreadPoolExecutor(
                1, "comparison", initializer=sys.setswitchinterval, initargs=(SWITCH_INTERVAL,)
            )
        return await asyncio.get_running_loop().run_in_executor(self._thread, compute, self._checkpoint)

    async def stop(self) -> None:
        """End the thread; a comparison under way is given up at its next checkpoint."""
        self._stopping = True
        thread, self._thread = self._thread, None
        if thread is not None:
            await asyncio.to_thread(thread.shutdown, cancel_futures=True)

    def _checkpoint(self) -> None:
        if self._stopping:
            raise WorkerStoppedError
        if perf_counter() - self._resumed >= SLICE:
            time.sleep(SLEEP)
            self._resumed = perf_counter()


class Shadow:
    """The observations under way. `call_side` holds the deadline and raises nothing but CancelledError."""

    def __init__(self, call_side: CallSide, publish: Publish, quota: int = MAX_OBSERVED) -> None:
        self.worker = Worker()
        self._call_side = call_side
        self._publish = publish
        self._quota = quota
        self._running: set[asyncio.Task[None]] = set()
        self._samplers: dict[tuple[str, str], Sampler] = {}
        self._large: Counter[tuple[str, str]] = Counter()  # comparisons in the thread, or waiting for it
        self._queue = IdleQueue[Job](self._begin, lambda job: self.drop(job.route))
        self.touch = self._queue.touch  # a message has come or gone: its sender may call again at once

    def __len__(self) -> int:
        return len(self._running) + len(self._queue)

    def wants(self, route: Route, call: Call) -> bool:
        """Whether to observe a call, before anything is prepared for it; a call that is not wanted is counted."""
        sampling = route.migration.sampling
        if sampling != EVERY_CALL:
            method = _method(route)
            sampler = self._samplers.setdefault(method, Sampler())
            if not sampler.choose(sampling, "/".join(method), call, perf_counter()):
                self._publish.not_compared(route, counters.NOT_SAMPLED)
                return False
        if len(self) >= self._quota or self._large[_method(route)] >= MAX_LARGE:
            self.drop(route)
            return False
        return True

    def observe(self, job: Job) -> None:
        """Begin at once, or drop the job; called when the answer has left."""
        if len(self) >= self._quota:
            self.drop(job.route)
        else:
            self._queue.put(job)

    def _begin(self, job: Job) -> None:
        task = asyncio.get_running_loop().create_task(self._run(job))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def drop(self, route: Route) -> None:
        """A call cannot be observed."""
        self._publish.not_compared(route, counters.DROPPED)

    async def drain(self, grace: float) -> int:
        """Let the observations under way end for `grace` seconds; returns how many were cancelled."""
        self._queue.begin_all()
        late: set[asyncio.Task[None]] = set()
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=grace)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)
        await self.worker.stop()
        return len(late)

    async def _run(self, job: Job) -> None:
        method = _method(job.route)
        try:
            observed = await self._observed(job)
            if observed is None:
                self._publish.not_compared(job.route, counters.UNANSWERED)
            elif (reason := observed.not_compared) is not None:
                self._publish.observed(observed, reason)
            else:
                cost = observed.cost
                is_large = cost > INLINE_COST
                self._large[method] += is_large
                try:
                    result = await self.worker.run(cost, partial(self._publish.compare, observed))
                finally:
                    self._large[method] -= is_large
                self._publish.observed(observed, result)
        except WorkerStoppedError:
            self.drop(job.route)
        except Exception:  # noqa: BLE001 - a bug costs this observation and nothing else
            _log.exception("a bug ended this observation", method=job.route.method)

    async def _observed(self, job: Job) -> ObservedCall | None:
        """None: the control did not answer a second time, so its noise is unknown."""
        other = await run_call(self._call_side, job.answered.side.other, job.route, job.call, job.view, self.worker)
        answered = job.answered
        if job.raw:
            seen = await viewed(answered.outcome, job.view, self.worker)
            answered = Observation(answered.side, seen, answered.seconds, answered.code, answered.started)
        control, candidate = (answered, other) if answered.side is Side.LEGACY else (other, answered)
        if not job.noise:
            return ObservedCall(job.route, job.call, control, candidate, answered=answered.side)
        again = await run_call(self._call_side, Side.LEGACY, job.route, job.call, job.view, self.worker)
        if not again.is_answer:
            return None
        return ObservedCall(job.route, job.call, control, candidate, again.outcome, answered.side)


def _method(route: Route) -> tuple[str, str]:
    return route.service, route.method


async def run_call(
    call_side: CallSide, side: Side, route: Route, call: Call, view: View, worker: Worker
) -> Observation:
    """Call a side for no client."""
    started = perf_counter()
    outcome = await call_side(side, route, call)
    seconds = perf_counter() - started
    return Observation(side, await viewed(outcome, view, worker), seconds, code_of(outcome), started)


async def viewed(outcome: Outcome, view: View, worker: Worker) -> Outcome:
    """An outcome as the client sees it."""
    return await worker.run(weigh(inside(outcome), INLINE_COST), lambda _: view(outcome))


def code_of(outcome: Outcome) -> FaultCode | None:
    """The kind of a fault; None for a reply."""
    return outcome.code if isinstance(outcome, Fault) else None
