from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from adapters.xenstore.client import connection as connection_module
from adapters.xenstore.client import operations
from adapters.xenstore.client.connection import IDS, StoreLostError, StoreTimeoutError, XenstoreConnection
from adapters.xenstore.client.operations import START as START_EARLY
from adapters.xenstore.client.operations import EarlyTransaction, ask
from adapters.xenstore.client.wire import Asked, Operation, StoreError
from tests.kit.cases import each_case
from tests.kit.fake_stores import END, READ, START, Client, Request, Script, fake_store, packed, pass_time
from tests.kit.programs import TIMEOUT

Event = tuple[str, bytes]


def asked(*paths: str) -> list[Asked]:
    return [ask(Operation.READ, path) for path in paths]


SOON = 0.05  # seconds: the deadline of tests in which it passes


@asynccontextmanager
async def connected(
    script: Script, *, deadline: float = TIMEOUT, events: list[Event] | None = None
) -> AsyncIterator[XenstoreConnection]:
    heard = [] if events is None else events
    async with fake_store(script) as path:
        connection = XenstoreConnection(lambda *event: heard.append(event), deadline=deadline)
        await connection.open(path)
        try:
            yield connection
        finally:
            connection.close()
            await connection.closed()


def read(connection: XenstoreConnection, path: str) -> asyncio.Future[bytes]:
    """Sent at once; the response is the result."""
    sent = connection.send_all(asked(path), at_once=False)

    async def response() -> bytes:
        (answer,) = await sent
        if isinstance(answer, StoreError):
            raise answer
        return answer

    return asyncio.ensure_future(response())


async def lost(future: asyncio.Future[Any]) -> StoreLostError:
    with pytest.raises(StoreLostError) as caught:
        await asyncio.wait_for(future, TIMEOUT)
    return caught.value


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(TIMEOUT):
        for _ in iter(condition, True):
            await asyncio.sleep(0)


async def silent(client: Client) -> None:
    await client.gone()


async def test_requests_go_out_in_their_order_and_answers_come_in_any_and_in_pieces() -> None:
    came: list[Request] = []

    async def backwards(client: Client) -> None:
        came.extend([await client.request() for _ in range(3)])
        for request in reversed(came):
            answer = packed(READ, request.id, request.transaction, request.payload.upper())
            for at in range(0, len(answer), 5):
                client.raw(answer[at : at + 5])
                await asyncio.sleep(0)

    async with connected(backwards) as connection:
        asked = (connection.request(Operation.READ, b"/%c\0" % n, transaction=n) for n in b"abc")
        answers = await asyncio.gather(*asked)
    assert answers == [b"/A\0", b"/B\0", b"/C\0"]
    assert came == [(READ, 1, 97, b"/a\0"), (READ, 2, 98, b"/b\0"), (READ, 3, 99, b"/c\0")]


async def test_request_ids_wrap_and_leave_out_zero_and_those_whose_answer_is_to_come() -> None:
    ids: list[int] = []

    async def note(client: Client) -> None:
        requests = [await client.request() for _ in range(3)]
        for request in requests:
            ids.append(request.id)
            client.answer(request)
        await client.gone()

    async with connected(note) as connection:
        connection.send_and_forget(Operation.READ, b"/forgotten\0")
        connection._id = IDS - 2  # as after four billion requests
        in_flight = read(connection, "/a")
        connection._id = IDS - 2
        await asyncio.gather(in_flight, read(connection, "/a"))
    assert ids == [1, IDS - 1, 2]


async def test_when_the_store_hangs_up_everybody_who_waits_is_told_at_once_and_nothing_more_is_sent() -> None:
    async def hang_up(client: Client) -> None:
        for _ in range(64):
            await client.request()

    async with connected(hang_up) as connection:
        errors = await asyncio.gather(*(lost(read(connection, f"/{n}")) for n in range(64)))
        assert {(str(error), error.sent) for error in errors} == {(f"/{n}: the store hung up", True) for n in range(64)}
        assert connection.lost
        assert connection.in_flight == 0
        with pytest.raises(StoreLostError, match="the store hung up") as caught:
            await connection.request(Operation.READ, b"/a\0")
        assert not caught.value.sent
        connection.send_and_forget(Operation.READ, b"/a\0")


async def test_it_says_when_the_store_died_in_the_middle_of_a_packet() -> None:
    async def die(client: Client) -> None:
        request = await client.request()
        client.raw(packed(READ, request.id, 0, b"half")[:-2])

    async with connected(die) as connection:
        assert str(await lost(read(connection, "/a"))) == "/a: the store hung up in the middle of a packet"


@each_case(
    ("junk", "words"),
    [
        (packed(99, 1, 0, b""), "a packet of the unknown type 99"),
        (packed(READ, 77, 0, b""), "a response to request 77, which was not sent"),
        (packed(END, 1, 0, b"OK\0"), "a response to TRANSACTION_END in transaction 0; expected WRITE in transaction 5"),
        (packed(11, 1, 6, b"OK\0"), "a response to WRITE in transaction 6; expected WRITE in transaction 5"),
        (packed(11, 1, 5, b"KO\0"), r"b'KO\\x00' as the response to WRITE; expected"),
        (packed(15, 0, 0, b"/a"), "a watch event without path and token: b'/a'"),
    ],
)
async def test_junk_ends_the_connection_and_is_named_and_what_follows_is_not_looked_at(junk: bytes, words: str) -> None:
    async def babble(client: Client) -> None:
        await client.request()
        client.raw(junk + packed(15, 0, 0, b"/a\x001\0"))
        await client.gone()

    events: list[Event] = []
    async with connected(babble, events=events) as connection:
        with pytest.raises(StoreLostError, match=f"^/a: the store sent {words}"):
            await connection.request(Operation.WRITE, b"/a\0", path="/a", transaction=5)
        assert connection.lost
    assert events == []


async def test_a_request_that_is_not_answered_in_time_fails_alone_and_its_answer_is_dropped() -> None:
    async def skip_one(client: Client) -> None:
        skipped = await client.request()
        while (request := await client.request()).payload != b"/last\0":
            client.answer(request, b"x")
        client.answer(skipped, b"late")
        client.answer(request, b"x")
        await client.gone()

    async with connected(skip_one) as connection:
        late = read(connection, "/late")
        assert await read(connection, "/in/time") == b"x"
        pass_time(connection)
        with pytest.raises(StoreTimeoutError, match=rf"^/late: the store did not answer READ in {TIMEOUT:g} s$"):
            await late
        assert await read(connection, "/last") == b"x"
        assert not connection.lost
        assert not connection._late


async def test_a_store_that_says_nothing_at_all_is_given_up() -> None:
    async with connected(silent, deadline=SOON) as connection:
        first, second = read(connection, "/a"), read(connection, "/b")
        assert str(await lost(first)) == "/a: the store has not answered for 0.05 s"
        assert str(await lost(second)) == "/b: the store has not answered for 0.05 s"
        assert connection.lost


async def test_answers_that_came_while_this_process_was_asleep_are_in_time() -> None:
    asked = asyncio.Event()

    async def answer(client: Client) -> None:
        request = await client.request()
        await asked.wait()
        client.answer(request, b"x")
        await client.gone()

    async with connected(answer) as connection:
        answered = read(connection, "/a")
        connection._due -= 2 * TIMEOUT  # the timer fires so late
        pass_time(connection)
        assert not answered.done()
        asked.set()
        assert await answered == b"x"


async def test_a_store_that_leaves_too_much_unanswered_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "MAX_LATE", 2)

    async def answer_some(client: Client) -> None:
        while True:
            request = await client.request()
            if request.payload == b"/answered\0":
                client.answer(request)

    async with connected(answer_some) as connection:
        late = [read(connection, f"/{n}") for n in range(3)]
        await read(connection, "/answered")
        pass_time(connection)
        assert [type(await lost(each)) for each in late] == [StoreTimeoutError, StoreTimeoutError, StoreLostError]


async def test_a_caller_that_gives_up_leaves_nothing() -> None:
    async def answer_later(client: Client) -> None:
        given_up, request = await client.request(), await client.request()
        client.answer(given_up, b"x")
        client.answer(request, b"y")
        await client.gone()

    async with connected(answer_later) as connection:
        connection.send_all(asked("/a")).cancel()
        assert await read(connection, "/b") == b"y"
        assert connection.in_flight == 0


async def test_a_transaction_whose_number_comes_too_late_is_ended() -> None:
    came: list[Request] = []

    async def start(client: Client) -> None:
        begin = await client.request()
        client.answer(await client.request())
        client.answer(await client.request())
        client.answer(begin, b"17\0")
        came.append(await client.request())
        await client.gone()

    async with connected(start) as connection:
        unwanted = connection.send_all([START_EARLY])
        await read(connection, "/x")
        pass_time(connection)
        assert isinstance(await lost(unwanted), StoreTimeoutError)
        await read(connection, "/late")
        await until(lambda: bool(came))
    assert [(each.operation, each.transaction, each.payload) for each in came] == [(END, 17, b"F\0")]


async def test_where_no_store_is_the_error_says_what_the_system_says(tmp_path: Path) -> None:
    connection = XenstoreConnection(deadline=TIMEOUT)
    for path in (str(tmp_path / "none"), "/" + "x" * 200, "/a\0b"):
        with pytest.raises(StoreLostError, match=r"No such file or directory|too long|null byte") as caught:
            await connection.open(path)
        assert not caught.value.sent


async def test_a_store_with_a_full_backlog_is_not_waited_for(tmp_path: Path) -> None:
    path = str(tmp_path / "full")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as waiting:
        listener.bind(path)
        listener.listen(0)
        waiting.connect(path)
        with pytest.raises(StoreLostError, match="temporarily unavailable"):
            await XenstoreConnection(deadline=TIMEOUT).open(path)


# Several in one piece, and transactions that are begun early


async def test_each_of_a_batch_has_its_answer_or_its_refusal_and_it_fails_when_the_store_hangs_up_before() -> None:
    async def some(client: Client) -> None:
        first, second, third = [await client.request() for _ in range(3)]
        client.answer(third, b"3")
        client.refuse(second, "ENOENT")
        client.answer(first, b"1")
        client.answer(await client.request(), b"1")
        await client.request()

    async with connected(some) as connection:
        assert await asyncio.wait_for(connection.send_all([]), TIMEOUT) == []
        batch = [ask(Operation.WRITE, "/large", b"x" * 4096), *asked("/a", "/b", "/c")]
        large, first, second, third = await asyncio.wait_for(connection.send_all(batch), TIMEOUT)
        assert (first, third) == (b"1", b"3")
        assert [str(each) for each in (large, second)] == [
            "/large: expected a request of at most 4096 bytes, got 4103",
            "/b: ENOENT",
        ]
        assert (await lost(connection.send_all(asked("/a", "/b")))).sent


async def beginning(client: Client, came: list[tuple[int, int, bytes]], goes_on: asyncio.Event) -> None:
    """Begins a transaction when it may, then notes what comes."""
    begin = await client.request()
    await goes_on.wait()
    client.answer(begin, b"7\0")
    while True:
        request = await client.request()
        came.append((request.operation, request.transaction, request.payload))
        client.answer(request)


@pytest.mark.parametrize("begun", [False, True])
async def test_a_transaction_that_was_begun_early_and_is_not_taken_is_dropped(begun: bool) -> None:
    came: list[tuple[int, int, bytes]] = []
    goes_on = asyncio.Event()
    async with connected(lambda client: beginning(client, came, goes_on)) as connection:
        early = EarlyTransaction(connection)
        if begun:
            goes_on.set()
            await until(lambda: connection.in_flight == 0)
        early.drop()
        early.drop()  # once is enough
        goes_on.set()
        assert await early.take() is None
        await until(lambda: bool(came))
    assert came == [(END, 7, b"F\0")]


async def test_a_transaction_that_was_begun_early_is_taken_once_and_the_one_that_follows_comes_with_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(operations, "EARLY", TIMEOUT)  # a busy machine takes longer than the transaction is kept
    came: list[tuple[int, int, bytes]] = []
    numbers = iter((b"7\0", b"8\0"))

    async def store(client: Client) -> None:
        while True:
            request = await client.request()
            came.append((request.operation, request.transaction, request.payload))
            if request.operation != START:
                client.answer(request)
            elif (number := next(numbers, None)) is not None:
                client.answer(request, number)
            else:
                client.refuse(request, "ENOSPC")

    async with connected(store) as connection, asyncio.timeout(TIMEOUT):
        early = EarlyTransaction(connection)
        transaction = await early.take()
        assert transaction is not None
        assert await early.take() is None
        early.drop()
        assert await transaction.commit([ask(Operation.WRITE, "/a", b"1")], goes_on=True) == [b"OK\0"]
        assert await transaction.commit() == []  # it has ended
        assert transaction.following is not None
        assert await transaction.following.take() is not None
        assert came[1:] == [(11, 7, b"/a\x001"), (END, 7, b"T\0"), (START, 0, b"\0")]
        assert await EarlyTransaction(connection).take() is None  # it could not be begun
