from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import pytest

from adapters.transports.xenstore_client import Line
from adapters.transports.xenstore_connection import LostError
from adapters.transports.xenstore_packets import Operation, StoreError
from adapters.transports.xenstore_store import Store
from adapters.transports.xenstore_watch import Watch
from gateway.core.model import Answer, Carried, Fault, FaultCode
from gateway.core.netstrings import pack, unpack

T = TypeVar("T")

LOGIN = pack([b"login", b"service_name", b"xenopsd", b"deep/er", b""])
PID = str(os.getpid()).encode()


class FakeStore(Store):
    """Nodes in a dictionary; `answers` is what the service does with a request once it is written."""

    def __init__(self, answers: Callable[[dict[str, bytes]], dict[str, bytes] | None] = lambda _: {}) -> None:
        super().__init__("fake")
        self.nodes: dict[str, bytes] = {"/squeezed/pid": PID}
        self.answers = answers
        self.fails: Exception | None = None  # raised where a transaction would be committed
        self.stopped = False
        self.written = asyncio.Event()
        self._watch: Watch | None = None
        self._connected.set()

    async def start(self) -> None: ...

    async def stop(self) -> None:
        self.stopped = True

    def watch(self, path: str) -> Watch:
        self._watch = super().watch(path)
        self._watch.tell(path)
        return self._watch

    async def transaction(self, work: Callable[..., Awaitable[T]]) -> T:
        result = await work(self)
        if self.fails is not None:
            raise self.fails
        request = next(path for path in self.nodes if path.startswith("/squeezed/rpc/request/login/"))
        arguments = {path.removeprefix(f"{request}/"): value for path, value in self.nodes.items() if request in path}
        self.written.set()
        self.respond(request, self.answers(arguments))
        return result

    def respond(self, request: str, answer: dict[str, bytes] | None) -> None:
        response = request.replace("/request/", "/response/")
        if answer is not None:
            self.nodes |= {response: b"", **{f"{response}/{name}": value for name, value in answer.items()}}
        if self._watch is not None:
            self._watch.tell(response)

    async def _ask(self, operation: Operation, payload: bytes, path: str) -> bytes:
        below = [each for each in self.nodes if each == path or each.startswith(f"{path}/")]
        match operation:
            case Operation.MKDIR | Operation.WRITE:
                self.nodes[path] = payload.partition(b"\0")[2] if operation is Operation.WRITE else b""
                return b"OK\0"
            case _ if not below:
                raise StoreError("ENOENT", path)
            case Operation.READ:
                return self.nodes.get(path, b"")
            case Operation.DIRECTORY:
                names = dict.fromkeys(each.removeprefix(f"{path}/").partition("/")[0] for each in below if each != path)
                return b"".join(name.encode() + b"\0" for name in names)
        for each in below:
            del self.nodes[each]
        return b"OK\0"


@asynccontextmanager
async def line(store: FakeStore, **options: bool) -> AsyncIterator[Line]:
    made = Line("squeezed", "/squeezed", store, **options)
    await made.start()
    yield made
    await made.stop()


async def send(line: Line) -> Answer | Fault:
    return await asyncio.wait_for(line.send(LOGIN, Carried()), 5)


async def refusal(store: FakeStore) -> Fault:
    async with line(store) as squeezed:
        got = await send(squeezed)
        assert isinstance(got, Fault)
    assert store.nodes == {"/squeezed/pid": PID} or store.fails
    return got


async def test_a_request_is_nodes_and_so_is_its_answer() -> None:
    seen: list[dict[str, bytes]] = []

    def answer(arguments: dict[str, bytes]) -> dict[str, bytes]:
        seen.append(arguments)
        return {"session_id": b"xenopsd", "more/0": b"a"}

    store = FakeStore(answer)
    async with line(store) as squeezed:
        got = await send(squeezed)
        assert isinstance(got, Answer)
        assert unpack(got.body or b"") == [b"session_id", b"xenopsd", b"more/0", b"a"]
    assert seen[0]["service_name"] == b"xenopsd"
    assert seen[0]["deep/er"] == b""
    assert store.nodes == {"/squeezed/pid": PID}


async def test_an_answer_of_no_nodes_is_one() -> None:
    async with line(FakeStore()) as squeezed:
        got = await send(squeezed)
        assert isinstance(got, Answer)
        assert got.body == b""


@pytest.mark.parametrize("pid", [None, b"", b"4194305", b"no number"])
async def test_a_service_whose_process_does_not_live_is_not_asked(pid: bytes | None) -> None:
    store = FakeStore()
    store.nodes = {} if pid is None else {"/squeezed/pid": pid}
    async with line(store) as squeezed:
        got = await send(squeezed)
        text = "the old service 'squeezed' is not registered in the store; nothing was executed"
        assert got == Fault(FaultCode.UNAVAILABLE, text)
    async with line(store, checks_pid=False) as squeezed:
        assert isinstance(await send(squeezed), Answer)


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (LostError("gone", sent=False), FaultCode.UNAVAILABLE, "the store is away; nothing was executed"),
        (LostError("gone", sent=True), FaultCode.NO_REPLY, "may have been asked; the store went away meanwhile"),
        (StoreError("EQUOTA", "/x"), FaultCode.UNAVAILABLE, "the store says EQUOTA; nothing was executed"),
    ],
)
async def test_whether_a_request_was_written_is_said_for_certain(error: Exception, code: FaultCode, text: str) -> None:
    store = FakeStore()
    store.fails = error
    got = await refusal(store)
    assert (got.code, got.message.endswith(text)) == (code, True)


async def test_an_answer_that_comes_later_is_waited_for() -> None:
    store = FakeStore(lambda _: None)
    async with line(store) as squeezed:
        call = asyncio.get_running_loop().create_task(send(squeezed))
        await store.written.wait()
        assert squeezed.status().in_flight == 1
        request = next(path for path in store.nodes if "/request/" in path)
        store.respond("/squeezed/rpc/request/" + "/".join(request.split("/")[4:6]), {"a": b"b"})
        got = await call
        assert isinstance(got, Answer)
        assert unpack(got.body or b"") == [b"a", b"b"]


async def test_a_call_that_is_cancelled_is_taken_back() -> None:
    store = FakeStore(lambda _: None)
    async with line(store) as squeezed:
        call = asyncio.get_running_loop().create_task(send(squeezed))
        await store.written.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert store.nodes == {"/squeezed/pid": PID}


async def test_a_line_that_is_replaced_leaves_the_store_when_it_is_idle() -> None:
    store = FakeStore(lambda _: None)
    async with line(store) as squeezed:
        call = asyncio.get_running_loop().create_task(send(squeezed))
        await store.written.wait()
        squeezed.retire()
        before = store.stopped
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert (before, store.stopped) == (False, True)
