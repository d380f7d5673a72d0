"""A recording that an operator begins at the leader has the calls of every worker.

The leader asks the others to record too. Each sends its lines, one after the other, and the leader writes them among
its own, within the limits of the recording. A worker that starts later does not take part.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from itertools import count
from typing import Any, TypeAlias

import msgspec

from gateway.core.admin.records import MethodId, StateRefused
from gateway.pipeline.recorder import Recorder, RecordingLimits, RecordingSession
from gateway.workers.link import OtherWorkers

# The number of the leader and of the recording; what to record.
_Request: TypeAlias = tuple[int, int, frozenset[MethodId], RecordingLimits]


class SharedRecordings:
    """The recordings of one worker: those that its operators have begun, and its part of those of the leader."""

    def __init__(self, number: int, recorder: Recorder, other_workers: OtherWorkers) -> None:
        self._number = number
        self._recorder = recorder
        self._other_workers = other_workers
        self._numbers = count(1)
        self._own: dict[int, RecordingSession] = {}
        self._parts: dict[tuple[int, int], RecordingSession] = {}  # by number of the leader and of the recording
        self._tasks: set[asyncio.Task[object]] = set()
        recorder.on_begin = self._begun
        other_workers.handlers |= {
            "record": self._record,
            "recorded": self._recorded,
            "record no more": self._record_no_more,
        }

    async def stop(self) -> None:
        """End everything."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def lost(self, worker: int) -> None:
        """A worker has ended: nobody reads the recordings that it has begun."""
        for (number, _), part in [*self._parts.items()]:
            if number == worker:
                part.close("the reader has disconnected")

    # The leader

    def _begun(self, recording: RecordingSession) -> None:
        number = next(self._numbers)
        self._own[number] = recording
        ends = recording.on_end

        def end(ended: RecordingSession) -> None:
            ends(ended)
            del self._own[number]
            self._other_workers.news("record no more", number)

        recording.on_end = end
        request: _Request = self._number, number, recording.methods, recording.limits
        self._spawn(self._other_workers.everyone("record", request, must=False))

    def _recorded(self, body: tuple[int, bytes]) -> bool:
        """Take a line of another worker; False: the recording has ended."""
        number, text = body
        recording = self._own.get(number)
        if recording is None:
            return False
        if text.startswith(b'{"end":'):
            ending = msgspec.json.decode(text)  # what the last line of a recording counts
            recording.counts.no_room += ending["no_room"]
            recording.counts.too_large += ending["too_large"]
        else:
            recording.take_line(text)
        return True

    # The others

    def _record(self, request: _Request) -> None:
        leader, number, methods, limits = request
        part = self._recorder.begin(methods, limits, is_part=True)
        if not isinstance(part, StateRefused):
            self._parts[leader, number] = part
            self._spawn(self._send(leader, number, part))

    def _record_no_more(self, body: tuple[int, int]) -> None:
        part = self._parts.get(body)
        if part is not None:
            part.close("the recording has ended")

    async def _send(self, leader: int, number: int, part: RecordingSession) -> None:
        with part:
            is_header = True
            async for text in part.lines("", ""):
                if text.strip() and not is_header:
                    is_answer, is_wanted = await self._other_workers.one(leader, "recorded", (number, text))
                    if not is_answer or not is_wanted:
                        part.close("the reader has disconnected")
                is_header = False
        del self._parts[leader, number]

    def _spawn(self, work: Coroutine[Any, Any, object]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
