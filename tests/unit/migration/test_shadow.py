"""Observations: after the answer, within bounds, control and candidate in their roles, and no client is disturbed."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Awaitable, Callable

import pytest
from msgspec.structs import replace

from gateway.core.admin import counters
from gateway.core.comparison.compare import compare
from gateway.core.comparison.equality import Checkpoint
from gateway.core.comparison.rules import Sampling
from gateway.core.migration.modes import Migration, Side
from gateway.core.routing.route import Route
from gateway.core.rpc.model import Call, Fault, FaultCode, Outcome, Reply, Value
from gateway.migration.shadow import (
    INLINE_COST,
    MAX_APART,
    MAX_LARGE,
    SWITCH_INTERVAL,
    ComparedCall,
    Job,
    Observation,
    ObservedCall,
    Shadow,
    Worker,
    WorkerStoppedError,
)
from tests.kit.cases import each_case
from tests.kit.mappings import route
from tests.kit.programs import TIMEOUT
from tests.kit.side_by_side import until

CALL = Call("VM.stat", ("a",))
OLD, NEW = Reply("old"), Reply("new")


class Published:
    """Remembers what was published."""

    def __init__(self) -> None:
        self.seen: list[ObservedCall] = []
        self.results: list[ComparedCall | str] = []
        self.lost: list[str] = []

    def compare(self, observed: ObservedCall, checkpoint: Checkpoint) -> ComparedCall:
        return ComparedCall(compare(observed.control.outcome, observed.candidate.outcome, checkpoint=checkpoint))

    def observed(self, observed: ObservedCall, result: ComparedCall | str) -> None:
        self.seen.append(observed)
        self.results.append(result)

    def not_compared(self, route: Route, reason: str) -> None:
        self.lost.append(reason)


def as_it_is(outcome: Outcome) -> Outcome:
    return outcome


def job(side: Side = Side.LEGACY, outcome: Outcome = OLD, *, noise: bool = False, started: float = 0.0) -> Job:
    return Job(route("VM.stat"), CALL, Observation(side, outcome, 1e9, None, started), as_it_is, noise)


def answering(outcomes: dict[Side, Outcome], called: list[Side]) -> Callable[[Side, Route, Call], Awaitable[Outcome]]:
    async def ask(side: Side, _route: Route, _call: Call) -> Outcome:
        called.append(side)
        return outcomes[side]

    return ask


async def observe(*jobs: Job, legacy: Outcome = OLD, dbus: Outcome = NEW) -> tuple[Published, list[Side]]:
    """The results of these jobs, and the sides that were called for them."""
    published, called = Published(), list[Side]()
    shadow = Shadow(answering({Side.LEGACY: legacy, Side.DBUS: dbus}, called), published)
    for each in jobs:
        shadow.observe(each)
    assert await shadow.drain(TIMEOUT) == 0
    return published, called


@each_case(("answered", "outcome"), [(Side.LEGACY, OLD), (Side.DBUS, NEW)])
async def test_the_control_is_the_legacy_side_whichever_side_answered(answered: Side, outcome: Outcome) -> None:
    published, called = await observe(job(answered, outcome), job(answered, outcome, noise=True))
    assert sorted(called, key=str) == sorted([answered.other, answered.other, Side.LEGACY], key=str)
    assert {str(seen.again) for seen in published.seen} == {str(None), str(OLD)}  # noise is the legacy side's
    for seen in published.seen:
        assert (seen.control.side, seen.control.outcome) == (Side.LEGACY, OLD)
        assert (seen.candidate.side, seen.candidate.outcome) == (Side.DBUS, NEW)
        assert (seen.answered, seen.observed.side) == (answered, answered.other)


async def test_without_a_second_answer_of_the_control_its_noise_is_unknown() -> None:
    published, _ = await observe(job(noise=True), legacy=Fault(FaultCode.UNAVAILABLE, "away"))
    assert (published.seen, published.lost) == ([], [counters.UNANSWERED])


def test_a_pair_whose_sides_are_further_apart_than_the_limit_is_not_compared() -> None:
    def pair(first: Observation, second: Observation) -> ObservedCall:
        return ObservedCall(route("VM.stat"), CALL, first, second)

    legacy = Observation(Side.LEGACY, OLD, 2.0, None, 100.0)
    near = pair(legacy, Observation(Side.DBUS, NEW, 1.0, None, 102.0 + MAX_APART / 2))
    far = pair(legacy, Observation(Side.DBUS, NEW, 1.0, None, 102.0 + MAX_APART * 2))
    before = pair(legacy, Observation(Side.DBUS, NEW, 1.0, None, 98.0))
    assert [each.not_compared for each in (near, far, before)] == [None, counters.APART, counters.APART]


@each_case(
    ("answered", "control", "candidate", "reason"),
    [
        (Side.LEGACY, FaultCode.TIMEOUT, None, counters.UNANSWERED),  # nothing can differ from it
        (Side.LEGACY, FaultCode.NO_REPLY, None, counters.UNANSWERED),
        (Side.LEGACY, FaultCode.PARSE_ERROR, None, counters.UNANSWERED),
        (Side.LEGACY, FaultCode.BUSY, None, counters.UNANSWERED),
        (Side.LEGACY, FaultCode.UNAVAILABLE, FaultCode.UNAVAILABLE, counters.UNANSWERED),
        (Side.LEGACY, None, FaultCode.BUSY, counters.DROPPED),
        (Side.DBUS, FaultCode.BUSY, None, counters.DROPPED),
        (Side.DBUS, FaultCode.UNAVAILABLE, None, counters.UNANSWERED),
        (Side.DBUS, None, FaultCode.BUSY, counters.UNANSWERED),
        (Side.LEGACY, None, FaultCode.UNAVAILABLE, None),  # the candidate is away: that is a difference
        (Side.LEGACY, None, None, None),
    ],
)
def test_a_side_without_an_answer_is_judged_by_its_role_and_the_kind_of_its_fault(
    answered: Side, control: FaultCode | None, candidate: FaultCode | None, reason: str | None
) -> None:
    """The client may see one name for all kinds: a D-Bus side that had no room would then be one that differs."""
    seen = Fault(FaultCode.APPLICATION, "INTERNAL_ERROR")
    sides = Observation(Side.LEGACY, seen, 0.1, control), Observation(Side.DBUS, seen, 0.1, candidate)
    assert ObservedCall(route("VM.stat"), CALL, *sides, answered=answered).not_compared == reason


async def test_the_view_of_the_client_is_compared_and_the_kind_of_a_fault_is_kept() -> None:
    seen = Fault(FaultCode.APPLICATION, "INTERNAL_ERROR")
    answered = Observation(Side.LEGACY, Reply(5), 0.5)
    as_text = Job(route("VM.stat"), CALL, answered, lambda _: seen, raw=True)
    published, _ = await observe(as_text, replace(as_text, raw=False), dbus=Fault(FaultCode.TIMEOUT, "late"))
    raw, viewed = sorted(published.seen, key=lambda each: isinstance(each.control.outcome, Reply))
    assert (raw.control.outcome, viewed.control.outcome) == (seen, Reply(5))
    assert (raw.candidate.outcome, raw.candidate.code) == (seen, FaultCode.TIMEOUT)


async def test_past_the_quota_and_the_sampling_an_observation_is_dropped_and_counted() -> None:
    published = Published()

    async def never(_side: Side, _route: Route, _call: Call) -> Outcome:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    shadow = Shadow(never, published, quota=2)
    sampled = route("VM.stat", migration=Migration(sampling=Sampling(share=0.5)))
    wanted = sum(shadow.wants(sampled, CALL) for _ in range(100))
    assert 0 < wanted < 100
    assert published.lost == [counters.NOT_SAMPLED] * (100 - wanted)
    published.lost.clear()
    for _ in range(5):
        shadow.observe(job())
    assert not shadow.wants(route("VM.stat"), CALL)
    assert (len(shadow), published.lost) == (2, [counters.DROPPED] * 4)
    assert await shadow.drain(0) == 2  # what does not end in time is cancelled
    assert (len(shadow), published.seen) == (0, [])


async def test_a_bug_in_a_receiver_costs_that_observation_only(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Published):
        def observed(self, observed: ObservedCall, result: ComparedCall | str) -> None:
            super().observed(observed, result)
            raise KeyError("a bug")

    published = Broken()
    shadow = Shadow(answering({Side.DBUS: NEW}, []), published)
    shadow.observe(job())
    shadow.observe(job())
    assert await shadow.drain(TIMEOUT) == 0
    assert len(published.seen) == 2
    assert "a bug ended this observation" in caplog.text


# The thread for large outcomes

LARGE: list[Value] = [{"name": str(number)} for number in range(INLINE_COST // 32)]


@each_case(
    ("legacy", "dbus", "in_thread"),
    [([], LARGE, True), (LARGE, [], True), ([1], [2], False)],
)
async def test_the_size_of_both_outcomes_decides_where_they_are_compared(
    legacy: list[Value], dbus: list[Value], *, in_thread: bool
) -> None:
    threads: list[bool] = []

    class Watching(Published):
        def compare(self, observed: ObservedCall, checkpoint: Checkpoint) -> ComparedCall:
            threads.append(threading.current_thread() is not threading.main_thread())
            return super().compare(observed, checkpoint)

    shadow = Shadow(answering({Side.DBUS: Reply(dbus)}, []), Watching())
    shadow.observe(job(outcome=Reply(legacy)))
    await shadow.drain(TIMEOUT)
    assert threads == [in_thread]
    if in_thread:  # it gives the interpreter back to the event loop soon
        assert sys.getswitchinterval() == pytest.approx(SWITCH_INTERVAL, rel=0.1)


async def test_while_large_comparisons_of_a_method_wait_its_calls_are_dropped_and_no_others() -> None:
    """What is compared late would count as evidence of a later step."""
    released = threading.Event()

    class Waiting(Published):
        def compare(self, observed: ObservedCall, checkpoint: Checkpoint) -> ComparedCall:
            assert released.wait(TIMEOUT)
            return super().compare(observed, checkpoint)

    async def full() -> bool:
        return not shadow.wants(route("VM.stat"), CALL)

    published = Waiting()
    shadow = Shadow(answering({Side.DBUS: NEW}, []), published)
    for _ in range(MAX_LARGE):
        assert shadow.wants(route("VM.stat"), CALL)
        shadow.observe(job(outcome=Reply(LARGE)))
    drained = asyncio.ensure_future(shadow.drain(TIMEOUT))
    await until(full)
    assert published.lost == [counters.DROPPED]
    assert shadow.wants(route("VM.start"), CALL)
    released.set()
    assert await drained == 0
    assert len(published.results) == MAX_LARGE
    assert shadow.wants(route("VM.stat"), CALL)


async def test_a_comparison_under_way_is_given_up_at_the_stop() -> None:
    worker, begun = Worker(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def endless(checkpoint: Checkpoint) -> None:
        loop.call_soon_threadsafe(begun.set)
        while True:
            checkpoint()

    running = asyncio.ensure_future(worker.run(INLINE_COST + 1, endless))
    await asyncio.wait_for(begun.wait(), TIMEOUT)
    await worker.stop()
    with pytest.raises(WorkerStoppedError):
        await running
    with pytest.raises(WorkerStoppedError):
        await worker.run(INLINE_COST + 1, endless)
