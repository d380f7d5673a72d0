"""A legacy service as its wire has it: requests read by hand, answers written as the test says; knows no protocol."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

# The whole request -> what is written; None closes the connection without a word.
Answers = Callable[[bytes], bytes | None]


class Last(bytes):
    """An answer after which the connection is closed."""


def ok(body: bytes, *lines: str) -> bytes:
    """An answer with status 200."""
    head = "\r\n".join(("HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *lines, "", ""))
    return head.encode("latin-1") + body


@dataclass
class OldServer:
    """What it has seen. `hold` keeps answers back until it is set."""

    answers: Answers
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0
    hold: asyncio.Event = field(default_factory=asyncio.Event)
    seen: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))  # one for each request
    left: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))  # one for each client that has left
    url: str = ""
    open: set[asyncio.StreamWriter] = field(default_factory=set)

    async def close_connections(self) -> None:
        """As a legacy server does with those that are idle; returns when their sockets are closed."""
        writers = tuple(self.open)
        for writer in writers:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in writers))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open.add(writer)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while await self._one(reader, writer):
                pass
        self.open.discard(writer)
        self.left.release()
        writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        request = await _request(reader)
        self.requests.append(request)
        self.seen.release()
        await self.hold.wait()
        answer = self.answers(request)
        if answer is not None:
            writer.write(answer)
            await writer.drain()
        return answer is not None and not isinstance(answer, Last)


async def _request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return head + await reader.readexactly(length)


@asynccontextmanager
async def old_server(
    answers: Answers = lambda _: ok(b"answer"),
    *,
    socket: Path | None = None,
    tls: ssl.SSLContext | None = None,
    held: bool = False,
) -> AsyncIterator[OldServer]:
    """A legacy service on a port of its own, or on a Unix socket."""
    old = OldServer(answers)
    if not held:
        old.hold.set()
    if socket is not None:
        server = await asyncio.start_unix_server(old.serve, socket)
        old.url = f"http+unix://{socket}"
    else:
        server = await asyncio.start_server(old.serve, "127.0.0.1", 0, ssl=tls)
        port = server.sockets[0].getsockname()[1]
        old.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    try:
        yield old
    finally:
        server.close()
        old.hold.set()
        for writer in tuple(old.open):
            writer.transport.abort()
        async with asyncio.timeout(60):
            for _ in range(old.connections):
                await old.left.acquire()
