"""The table of methods that have two sides."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.cli.status import STYLES, print_methods
from gateway.core.migration.limits import Assessment
from tests.kit.openapi import validator

SIDE = {"answered": 5, "calls": 5, "errors": 0, "error_rate": 0.0, "p50": 0.001, "p99": 0.002}
NEVER = {"answered": 0, "calls": 0, "errors": 0, "error_rate": None, "p50": None, "p99": None}
SETTING = {"mode": "canary", "percent": "12.5", "control": "legacy", "observe": True, "noise": False}
ROW: dict[str, Any] = {
    "service": "xenopsd", "method": "VM.start", "group": "", "effect": "read", "upstream": "old", "key": "vm",
    "may_shadow": True, "mode": "canary 12.5% observed", "setting": SETTING, "source": "set by alice",
    "set_by": "alice", "until": None, "legacy": SIDE, "dbus": {**SIDE, "calls": 1234, "error_rate": 0.5},
    "comparisons": 5, "equal": 4, "ignored": 0, "different": 1, "error_different": 0, "dropped": 0,
    "not_compared": {"too_large": 2}, "compared_share": 0.5, "equal_share": 0.8,
    "verdict": "differs", "rollout": "paused",
}  # fmt: skip
UNTOUCHED = {
    **ROW, "mode": "legacy", "setting": {**SETTING, "mode": "legacy"}, "set_by": "mapping", "legacy": NEVER,
    "dbus": NEVER, "comparisons": 0, "not_compared": {}, "compared_share": None, "equal_share": None,
    "verdict": "no evidence", "rollout": "",
}  # fmt: skip


def shown(capsys: pytest.CaptureFixture[str], width: int | None, *rows: dict[str, Any]) -> list[str]:
    print_methods(rows, width, everything=True)
    return capsys.readouterr().out.splitlines()


def test_the_rows_here_are_rows_of_the_api() -> None:
    for row in (ROW, UNTOUCHED):
        validator({"$ref": "#/components/schemas/Method"}).validate(row)


def test_a_row_has_both_sides(capsys: pytest.CaptureFixture[str]) -> None:
    _, header, row = shown(capsys, None, ROW)
    assert header.split() == [
        "METHOD",
        "MODE",
        "SHARE",
        "SOURCE",
        "CALLS",
        "EQUAL",
        "COMPARED",
        "ERRORS",
        "P50",
        "P99",
        "ASSESSMENT",
    ]
    assert " ".join(row.split()) == (
        "VM.start canary observed 12.5% alice (paused) 5 / 1,234 80.0% of 5 50.0%, 2 too large "
        "0% / 50.0% 1ms / 1ms 2ms / 2ms differs"
    )


def test_shadow_is_said_to_prove_no_capacity(capsys: pytest.CaptureFixture[str]) -> None:
    answers = {side: {**ROW, "setting": {**SETTING, "mode": "shadow", "control": side}} for side in ("legacy", "dbus")}
    assert shown(capsys, None, answers["legacy"])[-1].startswith("shadow proves no capacity")
    assert "capacity" not in "".join(shown(capsys, None, ROW, answers["dbus"]))


def test_what_never_happened_is_no_zero(capsys: pytest.CaptureFixture[str]) -> None:
    _, _, row = shown(capsys, None, UNTOUCHED)
    assert " ".join(row.split()) == "VM.start legacy - mapping 0 / 0 - - - - - no evidence"


def test_a_narrow_terminal_gets_the_columns_that_matter(capsys: pytest.CaptureFixture[str]) -> None:
    _, header, _ = shown(capsys, 60, ROW)
    assert header.split() == ["METHOD", "MODE", "SHARE", "EQUAL", "ASSESSMENT"]


def test_methods_of_several_services_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    _, _, first, second = shown(capsys, None, ROW, {**ROW, "service": "xapi"})
    assert first.startswith("xenopsd/VM.start")
    assert second.startswith("xapi/VM.start")


def test_every_verdict_has_its_colour() -> None:
    assert STYLES.keys() == {word.value for word in Assessment}


def test_what_nothing_has_happened_to_is_only_counted(capsys: pytest.CaptureFixture[str]) -> None:
    off = {**UNTOUCHED, "mode": "off", "setting": {**SETTING, "mode": "off"}}
    print_methods([ROW, UNTOUCHED, UNTOUCHED, {**off, "service": "xapi"}, off], None)
    *_, row, counted = capsys.readouterr().out.splitlines()
    assert row.split()[0] == "VM.start"
    assert counted == (
        "as the mapping says, and not called yet: xenopsd 2 legacy and 1 off, xapi 1 off (`status '*'` shows them)"
    )
    print_methods([UNTOUCHED], None)
    assert capsys.readouterr().out.startswith("as the mapping says")
