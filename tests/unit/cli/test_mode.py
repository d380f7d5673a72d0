"""Commands for modes, against an API that serves a real state."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gateway.cli import app
from gateway.cli.mode import MAX_LINES, moved_lines
from gateway.core.admin.records import CountsBatch, MethodId, MismatchRecord
from tests.kit.admin import Served, served

DOCUMENT = {
    "call": {"method": "VM.get_state", "params": ["vm-1"], "named": {}}, "caller": "uid 0", "protocol": "xmlrpc",
    "verdict": "different", "more": False, "ignored": [], "noisy": [],
    "control": {"side": "legacy", "ms": 1.0, "reply": "Halted"},
    "candidate": {"side": "dbus", "ms": 2.0, "reply": "Running"},
    "differences": [{"path": "$", "control": "Halted", "candidate": "Running", "why": ""}],
}  # fmt: skip


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as running:
        yield running


def run(api: Served, *words: str) -> Result:
    return CliRunner().invoke(app, [*words, "--socket", api.socket], env={"COLUMNS": "200"})


def out(api: Served, *words: str) -> str:
    ended = run(api, *words)
    assert ended.exit_code == 0, ended.output
    return ended.stdout


def test_a_mode_is_set_shown_and_taken_back(api: Served) -> None:
    assert out(api, "mode") == "no modes are set at run time; every method has the mode of its mapping\n"
    assert out(api, "mode", "set", "VM.get_state", "shadow", "--noise", "--duration", "10m", "--why", "try") == (
        "xenopsd/VM.get_state: legacy -> shadow noise\n"
    )
    assert "try" in out(api, "mode")
    assert "set by" in out(api, "mode", "VM.get_state")
    assert out(api, "mode", "clear", "VM.get_state") == "xenopsd/VM.get_state: shadow noise -> legacy\n"
    (before, after) = json.loads(out(api, "audit", "--json"))
    assert (before["numbers"], after["why"]) == ({"mode": "mapping"}, "try")


def test_a_pattern_changes_what_it_can_and_says_what_stays(api: Served) -> None:
    out(api, "mode", "VM.start", "dbus")
    assert out(api, "mode", "VM.*", "canary", "--percent", "0.5") == (
        "xenopsd/VM.get_state: legacy -> canary 0.5%\n"
        "xenopsd/VM.start: dbus, since 'xenopsd/VM.start' is set to dbus by root\n"
    )
    assert out(api, "mode", "VM.get_state", "canary", "--percent", "0.5") == "1 method unchanged\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["mode", "VM.strt", "dbus"], "no mapped method is named 'VM.strt' (did you mean 'VM.start'?)"),
        (["mode", "set", "VM.start", "shadow"], "shadow is refused: each call would run twice, and these are writes: "),
        (["mode", "VM.nope"], "no mapped method is named 'VM.nope'"),
        (["mode", "set", "VM.start"], "mode set: expected METHOD MODE, got VM.start"),
        (["mode", "clear"], "mode clear: expected METHOD, got nothing"),
        (["diff", "--reset"], "--reset: METHOD is missing"),
        (["rollback"], "--all is missing; for one method use `xcp-gateway mode set METHOD legacy`"),
    ],
)
def test_an_error_is_on_stderr(api: Served, words: list[str], says: str) -> None:
    ended = run(api, *words)
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert says in ended.stderr


def test_an_explanation_says_who_would_answer_and_why(api: Served) -> None:
    out(api, "mode", "VM.get_state", "canary", "--percent", "50", "--observe")
    told = out(api, "explain", "VM.get_state", "vm-1")
    assert told.startswith("xenopsd/VM.get_state: served by ")
    for fact in ("canary at 50%: vm is in bucket", "of 100000; D-Bus serves those below 50000",
                 "legacy runs the call too, and",
                 "upstream old", "vm: vm-1", "toy.yaml:1"):  # fmt: skip
        assert fact in told
    assert "vm: this call has none" in out(api, "explain", "VM.get_state")
    assert json.loads(out(api, "explain", "VM.get_state", "--key", "vm-2", "--json"))[0]["value"] == "vm-2"


def test_differences_are_shown_exported_and_forgotten(api: Served) -> None:
    assert out(api, "diff") == "no mismatches\n"
    pair = MismatchRecord(1.0, MethodId("xenopsd", "VM.get_state"), DOCUMENT)  # type: ignore[arg-type]
    api.do(api.api.state.flush(CountsBatch(pairs=[pair, pair])))
    assert "Halted" in out(api, "diff", "VM.get_state")
    lines = [json.loads(line) for line in out(api, "diff", "--json-lines").splitlines()]
    assert lines == [{"when": 1.0, "method": ["xenopsd", "VM.get_state"], **DOCUMENT}] * 2
    assert len(out(api, "diff", "--json-lines", "--limit", "1").splitlines()) == 1
    assert out(api, "diff", "VM.get_state", "--reset") == ("deleted mismatches and call statistics of 1 method\n")
    assert out(api, "diff") == "no mismatches\n"


def test_everything_goes_back_with_one_command(api: Served) -> None:
    out(api, "mode", "VM.get_state", "dbus")
    assert out(api, "rollback", "--all", "--why", "smoke") == (
        "xenopsd/VM.get_state: dbus -> legacy\n1 method unchanged\n"
    )
    assert "smoke" in out(api, "audit")
    assert json.loads(out(api, "rollback", "--all", "--json"))["mode"] == "legacy"


def test_the_audit_is_that_of_one_subject_or_of_a_time(api: Served) -> None:
    out(api, "mode", "VM.get_state", "dbus")
    out(api, "mode", "group:life", "dbus")
    assert len(out(api, "audit").splitlines()) == 3
    assert len(out(api, "audit", "group:life", "--since", "1h").splitlines()) == 2
    assert len(out(api, "audit", "--limit", "1").splitlines()) == 2


def test_of_very_many_moved_methods_only_the_numbers_are_told() -> None:
    moved = [{"service": "xapi", "method": f"m{at}", "before": "dbus", "after": "legacy"} for at in range(MAX_LINES)]
    assert len(moved_lines(moved)) == MAX_LINES
    one_more = {**moved[0], "service": "xenopsd", "before": "shadow"}
    assert moved_lines([*moved, one_more]) == [
        f"xapi: {MAX_LINES} methods dbus -> legacy",
        "xenopsd: 1 method shadow -> legacy",
    ]
