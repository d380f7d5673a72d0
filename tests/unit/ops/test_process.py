"""sd_notify(3) against a real socket; the whole process is tried in tests/interop/test_process.py."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.ops.process import ServiceManager, from_environment


@pytest.fixture
def heard(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.setblocking(False)
        yield listening


@pytest.fixture
def manager(heard: socket.socket) -> ServiceManager:
    return from_environment({"NOTIFY_SOCKET": heard.getsockname()})


def test_each_state_is_one_datagram(manager: ServiceManager, heard: socket.socket) -> None:
    manager.ready("all well")
    assert heard.recv(4096) == b"READY=1\nSTATUS=all well"
    manager.alive("still well")
    assert heard.recv(4096) == b"WATCHDOG=1\nSTATUS=still well"
    manager.stopping()
    assert heard.recv(4096).startswith(b"STOPPING=1\n")


def test_a_reload_carries_the_monotonic_clock(manager: ServiceManager, heard: socket.socket) -> None:
    before = time.monotonic() * 1e6
    manager.reloading()
    state, clock = heard.recv(4096).decode().split("\nMONOTONIC_USEC=")
    assert state == "RELOADING=1"
    assert before <= int(clock) + 1 <= time.monotonic() * 1e6 + 1


def test_nothing_is_told_after_stopping(manager: ServiceManager, heard: socket.socket) -> None:
    manager.stopping()
    heard.recv(4096)
    manager.ready("a reload has ended")
    with pytest.raises(BlockingIOError):
        heard.recv(4096)


def test_a_manager_that_is_gone_or_full_hinders_nobody(manager: ServiceManager, heard: socket.socket) -> None:
    for _ in range(2000):
        manager.alive("well")
    heard.close()
    manager.ready("well")


def test_without_a_manager_nothing_is_told() -> None:
    manager = from_environment({})
    manager.ready("well")
    assert manager.watchdog is None


@pytest.mark.parametrize(
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


@pytest.mark.parametrize(
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
