"""Output of the commands: numbers, tables, JSON, and no control characters."""

from __future__ import annotations

import json

import pytest
from rich.text import Text

from gateway.cli.output import count, moment, number, numbers, out, pair, print_json, rate, seconds, table


def test_one_thing_has_no_s() -> None:
    assert [count(number, "file") for number in (0, 1, 2)] == ["0 files", "1 file", "2 files"]


def test_json_is_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"moment": object, "ü": [1]})
    assert json.loads(capsys.readouterr().out) == {"moment": str(object), "ü": [1]}


def test_a_row_that_is_not_for_a_terminal_stays_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with table("METHOD", "SOURCE") as rows:
        rows.add_row("m" * 100, "s" * 100)
    assert len(capsys.readouterr().out.splitlines()) == 2


EVIL = "\x1b[31mred\x9b2J\u202e"


def test_no_text_of_others_moves_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    with table("WHY") as rows:
        rows.add_row(Text(EVIL + "\nnext"))
        rows.add_row(EVIL.replace("[", ""))
    out.print(EVIL + "\nnext", markup=False)
    out.print(Text.assemble(("why ", "dim"), EVIL), soft_wrap=True)
    printed = capsys.readouterr().out
    assert printed.replace("\n", "").isprintable()
    assert printed.count(r"\x9b2J\u202e") == 4
    assert len(printed.splitlines()) == 6  # in a cell a line end is escaped too


def test_a_sentence_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    out.print("[red] " + "word " * 100)
    assert capsys.readouterr().out == "[red] " + "word " * 100 + "\n"


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (None, "-"), (0.0, "0us"), (0.000_05, "50us"), (0.000_999, "999us"), (0.0031, "3.1ms"), (0.0256, "26ms"),
        (0.25, "250ms"), (1.0, "1s"), (1.25, "1.2s"), (75.0, "75s"), (600.0, "600s"),
    ],
)  # fmt: skip
def test_durations_have_two_digits(value: float | None, says: str) -> None:
    assert seconds(value) == says


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (None, "-"), (0.0, "0%"), (1.0, "100%"), (0.5, "50.0%"), (0.0975, "9.8%"), (0.0012, "0.12%"),
        (0.000_000_1, "0.001%"), (0.999_999_9, "99.999%"), (0.9995, "99.95%"),
    ],
)  # fmt: skip
def test_what_is_there_is_never_nothing_and_what_is_not_all_never_all(value: float | None, says: str) -> None:
    assert rate(value) == says


def test_of_two_sides_that_have_done_nothing_nothing_is_told() -> None:
    assert pair("-", "-") == "-"
    assert pair("1ms", "-") == "1ms / -"


def test_large_numbers_are_divided() -> None:
    assert number(1_234_567) == "1,234,567"


def test_the_day_is_told_where_it_is_not_today() -> None:
    now = 1_700_000_000.0
    assert moment(None) == ""
    assert len(moment(now, now)) == len("22:13:20")
    assert len(moment(now, now + 86_400)) == len("2023-11-14 22:13:20")


def test_numbers_of_a_decision_are_told_in_a_line() -> None:
    told = numbers({"mode": "canary", "errors": 0.123456789, "noise": False, "observe": True, "until": None, "why": ""})
    assert told == "mode canary, errors 0.1235, observe yes"
    assert numbers({"until": 1_700_000_000.0}).startswith("until 2023-11-1")
