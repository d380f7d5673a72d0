"""Work that nobody waits for: begun in quiet moments, seldom when there are none, and never in anybody's way."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from gateway.migration.idle_queue import IDLE_AFTER, MAX_AGE, MAX_INTERVAL, MIN_INTERVAL, TURNS, IdleQueue


@dataclass
class Desk:
    """What was begun and what was let go, by a clock of the test's."""

    now: float = 1000.0
    begun: list[int] = field(default_factory=list)
    let_go: list[int] = field(default_factory=list)
    any: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.quiet = IdleQueue(self._begin, self.let_go.append, lambda: self.now)

    def _begin(self, work: int) -> None:
        self.begun.append(work)
        self.any.set()

    def put(self, *works: int) -> None:
        for work in works:
            self.quiet.put(work)

    def turn(self, seconds: float = 0.0, *, times: int = 1) -> None:
        """Time passes, and then the loop turns so often."""
        self.now += seconds
        for _ in range(times):
            self.quiet.look()


async def test_work_is_begun_by_itself_when_it_is_quiet() -> None:
    desk = Desk()
    desk.put(1)
    assert desk.begun == []
    await asyncio.wait_for(desk.any.wait(), 60)
    assert (desk.begun, len(desk.quiet)) == ([1], 0)


async def test_quiet_is_believed_only_when_the_loop_has_looked_at_its_sockets() -> None:
    desk = Desk()
    desk.put(0, 1)
    desk.turn(times=TURNS + 1)
    desk.turn(2 * MIN_INTERVAL, times=TURNS)
    assert desk.begun == [0]
    desk.quiet.touch()  # there was a message, and nobody had read it
    desk.turn(times=TURNS + 1)
    assert desk.begun == [0]
    desk.turn(2 * IDLE_AFTER, times=TURNS + 1)
    assert desk.begun == [0, 1]


async def test_not_much_is_begun_at_one_time() -> None:
    desk = Desk()
    desk.put(1, 2, 3)
    desk.turn(times=3 * TURNS)
    assert desk.begun == [1]
    desk.turn(2 * MIN_INTERVAL, times=3 * TURNS)
    assert desk.begun == [1, 2]


async def test_when_it_is_never_quiet_the_newest_is_begun_now_and_then() -> None:
    desk = Desk()
    desk.put(0)
    desk.turn(times=TURNS + 1)
    for work in range(1, 11):
        desk.put(work)
        desk.now += MAX_INTERVAL / 3.9
        desk.quiet.touch()
        desk.turn()
    assert desk.begun == [0, 4, 8]


async def test_what_has_waited_too_long_is_let_go() -> None:
    desk = Desk()
    desk.put(1)
    desk.turn(times=TURNS + 1)
    desk.put(2, 3)
    desk.now += MAX_AGE / 2
    desk.put(4)
    desk.turn(MAX_AGE / 2 + 0.001)
    assert desk.let_go == [2, 3]
    desk.turn(times=TURNS)
    assert desk.begun == [1, 4]


async def test_in_the_end_everything_is_begun_at_once() -> None:
    desk = Desk()
    desk.put(1, 2, 3)
    desk.quiet.begin_all()
    assert (desk.begun, len(desk.quiet)) == ([1, 2, 3], 0)
    desk.turn(times=TURNS + 1)
    assert desk.begun == [1, 2, 3]
