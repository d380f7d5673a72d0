"""Steps that are applied to a store, and subtrees that are read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from adapters.xenstore.client.wire import Operation, Permissions
from adapters.xenstore.server import transactions
from adapters.xenstore.server.transactions import too_long
from adapters.xenstore.styles.base import Remove, Write
from gateway.core.xenstore.paths import template
from tests.kit.cases import present
from tests.kit.memory_store import MemoryStore


@pytest.fixture
async def store() -> AsyncIterator[MemoryStore]:
    async with MemoryStore() as store:
        yield store


def test_what_some_store_would_refuse_is_known_before() -> None:
    assert too_long([Write("/a", b"x" * 2048), Remove("/b")]) is None
    for step in (Write("/a/long", b"x" * 2049), Write("/" + "a" * 3072)):
        fault = present(too_long([step]))
        assert "at most" in fault.message


# Reading


async def test_a_tree_is_read_level_by_level_with_permissions_and_not_below_a_value(store: MemoryStore) -> None:
    assert await transactions.tree(store, "/a", 10, 100) == {}
    for path, value in {"/a/b": b"1", "/a/c/d/e": b"2", "/a/f": b"", "/a/b/hidden": b"3"}.items():
        store.put(path, value)
    store.put("/a/b", b"1", Permissions(7, "n"))
    found = await transactions.tree(store, "/a", 10, 100)
    values = {"": b"", "b": b"1", "c": b"", "c/d": b"", "c/d/e": b"2", "f": b""}
    assert found == {path: (value, Permissions(7 if path == "b" else 0)) for path, value in values.items()}
    assert await transactions.several(store, ["/a/b", "/z"]) == {"/a/b": (b"1", Permissions(7, "n"))}


async def test_a_wide_tree_is_read_bit_by_bit() -> None:
    """Limits the operations at a time, so that others get in between."""
    async with MemoryStore() as store:
        for number in range(100):
            store.put(f"/a/{number}", b"1")
        under_way, most = 0, 0
        ask = store._request

        async def counted(operation: Operation, payload: bytes, path: str) -> bytes:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(0)
            under_way -= 1
            return await ask(operation, payload, path)

        store._request = counted  # type: ignore[method-assign]
        assert len(await transactions.tree(store, "/a", 200, 1000)) == 101
        assert most <= 2 * transactions.BATCH


async def test_more_nodes_or_bytes_than_are_allowed_are_too_much(store: MemoryStore) -> None:
    store.put("/a/b", b"12345")
    store.put("/a/c", b"12345")
    assert await transactions.tree(store, "/a", 3, 10) is not None
    with pytest.raises(transactions.RequestTooLargeError, match="at most 2 nodes"):
        await transactions.tree(store, "/a", 2, 10)
    with pytest.raises(transactions.RequestTooLargeError, match="at most 9 bytes"):
        await transactions.tree(store, "/a", 3, 9)


async def test_places_are_found_at_and_below_a_node() -> None:
    channel = template("/local/domain/{server}/RPC/fe/{domid}/query/{_id}")
    async with MemoryStore() as store:
        for path in ("0/RPC/fe/7/query/1", "0/RPC/fe/8/query/2", "0/RPC/other/8/query/3", "5/RPC/fe/7/query/1"):
            store.put(f"/local/domain/{path}/cmd")

        async def nodes(start: str) -> list[str]:
            found = await transactions.places(store, channel, start)
            return sorted(match.node.removeprefix("/local/domain/") for match in found)

        everything = ["0/RPC/fe/7/query/1", "0/RPC/fe/8/query/2", "5/RPC/fe/7/query/1"]
        assert await nodes("/local/domain") == everything
        assert await nodes("/local/domain/0/RPC") == everything[:2]
        assert await nodes("/local/domain/0/memory") == []
        assert await nodes("/elsewhere") == []
        (match, _) = await transactions.places(store, template("/local/domain/{domid}/not/there"), "/local/domain")
        assert match.node == "/local/domain/0/not/there"
