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


@each_case(
    ("parts", "names", "offsets"),
    [
        ([b"7\0a\0b\0", b"7\0c\0", b"7\0d\0\0"], ["a", "b", "c", "d"], [0, 4, 6]),
        ([b"7\0a\0b\0", b"8\0x\0", b"8\0a\0", b"8\0x\0\0"], ["a", "x"], [0, 4, 0, 2]),  # it changes meanwhile
        ([b"7\0a\0", "ENOENT"], None, [0, 2]),  # it goes meanwhile
    ],
)
async def test_a_directory_that_no_answer_can_hold_is_listed_in_parts(
    parts: list[object], names: list[str] | None, offsets: list[int]
) -> None:
    seen: list[Request] = []
    async with nodes({DIRECTORY: "E2BIG", DIRECTORY_PART: [*parts]}, seen) as plain:
        assert await plain.list("/a") == names
    assert [request.payload for request in seen] == [b"/a\0", *(b"/a\0%d\0" % offset for offset in offsets)]


CHANGING = [part for number in range(LISTINGS) for part in (b"%d\0a\0" % number, b"x\0b\0")]


@each_case(
    ("parts", "why"),
    [
        (CHANGING, "/a: the directory changed during each of"),
        ("EINVAL", "/a: E2BIG"),
        ("ENOSYS", "/a: E2BIG"),
        ("EACCES", "/a: EACCES"),
    ],
)
async def test_a_large_directory_that_cannot_be_listed_is_an_error(parts: object, why: str) -> None:
    async with nodes({DIRECTORY: "E2BIG", DIRECTORY_PART: parts}) as plain:
        with pytest.raises(StoreError, match=why) as caught:
            await plain.list("/a")
    assert caught.value.name == ("EAGAIN" if parts is CHANGING else why[4:])


async def test_what_is_not_there_is_none_and_what_cannot_be_written_is_an_error() -> None:
    seen: list[Request] = []
    async with nodes(dict.fromkeys((1, 2, 3, 11, 12, 13, 14), "ENOENT"), seen) as plain:
        assert [await plain.read("/a"), await plain.list("/a"), await plain.permissions("/a")] == [None, None, None]
        await plain.remove("/a")
        for asked in (plain.write("/a", b""), plain.mkdir("/a"), plain.set_permissions("/a", Permissions())):
            with pytest.raises(StoreError, match="/a: ENOENT"):
                await asked
        sent = len(seen)
        with pytest.raises(StoreError, match="expected an absolute xenstore path"):
            await plain.write("/a\0b", b"")
        assert len(seen) == sent


async def test_a_transaction_is_ended_once_and_used_no_more() -> None:
    seen: list[Request] = []
    async with nodes({}, seen) as plain:
        transaction = Transaction(plain.connection, 17)
        await transaction.write("/a", b"x")
        await transaction.commit()
        transaction.roll_back()
        with pytest.raises(AssertionError, match="the transaction is over"):
            await transaction.read("/a")
        Transaction(plain.connection, 18).roll_back()
        await plain.write("/b", b"")
    assert [(request.operation, request.transaction, request.payload) for request in seen] == [
        (11, 17, b"/a\0x"),
        (END, 17, b"T\0"),
        (END, 18, b"F\0"),
        (11, 0, b"/b\0"),
    ]


@each_case(
    ("refused", "name", "why"),
    [("ENOENT", "EAGAIN", "transaction: the store dropped it"), ("EQUOTA", "EQUOTA", "transaction: EQUOTA")],
)
async def test_a_transaction_that_the_store_has_dropped_is_to_be_done_again(refused: str, name: str, why: str) -> None:
    async with nodes({END: refused}) as plain:
        with pytest.raises(StoreError, match=why) as caught:
            await Transaction(plain.connection, 17).commit()
    assert caught.value.name == name


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


async def test_paths_come_in_order_and_none_waits_twice(watch: Watch) -> None:
    for path in ("/a", "/a/c", "/a/b", "/a/c"):
        watch.notify(path)
    assert await queued(watch) == ["/a", "/a/c", "/a/b"]
    watch.notify("/a/b")
    assert await anext(watch) == "/a/b"
    watch.notify("/a/b")  # it changes again after it was read
    assert await queued(watch) == ["/a/b"]


async def test_a_reader_is_woken(watch: Watch) -> None:
    async with asyncio.TaskGroup() as group:
        reader = group.create_task(anext(watch))
        await asyncio.sleep(0)
        assert not reader.done()
        watch.notify("/a/b")
    assert reader.result() == "/a/b"


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
