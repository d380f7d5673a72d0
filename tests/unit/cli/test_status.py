"""`xcp-gateway status`: the state of the gateway, and the table of methods."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from gateway.cli.daemon import MANY, STYLES, print_methods, print_status
from gateway.core.migration.limits import Assessment
from tests.kit.admin import validator

BUS = {"name": "toolstack", "connected": False, "address": "unix:path=/x", "in_flight": 1, "late_replies": 0,
       "last_error": "gone", "since": None, "connections": 0}  # fmt: skip
SERVICE = {"name": "org.x", "bus": "toolstack", "state": "absent", "owner": "", "breaker": "open", "probe_in": 2.5,
           "in_flight": 0, "calls": 7, "faults": 6}  # fmt: skip
UPSTREAM = {"name": "old", "url": "http://old", "in_flight": 0, "waiting": 3, "idle": 0, "last_error": "refused",
            "unreachable": ""}  # fmt: skip
STORE = {"listener": "guests", "connected": True, "address": "/run/xs", "watches": 1, "waiting": 0, "last_error": "",
         "reconnects": 0, "serving": True}  # fmt: skip
STATUS: dict[str, Any] = {
    "version": "1", "ready": False, "reasons": ["bus down"], "warnings": [], "revision": "r1", "in_flight": 1,
    "listening": ["tcp:h:1"], "buses": [BUS], "services": [SERVICE], "upstreams": [UPSTREAM], "stores": [STORE],
    "operators": None, "state": {"place": "/var/state.db", "trouble": ""}, "ungoverned": [],
    "metrics": None, "tasks": 1, "buffered": 0, "workers": [],
}  # fmt: skip


def printed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def shown(capsys: pytest.CaptureFixture[str], **changes: Any) -> list[str]:
    answer = {**STATUS, **changes}
    validator({"$ref": "#/components/schemas/Status"}).validate(answer)
    print_status(answer)
    return printed(capsys)


def test_everything_has_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys) == [
        "xcp-gateway 1 not ready revision r1 1 in flight",
        "listening on tcp:h:1",
        "not ready: bus down",
        "state: /var/state.db",
        "BUS STATE ADDRESS IN FLIGHT LATE REPLIES LAST ERROR",
        "toolstack down unix:path=/x 1 0 gone",
        "",
        "UPSTREAM STATE ADDRESS IN FLIGHT WAITING LAST ERROR",
        "old reachable http://old 0 3 refused",
        "",
        "STORE STATE ADDRESS WATCHES WAITING LAST ERROR",
        "guests connected /run/xs 1 0",
        "",
        "SERVICE BUS OWNER BREAKER IN FLIGHT CALLS FAULTS",
        "org.x toolstack absent open, next probe in 2.5 s 0 7 6",
    ]


def test_what_an_operator_must_know_is_told_and_what_is_not_there_has_no_table(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = functools.partial(shown, capsys)
    row = {"number": 1, "pid": 71, "state": "serving", "leads": True, "restarts": 0}
    told = lines(workers=[row, {**row, "number": 2, "pid": 72, "leads": False, "restarts": 3}])
    at = told.index("WORKER PID STATE LEADS RESTARTS")
    assert told[at + 1 : at + 3] == ["1 71 serving yes 0", "2 72 serving 3"]
    away = {**UPSTREAM, "unreachable": "connection refused"}
    assert "old unreachable http://old 0 3 connection refused" in lines(upstreams=[away])
    assert not [line for line in lines(upstreams=[], stores=[]) if line.startswith(("UPSTREAM", "STORE"))]
    refused = "config or mapping files are refused"
    assert refused in lines(warnings=[refused])
    damaged = "state file /var/state.db is damaged"  # is told instead of its place
    told = lines(state={"place": "/var/state.db", "trouble": damaged}, warnings=[damaged])
    assert [line for line in told if "/var/state.db" in line] == [damaged]
    governs = "xapi.yaml:7: 'old' answers Async.VM.start"
    assert f"independent of modes: {governs}" in lines(ungoverned=[governs])
    heard = {"address": "unix:path=/x", "connected": True, "last_error": ""}
    assert not [line for line in lines(operators=heard) if "admin service" in line]
    unheard = {**heard, "connected": False, "last_error": "No such file or directory"}
    assert "the admin service is not on D-Bus: No such file or directory" in lines(operators=unheard)


# The table of methods


SIDE = {"answered": 5, "calls": 5, "errors": 0, "client_errors": 0, "error_rate": 0.0, "p50": 0.001, "p99": 0.002}
NEVER = {"answered": 0, "calls": 0, "errors": 0, "client_errors": 0, "error_rate": None, "p50": None, "p99": None}
SETTING = {"mode": "canary", "percent": "12.5", "control": "legacy", "observe": True, "noise": False}
ROW: dict[str, Any] = {
    "service": "xenopsd", "method": "VM.start", "group": "", "effect": "read", "upstream": "old", "key": "vm",
    "may_shadow": True, "client_errors": ["HANDLE_INVALID"],
    "mode": "canary 12.5% observed", "setting": SETTING, "source": "set by alice",
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


def rows_shown(capsys: pytest.CaptureFixture[str], width: int | None, *rows: dict[str, Any]) -> list[str]:
    print_methods(rows, width, everything=True)
    return printed(capsys)


def test_a_row_has_both_sides(capsys: pytest.CaptureFixture[str]) -> None:
    for row in (ROW, UNTOUCHED):
        validator({"$ref": "#/components/schemas/MethodRow"}).validate(row)
    _, header, told, untouched = rows_shown(capsys, None, ROW, UNTOUCHED)
    assert header == "METHOD MODE SHARE SOURCE CALLS EQUAL COMPARED ERRORS P50 P99 ASSESSMENT"
    assert told == (
        "VM.start canary observed 12.5% alice (rollout paused) 5 / 1,234 80.0% of 5 50.0%, 2 too large "
        "0% / 50.0% 1ms / 1ms 2ms / 2ms differs"
    )
    assert untouched == "VM.start legacy - mapping 0 / 0 - - - - - no evidence", "what never happened is no zero"
    _, _, told, legend = rows_shown(capsys, None, {**ROW, "legacy": {**SIDE, "client_errors": 3}})
    assert "0% / 50.0%, client 3 / 0" in told
    assert legend.startswith("client: faults that the mapping lists as the client's (client_errors)")
    *_, told = rows_shown(capsys, None, {**ROW, "set_by": "rollout default", "rollout": "running"})
    assert "rollout default (running)" in told
    _, header, _ = rows_shown(capsys, 60, ROW)
    assert header == "METHOD MODE SHARE EQUAL ASSESSMENT", "a narrow terminal gets the columns that matter"
    _, _, first, second = rows_shown(capsys, None, ROW, {**ROW, "service": "xapi"})
    assert (first.split()[0], second.split()[0]) == ("xenopsd/VM.start", "xapi/VM.start")


def test_shadow_is_said_to_prove_no_capacity(capsys: pytest.CaptureFixture[str]) -> None:
    answers = {side: {**ROW, "setting": {**SETTING, "mode": "shadow", "control": side}} for side in ("legacy", "dbus")}
    assert rows_shown(capsys, None, answers["legacy"])[-1].startswith("shadow proves no capacity")
    assert "capacity" not in "".join(rows_shown(capsys, None, ROW, answers["dbus"]))


def test_every_verdict_has_its_colour() -> None:
    assert STYLES.keys() == {word.value for word in Assessment}


def test_what_nothing_has_happened_to_is_only_counted(capsys: pytest.CaptureFixture[str]) -> None:
    off = {**UNTOUCHED, "mode": "off", "setting": {**SETTING, "mode": "off"}}
    print_methods([ROW, UNTOUCHED, UNTOUCHED, {**off, "service": "xapi"}, off], None)
    *_, row, counted = printed(capsys)
    assert row.split()[0] == "VM.start"
    rest = "xenopsd 2 legacy and 1 off, xapi 1 off (`status '*'` shows them)"
    assert counted == f"mode of the mapping, not called yet: {rest}"
    by_root = {**UNTOUCHED, "set_by": "root"}
    print_methods([by_root] * MANY, None)
    assert capsys.readouterr().out.count("VM.start") == MANY, "a person sees the methods that they set"
    print_methods([{**ROW, "set_by": "root"}, *[by_root] * (MANY + 1)], None)  # as after rollback --all
    *_, row, counted = printed(capsys)
    assert row.split()[0] == "VM.start"
    assert counted == "mode set by root, not called yet: xenopsd 21 legacy (`status '*'` shows them)"
