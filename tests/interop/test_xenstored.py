"""The script that starts a real store without Xen."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit.programs import ROOT, TIMEOUT
from tests.kit.stores import C_STORE, OXENSTORED, starting

START = ROOT / "docker/xenstored/start.py"


@pytest.mark.parametrize(("name", "status"), [(C_STORE, -signal.SIGTERM), (OXENSTORED, 0)])
def test_the_script_becomes_the_store(tmp_path: Path, name: str, status: int) -> None:
    command = [sys.executable, str(START), "--dir", str(tmp_path / "store"), "--store", name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            path = process.stdout.readline().strip()
            while not starting.listens(path):
                assert process.poll() is None
            env = {**os.environ, "XENSTORED_PATH": path}
            assert subprocess.check_output(["xenstore-list", "/tool"], env=env, text=True) == "xenstored\n"
            assert Path(f"/proc/{process.pid}/exe").resolve().name == name
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == status


def test_a_path_that_no_socket_can_have_is_refused_with_words(tmp_path: Path) -> None:
    command = [sys.executable, str(START), "--dir", str(tmp_path / ("long" * 30))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.endswith("is too long for a socket's path (107 bytes)\n")


def test_without_a_compiler_it_says_what_to_install(tmp_path: Path) -> None:
    command = [sys.executable, str(START), "--dir", str(tmp_path)]
    done = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("start.py: there is no C compiler here; install xen-utils-4.17 (Debian 12)")
