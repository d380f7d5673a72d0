"""Responses; sockets that systemd has passed."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator

import pytest

from adapters.http import addresses as activation
from adapters.http import response
from adapters.http.addresses import InheritedSockets, inherited
from adapters.http.response import HttpResponse, ResponseWriter
from gateway.core.rpc.model import Answer, Fault, FaultCode
from tests.kit.cases import each_case


@each_case(
    ("minor", "close", "expected"),
    [(1, False, None), (1, True, "close"), (0, False, "keep-alive"), (0, True, None)],
)
def test_connection_is_named_only_where_it_differs_from_the_version(
    minor: int, close: bool, expected: str | None
) -> None:
    data = ResponseWriter({}).write(HttpResponse(200, "a/b", b"", close), minor=minor).decode()
    found = re.search(r"Connection: (.*)\r\n", data)
    assert (found[1] if found else None) == expected
    assert data.startswith(f"HTTP/1.{minor} ")
    assert ResponseWriter({}).write(HttpResponse(405, "a/b", b"four"), bodiless=True).endswith(b": 4\r\n\r\n")


@each_case("headers", [{"a b": "c"}, {"a": "b\r\nc: d"}, {"": "x"}, {"a": "ü"}, {"Content-length": "1"}])
def test_a_header_that_would_break_the_answer_is_refused_by_name(headers: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(next(iter(headers))))):
        ResponseWriter(headers)


# Socket activation


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        made.listen()
        yield made


def environment(**variables: str) -> dict[str, str]:
    return {"LISTEN_PID": str(os.getpid()), "HOME": "/", **variables}


def test_what_was_passed_to_another_process_is_not_ours() -> None:
    variables = environment(LISTEN_PID="1", LISTEN_FDS="1")
    assert inherited(variables).names == ()
    assert variables["LISTEN_FDS"] == "1"


def test_each_name_stands_for_its_descriptors_and_the_variables_are_removed(
    listening: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activation, "FIRST_INHERITED", listening.fileno())
    os.set_inheritable(listening.fileno(), True)
    for names, name in (({"LISTEN_FDNAMES": "rpc"}, "rpc"), ({}, "unknown")):
        variables = environment(LISTEN_FDS="1", **names)
        assert inherited(variables).names == (name,)
        assert variables == {"HOME": "/"}
    assert not os.get_inheritable(listening.fileno())


@each_case(
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


@each_case("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_socket_that_does_not_listen_is_refused(kind: socket.SocketKind) -> None:
    with socket.socket(socket.AF_INET, kind) as silent:
        descriptor = silent.detach()
    with pytest.raises(OSError, match="the socket named 'rpc' is not a listening stream socket"):
        InheritedSockets({"rpc": [descriptor]}).take("rpc")


@each_case("status", [200, 204, 304, 500])
def test_a_plain_answer_of_an_upstream_has_its_own_head_each_time(status: int) -> None:
    """Heads that are kept are those of the same status, reason and headers."""
    writer = ResponseWriter({"X-Ours": "1"})
    for number in [*range(300), 0, 0]:
        headers = ((b"X-N", b"%d" % number), (b"content-length", b"2"))
        for reason, body in (("Fine", b"ab"), ("So \udcff", b"cd"), ("Fine", b"")):
            answer = Answer(body, "text/xml", None, status, reason, headers)
            assert response.is_plain(answer)
            assert writer.write_plain(answer) == writer.write(response.relay(answer))


@each_case(
    "answer",
    [
        Answer(b"x", "text/xml", None, 200, "OK", ((b"X", b"y"),)),
        Answer(bytes(response.LARGE + 1), "text/xml"),
        Answer(b"x", "text/xml", Fault(FaultCode.BUSY, "")),
        Answer(None, "text/xml"),
        Answer(b"", "text/xml", hang_up=True),
    ],
)
def test_other_answers_are_not_plain(answer: Answer) -> None:
    assert not response.is_plain(answer)
