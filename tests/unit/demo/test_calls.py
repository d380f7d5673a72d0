"""The demo's calls, asked of a server that answers all of them wrongly: none is left out, none is taken for right."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from demo.calls import CLIENTS
from tests.kit.demo_calls import Asked, Asking, members, nowhere

FAULT = (
    b"<methodResponse><fault><value><struct><member><name>faultCode</name><value><int>1</int></value></member>"
    b"<member><name>faultString</name><value>no</value></member></struct></value></fault></methodResponse>"
)

pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # left by clients that cannot read an answer


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """A server that answers everything with this; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Content-Type", "text/xml")
            self.end_headers()
            self.wfile.write(body)

        def log_request(self, code: object = "-", size: object = "-") -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        serving.join()


def ask_all(status: int, body: bytes) -> Asked:
    """Every call of every client, with what such a server answers."""
    asking = Asking()
    with answering(status, body) as url:
        for client in CLIENTS:
            client(nowhere(url), asking)
    return asking.asked


@pytest.fixture(scope="module")
def refused() -> Asked:
    return ask_all(500, b"no")


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b""),
        (200, b"<html>"),
        (200, FAULT),
        (200, b"{}"),
        (200, b"[]"),
        (200, b'{"jsonrpc": "2.0", "id": 1, "error": {"code": -32603, "message": "no"}}'),
        (204, b""),
    ],
)
def test_every_call_is_made_whatever_the_one_before_brought(status: int, body: bytes, refused: Asked) -> None:
    assert [one[:3] for one in ask_all(status, body)] == [one[:3] for one in refused]


def test_each_client_asks(refused: Asked) -> None:
    assert {one.client for one in refused} == {"XenAPI", "xmlrpc.client", "curl", "jsonrpclib"}


def test_what_cannot_be_answered_is_never_right(refused: Asked) -> None:
    for one in refused:
        assert isinstance(one.answer, Exception) or not one.right(one.answer), one


def test_every_target_is_a_member_of_the_toolstack(refused: Asked) -> None:
    known = members()
    for one in refused:
        assert not one.target or any(member.endswith(one.target) for member in known), one
