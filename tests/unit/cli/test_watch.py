from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.cli.watch import Watcher

REF = "OpaqueRef:1"


def event(operation: str, **record: Any) -> bytes:
    told = {"operation": operation, "class": "VM", "ref": REF, "id": "7", "timestamp": "0.0"}
    return json.dumps(told if operation == "del" else {**told, "snapshot": record}).encode()


def watched(watcher: Watcher, *lines: bytes, capsys: pytest.CaptureFixture[str]) -> list[str]:
    for line in lines:
        watcher.line(line)
    return capsys.readouterr().out.splitlines()


def test_only_changes_are_shown_each_field_with_old_and_new_value(capsys: pytest.CaptureFixture[str]) -> None:
    long = "y" * 500
    events = (event("add", name_label="web", memory=1), b'{"ready":1}', event("mod", name_label="web", memory=long))
    lines = watched(Watcher(first=False, as_json=False), *events, event("del"), capsys=capsys)
    assert [line[9:] for line in lines[::2]] == [f"mod VM web {REF}", f"del VM web {REF}"]
    assert lines[1] == f'    memory: 1 -> "{"y" * 199}...'


def test_an_object_that_is_not_there_and_a_bus_that_is_down_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    def missing() -> list[str]:
        return ["no bus"]

    Watcher(first=False, as_json=False, what="VM/OpaqueRef:nope", missing=missing).line(b'{"ready":0}')
    told = ["watching 0 objects; Ctrl-C ends it", "note: there is no VM/OpaqueRef:nope now", "note: no bus"]
    assert capsys.readouterr().err.splitlines() == told
    Watcher(first=False, as_json=False, what="VM").line(b'{"ready":0}')
    assert capsys.readouterr().err.splitlines() == told[:1]


def test_as_json_each_change_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    events = (event("add", name_label="web"), b'{"ready":1}', event("mod", name_label="db", domid=5))
    lines = watched(Watcher(first=True, as_json=True), *events, capsys=capsys)
    added, modified = map(json.loads, lines)
    assert added["changes"] == {"name_label": {"old": None, "new": "web"}}
    changes = {"name_label": {"old": "web", "new": "db"}, "domid": {"old": None, "new": 5}}
    assert modified == {"operation": "mod", "class": "VM", "ref": REF, "id": "7", "changes": changes}
