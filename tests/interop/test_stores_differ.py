"""How the C xenstored and oxenstored differ where it concerns the gateway, and the trips to both."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from adapters.xenstore.client import operations
from adapters.xenstore.client.client import XenstoreClient
from adapters.xenstore.client.connection import XenstoreConnection
from adapters.xenstore.client.operations import StoreOperations
from adapters.xenstore.client.wire import HEADER, Operation
from adapters.xenstore.server import transactions
from adapters.xenstore.server.listener import XenstoreTransport
from adapters.xenstore.server.state import ExposedEndpoint
from gateway.core.xenstore.paths import Exposure, template
from tests.kit.listeners import AnsweringEndpoint
from tests.kit.programs import TIMEOUT
from tests.kit.stores import C_STORE, Xenstored
from tests.kit.xenstore_clients import TreeClient


def raw(path: str, operation: int, payload: bytes) -> tuple[int, bytes]:
    """Make a request; return the operation and payload of the reply, with no client between."""
    with socket.socket(socket.AF_UNIX) as plug, plug.makefile("rwb") as stream:
        plug.settimeout(TIMEOUT)
        plug.connect(path)
        stream.write(HEADER.pack(operation, 1, 0, len(payload)) + payload)
        stream.flush()
        answer, _, _, size = HEADER.unpack(stream.read(HEADER.size))
        return answer, stream.read(size)


async def test_how_a_long_directory_is_told(daemon: Xenstored, store: XenstoreClient) -> None:
    names = [f"a-name-that-takes-its-room-{number:04}" for number in range(500)]
    for name in names:
        await store.write(f"/long/{name}", b"")
    (operation, payload) = raw(daemon.path, Operation.DIRECTORY, b"/long\0")
    (of_part, _) = raw(daemon.path, Operation.DIRECTORY_PART, b"/long\x000\0")
    if daemon.name == C_STORE:
        assert (operation, payload) == (Operation.ERROR, b"E2BIG\0")
        assert of_part == Operation.DIRECTORY_PART
    else:
        assert payload.split(b"\0")[:-1] == [name.encode() for name in names]
        assert of_part == Operation.ERROR
    assert sorted(await store.list("/long") or ()) == names


async def makes(nodes: StoreOperations) -> None:
    await nodes.write("/meet/mine", b"1")


async def removes(nodes: StoreOperations) -> None:
    await nodes.remove("/meet/old")


async def lists(nodes: StoreOperations) -> None:
    await nodes.list("/meet")
    await nodes.write("/mine", b"1")


async def reads(nodes: StoreOperations) -> None:
    await nodes.read("/meet/theirs")
    await nodes.write("/mine", b"1")


@pytest.mark.parametrize(("work", "merged"), [(makes, True), (removes, True), (lists, False), (reads, False)])
async def test_which_transactions_meet(
    daemon: Xenstored, store: XenstoreClient, work: Callable[[StoreOperations], Awaitable[None]], *, merged: bool
) -> None:
    tries = 0

    async def transaction(nodes: StoreOperations) -> None:
        nonlocal tries
        tries += 1
        await work(nodes)
        if tries == 1:
            daemon.tool("write", "/meet/theirs", "1")

    await store.write("/meet/old", b"")
    await store.transaction(transaction)
    assert tries == (1 if merged and daemon.name != C_STORE else 2)


# What does not differ: the trips of a request


PEEK = "TRANSACTION_START GET_PERMS READ GET_PERMS"
WHOLE = "READ GET_PERMS DIRECTORY READ GET_PERMS READ GET_PERMS"
RESPONSE = "GET_PERMS GET_PERMS RM WRITE SET_PERMS WRITE WRITE"
TRIPS = {
    "read": [PEEK, f"{WHOLE} TRANSACTION_END TRANSACTION_START", RESPONSE, "TRANSACTION_END", "GET_PERMS"],
    "write": [PEEK, WHOLE, "WRITE TRANSACTION_END TRANSACTION_START", f"{RESPONSE} RM", "TRANSACTION_END", "GET_PERMS"],
}


@pytest.fixture
async def trips(daemon: Xenstored, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[str]]:
    """What a listener with one exposed path sends to the store, in the pieces in which it is sent."""
    transport = XenstoreTransport("store", [f"xenstore:{daemon.path}"])
    pieces: list[str] = []
    flush = XenstoreConnection.flush

    def noted(connection: XenstoreConnection) -> None:
        if connection._out and connection is transport.store._connection:
            piece = " ".join(Operation(HEADER.unpack_from(packet)[0]).name for packet in connection._out)
            if set(piece.split()) != {"DIRECTORY"}:  # else a scan, at a moment of its own
                pieces.append(piece)
        flush(connection)

    monkeypatch.setattr(XenstoreConnection, "flush", noted)
    monkeypatch.setattr(operations, "EARLY", TIMEOUT)  # a busy machine takes longer than the transaction is kept
    exposed = ExposedEndpoint(Exposure("tree", template("/svc")), AnsweringEndpoint(), writes=frozenset({"write"}))
    await transport.expose([exposed])
    await transport.start()
    async with asyncio.timeout(TIMEOUT):
        for _ in iter(lambda: transport.status().serving, True):
            await asyncio.sleep(0)
    yield pieces
    await transport.stop(0)


async def ended(trips: list[str]) -> None:
    """Wait until the removal of a request has been seen."""
    async with asyncio.timeout(TIMEOUT):
        for _ in iter(lambda: trips[-1:] == ["GET_PERMS"], True):
            await asyncio.sleep(0)


@pytest.mark.parametrize("method", TRIPS)
async def test_the_trips_of_a_request(store: XenstoreClient, trips: list[str], method: str) -> None:
    client = TreeClient(store, "/svc")
    await client.call(method, a="first")
    await ended(trips)
    trips.clear()
    assert await client.call(method, a="x", b="y") == {"a": "x", "b": "y"}
    await ended(trips)
    assert trips == TRIPS[method]


async def test_a_request_with_nodes_that_were_not_expected_is_read_again(
    store: XenstoreClient, trips: list[str]
) -> None:
    client = TreeClient(store, "/svc")
    await client.call("read", a="first")
    await ended(trips)
    trips.clear()
    assert await client.call("read", a="", b="y") == {"a": "", "b": "y"}  # an empty node may have nodes below it
    await ended(trips)
    assert trips[:2] == TRIPS["read"][:2]
    assert "READ GET_PERMS DIRECTORY" in trips[2:]


async def test_a_request_and_a_response_of_many_nodes(store: XenstoreClient, trips: list[str]) -> None:
    """Their names do not fit into one answer, and nothing that others ask waits for all that is written."""
    arguments = {f"an-argument-that-takes-its-room-{number:04}": "x" for number in range(900)}
    assert await TreeClient(store, "/svc").call("read", **arguments) == arguments
    assert max(len(piece.split()) for piece in trips) <= transactions.PIECE
