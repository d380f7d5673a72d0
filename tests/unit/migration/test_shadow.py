"""Observations: after the answer, within bounds, and never anybody's trouble."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest

from gateway.core.comparison.compare import Comparison, compare
from gateway.core.migration.modes import Side
from gateway.core.routing.route import Route
from gateway.core.rpc.model import Call, Fault, FaultCode, Outcome, Reply
from gateway.migration.shadow import LARGE, Job, Observation, Observed, Shadow
from tests.kit.mappings import route

CALL = Call("VM.stat", ("a",))


class Told:
    """Remembers what was published."""

    def __init__(self) -> None:
        self.seen: list[Observed] = []
        self.lost = 0

    def compare(self, observed: Observed) -> Comparison:
        return compare(observed.control.outcome, observed.candidate.outcome)

    def observed(self, observed: Observed, comparison: Comparison) -> None:
        self.seen.append(observed)

    def dropped(self, route: Route) -> None:
        self.lost += 1


def job(control: Side = Side.LEGACY, *, noise: bool = False) -> Job:
    return Job(route("VM.stat"), CALL, Observation(control, Reply("old"), 0.5), as_it_is, noise)


def as_it_is(outcome: Outcome) -> Outcome:
    return outcome


def answering(outcome: Outcome, asked: list[Side]) -> Callable[[Side, Route, Call], Awaitable[Outcome]]:
    async def ask(side: Side, _route: Route, _call: Call) -> Outcome:
        asked.append(side)
        return outcome

    return ask


@pytest.mark.parametrize("control", Side)
async def test_the_other_side_is_asked_and_both_are_told(control: Side) -> None:
    told, asked = Told(), list[Side]()
    shadow = Shadow(answering(Reply("new"), asked), told)
    shadow.observe(job(control))
    assert await shadow.drain(5) == 0
    (observed,) = told.seen
    assert asked == [control.other]
    assert observed.control == Observation(control, Reply("old"), 0.5)
    assert (observed.candidate.side, observed.candidate.outcome) == (control.other, Reply("new"))
    assert observed.candidate.seconds >= 0
    assert observed.again is None


async def test_for_noise_the_control_is_asked_again() -> None:
    told, asked = Told(), list[Side]()
    shadow = Shadow(answering(Reply("x"), asked), told)
    shadow.observe(job(noise=True))
    await shadow.drain(5)
    assert asked == [Side.DBUS, Side.LEGACY]
    assert told.seen[0].again == Reply("x")


async def test_without_a_second_answer_of_the_control_nobody_knows_what_is_noise() -> None:
    told = Told()

    async def ask(side: Side, _route: Route, _call: Call) -> Outcome:
        return Reply("new") if side is Side.DBUS else Fault(FaultCode.UNAVAILABLE, "away")

    shadow = Shadow(ask, told)
    shadow.observe(job(noise=True))
    await shadow.drain(5)
    assert (told.seen, told.lost) == ([], 1)


async def test_what_kind_of_fault_it_was_is_told_beside_how_the_client_sees_it() -> None:
    told, seen = Told(), Fault(FaultCode.APPLICATION, "INTERNAL_ERROR")
    shadow = Shadow(answering(Fault(FaultCode.BUSY, "no room"), []), told)
    shadow.observe(Job(route("VM.stat"), CALL, Observation(Side.LEGACY, Reply("5"), 0.5), lambda _: seen))
    await shadow.drain(5)
    assert (told.seen[0].candidate.outcome, told.seen[0].candidate.code) == (seen, FaultCode.BUSY)


async def test_outcomes_are_told_as_the_client_sees_them() -> None:
    told = Told()
    shadow = Shadow(answering(Reply(5), []), told)
    as_text = Job(route("VM.stat"), CALL, Observation(Side.LEGACY, Reply("5"), 0.5), lambda _: Reply("5"))
    shadow.observe(as_text)
    await shadow.drain(5)
    assert told.seen[0].candidate.outcome == Reply("5")


async def test_without_room_an_observation_is_dropped_and_counted() -> None:
    told = Told()
    go_on = asyncio.Event()

    async def wait(_side: Side, _route: Route, _call: Call) -> Outcome:
        await go_on.wait()
        return Fault(FaultCode.TIMEOUT, "late")

    shadow = Shadow(wait, told, room=2)
    for _ in range(5):
        shadow.observe(job())
    assert (len(shadow), told.lost) == (2, 3)
    go_on.set()
    await shadow.drain(5)
    assert (len(shadow), len(told.seen)) == (0, 2)


async def test_a_bug_in_what_is_told_costs_that_observation_only(capsys: pytest.CaptureFixture[str]) -> None:
    class Broken(Told):
        def observed(self, observed: Observed, comparison: Comparison) -> None:
            super().observed(observed, comparison)
            raise KeyError("a bug")

    told = Broken()
    shadow = Shadow(answering(Reply(1), []), told)
    shadow.observe(job())
    shadow.observe(job())
    assert await shadow.drain(5) == 0
    assert len(told.seen) == 2
    assert "a bug ended this observation" in "".join(capsys.readouterr())


async def test_what_does_not_end_in_time_is_cut_off() -> None:
    async def never(_side: Side, _route: Route, _call: Call) -> Outcome:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    told = Told()
    shadow = Shadow(never, told)
    shadow.observe(job())
    assert await shadow.drain(0) == 1
    assert len(shadow) == 0
    assert told.seen == []


async def test_large_outcomes_are_read_and_compared_in_a_thread() -> None:
    threads: list[bool] = []
    large = Reply([{"name": str(number)} for number in range(LARGE)])

    class Watching(Told):
        def compare(self, observed: Observed) -> Comparison:
            threads.append(threading.current_thread() is threading.main_thread())
            return super().compare(observed)

    def view(outcome: Outcome) -> Outcome:
        threads.append(threading.current_thread() is threading.main_thread())
        return outcome

    for outcome in (large, Reply("small")):
        shadow = Shadow(answering(outcome, []), Watching())
        shadow.observe(Job(route("VM.stat"), CALL, Observation(Side.LEGACY, outcome, 0.5), view, noise=True))
        await shadow.drain(5)
    assert threads == [False] * 3 + [True] * 3
