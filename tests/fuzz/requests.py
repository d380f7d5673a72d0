"""Fuzz targets for the bytes of client connections, as an HTTP listener reads them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from adapters.http.connection import HttpConnection
from adapters.http.server import HttpLimits, HttpServer
from gateway.core.rpc.model import NO_METADATA, Answer, Peer, RequestMetadata
from tests.fuzz.target import DeadWire, Target, in_pieces
from tests.kit.clients import chunked, post
from tests.kit.listeners import Echo

TURNS = 20  # of the loop, in which whatever was sent is served
LIMITS = HttpLimits(body=2000, header_bytes=600)


class _Wire(DeadWire):
    """A transport to a client that reads at once, and closes in turn."""

    def __init__(self, plug: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__({"socket": plug, "sockname": "/fuzz"})
        self._loop = loop
        self.written = b""
        self.connection: HttpConnection | None = None

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing is ever buffered."""

    def write(self, data: Any) -> None:
        assert not self.is_closed, "written after the end"
        self.written += data

    def write_eof(self) -> None:
        self.close()

    def close(self) -> None:
        """Lose the connection in the next turn of the loop."""
        if not self.is_closed:
            self.is_closed = True
            assert self.connection is not None
            self._loop.call_soon(self.connection.connection_lost, None)


class _Counting(Echo):
    """Records the calls in their order."""

    async def answer(self, body: bytes, peer: Peer, carried: RequestMetadata = NO_METADATA) -> Answer:
        await asyncio.sleep(0)
        return await super().answer(body, peer, carried)


class _Http:
    """Connections that receive any bytes, and then the end of the client's side."""

    def __init__(self, loop: asyncio.AbstractEventLoop, plug: socket.socket) -> None:
        self._loop = loop
        self._plug = plug

    def check(self, body: bytes) -> str:
        """The same calls however the bytes are cut; no bug; the connection ends and leaves nothing."""
        whole, pieces = (self._loop.run_until_complete(self._serve(each)) for each in ([body], in_pieces(body, 3)))
        assert whole[0] == pieces[0]  # of several problems another one may be reported
        return whole[1]

    async def _serve(self, pieces: Sequence[bytes]) -> tuple[list[tuple[bytes, RequestMetadata]], str]:
        endpoint = _Counting()
        server = HttpServer("fuzz", [], lambda path: endpoint, LIMITS, passthrough=endpoint)
        connection = HttpConnection(server, self._loop)
        wire = _Wire(self._plug, self._loop)
        wire.connection = connection
        connection.connection_made(wire)
        for piece in pieces:
            if not wire.is_closed:
                connection.data_received(piece)
                await _turns()
        if not wire.is_closed and not connection.eof_received():
            wire.close()
        for _ in range(len(b"".join(pieces)) + 1):  # more turns than requests
            await _turns()
            if server.quotas.connections == 0:
                break
        assert wire.is_closed, "it waits for what cannot come"
        quota = server.quota
        assert (server.quotas.connections, server.quotas.calls, quota.calls, quota.buffered) == (0, 0, 0, 0)
        statuses = [line[9:12] for line in wire.written.split(b"\r\n") if line.startswith(b"HTTP/1.")]
        assert b"500" not in statuses
        calls = [(body, carried) for (body, _), carried in zip(endpoint.seen, endpoint.carried, strict=True)]
        return calls, b" ".join(status for status in statuses if status != b"100").decode("latin-1")


async def _turns() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)


UPGRADE = ("Connection: Upgrade", "Upgrade: websocket")
SEEDS = (
    post(b"hello") + post(b""),
    chunked(b"ab", b"c") + post(b"x", "/", "Connection: close"),
    post(b"x", "http://a/b?c", "Expect: 100-continue"),
    post(b"a", "/", *UPGRADE) + chunked(b"ab", lines=UPGRADE) + post(b"b"),
    b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\nOPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    b"CONNECT /a HTTP/1.1\r\nHost: a\r\n\r\nxyz",
    post(b"z", "/", "Origin: http://x", "Content-Encoding: gzip"),
)
TOKENS = (
    *(b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\0", b"\xff", b":", b" ", b"\t", b"\r\n "),
    *(b"HTTP/1.0", b"HTTP/2.0", b"PUT ", b"CONNECT ", b"Host: b\r\n", b"x" * 700),
    *(b"Content-Length: 3\r\n", b"Content-Length: -1\r\n", b"Content-Length: 99999999999999999999\r\n"),
    *(b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip, chunked\r\n", b"Connection: close\r\n"),
    *(b"Upgrade: h2c\r\nConnection: Upgrade\r\n", b"ffffffffffffffff\r\n", b"0\r\n\r\n", b"1;a=b\r\nx\r\n"),
)


@contextmanager
def targets() -> Iterator[Mapping[str, Target]]:
    """Return the one target."""
    loop, (plug, other) = asyncio.new_event_loop(), socket.socketpair()
    with plug, other:
        yield {"requests-http": Target(SEEDS, TOKENS, _Http(loop, plug).check)}
    loop.close()
