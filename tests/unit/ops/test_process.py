"""sd_notify(3) on a real socket; memory and user in processes of their own; see tests/interop/test_process.py."""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.ops.process import ServiceManager, from_environment
from tests.kit.cases import each_case
from tests.kit.programs import ROOT

NOBODY = pwd.getpwnam("nobody")
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


@pytest.fixture
def heard(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.setblocking(False)
        yield listening


@pytest.fixture
def manager(heard: socket.socket) -> ServiceManager:
    return from_environment({"NOTIFY_SOCKET": heard.getsockname()})


def test_after_it_has_said_that_it_stops_nothing_is_told(manager: ServiceManager, heard: socket.socket) -> None:
    manager.stopping()
    assert heard.recv(4096).startswith(b"STOPPING=1\n")
    manager.ready("a reload has ended")
    with pytest.raises(BlockingIOError):
        heard.recv(4096)


def test_a_manager_that_is_gone_or_full_hinders_nobody(manager: ServiceManager, heard: socket.socket) -> None:
    for _ in range(2000):
        manager.alive("well")
    heard.close()
    manager.ready("well")


WATCHDOG = {"WATCHDOG_USEC": "1500000"}


@each_case(
    ("variables", "expected"),
    [
        ({}, None),
        (WATCHDOG, 1.5),
        ({**WATCHDOG, "WATCHDOG_PID": str(os.getpid())}, 1.5),
        ({**WATCHDOG, "WATCHDOG_PID": "1"}, None),
        ({"NOTIFY_SOCKET": "vsock:2:1"}, "NOTIFY_SOCKET: expected /PATH or @NAME, got 'vsock:2:1'"),
        ({"WATCHDOG_USEC": "0"}, "WATCHDOG_USEC: expected a number above 0, got '0'"),
        ({"WATCHDOG_USEC": "soon"}, "WATCHDOG_USEC: expected a number above 0, got 'soon'"),
    ],
)
def test_the_watchdog_is_ours_unless_it_names_another_process_and_broken_variables_are_named(
    variables: dict[str, str], expected: float | str | None
) -> None:
    try:
        found: float | str | None = from_environment(variables).watchdog
    except OSError as error:
        found = str(error)
    assert found == expected


def test_small_blocks_that_stay_do_not_keep_large_ones_that_were_freed() -> None:
    lines = """
from concurrent.futures import ThreadPoolExecutor
process.return_freed_memory()
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGESIZE") // 2**20
kept, before = [], resident()
def pass_large_messages(_):
    large = []
    for _ in range(6):
        large.append(bytearray(8 * 2**20))
        kept.append(bytes(700))
with ThreadPoolExecutor(4) as threads:
    list(threads.map(pass_large_messages, range(20)))
    print(resident() - before)
"""
    grown = int(attempt(lines).split()[0])  # MiB; 130 without it
    assert grown < 24


# The change to another user


def attempt(lines: str) -> str:
    """What a Python process prints that imports `process` and then does this."""
    script = (
        f"import os\nfrom gateway.ops import process\n{lines}\nprint(os.getresuid(), os.getresgid(), os.getgroups())"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    return (done.stdout or done.stderr.splitlines()[-1]).strip()


@AS_ROOT
def test_files_are_handed_over_links_not_followed_and_a_group_that_was_given_stays(tmp_path: Path) -> None:
    precious, link, given = (tmp_path / name for name in ("precious", "link", "given"))
    for file in (precious, given):
        file.write_text("")
    link.symlink_to(precious)
    os.chown(given, -1, 54_321)
    attempt(f"from pathlib import Path\nprocess.become('nobody', [Path({str(link)!r}), Path({str(given)!r})])")
    assert [(file.lstat().st_uid, file.lstat().st_gid) for file in (precious, link, given)] == [
        (0, os.getegid()),
        (NOBODY.pw_uid, NOBODY.pw_gid),
        (NOBODY.pw_uid, 54_321),
    ]


@AS_ROOT
def test_an_ordinary_user_cannot_become_another_and_stays_itself() -> None:
    says = attempt("os.setuid(65533)\nprocess.become('nobody', [])")
    assert says == "PermissionError: user = 'nobody': only root can change to it, and this is uid 65533"
    assert (
        attempt("process.become('no-such-user', [])")
        == "PermissionError: user = 'no-such-user': the user does not exist"
    )
    same = f"os.setuid({NOBODY.pw_uid})\nprocess.become('nobody', [])"
    assert attempt(same).startswith(f"{(NOBODY.pw_uid,) * 3} ")
