"""sd_notify(3) on a real socket; memory and user in processes of their own; see tests/interop/test_process.py."""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
import sys
import time
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


def test_each_state_is_one_datagram_until_it_stops(manager: ServiceManager, heard: socket.socket) -> None:
    manager.ready("all well")
    assert heard.recv(4096) == b"READY=1\nSTATUS=all well"
    before = time.monotonic() * 1e6
    manager.reloading()
    state, clock = heard.recv(4096).decode().split("\nMONOTONIC_USEC=")
    assert state == "RELOADING=1"
    assert before <= int(clock) + 1 <= time.monotonic() * 1e6 + 1
    manager.alive("still well")
    assert heard.recv(4096) == b"WATCHDOG=1\nSTATUS=still well"
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


@each_case(
    ("variables", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "1500000"}, 1.5),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": str(os.getpid())}, 1.5),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "1"}, None),
    ],
)
def test_the_watchdog_is_ours_unless_it_names_another_process(variables: dict[str, str], seconds: float | None) -> None:
    assert from_environment(variables).watchdog == seconds


@each_case(
    ("variables", "says"),
    [
        ({"NOTIFY_SOCKET": "vsock:2:1"}, r"NOTIFY_SOCKET: expected /PATH or @NAME, got 'vsock:2:1'"),
        ({"WATCHDOG_USEC": "0"}, r"WATCHDOG_USEC: expected a number above 0, got '0'"),
        ({"WATCHDOG_USEC": "soon"}, r"WATCHDOG_USEC: expected a number above 0, got 'soon'"),
    ],
)
def test_broken_variables_are_named(variables: dict[str, str], says: str) -> None:
    with pytest.raises(OSError, match=says):
        from_environment(variables)


# Memory


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
def test_nothing_of_root_is_left() -> None:
    groups = sorted(os.getgrouplist("nobody", NOBODY.pw_gid))
    uid, gid = NOBODY.pw_uid, NOBODY.pw_gid
    assert attempt("process.become('nobody', [])") == f"{(uid,) * 3} {(gid,) * 3} {groups}"


@AS_ROOT
def test_files_are_handed_over_and_links_are_not_followed(tmp_path: Path) -> None:
    precious, link = tmp_path / "precious", tmp_path / "link"
    precious.write_text("")
    link.symlink_to(precious)
    attempt(f"from pathlib import Path\nprocess.become('nobody', [Path({str(link)!r})])")
    assert link.lstat().st_uid == NOBODY.pw_uid
    assert precious.stat().st_uid == 0


@AS_ROOT
def test_a_file_that_was_given_to_a_group_stays_that_groups(tmp_path: Path) -> None:
    ours, given = tmp_path / "ours", tmp_path / "given"
    for file, group in ((ours, os.getegid()), (given, 54_321)):
        file.write_text("")
        os.chown(file, -1, group)
    attempt(f"from pathlib import Path\nprocess.become('nobody', [Path({str(ours)!r}), Path({str(given)!r})])")
    assert [(file.stat().st_uid, file.stat().st_gid) for file in (ours, given)] == [
        (NOBODY.pw_uid, NOBODY.pw_gid),
        (NOBODY.pw_uid, 54_321),
    ]


@AS_ROOT
def test_an_ordinary_user_cannot_become_another() -> None:
    says = attempt("os.setuid(65533)\nprocess.become('nobody', [])")
    assert says == "PermissionError: user = 'nobody': only root can change to it, and this is uid 65533"


def test_who_is_that_user_already_stays_so() -> None:
    me = pwd.getpwuid(os.geteuid())
    assert attempt(f"process.become({me.pw_name!r}, [])").startswith(f"{(me.pw_uid,) * 3} ")
