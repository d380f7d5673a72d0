"""Stores that misbehave: a scripted xenstore, and a proxy that refuses operations of a real one.

Both pack their packets themselves. An operation that the proxy refuses does not reach the store: the client gets an
error packet instead. A refused TRANSACTION_END is sent as an abort, since a real store has ended the transaction too.
"""

from __future__ import annotations

import asyncio
import random
import struct
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple, TypeAlias

from adapters.xenstore.client.connection import XenstoreConnection
from tests.kit.programs import TIMEOUT

HEADER = struct.Struct("=IIII")  # type, request id, transaction id, length (xs_wire.h); in the host's byte order
DIRECTORY, READ, WATCH, START, END, WRITE, EVENT, ERROR, DIRECTORY_PART = 1, 2, 4, 6, 7, 11, 15, 16, 22


def packed(operation: int, request: int, transaction: int, payload: bytes) -> bytes:
    return HEADER.pack(operation, request, transaction, len(payload)) + payload


class Request(NamedTuple):
    """A packet of the client."""

    operation: int
    id: int
    transaction: int
    payload: bytes


class Client:
    """One connection, as the store sees it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def request(self) -> Request:
        """Return the next request; raises IncompleteReadError when the client hung up."""
        async with asyncio.timeout(TIMEOUT):
            operation, number, transaction, size = HEADER.unpack(await self._reader.readexactly(HEADER.size))
            return Request(operation, number, transaction, await self._reader.readexactly(size))

    async def gone(self) -> None:
        """Wait until the client has hung up."""
        async with asyncio.timeout(TIMEOUT):
            while await self._reader.read(65536):
                pass

    def answer(self, request: Request, payload: bytes = b"OK\0") -> None:
        self.raw(packed(request.operation, request.id, request.transaction, payload))

    def refuse(self, request: Request, name: str) -> None:
        self.raw(packed(ERROR, request.id, request.transaction, name.encode() + b"\0"))

    def event(self, path: str, token: bytes) -> None:
        """Send a watch event."""
        self.raw(packed(EVENT, 0, 0, path.encode() + b"\0" + token + b"\0"))

    def raw(self, data: bytes) -> None:
        self._writer.write(data)

    async def hang_up(self) -> None:
        """Close the connection after the bytes that were written."""
        with suppress(ConnectionError):  # the client was first
            await self._writer.drain()
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()


Script: TypeAlias = Callable[[Client], Awaitable[None]]


@asynccontextmanager
async def fake_store(*scripts: Script) -> AsyncIterator[str]:
    """Run one; yields its path. Each connection gets the next script, or the last; its error fails the test."""
    played: list[asyncio.Task[None]] = []

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        played.append(task)
        client = Client(reader, writer)
        try:
            await scripts[min(len(played), len(scripts)) - 1](client)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client hung up where the script wanted more
        finally:
            await client.hang_up()

    with tempfile.TemporaryDirectory(prefix="store-") as directory:
        path = str(Path(directory, "socket"))
        server = await asyncio.start_unix_server(play, path)
        try:
            yield path
        finally:
            server.close()
            if played:
                done, pending = await asyncio.wait(played, timeout=TIMEOUT)
                assert not pending, "a script has not ended"
                for task in done:
                    task.result()
            await server.wait_closed()


def pass_time(connection: XenstoreConnection) -> None:
    """Make the deadline of every request pass."""
    for waiting in connection._waiting.values():
        waiting.sent -= connection._deadline
    connection._check_deadlines()


# The refusing proxy


NUL = b"\0"

Rule: TypeAlias = Callable[[Request], str | None]  # the name of an errno; None: the store gets it


def nothing(_request: Request) -> str | None:
    return None


def at_random(rates: Mapping[str, float], seed: str) -> Rule:
    """Each errno at its rate: `{"ENOMEM": 0.01, "EAGAIN": 0.05}`."""
    chance = random.Random(seed)

    def rule(_request: Request) -> str | None:
        left = chance.random()
        for name, rate in rates.items():
            if left < rate:
                return name
            left -= rate
        return None

    return rule


class RefusingStore:
    """`path` is its socket; `rule` may be changed at any time. `refused` counts by operation and errno."""

    def __init__(self, path: str, store: str, rule: Rule) -> None:
        self.path = path
        self.rule = rule
        self.refused: Counter[tuple[int, str]] = Counter()
        self._store = store
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client until it or the store hangs up."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            store_reader, store_writer = await asyncio.open_unix_connection(self._store)
        except OSError:  # the store does not run
            writer.close()
            return
        swallowed: set[int] = set()  # requests that are answered already
        loop = asyncio.get_running_loop()
        up = loop.create_task(self._up(reader, writer, store_writer, swallowed))
        down = loop.create_task(self._down(store_reader, writer, swallowed))
        try:
            await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in (up, down):
                each.cancel()
            for result in await asyncio.gather(up, down, return_exceptions=True):
                if isinstance(result, Exception) and not isinstance(result, OSError | EOFError):
                    raise result
            for each_writer in (writer, store_writer):
                each_writer.close()
                with suppress(OSError):
                    await each_writer.wait_closed()

    async def _up(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        store: asyncio.StreamWriter,
        swallowed: set[int],
    ) -> None:
        while True:
            operation, number, transaction, size = HEADER.unpack(await reader.readexactly(HEADER.size))
            request = Request(operation, number, transaction, await reader.readexactly(size))
            name = self.rule(request)
            if name is None:
                store.write(packed(*request))
            else:
                self.refused[operation, name] += 1
                if operation == END:
                    swallowed.add(number)
                    store.write(packed(END, number, transaction, b"F" + NUL))
                writer.write(packed(ERROR, number, transaction, name.encode() + NUL))
                await writer.drain()
            await store.drain()

    async def _down(self, store: asyncio.StreamReader, writer: asyncio.StreamWriter, swallowed: set[int]) -> None:
        while True:
            header = await store.readexactly(HEADER.size)
            operation, number, _, size = HEADER.unpack(header)
            payload = await store.readexactly(size)
            if operation in (END, ERROR) and number in swallowed:
                swallowed.discard(number)
            else:
                writer.write(header + payload)
                await writer.drain()

    async def stop(self) -> None:
        """Hang up on all clients."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def refusing_store(store: str, rule: Rule = nothing) -> AsyncIterator[RefusingStore]:
    """Run one before the store that listens at this path."""
    with tempfile.TemporaryDirectory(prefix="refusing-") as directory:
        made = RefusingStore(str(Path(directory, "socket")), store, rule)
        server = await asyncio.start_unix_server(made.serve, made.path)
        try:
            yield made
        finally:
            server.close()
            await made.stop()
            await server.wait_closed()
