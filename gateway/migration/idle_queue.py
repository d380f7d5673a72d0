"""A queue for work without a client: begun within MAX_AGE or never, the newest first, if possible in an idle moment.

An observation compares two answers, so the second call must follow the first at once: a value that changes every second
differs in a fifth of the pairs when the second call comes 200 ms late. Work that has waited longer than MAX_AGE is
dropped. A token bucket bounds the rate. While no message comes or goes for IDLE_AFTER, work begins; when there is no
such moment soon, work begins all the same, so that a sample is taken at every load.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Generic, TypeVar

IDLE_AFTER = 0.001  # seconds without a message; a client that calls again and again leaves less
BUSY_AFTER = 0.003  # seconds that work waits for an idle moment
MAX_AGE = 0.005  # seconds from put to begin
MAX_LAG = 0.05  # seconds from put to begin of the newest, when the event loop itself is late
RATE = 350.0  # begun in a second at most; an observation takes a quarter of a millisecond of the event loop
BURST = 4.0  # begun at once at most, after a pause
TURNS = 2  # of the event loop, after which it has certainly read its sockets: an unread message may be waiting there

T = TypeVar("T")


class IdleQueue(Generic[T]):
    """`begin` begins a piece of work; `drop` is called with one that will never begin."""

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
