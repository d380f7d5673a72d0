"""The demo's clients against servers that answer wrongly or not at all: each call is made, none counts as right."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from demo import migration, xenstore_clients
from demo.environment import Environment
from demo.http_clients import HTTP_CLIENTS, WEB
from demo.migration import DB, METHOD, MIGRATION, OF_DB, OF_WEB, SHARE
from demo.report import GATEWAY, OLD, SIDES, CommandOutput
from demo.xenstore_clients import XENSTORE_CLIENTS, RpcError, Squeezed, mailbox
from gateway.core.migration.modes import share
from gateway.core.routing.policy import bucket
from tests.kit.demo_calls import CallRecorder, RecordedCalls, members, unreachable_environment
from tests.kit.programs import ROOT
from tests.kit.stores import Xenstored, xenstored
from tests.kit.toolstack import load

FAULT = (
    b"<methodResponse><fault><value><struct><member><name>faultCode</name><value><int>1</int></value></member>"
    b"<member><name>faultString</name><value>no</value></member></struct></value></fault></methodResponse>"
)

# Left by clients that cannot read an answer: open sockets, and responses that Python 3.13 cannot flush any more.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings(r"ignore:.*http\.client\.HTTPResponse:pytest.PytestUnraisableExceptionWarning"),
]


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """A server that answers every request with this; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Content-Type", "text/xml")
            self.end_headers()
            self.wfile.write(body)

        def log_request(self, code: object = "-", size: object = "-") -> None:
            """Print nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        serving.join()


def ask_all(status: int, body: bytes) -> RecordedCalls:
    """Make every call of every client with such a server."""
    recorder = CallRecorder()
    with answering(status, body) as url:
        for client in HTTP_CLIENTS:
            client(unreachable_environment(url), recorder)
    return recorder.calls


@pytest.fixture(scope="module")
def refused() -> RecordedCalls:
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
def test_every_call_is_made_whatever_the_one_before_brought(status: int, body: bytes, refused: RecordedCalls) -> None:
    assert [one[:3] for one in ask_all(status, body)] == [one[:3] for one in refused]


def test_each_client_asks(refused: RecordedCalls) -> None:
    assert {one.client for one in refused} == {"XenAPI", "xmlrpc.client", "curl", "jsonrpclib"}


def test_what_cannot_be_answered_is_never_right(refused: RecordedCalls) -> None:
    for one in refused:
        assert isinstance(one.answer, Exception) or not one.expected(one.answer), one


def test_every_target_is_a_member_of_the_toolstack(refused: RecordedCalls) -> None:
    known = members()
    for one in refused:
        assert not one.target or any(member.endswith(one.target) for member in known), one


# Calls in a xenstore without a gateway


@pytest.fixture(scope="module")
def store() -> Iterator[Xenstored]:
    with xenstored() as running:
        yield running


@pytest.fixture(scope="module")
def environment(store: Xenstored) -> Environment:
    return unreachable_environment(store=Path(store.path))


@pytest.fixture
def store_calls(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> RecordedCalls:
    monkeypatch.setattr(xenstore_clients, "TIMEOUT", 0.2)
    recorder = CallRecorder()
    for client in XENSTORE_CLIENTS:
        client(environment, recorder)
    return recorder.calls


def test_each_client_asks_and_what_nobody_answers_is_never_right(store_calls: RecordedCalls) -> None:
    assert {one.client for one in store_calls} == {"pyxs", "xenstore-write"}
    for one in store_calls:
        assert isinstance(one.answer, Exception) or not one.expected(one.answer), one


def test_every_target_in_a_store_is_a_member_of_the_toolstack(store_calls: RecordedCalls) -> None:
    known = members()
    for one in store_calls:
        assert not one.target or any(member.endswith(one.target) for member in known), one


def test_a_mailbox_is_read_until_it_holds_what_is_wanted(environment: Environment, store: Xenstored) -> None:
    assert mailbox(environment, "/box/word", "do", "/box/word", "do")() == "do"
    assert store.tool("read", "/box/word") == "do\n"


def test_what_is_there_before_is_no_answer(
    environment: Environment, store: Xenstored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(xenstore_clients, "TIMEOUT", 0.1)
    store.tool("write", "/box/state", "done")
    assert mailbox(environment, "/box/command", "do", "/box/state", "done")() is None


# squeezed's client on a real store, with the test as its server


REQUEST, RESPONSE = "/squeezed/rpc/request", "/squeezed/rpc/response"


@pytest.fixture
def client(store: Xenstored) -> Iterator[Squeezed]:
    with Squeezed(store.path) as squeezed:
        yield squeezed


def test_an_answer_with_a_code_and_a_description_is_an_error(
    store: Xenstored, client: Squeezed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uuid, "uuid4", lambda: "3")
    store.tool("write", f"{REQUEST}/echo/3", "")
    store.tool("write", f"{RESPONSE}/echo/3/code", "1", f"{RESPONSE}/echo/3/description", "echo")
    with pytest.raises(RpcError) as raised:
        client.call("echo")
    assert (raised.value.code, raised.value.description) == (1, "echo")


# The migration without a gateway, and its numbers


@pytest.fixture(scope="module")
def migration_calls(tmp_path_factory: pytest.TempPathFactory) -> RecordedCalls:
    recorder = CallRecorder()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(migration, "run", lambda *_: CommandOutput("no gateway answers"))
        for client in MIGRATION:
            client(
                unreachable_environment("http://127.0.0.1:1", directory=tmp_path_factory.mktemp("environment")),
                recorder,
            )
    return recorder.calls


def test_every_step_is_made_and_none_is_right(migration_calls: RecordedCalls) -> None:
    assert [one.call.split()[0] for one in migration_calls if one.client == "xcp-gateway"] == [
        "mode", "mode", "diff", "diff", "status", "mode", "explain", "mode", "rollback",
    ]  # fmt: skip
    for one in migration_calls:
        assert isinstance(one.answer, Exception) or not one.expected(one.answer), one


def test_both_sides_are_called_alone_and_together(migration_calls: RecordedCalls) -> None:
    called = {frozenset(one.senders) for one in migration_calls if one.client == "XenAPI"}
    assert called == {frozenset({GATEWAY}), frozenset({OLD}), SIDES}


def test_the_share_parts_the_two_vms() -> None:
    web, db = (bucket(f"xapi/{METHOD}", vm) for vm in (WEB, DB))
    assert web < share(SHARE) <= db


def test_the_memory_of_the_vms_is_that_of_the_sample() -> None:
    sample = load(ROOT / "docker/toolstack/sample.py")
    memory = {sample.ref(uuid): str(static) for uuid, _, _, static, _, _ in sample.VMS}
    assert (memory[WEB], memory[DB]) == (OF_WEB, OF_DB)
