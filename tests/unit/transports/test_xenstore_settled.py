from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from adapters.transports import xenstore_settled
from adapters.transports.xenstore_settled import Settled, begin, forget, record, settle, settled
from adapters.transports.xenstore_store import Store
from tests.kit.nodes import connected, tree
from tests.kit.xenstored import Xenstored, xenstored

PATH = "/local/domain/5/data/updated"


@pytest.fixture(scope="module")
def server() -> Iterator[Xenstored]:
    with xenstored() as server:
        yield server


@pytest.fixture
async def store(server: Xenstored) -> AsyncIterator[Store]:
    async with connected(server.path) as store:
        await store.remove(xenstore_settled.ROOT)
        yield store


async def test_nothing_is_settled_at_first(store: Store) -> None:
    assert await settled(store, PATH) == Settled()


async def test_what_is_settled_is_known_until_it_is_forgotten(store: Store) -> None:
    await settle(store, PATH, "abc")
    assert await settled(store, PATH) == Settled("abc")
    await settle(store, PATH, "")
    assert await settled(store, PATH) == Settled()


async def test_what_is_being_rung_leaves_what_was_settled_before(store: Store) -> None:
    await settle(store, PATH, "old")
    await begin(store, PATH, await settled(store, PATH), "new")
    assert await settled(store, PATH) == Settled("old", "new")
    await settle(store, PATH, "new")
    assert await settled(store, PATH) == Settled("new")


async def test_what_is_being_rung_for_the_first_time_leaves_nothing_behind(store: Store) -> None:
    await begin(store, PATH, Settled(), "new")
    assert await settled(store, PATH) == Settled("", "new")


async def test_forgetting_leaves_no_empty_nodes_and_harms_no_other(store: Store) -> None:
    other = "/local/domain/5/memory/target"
    await settle(store, PATH, "abc")
    await settle(store, other, "def")
    await forget(store, PATH)
    assert await tree(store, xenstore_settled.ROOT) == {other.removeprefix("/"): b"def"}
    assert await store.list(record("/local/domain/5")) == ["memory"]
    await forget(store, other)
    await forget(store, other)
    assert not await store.list(xenstore_settled.ROOT)


async def test_junk_in_its_place_is_another_content(store: Store) -> None:
    await store.write(record(PATH), b"?\xff ")
    assert (await settled(store, PATH)).digest == ""
