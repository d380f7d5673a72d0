"""One thread that does one job after the other, and looks round between them. Knows no file."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, TypeVar

import structlog

_T = TypeVar("_T")
_log = structlog.get_logger("gateway")


class Thread:
    """Calls `look` every `pause` seconds; a bug in it is logged, one in a job is told to who waits for the job."""

    def __init__(self, look: Callable[[], object], pause: float) -> None:
        self._look = look
        self._pause = pause
        self._look_at = 0.0
        self._jobs: SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="state", daemon=True)
        self._ended: Future[None] = Future()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def do(self, job: Callable[[], _T]) -> Future[_T]:
        """Do this when all earlier jobs are done, unless its future has been cancelled by then."""
        future: Future[_T] = Future()
        self._jobs.put((job, future))
        return future

    def end(self) -> Future[None]:
        """Do what has been given until now and no more; done when all of it is."""
        self._jobs.put(None)
        return self._ended

    def join(self) -> None:
        """Wait for the thread, which is over at once when what `end` returned is done."""
        self._thread.join()

    def _run(self) -> None:
        self._look_at = monotonic() + self._pause
        while self._one():
            if monotonic() >= self._look_at:
                self._guarded_look()
                self._look_at = monotonic() + self._pause
        self._ended.set_result(None)

    def _one(self) -> bool:
        try:
            given = self._jobs.get(timeout=max(0.0, self._look_at - monotonic()))
        except Empty:
            return True
        if given is not None:
            _do(*given)
        return given is not None

    def _guarded_look(self) -> None:
        try:
            self._look()
        except Exception:  # noqa: BLE001 - a bug costs this look and not the thread
            _log.exception("a bug while looking after the state file")


def _do(job: Callable[[], _T], future: Future[_T]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = job()
    except Exception as bug:  # noqa: BLE001 - told to whoever waits for the job
        future.set_exception(bug)
    else:
        future.set_result(result)
