"""Recording: calls are taken from the traffic after their answers have left, and written as lines of JSON.

Number, size and duration are limited: a call past a limit is dropped and counted. No client waits for a recording.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field, replace
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

MAX_RECORDINGS = 4  # at one time
KEEPALIVE = 1.0  # seconds without a call; then an empty line is written, which fails if the reader has left

_log = structlog.get_logger("recording")


@dataclass(frozen=True, slots=True)
class RecordingLimits:
    """The limits at which a recording ends. `writes`: record calls with effects too."""

    calls: int = 1_000
    seconds: float = 600.0
    size: int = 64 * 1024**2  # bytes
    writes: bool = False
    waiting: int = 1_000  # calls that wait to be written
    waiting_bytes: int = 8 * 1024**2  # of memory that they take, about


class Recorder:
    """All recordings of this process. `now`: seconds since 1970."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self.active = False  # checked for every call
        self._now = now
        self._recordings: set[RecordingSession] = set()

    def begin(self, methods: frozenset[MethodId], limits: RecordingLimits) -> RecordingSession | StateRefused:
        """Begin a recording; it ends when its `with` block ends."""
        if len(self._recordings) >= MAX_RECORDINGS:
            return StateRefused(
                f"{MAX_RECORDINGS} recordings are running, which is the maximum; end one first", conflict=True
            )
        recording = RecordingSession(methods, limits, self._now, self._end, KEEPALIVE)
        self._recordings.add(recording)
        self.active = True
        return recording

    def take(self, recorded: RecordedCall) -> None:
        """Offer an answered call to all recordings."""
        for recording in tuple(self._recordings):
            recording.offer(recorded)

    def stop(self) -> None:
        """End all recordings because the gateway stops."""
        for recording in tuple(self._recordings):
            recording.close("the gateway has stopped")

    def _end(self, recording: RecordingSession) -> None:
        self._recordings.discard(recording)
        self.active = bool(self._recordings)


@dataclass(slots=True)
class _Counts:
    """Counts of one recording."""

    calls: int = 0
    no_room: int = 0
    too_large: int = 0
    waiting: int = 0  # bytes, about
    written: int = 0  # bytes


@dataclass(slots=True, eq=False)
class RecordingSession:
    """The calls of some methods as lines, until a limit is reached."""

    methods: frozenset[MethodId]
    limits: RecordingLimits
    now: Callable[[], float]
    on_end: Callable[[RecordingSession], object]
    keepalive: float = KEEPALIVE
    counts: _Counts = field(default_factory=_Counts)
    why: str = ""  # the recording has ended, and why
    _waiting: deque[tuple[float, RecordedCall, int]] = field(default_factory=deque)
    _more: asyncio.Event = field(default_factory=asyncio.Event)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close("its reader has left")
        self._waiting.clear()

    def close(self, why: str) -> None:
        """Accept no more calls; those that wait are still written."""
        if not self.why:
            self.why = why
            self.on_end(self)
            self._more.set()

    def offer(self, recorded: RecordedCall) -> None:
        """Queue a call to be written, within the limits."""
        route = recorded.route
        if MethodId.of(route) not in self.methods or recorded.call.oneway:
            return
        if not self.limits.writes and not is_harmless(route):
            return
        weight = weigh((*recorded.call.params, *recorded.call.named.values()), LARGEST)
        answer = weigh(inside(recorded.outcome), LARGEST)
        if answer > LARGEST:
            recorded, answer = replace(recorded, outcome=UNKEPT, view=None), 0
        if weight > LARGEST:
            self.counts.too_large += 1
        elif (
            len(self._waiting) >= self.limits.waiting
            or self.counts.waiting + weight + answer > self.limits.waiting_bytes
        ):
            self.counts.no_room += 1
        else:
            self._keep(recorded, weight + answer)

    def _keep(self, recorded: RecordedCall, weight: int) -> None:
        self._waiting.append((self.now(), recorded, weight))
        self.counts.waiting += weight
        self.counts.calls += 1
        self._more.set()
        if self.counts.calls == self.limits.calls:
            self.close(f"{self.limits.calls} calls")

    async def lines(self, version: str, revision: str) -> AsyncGenerator[bytes, None]:
        """The recording line by line as calls arrive; yields to the event loop between two lines."""
        began = self.now()
        clock = asyncio.get_running_loop().time
        until = clock() + self.limits.seconds
        yield self._written(header(version, revision, began, _names(self.methods), writes=self.limits.writes))
        while self._waiting or not self.why:
            if clock() >= until:
                self.close(f"{self.limits.seconds:g} s")
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
        """Wait for a call or the end; False when the next empty line is due."""
        self._more.clear()
        try:
            async with asyncio.timeout(min(self.keepalive, max(seconds, 0))):
                return await self._more.wait()
        except TimeoutError:
            return False

    def _next(self) -> bytes:
        when, recorded, weight = self._waiting.popleft()
        self.counts.waiting -= weight
        try:
            text = line(recorded, when)
        except Exception:  # noqa: BLE001 - a bug costs this line
            _log.exception("a bug lost a recorded call", method=recorded.route.method)
            text = b""
        if text and self.counts.written + len(text) <= self.limits.size:
            return self._written(text)
        self.counts.calls -= 1
        if text:
            self._full()
        return b""

    def _full(self) -> None:
        self.close(f"{self.limits.size} bytes")
        self.why = f"{self.limits.size} bytes"
        self.counts.calls -= len(self._waiting)
        self._waiting.clear()

    def _written(self, text: bytes) -> bytes:
        self.counts.written += len(text)
        return text


def _names(methods: frozenset[MethodId]) -> Sequence[str]:
    return sorted(f"{service}/{method}" for service, method in methods)
