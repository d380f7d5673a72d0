"""squeezed's old client, written with pyxs, through a real store and a real gateway to the D-Bus service."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from demo.environment import Environment
from demo.xenstore_clients import RpcError, Squeezed

pytestmark = pytest.mark.bus


@pytest.fixture
def client(running: Environment) -> Iterator[Squeezed]:
    with Squeezed(str(running.store)) as squeezed:
        yield squeezed


def test_a_client_finds_the_server_reserves_memory_and_gives_it_to_a_domain(client: Squeezed) -> None:
    os.kill(client.pid(), 0)
    session = client.call("login", service_name="test")["session_id"]
    assert session == "test"
    reservation = client.call("reserve-memory", session_id=session, kib="262144")["reservation_id"]
    ranged = client.call("reserve-memory-range", session_id=session, min="1024", max="4096")
    assert ranged["kib"] == "4096"
    assert client.call("delete-reservation", session_id=session, reservation_id=ranged["reservation_id"]) == {}
    transfer = {"session_id": session, "reservation_id": reservation, "domid": "4242"}
    assert client.call("transfer-reservation-to-domain", **transfer) == {}
    assert client.call("balance-memory") == {}
    assert client.call("echo", one="1", two="a b") == {"one": "1", "two": "a b"}


@pytest.mark.parametrize(
    ("function", "arguments", "code", "description"),
    [
        ("reopen-logs", {}, 1, "reopen-logs"),
        ("reserve-memory", {"session_id": "test"}, 3, "kib"),
        ("reserve-memory", {}, 3, "session_id"),
        ("reserve-memory", {"session_id": "test", "kib": "-1"}, 1003, "kib"),
        ("reserve-memory-range", {"session_id": "test", "min": "9", "max": "8"}, 1003, "max"),
        ("delete-reservation", {"session_id": "test", "reservation_id": "none"}, 1002, "none"),
    ],
)
def test_errors_have_the_old_numbers(
    client: Squeezed, function: str, arguments: dict[str, str], code: int, description: str
) -> None:
    client.call("login", service_name="test")
    with pytest.raises(RpcError) as told:
        client.call(function, **arguments)
    assert (told.value.code, told.value.description) == (code, description)


def test_memory_that_cannot_be_freed_is_told_with_two_numbers(client: Squeezed) -> None:
    with pytest.raises(RpcError) as told:
        client.call("reserve-memory", session_id="test", kib="999999999999")
    needed, free = map(int, told.value.description.split(","))
    assert (told.value.code, needed) == (1000, 999999999999)
    assert free > 0
