"""One thread for computations that would delay the event loop: reading, comparing and recording large outcomes.

The interpreter runs one thread at a time. Two measures keep every pause of the event loop short while the thread works:
the thread sleeps after each SLICE of a comparison, and SWITCH_INTERVAL bounds how long it keeps the interpreter when
the event loop wants it. There is one thread, since several would take turns before the event loop gets its own.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import TypeVar

from gateway.core.comparison.equality import Checkpoint, no_checkpoint

INLINE_COST = 12_000  # bytes times the cost of rules; the event loop does so much itself, in about a millisecond
SLICE = 0.0005  # seconds of work between two sleeps
SLEEP = 0.001  # seconds
SWITCH_INTERVAL = 0.0005  # seconds; the default of Python is ten times as long

T = TypeVar("T")


class WorkerStoppedError(Exception):
    """The worker stops; the result is not needed any more."""


class Worker:
    """Runs one computation at a time. The thread starts with the first large one; `stop` ends it."""

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None
        self._stopping = False
        self._resumed = 0.0

    async def run(self, cost: int, compute: Callable[[Checkpoint], T]) -> T:
        """The result of `compute`, which calls its checkpoint often; small computations run at once.

        Raises WorkerStoppedError when the worker stops first.
        """
        if cost <= INLINE_COST:
            return compute(no_checkpoint)
        if self._stopping:
            raise WorkerStoppedError
        if self._thread is None:
            self._thread = ThreadPoolExecutor(
                1, "comparison", initializer=sys.setswitchinterval, initargs=(SWITCH_INTERVAL,)
            )
        return await asyncio.get_running_loop().run_in_executor(self._thread, compute, self._checkpoint)

    async def stop(self) -> None:
        """End the thread; a comparison under way is given up at its next checkpoint."""
        self._stopping = True
        thread, self._thread = self._thread, None
        if thread is not None:
            await asyncio.to_thread(thread.shutdown, cancel_futures=True)

    def _checkpoint(self) -> None:
        if self._stopping:
            raise WorkerStoppedError
        if perf_counter() - self._resumed >= SLICE:
            time.sleep(SLEEP)
            self._resumed = perf_counter()
