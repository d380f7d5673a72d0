"""Operations of the client, and its watches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest

from adapters.xenstore.client.client import MAX_QUEUED, Watch
from adapters.xenstore.client.connection import XenstoreConnection
from adapters.xenstore.client.operations import LISTINGS, StoreOperations, Transaction
from adapters.xenstore.client.wire import Operation, Permissions, StoreError
from tests.kit.cases import each_case
from tests.kit.fake_stores import DIRECTORY, DIRECTORY_PART, END, Client, Request, fake_store
from tests.kit.programs import TIMEOUT

Answers = Mapping[int, object]  # by operation: bytes, or the name of an error


class Plain(StoreOperations):
    """On one connection, without transaction."""

    def __init__(self, connection: XenstoreConnection) -> None:
        self.connection = connection

    async def _request(self, operation: Operation, payload: bytes, path: str) -> bytes:
        return await self.connection.request(operation, payload, path=path)


@asynccontextmanager
async def nodes(answers: Answers, seen: list[Request] | None = None) -> AsyncIterator[Plain]:
    async def script(client: Client) -> None:
        while True:
            request = await client.request()
            if seen is not None:
                seen.append(request)
            answer = answers.get(request.operation, b"OK\0")
            if isinstance(answer, list):
                answer = answer.pop(0) if len(answer) > 1 else answer[0]
            if isinstance(answer, str):
                client.refuse(request, answer)
            else:
                assert isinstance(answer, bytes)
                client.answer(request, answer)

    async with fake_store(script) as path:
        connection = XenstoreConnection(deadline=TIMEOUT)
        await connection.open(path)
        try:
            yield Plain(connection)
        finally:
            connection.close()
            await connection.closed()


async def test_a_directory_that_oxenstored_sends_in_one_long_answer_is_listed() -> None:
    names = [f"child-{number}" for number in range(10_000)]
    async with nodes({DIRECTORY: b"".join(name.encode() + b"\0" for name in names)}) as plain:
        assert await plain.list("/a") == names


async def test_a_directory_that_no_answer_can_hold_is_listed_in_parts() -> None:
    seen: list[Request] = []
    parts = [b"7\0a\0b\0", b"7\0c\0", b"7\0d\0\0"]
    async with nodes({DIRECTORY: "E2BIG", DIRECTORY_PART: parts}, seen) as plain:
        assert await plain.list("/a") == ["a", "b", "c", "d"]
    assert [request.payload for request in seen] == [b"/a\0", b"/a\0000\0", b"/a\0004\0", b"/a\0006\0"]


async def test_a_directory_that_changes_meanwhile_is_listed_anew() -> None:
    parts = [b"7\0a\0b\0", b"8\0x\0", b"8\0a\0", b"8\0x\0\0"]
    async with nodes({DIRECTORY: "E2BIG", DIRECTORY_PART: parts}) as plain:
        assert await plain.list("/a") == ["a", "x"]


async def test_a_directory_that_changes_all_the_time_is_given_up() -> None:
    parts = [part for number in range(LISTINGS) for part in (b"%d\0a\0" % number, b"x\0b\0")]
    async with nodes({DIRECTORY: "E2BIG", DIRECTORY_PART: parts}) as plain:
        with pytest.raises(StoreError, match="changed during each of") as caught:
            await plain.list("/a")
    assert caught.value.name == "EAGAIN"


@each_case("name", ["EINVAL", "ENOSYS"])
async def test_a_store_without_parts_cannot_list_a_large_directory(name: str) -> None:
    async with nodes({DIRECTORY: "E2BIG", DIRECTORY_PART: name}) as plain:
        with pytest.raises(StoreError, match="/a: E2BIG"):
            await plain.list("/a")


async def test_another_error_of_the_parts_is_told() -> None:
    async with nodes({DIRECTORY: "E2BIG", DIRECTORY_PART: "EACCES"}) as plain:
        with pytest.raises(StoreError, match="/a: EACCES"):
            await plain.list("/a")


async def test_a_directory_that_goes_while_it_is_listed_is_not_there() -> None:
    async with nodes({DIRECTORY: "E2BIG", DIRECTORY_PART: [b"7\0a\0", "ENOENT"]}) as plain:
        assert await plain.list("/a") is None


async def test_what_is_not_there_is_none_and_need_not_be_removed() -> None:
    async with nodes(dict.fromkeys((1, 2, 3, 13), "ENOENT")) as plain:
        assert await plain.read("/a") is None
        assert await plain.list("/a") is None
        assert await plain.permissions("/a") is None
        await plain.remove("/a")


async def test_writing_below_what_is_not_there_is_an_error_where_the_store_says_so() -> None:
    async with nodes({11: "ENOENT", 12: "ENOENT", 14: "ENOENT"}) as plain:
        for asked in (plain.write("/a", b""), plain.mkdir("/a"), plain.set_permissions("/a", Permissions())):
            with pytest.raises(StoreError, match="/a: ENOENT"):
                await asked


async def test_a_path_that_is_none_is_not_sent() -> None:
    seen: list[Request] = []
    async with nodes({}, seen) as plain:
        with pytest.raises(StoreError, match="expected an absolute xenstore path"):
            await plain.write("/a\0b", b"")
    assert seen == []


async def test_a_transaction_is_ended_once_and_used_no_more() -> None:
    seen: list[Request] = []
    async with nodes({}, seen) as plain:
        transaction = Transaction(plain.connection, 17)
        await transaction.write("/a", b"x")
        await transaction.commit()
        transaction.roll_back()
        with pytest.raises(AssertionError, match="the transaction is over"):
            await transaction.read("/a")
    assert [(request.operation, request.transaction, request.payload) for request in seen] == [
        (11, 17, b"/a\0x"),
        (END, 17, b"T\0"),
    ]


async def test_a_transaction_that_is_rolled_back_is_dropped() -> None:
    seen: list[Request] = []
    async with nodes({}, seen) as plain:
        Transaction(plain.connection, 17).roll_back()
        await plain.write("/b", b"")
    assert [(request.operation, request.transaction, request.payload) for request in seen] == [
        (END, 17, b"F\0"),
        (11, 0, b"/b\0"),
    ]


async def test_a_transaction_that_the_store_has_dropped_is_to_be_done_again() -> None:
    async with nodes({END: "ENOENT"}) as plain:
        with pytest.raises(StoreError, match="transaction: the store dropped it") as caught:
            await Transaction(plain.connection, 17).commit()
    assert caught.value.name == "EAGAIN"


async def test_another_error_at_the_commit_is_told() -> None:
    async with nodes({END: "EQUOTA"}) as plain:
        with pytest.raises(StoreError, match="transaction: EQUOTA"):
            await Transaction(plain.connection, 17).commit()


# Watches


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
