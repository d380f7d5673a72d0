"""Where the C xenstored and oxenstored differ, as the table in docs/xenstore.md has it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

import pytest

from adapters.xenstore.client import operations
from adapters.xenstore.client.client import StoreError, XenstoreClient
from adapters.xenstore.client.connection import XenstoreConnection
from adapters.xenstore.client.operations import StoreOperations
from adapters.xenstore.client.wire import HEADER, Operation, Permissions
from adapters.xenstore.server import transactions
from adapters.xenstore.server.listener import XenstoreTransport
from adapters.xenstore.server.state import ExposedEndpoint
from gateway.core.xenstore.exposure import Exposure
from gateway.core.xenstore.paths import template
from tests.kit.guests import fill, guest, guest_socket
from tests.kit.listeners import AnsweringEndpoint
from tests.kit.programs import TIMEOUT
from tests.kit.stores import BOTH, C_STORE, OXENSTORED, Xenstored, connected, xenstored
from tests.kit.xenstore_clients import TreeClient


def raw(path: str, operation: int, *payloads: bytes) -> list[tuple[int, bytes]]:
    """Make requests on one connection; return the operation and payload of each reply, with no client between."""
    told: list[tuple[int, bytes]] = []
    with socket.socket(socket.AF_UNIX) as plug, plug.makefile("rwb") as stream:
        plug.settimeout(TIMEOUT)
        plug.connect(path)
        for payload in payloads:
            stream.write(HEADER.pack(operation, 1, 0, len(payload)) + payload)
            stream.flush()
            answer = Operation.WATCH_EVENT
            while answer == Operation.WATCH_EVENT:
                answer, _, _, size = HEADER.unpack(stream.read(HEADER.size))
                content = stream.read(size)
            told.append((answer, content))
    return told


async def test_which_names_there_are_and_in_which_order(daemon: Xenstored, store: XenstoreClient) -> None:
    made, of_oxenstored = ["zebra", "apple", "10", "9"], ["@introduceDomain", "@releaseDomain", "local", "tool"]
    assert await store.list("/") == (["tool"] if daemon.name == C_STORE else of_oxenstored)
    for name in made:
        await store.write(f"/order/{name}", b"")
    assert await store.list("/order") == (made if daemon.name == C_STORE else sorted(made))


async def test_how_large_a_value_of_domain_0_may_be(daemon: Xenstored, store: XenstoreClient) -> None:
    await store.write("/large", b"x" * 2048)
    if daemon.name == C_STORE:
        await store.write("/large", b"x" * 4000)
        return
    with pytest.raises(StoreError, match="/large: E2BIG"):
        await store.write("/large", b"x" * 2049)


async def test_how_a_long_directory_is_told(daemon: Xenstored, store: XenstoreClient) -> None:
    names = [f"a-name-that-takes-its-room-{number:04}" for number in range(500)]
    for name in names:
        await store.write(f"/long/{name}", b"")
    [(operation, payload)] = raw(daemon.path, Operation.DIRECTORY, b"/long\0")
    [(of_part, _)] = raw(daemon.path, Operation.DIRECTORY_PART, b"/long\x000\0")
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


# What a guest's own connection meets

HOME = "/local/domain/7"


@pytest.fixture
async def domain_7(daemon: Xenstored, store: XenstoreClient) -> AsyncIterator[XenstoreClient]:
    """Domain 7, and the node that is its own."""
    await store.mkdir(HOME)
    await store.set_permissions(HOME, Permissions(7))
    async with guest(daemon, 7) as client:
        yield client


async def refused(daemon: Xenstored, c_store: str, oxenstored: str, wanted: Awaitable[object]) -> None:
    """Wait until a guest is refused by the name that this store uses."""
    with pytest.raises(StoreError) as caught:
        await wanted
    assert caught.value.name == {C_STORE: c_store, OXENSTORED: oxenstored}[daemon.name], caught.value


async def test_a_guest_has_a_thousand_nodes(daemon: Xenstored, store: XenstoreClient, domain_7: XenstoreClient) -> None:
    for folder in range(10):
        await domain_7.mkdir(f"{HOME}/{folder}")
    # less its home, less the folders
    await fill(domain_7, [f"{HOME}/{number % 10}/{number}" for number in range(1000 - 1 - 10)])
    await refused(daemon, "ENOSPC", "EQUOTA", domain_7.write(f"{HOME}/0/more", b""))
    await domain_7.remove(f"{HOME}/0/0")
    await domain_7.write(f"{HOME}/0/more", b"")


async def test_how_large_a_value_of_a_guest_may_be(daemon: Xenstored, domain_7: XenstoreClient) -> None:
    await domain_7.write(f"{HOME}/value", b"x" * 2000)
    await refused(daemon, "ENOSPC", "E2BIG", domain_7.write(f"{HOME}/value", b"x" * 2049))


async def test_how_many_names_a_directory_of_a_guest_may_have(daemon: Xenstored, domain_7: XenstoreClient) -> None:
    """For the C xenstored they count as part of its value."""
    names = [f"a-name-that-takes-its-room-{number:04}" for number in range(100)]
    if daemon.name == C_STORE:
        with pytest.raises(StoreError, match="ENOSPC"):
            await fill(domain_7, [f"{HOME}/{name}" for name in names])
        return
    await fill(domain_7, [f"{HOME}/{name}" for name in names])
    assert await domain_7.list(HOME) == names


@pytest.mark.parametrize(
    ("operation", "payload", "limit"),
    [
        (Operation.WATCH, b"/\0token-%d\0", {C_STORE: (128, b"E2BIG\0"), OXENSTORED: (100, b"EQUOTA\0")}),
        (Operation.TRANSACTION_START, b"\0", {C_STORE: (10, b"ENOSPC\0"), OXENSTORED: (10, b"EQUOTA\0")}),
    ],
)
async def test_how_many_a_guest_may_have(
    daemon: Xenstored, operation: Operation, payload: bytes, limit: Mapping[str, tuple[int, bytes]]
) -> None:
    """Both stores refuse what comes when the limit is passed: they grant one more."""
    allowed, refusal = limit[daemon.name][0] + 1, limit[daemon.name][1]
    asked = [payload % number if b"%" in payload else payload for number in range(allowed + 1)]
    async with guest_socket(daemon, 7) as path:
        *granted, last = await asyncio.to_thread(raw, path, operation, *asked)
    assert [told for told, _ in granted] == [operation] * allowed
    assert last == (Operation.ERROR, refusal)


async def test_a_guest_that_makes_others_transactions_fail_is_paused() -> None:
    """By oxenstored: here its credit is one conflict, which comes back after an hour."""
    options = {OXENSTORED: ["conflict-burst-limit = 1.0", "conflict-max-history-seconds = 3600.0"]}
    for name in BOTH:
        with xenstored(*options.get(name, ()), name=name) as daemon:
            async with connected(daemon.path) as store:
                await store.write(HOME, b"")
                await store.set_permissions(HOME, Permissions(7))
                async with guest(daemon, 7) as domain_7:
                    await _meets_in_a_transaction(store, domain_7)
                    late = asyncio.ensure_future(domain_7.write(HOME, b"late"))
                    if name == C_STORE:
                        await late
                    for _ in range(200):
                        written = await store.read(HOME)
                    assert written == (b"late" if name == C_STORE else b"again")
                    late.cancel()


async def _meets_in_a_transaction(store: XenstoreClient, domain_7: XenstoreClient) -> None:
    tries = 0

    async def work(nodes: StoreOperations) -> None:
        nonlocal tries
        tries += 1
        await nodes.read(HOME)
        await nodes.write("/mine", b"")
        if tries == 1:
            await domain_7.write(HOME, b"again")

    await store.transaction(work)
    assert tries == 2


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
