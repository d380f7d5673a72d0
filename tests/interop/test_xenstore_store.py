"""Our client on the real xenstored, beside pyxs's own Client and Debian's `xenstore-*` tools."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter

import pytest
import pyxs

from adapters.xenstore.client.client import Permissions, Transaction, Watch, XenstoreClient
from adapters.xenstore.client.connection import StoreLostError, StoreTimeoutError
from tests.kit.programs import TIMEOUT
from tests.kit.stores import Xenstored


async def connected(store: XenstoreClient) -> None:
    await asyncio.wait_for(store.until_connected(), TIMEOUT)


async def changed(watch: Watch) -> str:
    return await asyncio.wait_for(anext(watch), TIMEOUT)


async def number(transaction: Transaction, path: str) -> int:
    return int(await transaction.read(path) or b"0")


async def test_permissions_are_those_the_tools_show(daemon: Xenstored, store: XenstoreClient) -> None:
    permissions = Permissions(5, "r", ((7, "b"), (8, "n")))
    await store.write("/a", b"")
    assert await store.permissions("/a") == Permissions()
    await store.set_permissions("/a", permissions)
    assert await store.permissions("/a") == permissions
    assert "(r5,b7,n8)" in daemon.tool("ls", "-p")
    daemon.tool("chmod", "/a", "w3", "r4")
    assert await store.permissions("/a") == Permissions(3, "w", ((4, "r"),))


async def test_what_we_write_pyxs_reads_and_the_reverse(daemon: Xenstored, store: XenstoreClient) -> None:
    with pyxs.Client(unix_socket_path=daemon.path) as client:
        await store.write("/a/b", b"ours")
        assert client.read(b"/a/b") == b"ours"
        client.write(b"/a/c", b"theirs")
        assert await store.read("/a/c") == b"theirs"
        assert client.list(b"/a") == [b"b", b"c"]
        client.set_perms(b"/a", [b"r5"])
        assert await store.permissions("/a") == Permissions(5, "r")


async def test_sixty_four_tasks_that_want_the_same_node_all_get_it(daemon: Xenstored) -> None:
    async def count(transaction: Transaction) -> int:
        value = await number(transaction, "/a") + 1
        await transaction.write("/a", b"%d" % value)
        return value

    async def three_times(store: XenstoreClient) -> list[int]:
        return [await store.transaction(count) for _ in range(3)]

    async with XenstoreClient(daemon.path, attempts=10_000) as store:  # who is held up how often depends on the machine
        await connected(store)
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


async def test_domains_that_come_and_go_are_seen(daemon: Xenstored, store: XenstoreClient) -> None:
    came, went = store.watch("@introduceDomain"), store.watch("@releaseDomain")
    assert (await changed(came), await changed(went)) == ("@introduceDomain", "@releaseDomain")
    with pyxs.Client(unix_socket_path=daemon.path) as client:
        client.introduce_domain(5, 1, 1)
        assert await changed(came) == "@introduceDomain"
        client.execute_command(9, b"5\0")  # RELEASE
        assert await changed(went) == "@releaseDomain"


async def test_when_the_store_is_killed_everybody_who_waits_is_told_at_once(
    daemon: Xenstored, store: XenstoreClient
) -> None:
    os.kill(daemon.pid, signal.SIGSTOP)
    waiting = [asyncio.ensure_future(store.read("/a")) for _ in range(64)]
    await asyncio.sleep(0)
    daemon.kill()
    done, pending = await asyncio.wait(waiting, timeout=TIMEOUT)
    assert not pending
    errors = [task.exception() for task in done]
    assert all(isinstance(error, StoreLostError) and not isinstance(error, StoreTimeoutError) for error in errors)
    assert Counter(error.sent for error in errors if isinstance(error, StoreLostError)) == {True: 64}
    with pytest.raises(StoreLostError) as caught:
        await store.read("/a")
    assert not caught.value.sent
    daemon.start()
    await connected(store)
    assert await store.read("/a") is None
