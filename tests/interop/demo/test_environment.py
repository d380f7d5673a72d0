"""The demo's environment: its addresses and files, that nothing is left of it, and its errors when it cannot start."""

from __future__ import annotations

import json
import signal
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from demo import environment
from demo.environment import Environment, StartError, find_folder, start_environment
from gateway.cli import client
from gateway.config import load

pytestmark = pytest.mark.bus


def test_everything_is_where_the_environment_says(running: Environment) -> None:
    assert running.bus == f"unix:path={running.directory}/bus"
    assert running.unix.is_socket()
    assert load(running.config).bus["toolstack"].address == running.bus
    status = client.ask(running.admin, "GET", "/v1/status")
    assert status["ready"] is True
    assert f"tcp:{running.url.removeprefix('http://')}" in status["listening"]
    assert "ready" in running.log.read_text()
    assert running.store.is_socket()
    assert running.no_store == ""
    assert (running.directory / "old-xapi").is_socket()
    assert running.switches.parent == running.directory


def test_a_call_starts_the_service_it_is_for(running: Environment) -> None:
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "perfmon.get_interval", "params": []}).encode()
    with urllib.request.urlopen(f"{running.url}/perfmon/jsonrpc", body) as answer:
        assert json.load(answer) == {"jsonrpc": "2.0", "id": 1, "result": 0}


def test_nothing_is_left_when_the_block_is_interrupted() -> None:
    with pytest.raises(KeyboardInterrupt), start_environment() as running:
        raise KeyboardInterrupt
    assert not running.directory.exists()  # of processes the suite makes sure after every test


def test_nothing_is_left_when_it_is_interrupted_while_a_process_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(subprocess.Popen[bytes]):
        """A signal arrives when the bus runs and no variable holds it yet."""

        def __init__(self, command: list[str], **options: Any) -> None:
            super().__init__(command, **options)
            if command[0] == "dbus-daemon":
                signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), start_environment():
            pytest.fail("it started")
    finally:
        signal.signal(signal.SIGTERM, before)


def test_programs_that_are_missing_are_named_by_their_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(StartError, match="apt-get install curl dbus-bin dbus-daemon"), start_environment():
        pytest.fail("it started")


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ('print("unix:path=/nowhere", "echo out of order", sep="\\n")', "the bus did not start:\nout of order"),
        ('print("unix:path=/nowhere", "sleep 60", sep="\\n")', "the bus did not start:\n$"),
        ('raise SystemExit("there is no user")', "there is no user"),
    ],
    ids=["a bus that ends", "a bus that hangs", "a bus without a config"],
)
def test_a_bus_that_does_not_start_is_named_with_what_it_said(
    broken: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "render.py").write_text(broken)
    monkeypatch.setattr(environment, "find_folder", lambda name: tmp_path if name == "bus" else find_folder(name))
    if "sleep" in broken:
        monkeypatch.setattr(environment, "START_TIMEOUT", 0.2)
    with pytest.raises(StartError, match=message), start_environment():
        pytest.fail("it started")


def test_a_gateway_that_does_not_start_shows_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bad.yaml").write_text("mapping: 2\n")
    monkeypatch.setattr(environment, "find_folder", lambda name: tmp_path if name == "mappings" else find_folder(name))
    with pytest.raises(StartError, match=r"the gateway did not start:\n(?s:.*)bad\.yaml:1"), start_environment():
        pytest.fail("it started")
