"""Recordings of clients' calls: each call as a line of JSON without its secrets, once its answer has left.

A recording is bounded in calls, seconds and bytes. A call that finds no capacity is dropped and counted; no client
waits for a recording. The recorder listens to finished calls only while a recording is under way.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import Self

from msgspec import Struct, field
from msgspec.structs import replace

from gateway.core.admin.records import MethodId, StateRefused
from gateway.core.logger import Logger
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
from gateway.core.routing.route import CallFinished
from gateway.core.rpc.model import ABANDONED, WITHDRAWN
from gateway.pipeline.dispatcher import Dispatcher

MAX_RECORDINGS = 4  # at one time
KEEPALIVE = 1.0  # seconds without a call after which an empty line is written, to notice a reader that has gone

_log = Logger("recording")


class RecordingLimits(Struct, frozen=True):
    """The limits of a recording. `writes`: calls that change something are recorded too."""

    calls: int = 1_000
    seconds: float = 600.0
    size: int = 64 * 1024**2  # bytes
    writes: bool = False
    waiting: int = 1_000  # calls that wait to be written
    waiting_bytes: int = 8 * 1024**2  # of memory that they take, about


class Recorder:
    """The recordings under way in this process. `now`: seconds since 1970."""

    def __init__(self, dispatcher: Dispatcher, now: Callable[[], float] = time.time) -> None:
        self.dispatcher = dispatcher
        self._now = now
        self._recordings: set[RecordingSession] = set()
        self.on_begin: Callable[[RecordingSession], object] = lambda _recording: None

    @property
    def active(self) -> bool:
        """Whether a recording is under way."""
        return bool(self._recordings)

    def begin(
        self, methods: frozenset[MethodId], limits: RecordingLimits, *, is_part: bool = False
    ) -> RecordingSession | StateRefused:
        """Begin a recording; it ends when its block is left. `is_part`: of a recording of another worker."""
        if len(self._recordings) >= MAX_RECORDINGS:
            return StateRefused(
                f"{MAX_RECORDINGS} recordings are running, which is the maximum; end one first", conflict=True
            )
        recording = RecordingSession(methods, limits, self._now, self._end)
        if not self._recordings:
            self.dispatcher.add_listener(self._call_finished)
        self._recordings.add(recording)
        if not is_part:
            self.on_begin(recording)
        return recording

    def _call_finished(self, finished: CallFinished) -> None:
        """Record the call of a client once its answer has left: the transport writes it before the loop turns again."""
        call, side, outcome = finished.call, finished.side, finished.outcome
        listener, path, codec = (call.extensions.get(key) for key in ("listener", "path", "protocol"))
        if side is None or listener is None or outcome is ABANDONED or outcome is WITHDRAWN:
            return
        recorded = RecordedCall(
            str(listener), str(path), str(codec), finished.route, call, outcome, side, finished.seconds, finished.view
        )
        for recording in self._recordings:
            asyncio.get_running_loop().call_soon(recording.offer, recorded)

    def stop(self) -> None:
        """End every recording, because the gateway stops."""
        for recording in tuple(self._recordings):
            recording.close("the gateway has stopped")

    def _end(self, recording: RecordingSession) -> None:
        self._recordings.discard(recording)
        if not self._recordings:
            self.dispatcher.remove_listener(self._call_finished)


class _Counts(Struct):
    """The calls of a recording, by what happened to them."""

    calls: int = 0
    no_room: int = 0
    too_large: int = 0
    waiting: int = 0  # bytes, about
    written: int = 0  # bytes


class RecordingSession(Struct, eq=False):
    """The calls of some methods as lines, until a limit is reached."""

    methods: frozenset[MethodId]
    limits: RecordingLimits
    now: Callable[[], float]
    on_end: Callable[[RecordingSession], object]
    counts: _Counts = field(default_factory=_Counts)
    why: str = ""  # the reason for its end, once it has ended
    _waiting: deque[tuple[float, RecordedCall | bytes, int]] = field(default_factory=deque)
    _more: asyncio.Event = field(default_factory=asyncio.Event)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close("the reader has disconnected")
        self._waiting.clear()

    def close(self, why: str) -> None:
        """Take no more calls; those that wait are still written."""
        if not self.why:
            self.why = why
            self.on_end(self)
            self._more.set()

    def offer(self, recorded: RecordedCall) -> None:
        """Queue a call to be written, if there is capacity for it."""
        route = recorded.route
        if self.why or MethodId.of(route) not in self.methods or recorded.call.oneway:
            return
        if not self.limits.writes and not is_harmless(route):
            return
        weight = weigh((*recorded.call.params, *recorded.call.named.values()), LARGEST)
        answer = weigh(inside(recorded.outcome), LARGEST)
        if answer > LARGEST:
            recorded, answer = replace(recorded, outcome=UNKEPT, view=None), 0
        if weight > LARGEST:
            self.counts.too_large += 1
        else:
            self._keep(recorded, weight + answer)

    def take_line(self, text: bytes) -> None:
        """Queue a line that another worker has recorded, if there is capacity for it."""
        if not self.why:
            self._keep(text, len(text))

    def _keep(self, recorded: RecordedCall | bytes, weight: int) -> None:
        if len(self._waiting) >= self.limits.waiting or self.counts.waiting + weight > self.limits.waiting_bytes:
            self.counts.no_room += 1
            return
        self._waiting.append((self.now(), recorded, weight))
        self.counts.waiting += weight
        self.counts.calls += 1
        self._more.set()
        if self.counts.calls == self.limits.calls:
            self.close("1 call" if self.limits.calls == 1 else f"{self.limits.calls} calls")

    async def lines(self, version: str, revision: str) -> AsyncGenerator[bytes, None]:
        """The recording, line by line, as calls come; between two lines other tasks run."""
        began = self.now()
        clock = asyncio.get_running_loop().time
        until = clock() + self.limits.seconds
        names = sorted(f"{service}/{method}" for service, method in self.methods)
        yield self._written(header(version, revision, began, names, writes=self.limits.writes))
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
        """Wait for a call or the end; false when a keep-alive line is due first."""
        self._more.clear()
        try:
            async with asyncio.timeout(min(KEEPALIVE, max(seconds, 0))):
                return await self._more.wait()
        except TimeoutError:
            return False

    def _next(self) -> bytes:
        """The line of the call that has waited longest; empty where it does not fit, or a bug has lost it."""
        when, recorded, weight = self._waiting.popleft()
        self.counts.waiting -= weight
        if isinstance(recorded, bytes):
            text = recorded
        else:
            try:
                text = line(recorded, when)
            except Exception:  # noqa: BLE001 - a bug costs this line
                _log.exception("a bug lost a recorded call", method=recorded.route.method)
                text = b""
        if text and self.counts.written + len(text) <= self.limits.size:
            return self._written(text)
        self.counts.calls -= 1
        if text:
            why = f"{self.limits.size} bytes"
            self.close(why)
            self.why = why
            self.counts.calls -= len(self._waiting)
            self._waiting.clear()
        return b""

    def _written(self, text: bytes) -> bytes:
        self.counts.written += len(text)
        return text
