"""The demo's calls, asked of a server that answers all of them wrongly: none is left out, none is taken for right."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from gateway.demo.calls import CLIENTS, Right, is_
from gateway.demo.stage import Stage
from tests.kit.gateway import ROOT

STANDARD = {"ObjectManager.GetManagedObjects", "Properties.Get", "Properties.GetAll", "Properties.Set"}
FAULT = (
    b"<methodResponse><fault><value><struct><member><name>faultCode</name><value><int>1</int></value></member>"
    b"<member><name>faultString</name><value>no</value></member></struct></value></fault></methodResponse>"
)

pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # left by clients that cannot read an answer

Asked = list[tuple[str, str, str, Any, Right]]  # client, call, target, answer, what is right


class Asking:
    """A Show that shows nothing: it makes every call and keeps what came of it."""

    def __init__(self) -> None:
        self.asked: Asked = []

    def __call__(self, client: str, call: str, target: str, ask: Callable[[], Any], right: Right) -> Any:
        try:
            answer = ask()
        except Exception as error:  # noqa: BLE001 - as the demo does
            answer = error
        self.asked.append((client, call, target, answer, right))
        return answer


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
    nowhere = Path("/nowhere")
    asking = Asking()
    with answering(status, body) as url:
        stage = Stage(
            nowhere, bus="", url=url, unix=nowhere, store=nowhere, control=nowhere, config=nowhere, log=nowhere
        )
        for client in CLIENTS:
            client(stage, asking)
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
    assert {client for client, *_ in refused} == {"XenAPI", "xmlrpc.client", "curl", "jsonrpclib"}


def test_what_cannot_be_answered_is_never_right(refused: Asked) -> None:
    for client, call, _, answer, right in refused:
        assert isinstance(answer, Exception) or not right(answer), f"{client} {call}: {answer}"


def test_every_target_is_a_member_of_the_toolstack(refused: Asked) -> None:
    members = {
        f"{interface}.{member}"
        for path in (ROOT / "mappings/idl").glob("*.xml")
        for interface, body in re.findall(
            r'<interface name="[\w.]*?(\w+)">(.*?)</interface>', path.read_text(), re.DOTALL
        )
        for member in re.findall(r'<method name="(\w+)"', body)
    }
    for _, call, target, _, _ in refused:
        assert not target or target in STANDARD or any(one.endswith(target) for one in members), call


@pytest.mark.parametrize(
    ("expected", "wrong"), [(0, False), ("", None), ("1", 1), (["a"], ("a",)), ([1], [2]), (None, "")]
)
def test_an_answer_of_another_type_is_wrong(expected: object, wrong: object) -> None:
    assert is_(expected)(expected)
    assert not is_(expected)(wrong)
