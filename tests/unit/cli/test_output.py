"""How commands print."""

from __future__ import annotations

import json

import pytest
from rich.text import Text

from gateway.cli.output import count, out, print_json, table


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
