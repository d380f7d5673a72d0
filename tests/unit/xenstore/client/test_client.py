"""What no real xenstored does on demand; with a real one: tests/interop/test_xenstore_store.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from adapters.xenstore.client import client as xenstore_store
from adapters.xenstore.client.client import MAX_QUEUED, Transaction, Watch, XenstoreClient, socket_path
from adapters.xenstore.client.connection import StoreLostError
from adapters.xenstore.client.operations import LISTINGS, ask
from adapters.xenstore.client.wire import Operation, StoreError
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


async def hangs_up(client: Client) -> None:
    """At the first request."""
    await client.request()


def answering(answers: Mapping[int, Sequence[bytes | str]], seen: list[Request] | None = None) -> Script:
    """Answers each kind of operation with these payloads or errors in turn, then as if it were done."""
    left = {operation: list(each) for operation, each in answers.items()}

    async def script(client: Client) -> None:
        while True:
            request = await client.request()
            if seen is not None:
                seen.append(request)
            turns = left.get(request.operation)
            answer = turns.pop(0) if turns else b"17\0" if request.operation == START else b"OK\0"
            if isinstance(answer, str):
                client.refuse(request, answer)
                continue
            client.answer(request, answer)
            if request.operation == WATCH:
                path, token, _ = request.payload.split(b"\0")
                client.event(path.decode(), token)

    return script


obliging = answering({})


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
    """At once, and after a pause from the fifth attempt on. ENOENT: the store has dropped it in a live update."""
    seen: list[Request] = []
    pauses: list[float] = []

    async def note(seconds: float) -> None:
        pauses.append(seconds)

    async with connected(answering({END: [*["EAGAIN"] * 3, *["ENOENT"] * 3]}, seen), pause=note) as store:
        assert await store.transaction(write_a) == "done"
    assert [request.operation for request in seen] == [START, 11, END] * 7
    assert {request.transaction for request in seen if request.operation != START} == {17}
    assert [seconds < bound for seconds, bound in zip(pauses, (0.001, 0.002, 0.004), strict=True)] == [True] * 3


async def test_a_storm_of_conflicts_comes_to_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xenstore_store, "ATTEMPTS", 15)  # more than of another refusal
    seen: list[Request] = []
    async with connected(answering({END: ["EAGAIN"] * 15}, seen)) as store:
        with pytest.raises(StoreError, match="conflicted with other clients in each of 15") as caught:
            await store.transaction(write_a)
    assert caught.value.name == "EAGAIN"
    assert len(seen) == 3 * 15


async def test_what_the_work_raises_rolls_back_and_is_raised() -> None:
    seen: list[Request] = []
    began = asyncio.Event()

    async def fail(transaction: Transaction) -> None:
        await write_a(transaction)
        raise ZeroDivisionError

    async def wait(_: Transaction) -> None:
        began.set()
        await asyncio.Event().wait()

    async with connected(answering({}, seen)) as store:
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
    async with connected(answering({START: [number], WRITE: ["EQUOTA"]})) as store:
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


async def babbles(client: Client) -> None:
    await client.request()
    client.raw(packed(99, 1, 0, b""))
    await client.gone()


@each_case(
    ("harm", "why"), [(hangs_up, "the store hung up"), (babbles, "the store sent a packet of the unknown type 99")]
)
async def test_it_connects_again_by_itself_and_the_operator_is_told_why(harm: Script, why: str) -> None:
    async with connected(harm, obliging) as store:
        with pytest.raises(StoreLostError, match=f"^/a: {why}$"):
            await store.write("/a", b"")
        with pytest.raises(StoreLostError, match=f"socket: {why}$") as caught:
            await store.write("/b", b"")
        assert (caught.value.sent, store.connected) == (False, False)
        await within_patience(store)
        await store.write("/b", b"")
        assert (store.status().reconnects, store.status().last_error) == (1, why)


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
    steady: float, expected: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(xenstore_store, "STEADY", steady)
    pauses: list[float] = []
    enough = asyncio.Event()

    async def note(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 8:
            enough.set()
            await asyncio.Event().wait()

    async def refuse(_: Client) -> None:
        """Hang up at once."""

    async with fake_store(refuse) as path, XenstoreClient(path, pause=note) as store:
        await asyncio.wait_for(enough.wait(), TIMEOUT)
        assert store.status().last_error == "the store hung up"
    assert pauses == expected


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
    async with connected(answering({WATCH: ["EACCES"]})) as store:
        forbidden, allowed = store.watch("/forbidden"), store.watch("/allowed")
        assert await anext(allowed) == "/allowed"
        with pytest.raises(StoreError, match="/forbidden: EACCES"):
            await anext(forbidden)


async def test_watches_that_are_closed_while_there_is_no_store_leave_nothing() -> None:
    store = XenstoreClient("/none")
    with pytest.raises(StoreError, match="expected an absolute xenstore path"):
        store.watch("relative")
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

    async with connected(skip_watches, obliging) as store:
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


@each_case(("name", "operation"), [*product(["ENOMEM", "EIO", "EBUSY"], [READ, START, WRITE, END]), ("EAGAIN", READ)])
async def test_what_is_refused_for_the_moment_is_asked_again_and_a_transaction_as_a_whole_but_not_for_ever(
    name: str, operation: int
) -> None:
    async def no_time(_seconds: float) -> None:
        pass

    for refusals, asked in ((3, 4), (1000, xenstore_store.TRIES)):
        seen: list[Request] = []
        async with connected(answering({operation: [name] * refusals}, seen), pause=no_time) as store:
            work = store.read("/a") if operation == READ else store.transaction(write_a)
            with nullcontext() if refusals == 3 else pytest.raises(StoreError, match=name):
                assert await work in (b"OK\0", "done")
        assert [each.operation for each in seen].count(READ if operation == READ else START) == asked


async def test_of_what_is_asked_together_that_is_asked_again_which_was_refused_for_the_moment() -> None:
    asked = [ask(Operation.READ, path) for path in ("/a", "/b", "/c", "/d")]
    async with connected(answering({READ: [b"1", "EIO", b"3", "ENOENT", b"2"]})) as store:
        *values, missing = await store.together(asked)
    assert (values, str(missing)) == ([b"1", b"2", b"3"], "/d: ENOENT")


async def test_a_watch_that_is_refused_for_the_moment_is_registered_later() -> None:
    async with connected(answering({WATCH: ["ENOMEM", "EQUOTA", "ENOSPC"]})) as store:
        watch = store.watch("/a")
        assert await asyncio.wait_for(anext(watch), TIMEOUT) == "/a"
        assert store.status().last_error == "the watch of /a: ENOSPC"


# Directories that no answer can hold


@each_case(
    ("parts", "names", "offsets"),
    [
        ([b"7\0a\0b\0", b"7\0c\0", b"7\0d\0\0"], ["a", "b", "c", "d"], [0, 4, 6]),
        ([b"7\0a\0b\0", b"8\0x\0", b"8\0a\0", b"8\0x\0\0"], ["a", "x"], [0, 4, 0, 2]),  # it changes meanwhile
        ([b"7\0a\0", "ENOENT"], None, [0, 2]),  # it goes meanwhile
    ],
)
async def test_a_large_directory_is_listed_in_parts_in_a_transaction_that_is_dropped(
    parts: list[bytes | str], names: list[str] | None, offsets: list[int]
) -> None:
    seen: list[Request] = []
    async with connected(answering({DIRECTORY: ["E2BIG"], DIRECTORY_PART: parts}, seen)) as store:
        assert await store.list("/a") == names
        await store.read("/b")
    asked = [(DIRECTORY_PART, 17, b"/a\0%d\0" % offset) for offset in offsets]
    assert [(each.operation, each.transaction, each.payload) for each in seen] == [
        (DIRECTORY, 0, b"/a\0"),
        (START, 0, b"\0"),
        *asked,
        (END, 17, b"F\0"),
        (READ, 0, b"/b\0"),
    ]


@each_case(
    ("parts", "end", "why"),
    [
        (
            [b"%d\0%c\0" % (n // 2, n % 2 + 97) for n in range(1, 2 * LISTINGS + 1)],
            [],
            "/a: the directory changed during each of",
        ),
        (["EINVAL"], [], "/a: E2BIG"),
        (["ENOSYS"], [], "/a: E2BIG"),
        (["EACCES"], [], "/a: EACCES"),
        (["ENOENT"], ["ENOENT"], "the store dropped it in a live update"),
    ],
)
async def test_a_large_directory_that_cannot_be_listed_is_an_error_and_not_missing(
    parts: list[bytes | str], end: list[bytes | str], why: str
) -> None:
    async with connected(answering({DIRECTORY: ["E2BIG"], DIRECTORY_PART: parts, END: end})) as store:
        with pytest.raises(StoreError, match=why):
            await store.list("/a")


# Watches


async def queued(watch: Watch) -> list[str]:
    """What is there now."""
    watch.notify("/the/end")
    paths = []
    while (path := await anext(watch)) != "/the/end":
        paths.append(path)
    return paths


async def test_paths_come_in_order_and_none_waits_twice_and_too_many_become_the_watched_one() -> None:
    watch = Watch("/a", b"1", lambda _: None)
    for path in ("/a", "/a/c", "/a/b", "/a/c"):
        watch.notify(path)
    assert await queued(watch) == ["/a", "/a/c", "/a/b"]
    watch.notify("/a/b")  # it changes again after it was read
    assert await queued(watch) == ["/a/b"]
    for number in range(MAX_QUEUED):
        watch.notify(f"/a/{number}")
    watch.notify("/a/7")
    watch.notify("/a/one-more")
    assert await queued(watch) == ["/a"]
    watch.close()
    watch.close()  # once is enough
    assert [path async for path in watch] == []
