"""What waits: a call, for its deadline or for something to happen; and work, until the answers have left."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from gateway.core.interfaces import DEADLINE_PASSED, PassedMessage
from gateway.core.logger import Logger
from gateway.core.rpc.model import Call, Fault, FaultCode, PeerConnection

BATCHED = "batched"  # an extension of calls that share their message, and so their slot, with others

_log = Logger()

TOO_MANY = Fault(FaultCode.BUSY, "too many calls wait (limit max_waiting of the listener); nothing was executed")


class WaitingSlot:
    """The slot that a call takes of its transport. It is given back while the caller waits, and taken for its calls."""

    __slots__ = ("_connection", "_resume")

    def __init__(self, connection: PeerConnection | None) -> None:
        self._connection = connection
        self._resume: Callable[[], object] | None = None

    def free(self) -> bool:
        """Give the slot back; false if too many wait, and then it stays taken."""
        if self._connection is None or self._connection.on_wait is None:
            return True
        self._resume = self._connection.on_wait()
        return self._resume is not None

    def take(self) -> bool:
        """Take a slot for a call; false if there is none."""
        has_capacity = self._connection.has_capacity if self._connection is not None else None
        if self._resume is not None and has_capacity is not None and not has_capacity():
            return False
        self.end()
        return True

    def end(self) -> None:
        """Take the slot, whatever else runs: the transport gives it back."""
        resume, self._resume = self._resume, None
        if resume is not None:
            resume()


class slot_freed(WaitingSlot):  # noqa: N801 - it is used like a function; a generator would hold three times the memory
    """Give back the slot of a call while the block runs; false: too many calls wait, and it has its slot.

    `on_wait` gets 1 when the call begins to wait, and -1 when it goes on. In a batch a call keeps its slot.
    """

    __slots__ = ("_is_waiting", "_on_wait")

    def __init__(self, call: Call, on_wait: Callable[[int], object]) -> None:
        super().__init__(None if call.extensions.get(BATCHED) else call.peer.connection)
        self._on_wait = on_wait

    def __enter__(self) -> bool:
        self._is_waiting = self.free()
        if self._is_waiting:
            self._on_wait(1)
        return self._is_waiting

    def __exit__(self, *_: object) -> None:
        if self._is_waiting:
            self._on_wait(-1)
        self.end()


# Deadlines


class Deadlines:
    """The deadlines of tasks. Those of one duration share a timer, because a timer for each call is slow."""

    def __init__(self) -> None:
        self._queues: dict[float, _Queue] = {}

    def __len__(self) -> int:
        return sum(len(queue.waiting) for queue in self._queues.values())

    def start(self, seconds: float) -> Deadline:
        """Give the running task this many seconds; the caller lifts the deadline when the task is done."""
        queue = self._queues.get(seconds) or self._add(seconds)
        task = asyncio.current_task(queue.loop)
        assert task is not None, "a deadline is held by a task"
        deadline = Deadline(task, task.cancelling(), queue.waiting, queue.loop.time() + seconds, seconds)
        queue.waiting[deadline] = None
        if not queue.is_timing:
            queue.start_timer(seconds)
        return deadline

    def start_for(self, holder: PassedMessage, seconds: float) -> Deadline:
        """The same for a message that no task waits for."""
        queue = self._queues.get(seconds) or self._add(seconds)
        deadline = Deadline(holder, 0, queue.waiting, queue.loop.time() + seconds, seconds)
        queue.waiting[deadline] = None
        if not queue.is_timing:
            queue.start_timer(seconds)
        return deadline

    def _add(self, seconds: float) -> _Queue:
        queue = self._queues[seconds] = _Queue(asyncio.get_running_loop())
        return queue


class Deadline(msgspec.Struct, eq=False):
    """The deadline of one task, or of a message that no task waits for."""

    holder: asyncio.Task[Any] | PassedMessage
    before: int  # how often the task was cancelled before
    waiting: dict[Deadline, None]  # those of the same duration
    when: float  # of the loop's clock
    seconds: float  # from its start
    passed: bool = False

    def was_the_reason(self) -> bool:
        """Whether this deadline alone caused the CancelledError that is being handled."""
        if not self.passed or not isinstance(self.holder, asyncio.Task):
            return self.passed
        return self.holder.uncancel() <= self.before

    def hand_over(self) -> None:
        """From now on the running task holds the deadline."""
        task = asyncio.current_task()
        assert task is not None, "a deadline is held by a task"
        self.holder, self.before = task, task.cancelling()

    def lift(self) -> None:
        """End the deadline, passed or not."""
        self.waiting.pop(self, None)

    def expire(self) -> None:
        """Cancel what holds it."""
        self.passed = True
        self.holder.cancel(DEADLINE_PASSED)


class _Queue:
    """Deadlines of one duration: the oldest one passes first, so one timer is enough."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.waiting: dict[Deadline, None] = {}
        self.is_timing = False

    def start_timer(self, seconds: float) -> None:
        self.is_timing = True
        self.loop.call_later(seconds, self._expire_passed)

    def _expire_passed(self) -> None:
        now = self.loop.time()
        try:
            while self.waiting:
                deadline = next(iter(self.waiting))
                if deadline.when > now:
                    return
                del self.waiting[deadline]
                deadline.expire()
        finally:  # a message whose deadline passes may begin the next one of its client: one timer is enough for it too
            self.is_timing = False
            if self.waiting:
                self.start_timer(max(next(iter(self.waiting)).when - now, 0.0))


# Answers


class AfterAnswers:
    """Work that waits until the transports have written the answers of this turn of the event loop.

    They write before the loop turns again. `endpoint` is named in the log where the work fails: the client has its
    answer, and a bug loses only the record of the message.
    """

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._waiting: list[tuple[Callable[..., object], tuple[object, ...]]] = []

    def do(self, work: Callable[..., object], *what: object) -> None:
        """Do this then."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._do_all)
        self._waiting.append((work, what))

    def _do_all(self) -> None:
        waiting, self._waiting = self._waiting, []
        for work, what in waiting:
            try:
                work(*what)
            except Exception:  # noqa: BLE001 - see above
                self._log_bug()

    def guard(self, work: Callable[..., object], *what: object) -> None:
        """Do this now; a bug is logged and goes no further."""
        try:
            work(*what)
        except Exception:  # noqa: BLE001 - see above
            self._log_bug()

    def _log_bug(self) -> None:
        _log.exception("a bug lost the outcome of this message", endpoint=self._endpoint)
