"""The demo's environment when it cannot start: what it says, and that nothing is left of it."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from demo import environment
from demo.environment import StartError, find_folder, start_environment

pytestmark = pytest.mark.bus


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
