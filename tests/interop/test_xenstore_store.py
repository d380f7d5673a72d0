"""Our client on the real xenstored, beside pyxs's own Client and Debian's `xenstore-*` tools."""

from __future__ import annotations

import asyncio

import pytest
import pyxs

from adapters.xenstore.client import client as store_client
from adapters.xenstore.client.client import Permissions, Transaction, Watch, XenstoreClient
from tests.kit.programs import TIMEOUT
from tests.kit.stores import C_STORE, Xenstored

ANY_BYTES = bytes(range(256))


async def changed(watch: Watch) -> str:
    return await asyncio.wait_for(anext(watch), TIMEOUT)


async def number(transaction: Transaction, path: str) -> int:
    return int(await transaction.read(path) or b"0")


async def test_any_value_comes_back_as_it_was_written(daemon: Xenstored, store: XenstoreClient) -> None:
    largest = 4096 - len("/a\0") if daemon.name == C_STORE else 2048
    for value in (b"", b"\0", b"one\0", b"\n", ANY_BYTES, b"x" * largest):
        await store.write("/a", value)
        assert await store.read("/a") == value


async def test_a_directory_of_any_size_is_listed(store: XenstoreClient) -> None:
    names = {f"a-name-that-takes-its-room-{number}" for number in range(2000)}
    await asyncio.gather(*(store.write(f"/a/{name}", b"") for name in names))

    async def listed(transaction: Transaction) -> list[str] | None:
        return await transaction.list("/a")

    for children in (await store.list("/a"), await store.transaction(listed)):
        assert children is not None
        assert len(children) == len(names)
        assert set(children) == names


async def test_permissions_are_those_the_tools_show(daemon: Xenstored, store: XenstoreClient) -> None:
    permissions = Permissions(5, "r", ((7, "b"), (8, "n")))
    await store.write("/a", b"")
    assert await store.permissions("/a") == Permissions()
    await store.set_permissions("/a", permissions)
    assert await store.permissions("/a") == permissions
    assert "(r5,b7,n8)" in daemon.tool("ls", "-p")
    daemon.tool("chmod", "/a", "w3", "r4")
    assert await store.permissions("/a") == Permissions(3, "w", ((4, "r"),))


async def test_they_see_our_changes_and_we_see_theirs(daemon: Xenstored, store: XenstoreClient) -> None:
    watch = store.watch("/a")
    assert await changed(watch) == "/a"
    with pyxs.Client(unix_socket_path=daemon.path) as client, daemon.watching("/a") as tool:
        assert tool.stdout is not None
        assert tool.stdout.readline() == "/a\n"
        monitor = client.monitor()
        monitor.watch(b"/a", b"token")
        events = monitor.wait()
        assert next(events).path == b"/a"
        await store.write("/a/b", b"x")
        assert tool.stdout.readline() == "/a/b\n"
        assert next(events).path == b"/a/b"
        assert await changed(watch) == "/a/b"
        assert client.read(b"/a/b") == b"x"
        client.write(b"/a/c", b"theirs")
        assert await changed(watch) == "/a/c"
        assert await store.read("/a/c") == b"theirs"
        daemon.tool("rm", "/a/b")
        assert await changed(watch) == "/a/b"
        daemon.tool("chmod", "/a/c", "r5")
        assert await changed(watch) == "/a/c"


async def test_sixty_four_tasks_that_want_the_same_node_all_get_it(
    store: XenstoreClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_client, "ATTEMPTS", 10_000)  # who is held up how often depends on the machine

    async def count(transaction: Transaction) -> int:
        value = await number(transaction, "/a") + 1
        await transaction.write("/a", b"%d" % value)
        return value

    async def three_times(store: XenstoreClient) -> list[int]:
        return [await store.transaction(count) for _ in range(3)]

    counted = await asyncio.gather(*(three_times(store) for _ in range(64)))
    assert sorted(value for each in counted for value in each) == list(range(1, 193))


async def test_watches_outlive_the_store(daemon: Xenstored, store: XenstoreClient) -> None:
    paths = [f"/a/{name}" for name in range(300)]
    watches = [store.watch(path) for path in paths]
    for watch in watches:
        assert await changed(watch) == watch.path
    for _ in range(2):
        daemon.restart()
        for watch in watches:
            assert await changed(watch) == watch.path
        assert await store.read("/a/7") is None, "the store came back with what it had"
        await store.write("/a/7/b", b"x")
        assert await changed(watches[7]) == "/a/7/b"
    assert store.status().reconnects == 2


async def test_a_live_update_of_the_store_is_not_noticed(daemon: Xenstored, store: XenstoreClient) -> None:
    watch = store.watch("/a")
    assert await changed(watch) == "/a"
    updated = asyncio.Event()

    async def task(name: int) -> None:
        while not updated.is_set():
            await store.write(f"/tasks/{name}", b"x")

    async with asyncio.TaskGroup() as group:
        for name in range(8):
            group.create_task(task(name))
        await asyncio.to_thread(daemon.live_update)
        updated.set()
    await store.write("/a/b", b"x")
    assert await changed(watch) == "/a/b"
    assert store.status().reconnects == 0


async def test_a_closed_watch_is_forgotten_by_the_store_too(daemon: Xenstored, store: XenstoreClient) -> None:
    kept, closed = store.watch("/a"), store.watch("/a")
    assert (await changed(kept), await changed(closed)) == ("/a", "/a")
    closed.close()
    await store.write("/a", b"x")
    assert await changed(kept) == "/a"
    with pytest.raises(StopAsyncIteration):
        await changed(closed)
    daemon.restart()
    assert await changed(kept) == "/a"
    assert store.status().watches == 1
