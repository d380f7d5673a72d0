"""A store that now and then refuses: stands between a gateway and the real one, byte by byte alike but for that."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from adapters.transports.xenstore_packets import _HEADER as HEADER
from adapters.transports.xenstore_packets import HEADER_SIZE, Operation

GONE = (asyncio.IncompleteReadError, ConnectionError)


@dataclass
class Refusals:
    """What is refused from now on: the share of requests for each error; `refused` counts them."""

    chance: random.Random
    shares: Mapping[str, float] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)

    def of(self, operation: int) -> str:
        """The error of one request, "" for none; EAGAIN is what ends of transactions are told."""
        for name, share in self.shares.items():
            if (name != "EAGAIN" or operation == Operation.TRANSACTION_END) and self.chance.random() < share:
                self.refused[name] += 1
                return name
        return ""


@asynccontextmanager
async def refusing(path: str, real: str, refusals: Refusals) -> AsyncIterator[None]:
    """Listen at a path and hand on to the real store."""
    served: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        served.add(task)
        try:
            await _carry(reader, writer, real, refusals)
        finally:
            served.discard(task)
            writer.close()

    async with await asyncio.start_unix_server(serve, path):
        yield
        for task in served:
            task.cancel()
        await asyncio.gather(*served, return_exceptions=True)


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, real: str, refusals: Refusals) -> None:
    theirs, ours = await asyncio.open_unix_connection(real)
    turned: dict[int, bytes] = {}  # by request id: what is told in place of what the store says
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_requests(reader, ours, turned, writer, refusals))
            group.create_task(_answers(theirs, writer, turned))
    except* GONE:
        pass  # one side has hung up, and so do we
    finally:
        ours.close()


async def _requests(
    reader: asyncio.StreamReader,
    ours: asyncio.StreamWriter,
    turned: dict[int, bytes],
    writer: asyncio.StreamWriter,
    refusals: Refusals,
) -> None:
    while True:
        head = await reader.readexactly(HEADER_SIZE)
        operation, number, transaction, size = HEADER.unpack(head)
        body = await reader.readexactly(size)
        if name := refusals.of(operation):
            told = name.encode() + b"\0"
            refusal = HEADER.pack(Operation.ERROR, number, transaction, len(told)) + told
            if operation != Operation.TRANSACTION_END:
                writer.write(refusal)
                continue
            turned[number], body = refusal, b"F\0"  # the transaction is over all the same, and nothing is done
            head = HEADER.pack(operation, number, transaction, len(body))
        ours.write(head + body)
        await ours.drain()


async def _answers(theirs: asyncio.StreamReader, writer: asyncio.StreamWriter, turned: dict[int, bytes]) -> None:
    while True:
        head = await theirs.readexactly(HEADER_SIZE)
        _, number, _, size = HEADER.unpack(head)
        body = await theirs.readexactly(size)
        writer.write(turned.pop(number, head + body))
        await writer.drain()
