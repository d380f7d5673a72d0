"""sd_listen_fds(3): which descriptors are ours, under which names, and what is no listening socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.http import socket_activation as activation
from adapters.http.socket_activation import InheritedSockets, inherited


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        made.listen()
        yield made


def environment(**variables: str) -> dict[str, str]:
    return {"LISTEN_PID": str(os.getpid()), "HOME": "/", **variables}


def test_without_systemd_there_is_nothing() -> None:
    assert inherited({}).names == ()


def test_what_was_passed_to_another_process_is_not_ours() -> None:
    variables = environment(LISTEN_PID="1", LISTEN_FDS="1")
    assert inherited(variables).names == ()
    assert variables["LISTEN_FDS"] == "1"


def test_each_name_stands_for_its_descriptors_and_the_variables_are_removed(
    listening: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activation, "FIRST", listening.fileno())
    os.set_inheritable(listening.fileno(), True)
    variables = environment(LISTEN_FDS="1", LISTEN_FDNAMES="rpc")
    passed = inherited(variables)
    assert variables == {"HOME": "/"}
    assert passed.names == ("rpc",)
    assert not os.get_inheritable(listening.fileno())


def test_without_names_every_socket_is_called_unknown(
    listening: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activation, "FIRST", listening.fileno())
    assert inherited(environment(LISTEN_FDS="1")).names == ("unknown",)


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"LISTEN_FDS": "many"}, "LISTEN_FDS: expected a number, got 'many'"),
        ({}, "LISTEN_FDS: expected a number, got ''"),
        ({"LISTEN_FDS": "2", "LISTEN_FDNAMES": "rpc"}, "LISTEN_FDNAMES: expected 2 names, got 1"),
    ],
)
def test_broken_variables_are_named(variables: dict[str, str], says: str) -> None:
    with pytest.raises(OSError, match=f"^{says}$"):
        inherited(environment(**variables))


def test_a_name_is_taken_once(listening: socket.socket) -> None:
    passed = InheritedSockets({"rpc": [os.dup(listening.fileno())]})
    (taken,) = passed.take("rpc")
    assert taken.getsockname() == listening.getsockname()
    taken.close()
    with pytest.raises(OSError, match=r"^systemd passed no socket named 'rpc'; left to take: none$"):
        passed.take("rpc")


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_socket_that_does_not_listen_is_refused(kind: socket.SocketKind) -> None:
    with socket.socket(socket.AF_INET, kind) as silent:
        descriptor = silent.detach()
    with pytest.raises(OSError, match="the socket named 'rpc' is no listening stream socket"):
        InheritedSockets({"rpc": [descriptor]}).take("rpc")


def test_what_is_no_socket_at_all_is_refused(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(OSError, match="Socket operation on non-socket"):
        InheritedSockets({"rpc": [descriptor]}).take("rpc")
    os.close(descriptor)
