"""The thread of the state, its clock, and the words for trouble."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from msgspec.structs import replace

from gateway.state import clock, file, tables
from gateway.state.clock import ClockReading
from gateway.state.store import StateThread
from tests.kit.cases import each_case

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


def test_jobs_are_done_in_their_order_by_one_thread_that_is_not_ours_but_for_those_given_up() -> None:
    go_on = threading.Event()
    with running() as thread:
        thread.do(lambda: go_on.wait(SOON))
        done = [thread.do(lambda number=number: (number, threading.get_ident())) for number in range(20)]  # type: ignore[misc]
        assert done.pop(10).cancel()
        go_on.set()
        with pytest.raises(ZeroDivisionError):
            thread.do(lambda: 1 // 0).result(SOON)  # a bug, which is told to who waits
        done.append(thread.do(lambda: (20, threading.get_ident())))
    results = [future.result(0) for future in done]
    assert [number for number, _ in results] == [*range(10), *range(11, 21)]
    assert len({ident for _, ident in results} | {threading.get_ident()}) == 2


def test_it_looks_again_and_again_even_after_a_bug_and_between_many_jobs(caplog: pytest.LogCaptureFixture) -> None:
    looks = threading.Semaphore(0)

    def look() -> None:
        looks.release()
        raise ValueError("a bug")

    logs = caplog.records
    with running(look, 0.001) as thread:
        assert all(looks.acquire(timeout=SOON) for _ in range(3))
        before = len(logs)
        while len(logs) < before + 2:
            thread.do(lambda: None).result(SOON)
    assert logs[0].getMessage() == "a bug while looking after the state file"


# The clock


def test_it_goes_on_when_the_wall_clock_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ClockReading.read(str(ClockReading.here())).translated(9.5) == 9.5
    before = clock.steady()
    assert before == pytest.approx(time.time(), abs=1.0)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 86_400)
    assert clock.steady() - before < 60
    assert clock.wall(1000.0) == pytest.approx(87_400.0, abs=60)  # people are told what the wall clock will show


def test_a_moment_of_another_process_of_this_boot_is_as_far_away_as_it_was() -> None:
    """It began when the wall clock was an hour ahead."""
    here = ClockReading.here()
    other = replace(here, began=here.began + 3600, ahead=-3600.0)
    its_now = clock.steady() + 3600
    assert ClockReading.read(str(other)).translated(its_now + 60) == pytest.approx(clock.steady() + 60, abs=1.0)


def test_a_moment_of_another_boot_is_one_of_the_wall_clock() -> None:
    other = ClockReading("another-boot", 123.0, 3600.0)
    assert other.translated(time.time() - 3600 + 60) == pytest.approx(clock.steady() + 60, abs=1.0)
    for text in ("", "a b", "a b c", "a 1 2 3"):
        with pytest.raises(ValueError, match=r"."):
            ClockReading.read(text)


# Trouble


def error(code: int) -> sqlite3.Error:
    made = sqlite3.OperationalError("what SQLite says")
    made.sqlite_errorcode = code
    made.sqlite_errorname = "SQLITE_X"
    return made


@each_case("code", file.WORDS)
def test_every_known_error_says_what_to_do_and_then_what_sqlite_says(code: int) -> None:
    told = file.describe_error(error(code))
    assert told.startswith(("is ", "can", "may "))
    assert ": " in told
    assert "{" not in told
    assert told.endswith("(what SQLite says, SQLITE_X)")
    assert file.is_permanent(error(code)) == (code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB))


def test_errors_without_a_code_and_with_an_extended_one_are_told_and_cut_since_they_may_quote_the_file() -> None:
    assert file.describe_error(sqlite3.Error("odd")) == "cannot be used (odd)"
    assert not file.is_permanent(sqlite3.Error("odd"))
    assert file.is_permanent(error(sqlite3.SQLITE_CORRUPT_INDEX))
    assert "disk" in file.describe_error(error(sqlite3.SQLITE_IOERR_WRITE))
    there = FileNotFoundError(2, "No such file or directory", "/a/b")  # the path is told already
    assert file.describe_error(there).endswith("(No such file or directory)")
    assert len(file.describe_error(sqlite3.OperationalError("Could not decode " + "x" * 10_000))) < 300


def test_damage_and_what_cannot_be_read_say_that_the_file_must_be_moved_away() -> None:
    damage = file.damaged("*** in database main ***\nTree 4 page 9: btreeInitPage() returns error code 11")
    for told in (damage, file.describe_error(tables.Unreadable("no mode")), file.other_format(7), file.FOREIGN):
        assert "move it away together with its -wal and -shm files" in told
    assert "(Tree 4 page 9" in damage
