"""How the gateway is, printed."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.cli.status import print_status
from tests.kit.admin import validator

BUS = {"name": "toolstack", "connected": False, "address": "unix:path=/x", "in_flight": 1, "late_replies": 0,
       "last_error": "gone"}  # fmt: skip
SERVICE = {"name": "org.x", "bus": "toolstack", "state": "absent", "owner": "", "breaker": "open", "probe_in": 2.5,
           "in_flight": 0, "calls": 7, "faults": 6}  # fmt: skip
UPSTREAM = {"name": "old", "url": "http://old", "in_flight": 0, "waiting": 3, "idle": 0, "last_error": "refused"}
STORE = {"listener": "guests", "connected": True, "address": "/run/xs", "watches": 1, "waiting": 0, "last_error": "",
         "reconnects": 0}  # fmt: skip
STATUS: dict[str, Any] = {
    "version": "1", "ready": False, "reasons": ["bus down"], "warnings": [], "revision": "r1", "in_flight": 1,
    "listening": ["tcp:h:1"], "buses": [BUS], "services": [SERVICE], "upstreams": [UPSTREAM], "stores": [STORE],
    "operators": None, "state": {"place": "/var/state.db", "trouble": ""}, "ungoverned": [],
}  # fmt: skip


def shown(capsys: pytest.CaptureFixture[str], **changes: Any) -> str:
    answer = {**STATUS, **changes}
    validator({"$ref": "#/components/schemas/Status"}).validate(answer)
    print_status(answer)
    return capsys.readouterr().out


def test_everything_has_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [" ".join(line.split()) for line in shown(capsys).splitlines()]
    assert lines == [
        "xcp-gateway 1 not ready revision r1 1 in flight",
        "listening on tcp:h:1",
        "not ready: bus down",
        "state: /var/state.db",
        "BUS STATE ADDRESS IN FLIGHT LATE REPLIES LAST ERROR",
        "toolstack down unix:path=/x 1 0 gone",
        "",
        "OLD SERVICE ADDRESS IN FLIGHT WAITING LAST ERROR",
        "old http://old 0 3 refused",
        "",
        "STORE STATE ADDRESS WATCHES WAITING LAST ERROR",
        "guests connected /run/xs 1 0",
        "",
        "SERVICE BUS OWNER BREAKER IN FLIGHT CALLS FAULTS",
        "org.x toolstack absent open, asked again in 2.5 s 0 7 6",
    ]


def test_a_warning_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert "\nconfig or mapping files are refused\n" in shown(capsys, warnings=["config or mapping files are refused"])


def test_what_is_not_there_has_no_table(capsys: pytest.CaptureFixture[str]) -> None:
    told = shown(capsys, upstreams=[], stores=[])
    assert "OLD SERVICE" not in told
    assert "STORE" not in told


def test_trouble_with_the_state_file_is_told_instead_of_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    told = shown(capsys, state={"place": "/var/state.db", "trouble": "state file /var/state.db is damaged"})
    assert "state file /var/state.db is damaged" in told


def test_what_no_mode_governs_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no mode governs" not in shown(capsys)
    told = shown(capsys, ungoverned=["xapi.yaml:7: 'old' answers Async.VM.start"])
    assert "no mode governs this: xapi.yaml:7: 'old' answers Async.VM.start" in told


def test_a_bus_on_which_operators_are_not_heard_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    heard = {"address": "unix:path=/x", "connected": True, "last_error": ""}
    assert "operators" not in shown(capsys, operators=heard)
    told = shown(capsys, operators={**heard, "connected": False, "last_error": "No such file or directory"})
    assert "no operators are heard on D-Bus: No such file or directory" in told
