"""A scripted xenstore on a real Unix socket, for what the real one never does; packs its packets by itself."""

from __future__ import annotations

import asyncio
import struct
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple, TypeAlias

from adapters.xenstore.client.connection import XenstoreConnection

HEADER = struct.Struct("=IIII")  # type, request id, transaction id, length (xs_wire.h); in the host's byte order
DIRECTORY, READ, WATCH, START, END, WRITE, EVENT, ERROR, DIRECTORY_PART = 1, 2, 4, 6, 7, 11, 15, 16, 22
PATIENCE = 60.0  # seconds for the client to do what it is about to do


def packed(operation: int, request: int, transaction: int, payload: bytes) -> bytes:
    """One packet."""
    return HEADER.pack(operation, request, transaction, len(payload)) + payload


class Request(NamedTuple):
    """What came from the client."""

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
        """The next one; IncompleteReadError when the client hung up."""
        async with asyncio.timeout(PATIENCE):
            operation, number, transaction, size = HEADER.unpack(await self._reader.readexactly(HEADER.size))
            return Request(operation, number, transaction, await self._reader.readexactly(size))

    async def gone(self) -> None:
        """Wait until the client has hung up."""
        async with asyncio.timeout(PATIENCE):
            while await self._reader.read(65536):
                pass

    def answer(self, request: Request, payload: bytes = b"OK\0") -> None:
        """It was done."""
        self.raw(packed(request.operation, request.id, request.transaction, payload))

    def refuse(self, request: Request, name: str) -> None:
        """It was not."""
        self.raw(packed(ERROR, request.id, request.transaction, name.encode() + b"\0"))

    def event(self, path: str, token: bytes) -> None:
        """A watch fires."""
        self.raw(packed(EVENT, 0, 0, path.encode() + b"\0" + token + b"\0"))

    def raw(self, data: bytes) -> None:
        """Any bytes."""
        self._writer.write(data)

    async def hang_up(self) -> None:
        """After what was written."""
        with suppress(ConnectionError):  # the client was first
            await self._writer.drain()
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()


Script: TypeAlias = Callable[[Client], Awaitable[None]]


@asynccontextmanager
async def fake_store(*scripts: Script) -> AsyncIterator[str]:
    """Its path. Each connection gets the next script, or the last one; the error of a script fails the test."""
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
                done, pending = await asyncio.wait(played, timeout=PATIENCE)
                assert not pending, "a script has not ended"
                for task in done:
                    task.result()
            await server.wait_closed()


def pass_time(connection: XenstoreConnection) -> None:
    """Now the deadline of every request is over."""
    for waiting in connection._waiting.values():
        waiting.sent -= connection._deadline
    connection._check_deadlines()
