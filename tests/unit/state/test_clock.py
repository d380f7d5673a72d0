"""The clock by which modes end: nobody can set it, and what one process has written another understands."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from gateway.state import clock
from gateway.state.clock import ClockReading


def test_it_is_as_the_wall_clock_while_nobody_sets_that() -> None:
    assert clock.steady() == pytest.approx(time.time(), abs=1.0)
    assert clock.wall(1000.0) == pytest.approx(1000.0, abs=1.0)


def test_it_goes_on_when_the_wall_clock_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    before = clock.steady()
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 86_400)
    assert clock.steady() - before < 60
    assert clock.wall(1000.0) == pytest.approx(87_400.0, abs=60)  # people are told what the wall clock will show


def test_a_moment_of_this_process_stays_as_it_is() -> None:
    assert ClockReading.read(str(ClockReading.here())).translated(9.5) == 9.5


def test_a_moment_of_another_process_of_this_boot_is_as_far_away_as_it_was() -> None:
    """It began when the wall clock was an hour ahead."""
    here = ClockReading.here()
    other = replace(here, began=here.began + 3600, ahead=-3600.0)
    its_now = clock.steady() + 3600
    assert ClockReading.read(str(other)).translated(its_now + 60) == pytest.approx(clock.steady() + 60, abs=1.0)


def test_a_moment_of_another_boot_is_one_of_the_wall_clock() -> None:
    other = ClockReading("another-boot", 123.0, 3600.0)
    assert other.translated(time.time() - 3600 + 60) == pytest.approx(clock.steady() + 60, abs=1.0)


@pytest.mark.parametrize("text", ["", "a b", "a b c", "a 1 2 3"])
def test_what_is_no_reading_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        ClockReading.read(text)
