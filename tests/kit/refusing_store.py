"""A proxy between a client and a real xenstore that refuses chosen operations; pure asyncio, packs packets by itself.

A refused operation does not reach the store: the client gets an error packet in its place. A refused TRANSACTION_END is
sent as an abort, since to a real store the transaction is over then too.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TypeAlias

from tests.kit.fake_store import END, ERROR, HEADER, Request, packed

NUL = b"\0"
PASSING = ("ENOMEM", "EIO", "EAGAIN", "EBUSY", "ENOSPC", "EQUOTA")

Rule: TypeAlias = Callable[[Request], str | None]  # the name of an errno; None: the store may have it


def nothing(_request: Request) -> str | None:
    """Refuse nothing."""
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


def path_of(request: Request) -> str:
    """What an operation is about."""
    return request.payload.partition(NUL)[0].decode("ascii", "replace")


class RefusingStore:
    """`path` is its socket; `rule` may be changed at any time. `refused` counts by operation and errno."""

    def __init__(self, path: str, store: str, rule: Rule) -> None:
        self.path = path
        self.rule = rule
        self.refused: Counter[tuple[int, str]] = Counter()
        self.passed: Counter[int] = Counter()  # by operation
        self._store = store
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client, until it or the store hangs up."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            store_reader, store_writer = await asyncio.open_unix_connection(self._store)
        except OSError:  # it is away
            writer.close()
            return
        swallowed: set[int] = set()  # requests whose answer is given already
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
                self.passed[operation] += 1
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
    """In front of the store that listens at this path."""
    with tempfile.TemporaryDirectory(prefix="refusing-") as directory:
        made = RefusingStore(str(Path(directory, "socket")), store, rule)
        server = await asyncio.start_unix_server(made.serve, made.path)
        try:
            yield made
        finally:
            server.close()
            await made.stop()
            await server.wait_closed()
