from __future__ import annotations

import asyncio

import pytest

from adapters.xenstore.client.client import MAX_QUEUED, Watch
from adapters.xenstore.client.wire import StoreError


@pytest.fixture
def closed() -> list[Watch]:
    return []


@pytest.fixture
def watch(closed: list[Watch]) -> Watch:
    return Watch("/a", b"1", closed.append)


async def queued(watch: Watch) -> list[str]:
    """What is there now."""
    watch.notify("/the/end")
    paths = []
    while (path := await anext(watch)) != "/the/end":
        paths.append(path)
    return paths


async def test_paths_come_in_order(watch: Watch) -> None:
    for path in ("/a", "/a/c", "/a/b"):
        watch.notify(path)
    assert await queued(watch) == ["/a", "/a/c", "/a/b"]


async def test_a_reader_is_woken(watch: Watch) -> None:
    async with asyncio.TaskGroup() as group:
        reader = group.create_task(anext(watch))
        await asyncio.sleep(0)
        assert not reader.done()
        watch.notify("/a/b")
    assert reader.result() == "/a/b"


async def test_a_path_that_waits_is_not_queued_twice(watch: Watch) -> None:
    for _ in range(3):
        watch.notify("/a/b")
    assert await queued(watch) == ["/a/b"]


async def test_a_path_that_changes_again_after_it_was_read_comes_again(watch: Watch) -> None:
    watch.notify("/a/b")
    assert await anext(watch) == "/a/b"
    watch.notify("/a/b")
    assert await queued(watch) == ["/a/b"]


async def test_too_many_paths_become_the_watched_one(watch: Watch) -> None:
    for number in range(MAX_QUEUED):
        watch.notify(f"/a/{number}")
    watch.notify("/a/7")
    watch.notify("/a/one-more")
    assert await queued(watch) == ["/a"]


async def test_a_closed_watch_ends_its_reader_and_is_closed_once(watch: Watch, closed: list[Watch]) -> None:
    watch.notify("/a/b")
    watch.close()
    watch.close()
    assert [path async for path in watch] == []
    assert closed == [watch]


async def test_a_watch_the_store_refuses_says_so_to_its_reader(watch: Watch) -> None:
    watch.fail(StoreError("EACCES", "/a"))
    with pytest.raises(StoreError, match="/a: EACCES"):
        await anext(watch)
