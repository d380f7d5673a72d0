from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from adapters.xenstore.client.client import XenstoreClient
from adapters.xenstore.publish import watch_trigger
from adapters.xenstore.publish.watch_trigger import (
    ProcessedContent,
    mark_in_progress,
    mark_processed,
    read_processed,
    record_path,
    remove_record,
)
from tests.kit.stores import Xenstored, connected, tree, xenstored

PATH = "/local/domain/5/data/updated"


@pytest.fixture(scope="module")
def server() -> Iterator[Xenstored]:
    with xenstored() as server:
        yield server


@pytest.fixture
async def store(server: Xenstored) -> AsyncIterator[XenstoreClient]:
    async with connected(server.path) as store:
        await store.remove(watch_trigger.RECORDS)
        yield store


async def test_nothing_is_settled_at_first(store: XenstoreClient) -> None:
    assert await read_processed(store, PATH) == ProcessedContent()


async def test_what_is_settled_is_known_until_it_is_forgotten(store: XenstoreClient) -> None:
    await mark_processed(store, PATH, "abc")
    assert await read_processed(store, PATH) == ProcessedContent("abc")
    await mark_processed(store, PATH, "")
    assert await read_processed(store, PATH) == ProcessedContent()


async def test_what_is_being_rung_leaves_what_was_settled_before(store: XenstoreClient) -> None:
    await mark_processed(store, PATH, "old")
    await mark_in_progress(store, PATH, await read_processed(store, PATH), "new")
    assert await read_processed(store, PATH) == ProcessedContent("old", "new")
    await mark_processed(store, PATH, "new")
    assert await read_processed(store, PATH) == ProcessedContent("new")


async def test_what_is_being_rung_for_the_first_time_leaves_nothing_behind(store: XenstoreClient) -> None:
    await mark_in_progress(store, PATH, ProcessedContent(), "new")
    assert await read_processed(store, PATH) == ProcessedContent("", "new")


async def test_forgetting_leaves_no_empty_nodes_and_harms_no_other(store: XenstoreClient) -> None:
    other = "/local/domain/5/memory/target"
    await mark_processed(store, PATH, "abc")
    await mark_processed(store, other, "def")
    await remove_record(store, PATH)
    assert await tree(store, watch_trigger.RECORDS) == {other.removeprefix("/"): b"def"}
    assert await store.list(record_path("/local/domain/5")) == ["memory"]
    await remove_record(store, other)
    await remove_record(store, other)
    assert not await store.list(watch_trigger.RECORDS)


async def test_junk_in_its_place_is_another_content(store: XenstoreClient) -> None:
    await store.write(record_path(PATH), b"?\xff ")
    assert (await read_processed(store, PATH)).digest == ""
