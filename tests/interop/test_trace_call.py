"""The path of a call through the gateway's files, which scripts/trace-call prints, stays short enough to read."""

from __future__ import annotations

import subprocess
import sys

from tests.kit.programs import ROOT, TIMEOUT, until


def traced() -> str:
    """Return the path of a call, or nothing when it is too long: on a busy machine a timer may run in between."""
    command = [sys.executable, "-S", "scripts/trace-call"]  # without packages: it finds those of .venv
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    return "" if done.returncode else done.stdout


def test_a_call_runs_through_at_most_25_files_from_the_socket_to_the_bus() -> None:
    files = [line.split()[1] for line in until(traced).splitlines()[:-1]]
    path = ("adapters/http/connection.py", "gateway/pipeline/endpoint.py", "adapters/dbus/connection.py")
    assert [file for file in files if file in path] == list(path)
