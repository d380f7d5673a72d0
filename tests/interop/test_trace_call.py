"""The path of a call through the gateway's files, which scripts/trace-call prints, stays short enough to read."""

from __future__ import annotations

import subprocess
import sys

from tests.kit.programs import ROOT, TIMEOUT


def test_a_call_runs_through_at_most_25_files_from_the_socket_to_the_bus() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/trace-call"], cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    files = [line.split()[1] for line in done.stdout.splitlines()[:-1]]
    path = ("adapters/http/connection.py", "gateway/pipeline/endpoint.py", "adapters/dbus/connection.py")
    assert [file for file in files if file in path] == list(path)
