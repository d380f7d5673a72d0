"""Calls taken from the traffic for whoever records them, once their answers have left. Knows no file and no socket.

Bounded in every way: what finds no room is dropped and counted, and no call of any client waits for a recording.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import structlog

from gateway.core.admin.records import MethodId, StateRefused
from gateway.core.routing.call_record import (
    LARGEST,
    UNKEPT,
    RecordedCall,
    end,
    header,
    inside,
    is_harmless,
    line,
    weigh,
)

MOST = 4  # recordings at one time
ROOM = 1_000  # calls that wait to be written
ROOM_BYTES = 8 * 1024**2  # about, of memory that they take
KEEPALIVE = 1.0  # seconds without a call after which an empty line is written: it tells whether anybody still reads

_log = structlog.get_logger("recording")


@dataclass(frozen=True, slots=True)
class RecordingLimits:
    """Where a recording ends. `writes`: calls that change something too."""

    calls: int = 1_000
    seconds: float = 600.0
    size: int = 64 * 1024**2  # bytes
    writes: bool = False


class Recorder:
    """The recordings under way in this process. `now`: seconds since 1970."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self.active = False  # looked at for every call
        self._now = now
        self._recordings: set[RecordingSession] = set()

    def begin(self, methods: frozenset[MethodId], bounds: RecordingLimits) -> RecordingSession | StateRefused:
        """A recording that begins now; it ends when its block is left."""
        if len(self._recordings) >= MOST:
            return StateRefused(f"{MOST} recordings are under way, more at a time are refused", conflict=True)
        recording = RecordingSession(methods, bounds, self._now, self._end, KEEPALIVE)
        self._recordings.add(recording)
        self.active = True
        return recording

    def take(self, taken: RecordedCall) -> None:
        """A client has its answer to this call."""
        for recording in tuple(self._recordings):
            recording.offer(taken)

    def stop(self) -> None:
        """The gateway stops: every recording ends with what it has."""
        for recording in tuple(self._recordings):
            recording.close("the gateway has stopped")

    def _end(self, recording: RecordingSession) -> None:
        self._recordings.discard(recording)
        self.active = bool(self._recordings)


@dataclass(slots=True)
class _Counts:
    """What came of the calls that were to be recorded."""

    calls: int = 0
    no_room: int = 0
    too_large: int = 0
    waiting: int = 0  # bytes, about
    written: int = 0  # bytes


@dataclass(slots=True, eq=False)
class RecordingSession:
    """Some methods' calls as lines, until a bound is reached."""

    methods: frozenset[MethodId]
    bounds: RecordingLimits
    now: Callable[[], float]
    on_end: Callable[[RecordingSession], object]
    beat: float = KEEPALIVE
    counts: _Counts = field(default_factory=_Counts)
    why: str = ""  # it has ended
    _waiting: deque[tuple[float, RecordedCall, int]] = field(default_factory=deque)
    _more: asyncio.Event = field(default_factory=asyncio.Event)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close("nobody reads it")
        self._waiting.clear()

    def close(self, why: str) -> None:
        """Take no more; what is waiting is still written."""
        if not self.why:
            self.why = why
            self.on_end(self)
            self._more.set()

    def offer(self, taken: RecordedCall) -> None:
        """Keep a call to be written, where there is room for it."""
        route = taken.route
        if MethodId.of(route) not in self.methods or taken.call.oneway:
            return
        if not self.bounds.writes and not is_harmless(route):
            return
        weight = weigh((*taken.call.params, *taken.call.named.values()), LARGEST)
        answer = weigh(inside(taken.outcome), LARGEST)
        if answer > LARGEST:
            taken, answer = _without_answer(taken), 0
        if weight > LARGEST:
            self.counts.too_large += 1
        elif len(self._waiting) >= ROOM or self.counts.waiting + weight + answer > ROOM_BYTES:
            self.counts.no_room += 1
        else:
            self._keep(taken, weight + answer)

    def _keep(self, taken: RecordedCall, weight: int) -> None:
        self._waiting.append((self.now(), taken, weight))
        self.counts.waiting += weight
        self.counts.calls += 1
        self._more.set()
        if self.counts.calls == self.bounds.calls:
            self.close(f"{self.bounds.calls} calls")

    async def lines(self, version: str, revision: str) -> AsyncGenerator[bytes, None]:
        """The whole recording, line by line, as it comes; between two lines others have their turn."""
        began = self.now()
        clock = asyncio.get_running_loop().time
        until = clock() + self.bounds.seconds
        yield self._written(header(version, revision, began, _names(self.methods), writes=self.bounds.writes))
        while self._waiting or not self.why:
            if clock() >= until:
                self.close(f"{self.bounds.seconds:g} s")
            if self._waiting:
                text = self._next()
                if text:
                    yield text
                await asyncio.sleep(0)
            elif not await self._wait(until - clock()):
                yield b"\n"
        counts = self.counts
        yield end(self.why, counts.calls, self.now() - began, counts.no_room, counts.too_large)

    async def _wait(self, seconds: float) -> bool:
        """Whether there is something to do before somebody must be told that there is nothing."""
        self._more.clear()
        try:
            async with asyncio.timeout(min(self.beat, max(seconds, 0))):
                return await self._more.wait()
        except TimeoutError:
            return False

    def _next(self) -> bytes:
        when, taken, weight = self._waiting.popleft()
        self.counts.waiting -= weight
        try:
            text = line(taken, when)
        except Exception:  # noqa: BLE001 - a bug costs this line
            _log.exception("a bug lost a recorded call", method=taken.route.method)
            text = b""
        if text and self.counts.written + len(text) <= self.bounds.size:
            return self._written(text)
        self.counts.calls -= 1
        if text:
            self._full()
        return b""

    def _full(self) -> None:
        self.close(f"{self.bounds.size} bytes")
        self.why = f"{self.bounds.size} bytes"
        self.counts.calls -= len(self._waiting)
        self._waiting.clear()

    def _written(self, text: bytes) -> bytes:
        self.counts.written += len(text)
        return text


def _without_answer(taken: RecordedCall) -> RecordedCall:
    return RecordedCall(
        taken.listener, taken.path, taken.codec, taken.route, taken.call, UNKEPT, taken.side, taken.seconds
    )  # fmt: skip


def _names(methods: frozenset[MethodId]) -> Sequence[str]:
    return sorted(f"{service}/{method}" for service, method in methods)
