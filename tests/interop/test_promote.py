"""`xcp-gateway promote` with a real gateway: the file, the reload, and what is no longer set at run time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.command import command
from tests.kit.gateway import TOY_MAPPING, Folder, gateway_process

OLD = TOY_MAPPING.replace("defaults: {", "legacy: {upstream: old}  # until it is gone\ndefaults: {mode: legacy, ")


@pytest.fixture
def folder(tmp_path: Path, empty_bus: str) -> Iterator[Folder]:
    folder = Folder(tmp_path)
    folder.mapping(OLD)
    folder.buses({"toolstack": (empty_bus, "org.example.*")})
    upstream = '[upstream.old]\nurl = "http://127.0.0.1:1"\n'
    folder.config.write_text(upstream + folder.config.read_text())
    with gateway_process(folder.config):
        yield folder


def run(folder: Folder, *words: str, status: int = 0) -> str:
    done = command(*words, socket=folder.control)
    assert done.exit_code == status, done.output
    return done.output


def file(folder: Folder) -> str:
    return (folder.mappings / "toy.yaml").read_text()


def test_what_is_set_at_run_time_becomes_the_mappings(folder: Folder) -> None:
    run(folder, "mode", "echo", "shadow", "--noise")
    run(folder, "mode", "leave", "dbus")
    run(folder, "mode", "label", "dbus", "--duration", "1h")
    told = run(folder, "promote", "--dry-run")
    assert "+  leave: {member: Leave, effect: write, mode: dbus}" in told
    assert "toy/label stays dbus at run time: it is set until" in told
    assert file(folder) == OLD
    told = run(folder, "promote", "--why", "october")
    assert "2 methods in 1 file written, and live\n" in told
    assert file(folder) == OLD.replace("[text]}", "[text], mode: shadow, noise: true}").replace(
        "effect: write}", "effect: write, mode: dbus}"
    )
    assert [each["pattern"] for each in json.loads(run(folder, "mode", "--json"))] == ["toy/label"]
    rows = {row["method"]: row for row in json.loads(run(folder, "mode", "*", "--json"))}
    assert (rows["echo"]["mode"], rows["echo"]["source"]) == ("shadow noise", "the mapping")
    assert rows["leave"]["mode"] == "dbus"
    assert "nothing to write" in run(folder, "promote", status=1)
    whats = [entry["what"] for entry in json.loads(run(folder, "audit", "--json"))]
    assert whats[:2] == ["promote", "reload"]
