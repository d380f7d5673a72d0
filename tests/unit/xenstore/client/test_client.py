"""What no real xenstored does on demand; with a real one: tests/interop/test_xenstore_store.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from adapters.xenstore.client import client as xenstore_store
from adapters.xenstore.client.client import Transaction, XenstoreClient, socket_path
from adapters.xenstore.client.connection import StoreLostError
from adapters.xenstore.client.wire import StoreError
from tests.kit.cases import each_case
from tests.kit.fake_stores import (
    DIRECTORY,
    DIRECTORY_PART,
    END,
    READ,
    START,
    WATCH,
    WRITE,
    Client,
    Request,
    Script,
    fake_store,
    packed,
    pass_time,
)
from tests.kit.programs import TIMEOUT


async def obliging(client: Client) -> None:
    """Does everything; transaction 17 is the only one."""
    while True:
        request = await client.request()
        client.answer(request, b"17\0" if request.operation == START else b"OK\0")


async def hangs_up(client: Client) -> None:
    """At the first request."""
    await client.request()


def refusing(names: Sequence[str], operation: int, seen: list[Request]) -> Script:
    """Operations of this kind, one after the other, until the names are used up."""
    left = list(names)

    async def script(client: Client) -> None:
        while True:
            request = await client.request()
            seen.append(request)
            if request.operation == operation and left:
                client.refuse(request, left.pop(0))
            elif request.operation == WATCH:
                client.answer(request)
                client.event("/a", request.payload.split(b"\0")[1])
            else:
                client.answer(request, b"17\0" if request.operation == START else b"OK\0")

    return script


async def write_a(transaction: Transaction) -> str:
    await transaction.write("/a", b"x")
    return "done"


async def within_patience(store: XenstoreClient) -> None:
    await asyncio.wait_for(store.until_connected(), TIMEOUT)


@asynccontextmanager
async def connected(*scripts: Script, **options: Any) -> AsyncIterator[XenstoreClient]:
    """A client of a store that plays these scripts."""
    async with fake_store(*scripts) as path, XenstoreClient(path, **options) as store:
        await within_patience(store)
        yield store


async def test_a_transaction_is_done_again_until_nobody_gets_in_between() -> None:
    """The first attempts follow each other at once, the others after a pause."""
    seen: list[Request] = []
    pauses: list[float] = []

    async def note(seconds: float) -> None:
        pauses.append(seconds)

    async with connected(refusing(["EAGAIN"] * 6, END, seen), pause=note) as store:
        assert await store.transaction(write_a) == "done"
    assert [request.operation for request in seen] == [START, 11, END] * 7
    assert {request.transaction for request in seen if request.operation != START} == {17}
    assert [seconds < bound for seconds, bound in zip(pauses, (0.001, 0.002, 0.004), strict=True)] == [True] * 3


async def test_a_storm_of_conflicts_comes_to_an_end() -> None:
    seen: list[Request] = []
    async with connected(refusing(["EAGAIN"] * 1000, END, seen), attempts=5) as store:
        with pytest.raises(StoreError, match="conflicted with other clients in each of 5") as caught:
            await store.transaction(write_a)
    assert caught.value.name == "EAGAIN"
    assert len(seen) == 15


async def test_what_the_work_raises_rolls_back_and_is_raised() -> None:
    seen: list[Request] = []
    began = asyncio.Event()

    async def fail(transaction: Transaction) -> None:
        await write_a(transaction)
        raise ZeroDivisionError

    async def wait(_: Transaction) -> None:
        began.set()
        await asyncio.Event().wait()

    async with connected(refusing([], END, seen)) as store:
        with pytest.raises(ZeroDivisionError):
            await store.transaction(fail)
        cancelled = asyncio.ensure_future(store.transaction(wait))
        await began.wait()
        cancelled.cancel()
        await asyncio.wait({cancelled})
        await store.write("/b", b"")
    assert [request.payload for request in seen] == [b"\0", b"/a\0x", b"F\0", b"\0", b"F\0", b"/b\0"]


async def test_what_the_work_finds_counts_for_nothing_when_the_store_had_dropped_the_transaction() -> None:
    """In a forced live update; the C xenstored then refuses whatever belongs to it, as if there were no node."""
    numbers, found = iter((b"17\0", b"18\0")), []

    async def updated(client: Client) -> None:
        while True:
            request = await client.request()
            if request.transaction == 17:
                client.refuse(request, "ENOENT")
            else:
                client.answer(request, next(numbers) if request.operation == START else b"OK\0")

    async def look(transaction: Transaction) -> None:
        found.append(await transaction.read("/a"))
        if found[-1] is None:
            raise ZeroDivisionError

    async with connected(updated) as store:
        await asyncio.wait_for(store.transaction(look), TIMEOUT)
    assert found == [None, b"OK\0"]


@each_case(("number", "why"), [(b"17\0", "/a: EQUOTA"), (b"seventeen\0", "expected the number of a transaction")])
async def test_an_error_in_a_transaction_is_not_tried_again(number: bytes, why: str) -> None:
    async def refuse(client: Client) -> None:
        client.answer(await client.request(), number)
        client.refuse(await client.request(), "EQUOTA")
        await client.gone()

    async with connected(refuse) as store:
        with pytest.raises(StoreError, match=why):
            await store.transaction(write_a)


async def test_a_store_that_dies_at_the_commit_leaves_it_unknown() -> None:
    async def die(client: Client) -> None:
        while (request := await client.request()).operation != END:
            client.answer(request, b"17\0" if request.operation == START else b"OK\0")

    async with connected(die) as store:
        with pytest.raises(StoreLostError) as caught:
            await store.transaction(write_a)
        assert caught.value.sent


async def test_it_connects_again_by_itself() -> None:
    async with connected(hangs_up, obliging) as store:
        with pytest.raises(StoreLostError, match=r"^/a: the store hung up$"):
            await store.write("/a", b"")
        with pytest.raises(StoreLostError, match=r"socket: the store hung up$") as caught:
            await store.write("/b", b"")
        assert not caught.value.sent
        assert not store.connected
        await within_patience(store)
        await store.write("/b", b"")
        assert store.status().reconnects == 1
        assert store.status().last_error == "the store hung up"


async def test_a_store_that_sends_junk_is_left_and_the_operator_told_why() -> None:
    async def babble(client: Client) -> None:
        await client.request()
        client.raw(packed(99, 1, 0, b""))
        await client.gone()

    async with connected(babble, obliging) as store:
        with pytest.raises(StoreLostError, match="the store sent a packet of the unknown type 99"):
            await store.write("/a", b"")
        assert store.status().last_error == "the store sent a packet of the unknown type 99"
        await within_patience(store)


async def test_it_waits_for_a_store_that_is_not_there_yet(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    async with XenstoreClient(str(path)) as store:
        with pytest.raises(StoreLostError, match="not connected yet") as caught:
            await store.read("/a")
        assert not caught.value.sent
        await asyncio.sleep(0)  # it tries
        assert store.status().last_error == f"{tmp_path}/socket: No such file or directory"
        async with fake_store(obliging) as there:
            path.symlink_to(there)
            await within_patience(store)
            await store.write("/a", b"")
            await store.stop()


@each_case(("steady", "expected"), [(TIMEOUT, [0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0]), (-1, [0] * 8)])
async def test_attempts_to_connect_become_rarer_until_a_connection_was_good_for_a_while(
    steady: float, expected: list[float]
) -> None:
    pauses: list[float] = []
    enough = asyncio.Event()

    async def note(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 8:
            enough.set()
            await asyncio.Event().wait()

    async def refuse(_: Client) -> None:
        """Hang up at once."""

    async with fake_store(refuse) as path, XenstoreClient(path, pause=note, steady=steady) as store:
        await asyncio.wait_for(enough.wait(), TIMEOUT)
        assert store.status().last_error == "the store hung up"
    assert pauses == expected


async def test_watches_are_registered_again_after_a_reconnect_under_their_tokens() -> None:
    seen: list[Request] = []

    async def note(client: Client) -> None:
        for _ in range(2):
            request = await client.request()
            seen.append(request)
            client.answer(request)
            path, token, _ = request.payload.split(b"\0")
            client.event(path.decode(), token)
        assert (await client.request()).operation == 2

    async with fake_store(note) as path, XenstoreClient(path) as store:
        first, second = store.watch("/a"), store.watch("/b")
        for _ in range(2):
            assert await anext(first) == "/a"
            assert await anext(second) == "/b"
            with pytest.raises(StoreLostError):
                await store.read("/x")
        assert store.status().watches == 2
    assert [request.payload for request in seen[:4]] == [b"/a\x001\0", b"/b\x002\0"] * 2
    assert {request.operation for request in seen} == {WATCH}


async def test_a_watch_that_was_closed_is_not_registered() -> None:
    seen: list[Request] = []

    async def note(client: Client) -> None:
        while True:
            seen.append(await client.request())
            client.answer(seen[-1])

    async with fake_store(note) as path:
        store = XenstoreClient(path)
        store.watch("/a").close()
        open_one = store.watch("/b")
        await store.start()
        await within_patience(store)
        async with asyncio.timeout(TIMEOUT):
            while not seen:  # noqa: ASYNC110 - until it is registered
                await asyncio.sleep(0)
        await store.write("/x", b"")
        open_one.close()
        await store.write("/x", b"")
        await store.stop()
    assert [request.payload for request in seen] == [b"/b\x002\0", b"/x\0", b"/b\x002\0", b"/x\0"]


async def test_an_event_of_a_watch_that_was_closed_is_dropped() -> None:
    came = asyncio.Event()

    async def tell_late(client: Client) -> None:
        watched = await client.request()
        came.set()
        unwatched, request = await client.request(), await client.request()
        client.answer(watched)
        client.event("/a", b"1")
        client.answer(unwatched)
        client.answer(request)
        await client.gone()

    async with connected(tell_late) as store:
        watch = store.watch("/a")
        await came.wait()
        watch.close()
        await store.write("/x", b"")
        assert store.connected


async def test_a_watch_the_store_refuses_fails_alone() -> None:
    async def refuse(client: Client) -> None:
        for _ in range(2):
            request = await client.request()
            if b"/forbidden" in request.payload:
                client.refuse(request, "EACCES")
            else:
                client.answer(request)
                client.event("/allowed", b"2")
        await client.gone()

    async with fake_store(refuse) as path, XenstoreClient(path) as store:
        forbidden, allowed = store.watch("/forbidden"), store.watch("/allowed")
        assert await anext(allowed) == "/allowed"
        with pytest.raises(StoreError, match="/forbidden: EACCES"):
            await anext(forbidden)


async def test_watches_that_are_closed_while_there_is_no_store_leave_nothing() -> None:
    store = XenstoreClient("/none")
    with pytest.raises(StoreError, match="expected an absolute xenstore path"):
        store.watch("relative")
    for _ in range(10):
        store.watch("/a").close()
    assert not store._unregistered
    assert store.status().watches == 0


async def test_a_watch_whose_registration_is_unknown_costs_the_connection() -> None:
    came = asyncio.Event()

    async def skip_watches(client: Client) -> None:
        while True:
            request = await client.request()
            if request.operation == WATCH:
                came.set()
            else:
                client.answer(request)

    async def register(client: Client) -> None:
        client.answer(await client.request())
        client.event("/a", b"1")
        await client.gone()

    async with connected(skip_watches, register) as store:
        watch = store.watch("/a")
        await came.wait()
        await store.write("/x", b"")  # the store is alive
        assert store._connection is not None
        pass_time(store._connection)
        assert await asyncio.wait_for(anext(watch), TIMEOUT) == "/a"
        assert store.status().last_error == "/a: the store did not answer WATCH in 5 s"


async def test_stopping_ends_the_readers_of_watches_and_it_can_be_started_again(tmp_path: Path) -> None:
    async with fake_store(obliging) as path:
        store = XenstoreClient(path)
        assert (store.status().connected, store.status().last_error) == (False, "not started")
        await store.stop()
        for _ in range(2):
            await store.start()
            await within_patience(store)
            reader = asyncio.ensure_future(anext(store.watch("/a"), None))
            await asyncio.sleep(0)
            status = store.status()
            assert (status.address, status.connected, status.watches) == (path, True, 1)
            await store.stop()
            assert await reader is None
            assert (store.connected, store.status().last_error) == (False, "stopped")
            with pytest.raises(StoreLostError, match="stopped"):
                await store.read("/a")
    store = XenstoreClient(str(tmp_path / "socket"))
    await store.start()
    await store.stop()  # it was never connected


@each_case("turns", range(8))
async def test_it_can_be_stopped_while_it_connects(turns: int) -> None:
    async with fake_store(obliging) as path:
        store = XenstoreClient(path)
        store.watch("/a")
        await store.start()
        for _ in range(turns):
            await asyncio.sleep(0)
        await store.stop()
        assert not store.connected


@each_case(
    ("environment", "path"),
    [
        ({}, "/var/run/xenstored/socket"),
        ({"XENSTORED_RUNDIR": "/a"}, "/a/socket"),
        ({"XENSTORED_RUNDIR": "/a", "XENSTORED_PATH": "/b"}, "/b"),
        ({"XENSTORED_RUNDIR": "", "XENSTORED_PATH": ""}, "/var/run/xenstored/socket"),
    ],
)
def test_the_socket_is_where_the_tools_look(environment: dict[str, str], path: str) -> None:
    assert socket_path(environment) == path


@each_case("name", ["ENOMEM", "EIO", "EAGAIN", "EBUSY"])
async def test_what_is_refused_for_the_moment_is_asked_again(name: str) -> None:
    seen: list[Request] = []
    async with connected(refusing([name] * 3, READ, seen)) as store:
        assert await store.read("/a") == b"OK\0"
    assert [request.operation for request in seen] == [READ] * 4


@each_case("name", ["ENOMEM", "EIO"])
async def test_a_transaction_of_which_a_part_is_refused_for_the_moment_is_done_again_as_a_whole(name: str) -> None:
    for operation in (START, WRITE, END):
        seen: list[Request] = []
        async with fake_store(refusing([name] * 2, operation, seen)) as path, XenstoreClient(path) as store:
            await within_patience(store)
            assert await store.transaction(write_a) == "done"
        assert len([each for each in seen if each.operation == START]) == 3


async def test_it_is_given_up_after_some_attempts() -> None:
    async def no_time(_seconds: float) -> None:
        pass

    for operation in (READ, WRITE):
        seen: list[Request] = []
        async with (
            fake_store(refusing(["EIO"] * 1000, operation, seen)) as path,
            XenstoreClient(path, pause=no_time) as store,
        ):
            await within_patience(store)
            with pytest.raises(StoreError, match="/a: EIO"):
                await (store.read("/a") if operation == READ else store.transaction(write_a))
        assert len([each for each in seen if each.operation == operation]) == xenstore_store.TRIES


async def test_a_watch_that_is_refused_for_the_moment_is_registered_later() -> None:
    async with fake_store(refusing(["ENOMEM", "EQUOTA", "ENOSPC"], WATCH, [])) as path, XenstoreClient(path) as store:
        watch = store.watch("/a")
        assert await asyncio.wait_for(anext(watch), TIMEOUT) == "/a"
        assert store.status().last_error == "the watch of /a: ENOSPC"


async def test_a_directory_that_no_answer_can_hold_is_listed_in_a_transaction_that_is_dropped() -> None:
    seen: list[Request] = []

    async def script(client: Client) -> None:
        parts = iter([b"7\0a\0b\0", b"7\0c\0\0"])
        while True:
            request = await client.request()
            seen.append(request)
            if request.operation == DIRECTORY:
                client.refuse(request, "E2BIG")
            elif request.operation == DIRECTORY_PART:
                client.answer(request, next(parts))
            else:
                client.answer(request, b"17\0")

    async with connected(script) as store:
        assert await store.list("/a") == ["a", "b", "c"]
        await store.read("/b")
    assert [(each.operation, each.transaction) for each in seen] == [
        (DIRECTORY, 0),
        (START, 0),
        (DIRECTORY_PART, 17),
        (DIRECTORY_PART, 17),
        (END, 17),
        (READ, 0),
    ]
    assert seen[4].payload == b"F\0"


async def test_a_directory_is_not_missing_because_the_store_dropped_the_transaction_that_listed_it() -> None:
    async def script(client: Client) -> None:
        while True:
            request = await client.request()
            if request.operation == START:
                client.answer(request, b"17\0")
            else:
                client.refuse(request, "E2BIG" if request.operation == DIRECTORY else "ENOENT")

    async with connected(script) as store:
        with pytest.raises(StoreError, match="live update"):
            await store.list("/a")
