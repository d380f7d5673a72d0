from __future__ import annotations

import pytest

from gateway.cli import output


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (None, "-"), (0.0, "0us"), (0.000_05, "50us"), (0.000_999, "999us"), (0.0031, "3.1ms"), (0.0256, "26ms"),
        (0.25, "250ms"), (1.0, "1s"), (1.25, "1.2s"), (75.0, "75s"), (600.0, "600s"),
    ],
)  # fmt: skip
def test_durations_have_two_digits(value: float | None, says: str) -> None:
    assert output.seconds(value) == says


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (None, "-"), (0.0, "0%"), (1.0, "100%"), (0.5, "50.0%"), (0.0975, "9.8%"), (0.0012, "0.12%"),
        (0.000_000_1, "0.001%"), (0.999_999_9, "99.999%"), (0.9995, "99.95%"),
    ],
)  # fmt: skip
def test_what_is_there_is_never_nothing_and_what_is_not_all_never_all(value: float | None, says: str) -> None:
    assert output.rate(value) == says


def test_of_two_sides_that_have_done_nothing_nothing_is_told() -> None:
    assert output.pair("-", "-") == "-"
    assert output.pair("1ms", "-") == "1ms / -"


def test_large_numbers_are_divided() -> None:
    assert output.number(1_234_567) == "1,234,567"


def test_the_day_is_told_where_it_is_not_today() -> None:
    now = 1_700_000_000.0
    assert output.moment(None) == ""
    assert len(output.moment(now, now)) == len("22:13:20")
    assert len(output.moment(now, now + 86_400)) == len("2023-11-14 22:13:20")


def test_numbers_of_a_decision_are_told_in_a_line() -> None:
    told = output.numbers(
        {"mode": "canary", "errors": 0.123456789, "noise": False, "observe": True, "until": None, "why": ""}
    )
    assert told == "mode canary, errors 0.1235, observe yes"
    assert output.numbers({"until": 1_700_000_000.0}).startswith("until 2023-11-1")
