"""How long a call waits: its deadline; and the slot that it gives back while it waits for something to happen."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from gateway.core.interfaces import DEADLINE_PASSED
from gateway.core.rpc.model import Call, Fault, FaultCode

BATCHED = "batched"  # an extension of calls that share their message, and so their slot, with others

TOO_MANY = Fault(FaultCode.BUSY, "too many calls wait (limit max_waiting of the listener); nothing was executed")


class slot_freed:  # noqa: N801 - it is used like a function; a generator would hold three times the memory
    """Give back the slot of a call while the block runs; false: too many calls wait, and it has its slot.

    `on_wait` gets 1 when the call begins to wait, and -1 when it goes on. In a batch a call keeps its slot.
    """

    __slots__ = ("_call", "_is_waiting", "_on_wait", "_resume")

    def __init__(self, call: Call, on_wait: Callable[[int], object]) -> None:
        self._call = call
        self._on_wait = on_wait
        self._is_waiting = False
        self._resume: Callable[[], object] | None = None

    def __enter__(self) -> bool:
        connection = self._call.peer.connection
        if connection is not None and connection.on_wait is not None and not self._call.extensions.get(BATCHED):
            self._resume = connection.on_wait()
            if self._resume is None:
                return False
        self._is_waiting = True
        self._on_wait(1)
        return True

    def __exit__(self, *_: object) -> None:
        if self._is_waiting:
            self._on_wait(-1)
        if self._resume is not None:
            self._resume()


# Deadlines


class Deadlines:
    """The deadlines of tasks. Those of one duration share a timer, because a timer for each call is slow."""

    def __init__(self) -> None:
        self._queues: dict[float, _Queue] = {}

    def __len__(self) -> int:
        return sum(len(queue.waiting) for queue in self._queues.values())

    def start(self, seconds: float) -> Deadline:
        """Give the running task this many seconds; the caller lifts the deadline when the task is done."""
        queue = self._queues.get(seconds)
        if queue is None:
            queue = self._queues[seconds] = _Queue()
        loop = asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        assert task is not None, "a deadline is held by a task"
        deadline = Deadline(task, task.cancelling(), queue.waiting, loop.time() + seconds)
        queue.waiting[deadline] = None
        if not queue.is_timing:
            queue.start_timer(loop, seconds)
        return deadline


class Deadline(msgspec.Struct, eq=False):
    """The deadline of one task."""

    task: asyncio.Task[Any]
    before: int  # how often the task was cancelled before
    waiting: dict[Deadline, None]  # those of the same duration
    when: float  # of the loop's clock
    passed: bool = False

    def was_the_reason(self) -> bool:
        """Whether this deadline alone caused the CancelledError that is being handled."""
        return self.passed and self.task.uncancel() <= self.before

    def lift(self) -> None:
        """End the deadline, passed or not."""
        self.waiting.pop(self, None)

    def expire(self) -> None:
        """Cancel the task."""
        self.passed = True
        self.task.cancel(DEADLINE_PASSED)


class _Queue:
    """Deadlines of one duration: the oldest one passes first, so one timer is enough."""

    def __init__(self) -> None:
        self.waiting: dict[Deadline, None] = {}
        self.is_timing = False

    def start_timer(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self.is_timing = True
        loop.call_later(seconds, self._expire_passed, loop)

    def _expire_passed(self, loop: asyncio.AbstractEventLoop) -> None:
        self.is_timing = False
        now = loop.time()
        while self.waiting:
            deadline = next(iter(self.waiting))
            if deadline.when > now:
                self.start_timer(loop, deadline.when - now)
                return
            del self.waiting[deadline]
            deadline.expire()
