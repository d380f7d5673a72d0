from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import pytest

from adapters.xenstore import upstream
from adapters.xenstore.client.connection import StoreLostError
from adapters.xenstore.client.wire import Operation, StoreError
from adapters.xenstore.upstream import XenstoreUpstreamConnection
from gateway.core.rpc.model import Answer, Fault, FaultCode, RequestMetadata
from gateway.core.xenstore.paths import pack, unpack
from tests.kit.cases import each_case, expect
from tests.kit.memory_store import MemoryStore
from tests.kit.programs import TIMEOUT

T = TypeVar("T")

LOGIN = pack([b"login", b"service_name", b"xenopsd", b"deep/er", b""])


class Served(MemoryStore):
    """A store with a legacy service; `answers` is what that does with a request once it is written."""

    def __init__(self, answers: Callable[[dict[str, bytes]], dict[str, bytes] | None] = lambda _: {}) -> None:
        super().__init__()
        self.put("/squeezed/pid", b"%d" % os.getpid())
        self.answers = answers
        self.fails: Exception | None = None  # raised where a transaction is over
        self.stopped = False
        self.written = asyncio.Event()

    async def stop(self) -> None:
        self.stopped = True
        await super().stop()

    async def transaction(self, work: Callable[..., Awaitable[T]], lock: object = None, early: object = None) -> T:
        result = await super().transaction(work, lock, early)
        if self.fails is not None:
            raise self.fails
        (identity,) = await self.list("/squeezed/rpc/request/login") or []
        self.written.set()
        answer = self.answers(self.below(f"/squeezed/rpc/request/login/{identity}"))
        if answer is not None:
            self.respond(identity, answer)
        return result

    def respond(self, identity: str, answer: dict[str, bytes]) -> None:
        response = f"/squeezed/rpc/response/login/{identity}"
        for name, value in {"": b"", **answer}.items():
            self.put(f"{response}/{name}" if name else response, value)

    def assert_tidy(self) -> None:
        assert [path for path in self.tree if path.count("/") > 4] == []


@asynccontextmanager
async def line(store: Served, **options: bool) -> AsyncIterator[XenstoreUpstreamConnection]:
    made = XenstoreUpstreamConnection("squeezed", "/squeezed", store, **options)
    await made.start()
    yield made
    await made.stop()


async def send(line: XenstoreUpstreamConnection) -> Answer | Fault:
    return await asyncio.wait_for(line.send(LOGIN, RequestMetadata()), TIMEOUT)


@each_case(
    ("nodes", "items"),
    [
        ({}, []),
        ({"id": b"x", "more/0": b"a"}, [b"id", b"x", b"more/0", b"a"]),
        ({"": b"one"}, [b"", b"one"]),
        ({"": b"\0"}, [b"", b"\0"]),
        ({"": b"x", "a": b"1"}, [b"", b"x", b"a", b"1"]),
    ],
)
async def test_a_request_is_nodes_and_so_is_its_answer_of_which_nothing_is_lost(
    nodes: dict[str, bytes], items: list[bytes]
) -> None:
    seen: list[dict[str, bytes]] = []

    def answer(arguments: dict[str, bytes]) -> dict[str, bytes]:
        seen.append(arguments)
        return nodes

    store = Served(answer)
    async with line(store) as squeezed:
        got = expect(Answer, await send(squeezed))
        assert unpack(got.body or b"") == items
    assert (seen[0]["service_name"], seen[0]["deep/er"]) == (b"xenopsd", b"")
    store.assert_tidy()


async def test_an_answer_that_the_store_does_not_show_for_the_moment_is_read_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(upstream, "REFUSED_PAUSE", 0.0)
    store = Served(lambda _: {"session_id": b"xenopsd"})
    left = ["ENOMEM", "EQUOTA"]
    store.refuse = lambda operation, path: (
        left.pop() if left and operation is Operation.READ and "response" in path else None
    )
    async with line(store) as squeezed:
        got = expect(Answer, await send(squeezed))
        assert unpack(got.body or b"") == [b"session_id", b"xenopsd"]
    assert left == []


@each_case("pid", [None, b"", b"4194305", b"no number"])
async def test_a_service_whose_process_does_not_live_is_not_asked(pid: bytes | None) -> None:
    store = Served()
    store.drop("/squeezed/pid")
    if pid is not None:
        store.put("/squeezed/pid", pid)
    async with line(store) as squeezed:
        got = await send(squeezed)
        text = "the legacy service 'squeezed' is not registered in the store; nothing was executed"
        assert got == Fault(FaultCode.UNAVAILABLE, text)
    async with line(store, checks_pid=False) as squeezed:
        assert isinstance(await send(squeezed), Answer)


@each_case(
    ("error", "code", "text"),
    [
        (StoreLostError("gone", sent=False), FaultCode.UNAVAILABLE, "the store is away; nothing was executed"),
        (StoreLostError("gone", sent=True), FaultCode.NO_REPLY, "may have been asked; the store went away meanwhile"),
        (
            StoreError("EQUOTA", "/x"),
            FaultCode.UNAVAILABLE,
            "the store refuses the request (EQUOTA); nothing was executed",
        ),
    ],
)
async def test_whether_a_request_was_written_is_said_for_certain(error: Exception, code: FaultCode, text: str) -> None:
    store = Served()
    store.fails = error
    async with line(store) as squeezed:
        got = expect(Fault, await send(squeezed))
    store.assert_tidy()
    assert (got.code, got.message.endswith(text)) == (code, True)


async def test_an_answer_that_comes_later_is_waited_for_also_when_the_store_was_away() -> None:
    store = Served(lambda _: None)
    async with line(store) as squeezed:
        call = asyncio.get_running_loop().create_task(send(squeezed))
        await store.written.wait()
        assert squeezed.status().in_flight == 1
        (identity,) = await store.list("/squeezed/rpc/request/login") or []
        with store.away():
            store.respond(identity, {"a": b"b"})
            await asyncio.sleep(0)
        got = expect(Answer, await call)
        assert unpack(got.body or b"") == [b"a", b"b"]


async def test_a_call_that_is_cancelled_is_taken_back_and_a_line_that_is_replaced_leaves_the_store() -> None:
    store = Served(lambda _: None)
    async with line(store) as squeezed:
        call = asyncio.get_running_loop().create_task(send(squeezed))
        await store.written.wait()
        squeezed.retire()
        before = store.stopped
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert (before, store.stopped) == (False, True)
    store.assert_tidy()


async def test_a_service_that_hangs_is_asked_so_much_and_who_waits_for_it_may_leave() -> None:
    store = Served(lambda _: None)
    made = XenstoreUpstreamConnection("squeezed", "/squeezed", store, most=1, waiting=1)
    await made.start()
    wanted = True
    asked = asyncio.ensure_future(made.send(LOGIN, RequestMetadata()))
    await asyncio.wait_for(store.written.wait(), TIMEOUT)
    waits = asyncio.ensure_future(made.send(LOGIN, RequestMetadata(), wanted=lambda: wanted))
    await asyncio.wait({waits}, timeout=0)
    text = "the legacy service 'squeezed' has 2 calls in flight; nothing was executed"
    assert await send(made) == Fault(FaultCode.BUSY, text)
    wanted = False
    made.review()
    text = "the mode changed while the call waited for the legacy service 'squeezed'; nothing was executed"
    assert await waits == Fault(FaultCode.BUSY, text)
    assert (made.status().in_flight, made.status().waiting) == (1, 0)
    asked.cancel()
    await asyncio.wait({asked})
    await made.stop()
