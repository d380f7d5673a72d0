"""The real stores without Xen: the kit that starts it, the tools of Debian and pyxs's own Client on them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import pyxs

from tests.kit.programs import ROOT, TIMEOUT
from tests.kit.stores import C_STORE, OXENSTORED, Xenstored, starting

START = ROOT / "docker/xenstored/start.py"


def test_a_guest_that_goes_takes_its_nodes_with_it(daemon: Xenstored) -> None:
    with pyxs.Client(unix_socket_path=daemon.path) as client, daemon.watching("@releaseDomain") as watch:
        assert watch.stdout is not None
        assert watch.stdout.readline() == "@releaseDomain\n"
        client.introduce_domain(5, 1, 1)
        assert client.is_domain_introduced(5)
        client.write(b"/local/domain/5", b"x")
        client.set_perms(b"/local/domain/5", [b"n5"])
        client.execute_command(9, b"5\0")  # RELEASE
        assert watch.stdout.readline() == "@releaseDomain\n"
        assert not client.exists(b"/local/domain/5")


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
