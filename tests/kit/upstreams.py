"""Legacy services for tests: a server in a thread with a byte-exact client, an asyncio server, a scripted backend.

The first pair compares the bytes that pass through the gateway with the bytes without it.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from gateway.core.interfaces import HttpExchange, UpstreamBackend, Wanted, always
from gateway.core.routing.route import Route
from gateway.core.rpc.model import Answer, Call, Fault, Outcome, Reply, RequestMetadata
from tests.kit.programs import TIMEOUT
from tests.kit.raw_server import raw_server

# Headers of one connection, which differ between connections.
OF_THE_CONNECTION = frozenset({b"connection", b"keep-alive", b"transfer-encoding"})


@dataclass(frozen=True)
class Message:
    """A request or an answer. `start`: a request's verb and target, an answer's status and reason."""

    start: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    def carried(self, *others: bytes) -> Message:
        """Return the message without headers of the connection, and without `others`."""
        left_out = OF_THE_CONNECTION | set(others)
        kept = tuple((name, value) for name, value in self.headers if name.lower() not in left_out)
        return Message(self.start, kept, self.body)


@dataclass
class Tap:
    """The server: answers every request with `answer`, and closes the connection after it when `ends`."""

    answer: bytes = b""
    ends: bool = False
    port: int = 0
    seen: list[Message] = field(default_factory=list)


@contextmanager
def wiretap() -> Iterator[Tap]:
    """Run one until the block ends."""
    tap = Tap()

    def serve(connection: socket.socket) -> None:
        reader = Reader(connection)
        while (request := reader.request()) is not None:
            tap.seen.append(request)
            connection.sendall(tap.answer)
            if tap.ends:
                return

    with raw_server() as server:
        server.serve = serve
        tap.port = int(server.url.rpartition(":")[2])
        yield tap


class Reader:
    """One connection, read message by message."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._held = b""

    def request(self) -> Message | None:
        """Return the next request; None at the end."""
        head = self._head()
        if head is None:
            return None
        start, headers = head
        verb, target, _ = start.split(b" ")
        if _value(headers, b"transfer-encoding") == b"chunked":
            return Message(verb + b" " + target, headers, self._chunks())
        length = int(_value(headers, b"content-length") or 0)
        return Message(verb + b" " + target, headers, self._exactly(length))

    def answer(self, *, bodiless: bool = False) -> Message:
        """Return the next answer, with its chunks joined."""
        head = self._head()
        assert head is not None, "no answer"
        start, headers = head
        _, status, reason = (*start.split(b" ", 2), b"")[:3]
        message = status + b" " + reason
        if bodiless or status in (b"204", b"304"):
            return Message(message, headers, b"")
        if _value(headers, b"transfer-encoding") == b"chunked":
            return Message(message, headers, self._chunks())
        length = _value(headers, b"content-length")
        body = self._rest() if length is None else self._exactly(int(length))
        return Message(message, headers, body)

    def _head(self) -> tuple[bytes, tuple[tuple[bytes, bytes], ...]] | None:
        while b"\r\n\r\n" not in self._held:
            if not self._more():
                assert not self._held, self._held
                return None
        head, _, self._held = self._held.partition(b"\r\n\r\n")
        start, *lines = head.split(b"\r\n")
        return start, tuple((name, value.strip(b" \t")) for name, _, value in (line.partition(b":") for line in lines))

    def _chunks(self) -> bytes:
        parts = []
        while size := int(self._line(), 16):
            parts.append(self._exactly(size))
            self._line()
        self._line()
        return b"".join(parts)

    def _line(self) -> bytes:
        while b"\r\n" not in self._held:
            assert self._more(), "the connection ended"
        line, _, self._held = self._held.partition(b"\r\n")
        return line

    def _exactly(self, size: int) -> bytes:
        while len(self._held) < size:
            assert self._more(), "the connection ended"
        found, self._held = self._held[:size], self._held[size:]
        return found

    def _rest(self) -> bytes:
        while self._more():
            pass
        found, self._held = self._held, b""
        return found

    def _more(self) -> bool:
        try:
            data = self._connection.recv(65536)
        except ConnectionError:
            data = b""
        self._held += data
        return bool(data)


def _value(headers: tuple[tuple[bytes, bytes], ...], wanted: bytes) -> bytes | None:
    return next((value for name, value in headers if name.lower() == wanted), None)


@contextmanager
def dialled(port: int) -> Iterator[tuple[socket.socket, Reader]]:
    """Connect to a port of this host."""
    with socket.create_connection(("127.0.0.1", port), TIMEOUT) as connection:
        yield connection, Reader(connection)


# An asyncio server whose answers a test writes


# The whole request -> the bytes of the answer; None closes the connection without an answer.
Answers = Callable[[bytes], bytes | None]


class Last(bytes):
    """An answer after which the connection is closed."""


def ok(body: bytes, *lines: str) -> bytes:
    """An answer with status 200."""
    head = "\r\n".join(("HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *lines, "", ""))
    return head.encode("latin-1") + body


@dataclass
class LegacyServer:
    """The server. `hold` delays answers until it is set."""

    answers: Answers
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0
    hold: asyncio.Event = field(default_factory=asyncio.Event)
    seen: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))  # one for each request
    left: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))  # one for each client that has left
    url: str = ""
    open: set[asyncio.StreamWriter] = field(default_factory=set)

    async def close_connections(self) -> None:
        """Close the idle connections, as a legacy server does; returns when their sockets are closed."""
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
async def legacy_server(
    answers: Answers = lambda _: ok(b"answer"),
    *,
    socket: Path | None = None,
    tls: ssl.SSLContext | None = None,
    held: bool = False,
) -> AsyncIterator[LegacyServer]:
    """Run one on a port of its own, or on a Unix socket."""
    old = LegacyServer(answers)
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


# A scripted backend, for tests of everything above one


async def old(_route: Route, _call: Call) -> Outcome:
    return Reply("old")


class Scripted(UpstreamBackend):
    """Legacy services by their protocols; `whole` answers every message that is passed through."""

    def __init__(
        self,
        speaks: dict[str, tuple[str, str]],
        whole: Answer | Fault | None = None,
        answer: Callable[[Route, Call], Awaitable[Outcome]] = old,
        timeout: float = 5.0,
    ) -> None:
        self._speaks = speaks
        self._whole = whole
        self._answer = answer
        self._timeout = timeout
        self.called: list[str] = []
        self.forwarded: list[tuple[str, bytes, RequestMetadata]] = []
        self.repeatable: list[bool] = []  # of those

    async def start(self) -> None:
        """Nothing to connect."""

    async def stop(self) -> None:
        """Nothing to close."""

    async def call(self, route: Route, call: Call, wanted: Wanted = always) -> Outcome:
        self.called.append(call.method)
        return await self._answer(route, call)

    def review(self) -> None:
        """There are no waiting calls."""

    def speaks(self, upstream: str, codec: str, dialect: str) -> bool:
        return self._speaks.get(upstream) == (codec, dialect)

    def timeout(self, upstream: str) -> float:
        return self._timeout

    async def forward(
        self, upstream: str, body: bytes, carried: RequestMetadata, *, repeatable: bool = False, wanted: Wanted = always
    ) -> Answer | Fault:
        self.forwarded.append((upstream, body, carried))
        self.repeatable.append(repeatable)
        assert self._whole is not None
        return self._whole

    async def relay(self, upstream: str, exchange: HttpExchange) -> Answer | Fault:
        body = b""
        while piece := await exchange.read():
            body += piece
        answer = await self.forward(upstream, body, exchange.metadata)
        if isinstance(answer, Answer):
            await exchange.respond(answer)
            await exchange.write(answer.body or b"")
            await exchange.finish()
        return answer
