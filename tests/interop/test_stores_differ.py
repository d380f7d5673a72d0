"""Where the C xenstored and oxenstored differ, as the table in docs/xenstore.md has it."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest

from adapters.xenstore.client.client import StoreError, XenstoreClient
from adapters.xenstore.client.operations import StoreOperations
from adapters.xenstore.client.wire import HEADER, Operation
from tests.kit.stores import BOTH, C_STORE, Xenstored, xenstored


@pytest.fixture(params=BOTH)
def daemon(request: pytest.FixtureRequest) -> Iterator[Xenstored]:
    with xenstored(name=request.param) as running:
        yield running


@pytest.fixture
async def store(daemon: Xenstored) -> AsyncIterator[XenstoreClient]:
    async with XenstoreClient(daemon.path) as store:
        await store.until_connected()
        yield store


def raw(path: str, operation: int, payload: bytes) -> tuple[int, bytes]:
    """One request and the operation and payload of its reply, with no client between."""
    with socket.socket(socket.AF_UNIX) as plug, plug.makefile("rwb") as stream:
        plug.settimeout(10)
        plug.connect(path)
        stream.write(HEADER.pack(operation, 1, 0, len(payload)) + payload)
        stream.flush()
        told, _, _, size = HEADER.unpack(stream.read(HEADER.size))
        return told, stream.read(size)


async def test_the_order_of_names(daemon: Xenstored, store: XenstoreClient) -> None:
    for name in ("zebra", "apple", "10", "9"):
        await store.write(f"/order/{name}", b"")
    made, sorted_by_bytes = ["zebra", "apple", "10", "9"], ["10", "9", "apple", "zebra"]
    assert await store.list("/order") == (made if daemon.name == C_STORE else sorted_by_bytes)


async def test_what_stands_there_from_the_start(daemon: Xenstored, store: XenstoreClient) -> None:
    theirs = ["@introduceDomain", "@releaseDomain", "local", "tool"]
    assert await store.list("/") == (["tool"] if daemon.name == C_STORE else theirs)


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
    operation, payload = raw(daemon.path, Operation.DIRECTORY, b"/long\0")
    if daemon.name == C_STORE:
        assert (operation, payload) == (Operation.ERROR, b"E2BIG\0")
        assert raw(daemon.path, Operation.DIRECTORY_PART, b"/long\x000\0")[0] == Operation.DIRECTORY_PART
    else:
        assert payload.split(b"\0")[:-1] == [name.encode() for name in names]
        assert raw(daemon.path, Operation.DIRECTORY_PART, b"/long\x000\0")[0] == Operation.ERROR
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


async def test_a_planned_change_of_the_store_keeps_nodes_and_a_kill_does_not(daemon: Xenstored) -> None:
    daemon.tool("write", "/kept", "1")
    daemon.live_update()
    assert daemon.tool("read", "/kept") == "1\n"
    daemon.restart()
    assert daemon.tool("read", "/kept", check=False) == ""
