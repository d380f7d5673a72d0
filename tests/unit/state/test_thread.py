"""The thread: one job after the other, looks between them, bugs that cost only themselves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import structlog

from gateway.state.store import StateThread

SOON = 60.0  # seconds in which what must come comes


@contextmanager
def running(look: Callable[[], object] = lambda: None, pause: float = SOON) -> Iterator[StateThread]:
    thread = StateThread(look, pause)
    thread.start()
    try:
        yield thread
    finally:
        thread.end().result(SOON)
        thread.join()


def test_jobs_are_done_in_their_order_by_one_thread_that_is_not_ours() -> None:
    with running() as thread:
        done = [thread.do(lambda number=number: (number, threading.get_ident())) for number in range(20)]  # type: ignore[misc]
        results = [future.result(SOON) for future in done]
    assert [number for number, _ in results] == list(range(20))
    assert len({ident for _, ident in results} | {threading.get_ident()}) == 2


def test_what_was_given_before_the_end_is_done() -> None:
    with running() as thread:
        last = thread.do(lambda: "done")
    assert last.result(0) == "done"


def test_a_bug_in_a_job_is_told_to_who_waits_and_the_next_job_is_done() -> None:
    with running() as thread:
        with pytest.raises(ZeroDivisionError):
            thread.do(lambda: 1 // 0).result(SOON)
        assert thread.do(lambda: 1).result(SOON) == 1


def test_a_job_that_was_given_up_before_it_began_is_not_done() -> None:
    done: list[int] = []
    go_on = threading.Event()
    with running() as thread:
        thread.do(lambda: go_on.wait(SOON))
        given_up = thread.do(lambda: done.append(1))
        assert given_up.cancel()
        go_on.set()
        thread.do(lambda: done.append(2)).result(SOON)
    assert done == [2]


def test_it_looks_again_and_again_even_after_a_bug_and_between_many_jobs() -> None:
    looks = threading.Semaphore(0)

    def look() -> None:
        looks.release()
        raise ValueError("a bug")

    with structlog.testing.capture_logs() as logs, running(look, 0.001) as thread:
        assert all(looks.acquire(timeout=SOON) for _ in range(3))
        before = len(logs)
        while len(logs) < before + 2:
            thread.do(lambda: None).result(SOON)
    assert logs[0]["event"] == "a bug while looking after the state file"
