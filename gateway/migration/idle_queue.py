"""Begins work that nobody waits for when it is in nobody's way: after a while in which no message came or went.

When it is never quiet, one piece of work is begun now and then all the same, lest nothing would ever be. Knows no call.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Generic, TypeVar

IDLE_AFTER = 0.001  # seconds without a message; a client that calls again and again leaves less
MIN_INTERVAL = (
    0.005  # seconds between two beginnings; an observation takes a quarter of a millisecond, a twentieth of that
)
MAX_INTERVAL = (
    0.05  # seconds between two beginnings while it is never quiet: a call in a hundred at most is in their way
)
TURNS = 2  # of the loop until it has looked at its sockets for certain: a message may be there that nobody has read
MAX_AGE = 0.2  # seconds; what has waited longer is about a past that nobody can look at any more

T = TypeVar("T")


class IdleQueue(Generic[T]):
    """`begin` begins a piece of work, `let_go` is told of one that never will be."""

    def __init__(
        self,
        begin: Callable[[T], None],
        let_go: Callable[[T], None],
        now: Callable[[], float] = perf_counter,
    ) -> None:
        self._begin = begin
        self._let_go = let_go
        self._now = now
        self._waiting: deque[tuple[float, T]] = deque()  # since when; the oldest first
        self._stirred = self._began = float("-inf")
        self._timer: asyncio.Handle | None = None
        self._turns = 0  # of the loop, since it was found quiet

    def __len__(self) -> int:
        return len(self._waiting)

    def touch(self) -> None:
        """A message has come or gone."""
        self._stirred = self._now()

    def put(self, work: T) -> None:
        """Begin this when it is quiet."""
        self._waiting.append((self._now(), work))
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
        self._timer = loop.call_later(seconds, self.look) if seconds else loop.call_soon(self.look)

    def look(self) -> None:
        """Begin one if this is the moment."""
        self._timer = None
        now = self._now()
        while self._waiting and now - self._waiting[0][0] > MAX_AGE:
            self._let_go(self._waiting.popleft()[1])
        if not self._waiting:
            return
        if now - self._began < MIN_INTERVAL:
            self._turns = 0
        elif now - self._stirred >= IDLE_AFTER:
            self._turns += 1
            if self._turns > TURNS:
                self._begin_one(now, self._waiting.popleft()[1])
        elif now - self._began >= MAX_INTERVAL:
            self._begin_one(now, self._waiting.pop()[1])  # the newest says most
        else:
            self._turns = 0
        if self._waiting:
            self._look_in(0 if self._turns else MIN_INTERVAL)

    def _begin_one(self, now: float, work: T) -> None:
        self._turns, self._began = 0, now
        self._begin(work)
