"""Work without a client: at once or not at all, the newest first, within a rate, if possible in idle moments."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from gateway.migration.shadow import BURST, BUSY_AFTER, IDLE_AFTER, MAX_AGE, MAX_LAG, RATE, TURNS, IdleQueue
from tests.kit.cases import each_case


@dataclass
class Desk:
    """What was begun and what was dropped, by a clock of the test's. Works are the moments of their put."""

    now: float = 1000.0
    begun: list[tuple[float, float]] = field(default_factory=list)  # work, and when
    dropped: list[float] = field(default_factory=list)
    any: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.queue = IdleQueue(self._begin, self.dropped.append, lambda: self.now)

    def _begin(self, work: float) -> None:
        self.begun.append((work, self.now))
        self.any.set()

    def put(self) -> None:
        self.queue.put(self.now)

    def turn(self, seconds: float = 0.0, *, times: int = 1) -> None:
        """Time passes, and then the loop turns so often."""
        self.now += seconds
        for _ in range(times):
            self.queue.look()

    def traffic(self, rate: float, seconds: float, turn: float = 0.0005) -> int:
        """Calls at this rate, each with a message before and after it, on a loop that turns every `turn` seconds."""
        end, due, calls = self.now + seconds, self.now, 0
        while self.now < end:
            self.now += turn
            while due <= self.now:
                self.queue.touch()
                self.put()
                due += 1 / rate
                calls += 1
            self.queue.look()
        return calls


async def test_work_is_begun_by_itself_when_the_loop_is_idle() -> None:
    desk = Desk()
    desk.put()
    assert desk.begun == []
    await asyncio.wait_for(desk.any.wait(), 60)
    assert (len(desk.begun), len(desk.queue)) == (1, 0)


async def test_the_loop_is_idle_only_when_it_has_read_its_sockets() -> None:
    desk = Desk()
    desk.put()
    desk.turn(times=TURNS)
    desk.queue.touch()  # there was an unread message
    desk.turn(times=TURNS + 1)
    assert desk.begun == []
    desk.turn(2 * IDLE_AFTER, times=TURNS + 1)
    assert len(desk.begun) == 1


async def test_the_newest_is_begun_first_and_the_older_are_dropped() -> None:
    desk = Desk()
    works = [desk.now + 0.0001 * number for number in range(10)]
    for desk.now in works:
        desk.put()
    for _ in range(20):
        desk.turn(MAX_AGE / 15)
    begun = [work for work, _ in desk.begun]
    assert begun == works[::-1][: len(begun)]
    assert desk.dropped == works[: -len(begun)]
    assert BURST <= len(begun) < len(works)
    assert all(when - work <= MAX_AGE for work, when in desk.begun)


@each_case(("rate", "share"), [(50.0, 0.95), (500.0, 0.5), (2_000.0, 0.1), (10_000.0, 0.02)])
@each_case("turn", [0.0005, 0.01])
async def test_at_every_load_a_share_is_begun_and_none_of_it_is_late(rate: float, share: float, turn: float) -> None:
    """`turn` 0.01: a loop so busy that each of its turns takes longer than work may wait."""
    desk = Desk()
    calls = desk.traffic(rate, 3, turn)
    begun = len(desk.begun)
    assert begun + len(desk.dropped) + len(desk.queue) == calls
    assert begun <= RATE * 3 + BURST
    if turn < BUSY_AFTER:
        assert begun >= share * calls
        assert max(when - work for work, when in desk.begun) <= MAX_AGE
    else:
        assert begun >= min(share * calls, 3 / turn) / 2


async def test_one_call_on_a_loop_that_fires_timers_late_is_begun() -> None:
    desk = Desk()
    desk.put()
    desk.turn(4 * MAX_AGE)
    assert len(desk.begun) == 1
    desk.turn(MAX_LAG)
    desk.put()
    assert len(desk.begun) == 2, "and the next one without waiting for a timer"


async def test_in_the_end_everything_is_begun_at_once() -> None:
    desk = Desk()
    for _ in range(3):
        desk.put()
    desk.queue.begin_all()
    assert (len(desk.begun), len(desk.queue)) == (3, 0)
    desk.turn(times=TURNS + 1)
    assert len(desk.begun) == 3
