"""squeezed's old client on a real store, in which the test is the server."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from demo import old_squeezed
from demo.old_squeezed import RpcError, Squeezed
from tests.kit.stores import Xenstored, xenstored

REQUEST, RESPONSE = "/squeezed/rpc/request", "/squeezed/rpc/response"


@pytest.fixture(scope="module")
def store() -> Iterator[Xenstored]:
    with xenstored() as running:
        yield running


@pytest.fixture
def client(store: Xenstored) -> Iterator[Squeezed]:
    with Squeezed(store.path) as asking:
        yield asking


def test_a_request_is_a_node_with_its_arguments(store: Xenstored, client: Squeezed) -> None:
    client.ask("login", "1", service_name="test")
    assert store.tool("read", f"{REQUEST}/login/1/service_name") == "test\n"


def test_an_answer_is_read_and_both_nodes_are_removed(store: Xenstored, client: Squeezed) -> None:
    client.ask("login", "2", service_name="test")
    store.tool("write", f"{RESPONSE}/login/2/session_id", "test")
    assert client.wait("login", "2") == {"session_id": "test"}
    client.remove("login", "2")
    assert "2" not in store.tool("list", f"{REQUEST}/login").split()
    assert store.tool("list", f"{RESPONSE}/login") == ""


def test_an_answer_with_a_code_and_a_description_is_an_error(
    store: Xenstored, client: Squeezed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uuid, "uuid4", lambda: "3")
    store.tool("write", f"{REQUEST}/echo/3", "")
    store.tool("write", f"{RESPONSE}/echo/3/code", "1", f"{RESPONSE}/echo/3/description", "echo")
    with pytest.raises(RpcError) as told:
        client.call("echo")
    assert (told.value.code, told.value.description) == (1, "echo")


def test_a_server_that_does_not_answer_is_not_waited_for_for_ever(
    client: Squeezed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(old_squeezed, "PATIENCE", 0.05)
    with pytest.raises(TimeoutError, match=r"nobody answered echo within 0\.05 s"):
        client.call("echo")


def test_the_server_says_which_process_it_is(store: Xenstored, client: Squeezed) -> None:
    store.tool("write", "/squeezed/pid", "42")
    assert client.pid() == 42
