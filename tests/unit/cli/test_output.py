"""Output: numbers, tables, JSON, differences, and no control characters."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC
from io import StringIO
from typing import Any, Literal

import pytest
from hypothesis import given
from rich.console import Console
from rich.text import Text

from gateway.cli.diff import show, value_in_words
from gateway.cli.output import moment, numbers, out, rate, seconds, table
from gateway.core.comparison import serialization
from gateway.core.rpc.model import Value
from tests.kit.cases import each_case
from tests.kit.values import anything

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


def test_texts_of_others_are_no_markup_and_no_emoji_and_each_row_and_sentence_is_a_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    texts = ("[red]a[/red]", "[/b]", "HEAD:m:", "[link=http://c]c[/link]", "word " * 50 + ".")
    with table("what", "[/head]:m:") as rows:
        for text in texts:
            rows.add_row(text, "-")
    out.print(*texts, sep="\n")
    printed = capsys.readouterr().out
    assert [printed.count(text) for text in (*texts, "[/head]:m:")] == [2, 2, 2, 2, 2, 1]
    assert len(printed.splitlines()) == 11


@each_case(
    ("write", "value", "says"),
    [
        (seconds, None, "-"), (seconds, 0.0, "0us"), (seconds, 0.000_999, "999us"), (seconds, 0.0031, "3.1ms"),
        (seconds, 0.0256, "26ms"), (seconds, 1.0, "1s"), (seconds, 1.25, "1.2s"), (seconds, 600.0, "600s"),
        (rate, None, "-"), (rate, 0.0, "0%"), (rate, 1.0, "100%"), (rate, 0.5, "50.0%"), (rate, 0.0975, "9.8%"),
        (rate, 0.0012, "0.12%"), (rate, 0.000_000_1, "0.001%"), (rate, 0.999_999_9, "99.999%"),
        (rate, 0.9995, "99.95%"), (moment, None, ""),
    ],
)  # fmt: skip
def test_durations_have_two_digits_and_what_is_not_all_is_never_100_percent(
    write: Callable[[float | None], str], value: float | None, says: str
) -> None:
    assert write(value) == says


def test_the_day_is_told_where_it_is_not_today() -> None:
    now = 1_700_000_000.0
    assert (len(moment(now, now)), len(moment(now, now + 86_400))) == (len("22:13:20"), len("2023-11-14 22:13:20"))


def test_numbers_of_a_decision_are_told_in_a_line() -> None:
    told = numbers({"mode": "canary", "errors": 0.123456789, "noise": False, "observe": True, "until": None, "why": ""})
    assert told == "mode canary, errors 0.1235, observe yes"
    assert numbers({"until": 1_700_000_000.0}).startswith("until 2023-11-1")


# Differences


PAIR: dict[str, Any] = {
    "call": {"method": "VM.get_record", "params": [{"$redacted": "text"}, "vm"], "named": {"full": True}},
    "caller": "tcp:127.0.0.1", "protocol": "xmlrpc", "verdict": "different",
    "control": {"side": "legacy", "ms": 12.345, "reply": {}}, "candidate": {"side": "dbus", "ms": 1.9, "reply": {}},
    "differences": [
        {"path": "$.memory", "control": 1000, "candidate": "2000", "why": "more than 1% apart"},
        {"path": "$.tags[1]", "control": "[red]b"},
    ],
    "ignored": [], "noisy": [], "more": False,
}  # fmt: skip
SHOWN = """\
VM.get_record  different  2026-01-31 12:00:00+00:00
  called     (<redacted text>, "vm", full=true) by tcp:127.0.0.1 over xmlrpc
  control    legacy in 12.3 ms
  candidate  dbus in 1.9 ms
  $.memory  - 1000
            + "2000"
              more than 1% apart
  $.tags[1] - "[red]b"
            + (missing)"""


def shown(width: int = 100, *, colour: bool = False, **changes: Any) -> str:
    text = StringIO()
    system: Literal["standard"] | None = "standard" if colour else None
    console = Console(file=text, width=width, highlight=False, force_terminal=colour, color_system=system)
    console.print(show({**PAIR, **changes}, 1769860800.5, UTC))
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def test_a_pair_is_shown_with_its_request_and_each_place() -> None:
    assert shown() == SHOWN


def test_a_narrow_terminal_folds_what_is_long_and_a_wide_one_is_not_filled_with_blanks() -> None:
    narrow = shown(40, differences=[{"path": "$.a", "control": "0" * 60, "candidate": "8" * 60}])
    assert max(map(len, narrow.splitlines())) <= 40
    folded = narrow.partition("$.a")[2]
    assert folded.count("0") == folded.count("8") == 60
    text = StringIO()
    Console(file=text, width=4000).print(show(PAIR))
    assert max(map(len, text.getvalue().splitlines())) < 100


def test_each_side_has_its_colour_and_in_two_long_texts_what_differs_stands_out() -> None:
    assert "\x1b[31m1000" in shown(colour=True)
    assert '\x1b[32m"2000"' in shown(colour=True)
    said = "the same beginning of both, {}, and the same end"
    text = shown(
        200, colour=True, differences=[{"path": "$.a", "control": said.format("one"), "candidate": said.format("both")}]
    )
    assert "\x1b[1;7;31mone\x1b[0m" in text
    assert "\x1b[1;7;32mboth\x1b[0m" in text


@each_case(
    ("fault", "words"),
    [
        ({"code": "unavailable", "name": "", "message": "nobody there", "data": None}, "unavailable: nobody there"),
        ({"code": "application", "name": "GONE", "message": "m", "data": ["VM", 1]}, 'application: GONE m ["VM", 1]'),
        ({"code": "remote", "name": {"$redacted": "text"}, "message": "", "data": None}, "remote: <redacted text>"),
    ],
)
def test_a_fault_is_told_in_words(fault: dict[str, Any], words: str) -> None:
    text = shown(differences=[{"path": "fault", "control": fault}], verdict="error_different")
    assert "errors differ" in text
    assert [line.strip().removeprefix("fault ") for line in text.splitlines()[-2:]] == [f"- {words}", "+ (a reply)"]


def test_what_is_ignored_noisy_or_left_out_is_said() -> None:
    text = shown(more=True, ignored=[{"path": f"$.i{n}"} for n in range(7)], noisy=[{"path": "$.t"}])
    assert "  and more differences than these 2" in text
    assert "  ignored: $.i0, $.i1, $.i2, $.i3, $.i4 and 2 more" in text
    assert "  noise (the control differs from itself): $.t" in text
    assert shown(verdict="ignored", differences=[]).startswith("VM.get_record  equal but for ignored  ")
    assert len(shown(verdict="equal", differences=[]).splitlines()) == 4, "there is no table"
    call = {"method": "m", "params": [], "named": serialization.write({"\ud800": 1})}
    assert 'called     ({"$text": "7aCA"}=1) over xmlrpc' in shown(call=call, caller="")


@each_case(
    ("value", "words"),
    [
        (None, "null"),
        ([1, "a", {"b": True}], '[1, "a", {"b": true}]'),
        (2**60, str(2**60)),
        (float("nan"), "nan"),
        (b"hi", "bytes aGk="),
        ({"$redacted": "integer"}, "<redacted integer>"),
        ([1, {"$left_out": 9}], "[1, ... (9 more)]"),
        ({"a": 1, "$left_out": 9}, '{"a": 1, ... (9 more)}'),
        ({"$begins": "abc", "$left_out": 9}, '"abc"... (9 more)'),
        ({"$left_out": "an integer of 9 bits"}, "(an integer of 9 bits)"),
        ({"$redacted": [1]}, '{"$redacted": [1]}'),
        ("\x1b[2J\u202e\x9b", r'"\u001b[2J\u202e\x9b"'),
        ("x" * 3000, '"' + "x" * 1999 + "... (1002 characters more)"),
    ],
)
def test_a_value_is_one_line_in_words(value: Value, words: str) -> None:
    assert value_in_words(serialization.write(value)) == words


@given(anything(), anything())
def test_whatever_differs_is_shown_and_moves_no_cursor(one: Value, other: Value) -> None:
    values = {"control": serialization.write(one), "candidate": serialization.write(other)}
    difference = {"path": "$['\x1b']", "why": "\x1b", **values}
    call = {"method": "\x1b[31m", "params": [], "named": {"\x1b": 1}}
    text = shown(call=call, differences=[difference], caller="\x1b", protocol="\x1b")
    assert all(line.isprintable() for line in text.splitlines())
