"""Cancels what takes too long. Calls of one duration share one timer: a timer each is what a busy loop notices."""

from __future__ import annotations

import asyncio
from typing import Any

from gateway.core.interfaces import DEADLINE_PASSED


class Deadlines:
    """Deadlines of tasks, by how long they have. Nothing is left of one that was lifted."""

    def __init__(self) -> None:
        self._queues: dict[float, _Queue] = {}

    def __len__(self) -> int:
        return sum(len(queue.waiting) for queue in self._queues.values())

    def start(self, seconds: float) -> Deadline:
        """From now on the running task has this long; the caller lifts the deadline when it is done."""
        queue = self._queues.get(seconds)
        if queue is None:
            queue = self._queues[seconds] = _Queue()
        loop = asyncio.get_running_loop()
        deadline = Deadline(asyncio.current_task(loop), loop.time() + seconds, queue)
        queue.waiting[deadline] = None
        if not queue.timing:
            queue.time(loop, seconds)
        return deadline


class Deadline:
    """One task's deadline."""

    __slots__ = ("_before", "_queue", "_task", "passed", "when")

    def __init__(self, task: asyncio.Task[Any] | None, when: float, queue: _Queue) -> None:
        assert task is not None, "a deadline is held by a task"
        self._task = task
        self._before = task.cancelling()
        self._queue = queue
        self.when = when  # of the loop's clock
        self.passed = False

    def was_the_reason(self) -> bool:
        """Whether a CancelledError is this deadline's, and nobody else cancelled the task as well."""
        return self.passed and self._task.uncancel() <= self._before

    def lift(self) -> None:
        """The task is done in time, or has been told that it is not."""
        self._queue.waiting.pop(self, None)

    def expire(self) -> None:
        """The time is over."""
        self.passed = True
        self._task.cancel(DEADLINE_PASSED)


class _Queue:
    """Deadlines of one duration: the oldest is the next, so one timer does for all."""

    def __init__(self) -> None:
        self.waiting: dict[Deadline, None] = {}
        self.timing = False

    def time(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self.timing = True
        loop.call_later(seconds, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self.timing = False
        now = loop.time()
        while self.waiting:
            deadline = next(iter(self.waiting))
            if deadline.when > now:
                self.time(loop, deadline.when - now)
                return
            del self.waiting[deadline]
            deadline.expire()
