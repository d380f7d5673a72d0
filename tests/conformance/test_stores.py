"""The laws of a store: of the real xenstoreds, and of the one in memory that stands for them in unit tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from adapters.xenstore.client.client import XenstoreClient
from adapters.xenstore.client.operations import StoreOperations
from adapters.xenstore.client.wire import Permissions, StoreError
from tests.kit.memory_store import MemoryStore
from tests.kit.programs import TIMEOUT
from tests.kit.stores import BOTH, xenstored


@pytest.fixture(params=["memory", *BOTH])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[XenstoreClient]:
    if request.param == "memory":
        async with MemoryStore() as made:
            yield made
        return
    with xenstored(name=request.param) as real:
        async with XenstoreClient(real.path) as made:
            await asyncio.wait_for(made.until_connected(), TIMEOUT)
            yield made


async def test_a_value_comes_back_with_the_nodes_above_it_until_they_are_removed(store: XenstoreClient) -> None:
    assert [await store.read("/a"), await store.list("/a"), await store.permissions("/a")] == [None, None, None]
    await store.write("/a/b/c", b"\0any\xff")
    await store.mkdir("/a/b/c")  # what is there keeps its value
    assert [await store.read("/a/b/c"), await store.read("/a/b")] == [b"\0any\xff", b""]
    assert await store.list("/a") == ["b"]
    await store.remove("/a/c")
    await store.remove("/a")
    assert await store.read("/a/b") is None


async def test_new_nodes_have_the_permissions_of_the_one_above(store: XenstoreClient) -> None:
    await store.mkdir("/a")
    assert await store.permissions("/a") == Permissions(0, "n")
    await store.set_permissions("/a", Permissions(5, "n", ((7, "r"),)))
    await store.write("/a/b/c", b"")
    assert await store.permissions("/a/b/c") == Permissions(5, "n", ((7, "r"),))
    with pytest.raises(StoreError, match="ENOENT"):
        await store.set_permissions("/none", Permissions(0, "n"))


async def test_a_transaction_is_seen_when_it_is_over_or_not_at_all(store: XenstoreClient) -> None:
    async def work(nodes: StoreOperations) -> bytes | None:
        await nodes.write("/a", b"1")
        assert await store.read("/a") is None
        return await nodes.read("/a")

    async def fails(nodes: StoreOperations) -> None:
        await nodes.write("/a", b"2")
        raise RuntimeError

    assert await store.transaction(work) == b"1"
    with pytest.raises(RuntimeError):
        await store.transaction(fails)
    assert await store.read("/a") == b"1"


async def test_a_watch_tells_its_own_path_first_and_then_what_changes(store: XenstoreClient) -> None:
    await store.mkdir("/a")
    watch = store.watch("/a")
    told = [await anext(watch)]
    await store.write("/a/b", b"1")
    told.append(await anext(watch))
    await store.write("/b", b"1")
    await store.remove("/a/b")
    told.append(await anext(watch))
    await store.remove("/a")
    told.append(await anext(watch))
    watch.close()
    assert told == ["/a", "/a/b", "/a/b", "/a"]
