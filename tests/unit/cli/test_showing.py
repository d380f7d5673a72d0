"""How commands print."""

from __future__ import annotations

import json

import pytest

from gateway.cli.showing import count, print_json, table


def test_one_thing_has_no_s() -> None:
    assert [count(number, "file") for number in (0, 1, 2)] == ["0 files", "1 file", "2 files"]


def test_json_is_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"moment": object, "ü": [1]})
    assert json.loads(capsys.readouterr().out) == {"moment": str(object), "ü": [1]}


def test_a_row_that_is_not_for_a_terminal_stays_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with table("METHOD", "SOURCE") as rows:
        rows.add_row("m" * 100, "s" * 100)
    assert len(capsys.readouterr().out.splitlines()) == 2
