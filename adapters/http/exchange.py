"""One request whose bodies are streamed, as the listener's side of it: see HttpExchange.

The connection feeds the request body, piece by piece as it is parsed, and stops reading its socket while BUFFER bytes
wait here. The response is framed as its head says: by its length, else in chunks, else (HTTP/1.0) by the end of the
connection. Only the headers of that framing and of the connection are added.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from adapters.http import messages, response
from adapters.http.quotas import StreamTotals
from adapters.http.request import HttpRequest
from gateway.core import interfaces
from gateway.core.interfaces import BrokenBodyError
from gateway.core.rpc.model import NO_METADATA, Answer, Headers, Peer

if TYPE_CHECKING:  # a connection makes its exchanges
    from adapters.http.client_socket import ClientSocket

BUFFER = 64 * 1024  # bytes of a request body, or of a tunnel, that wait to be sent to the upstream
RESERVED = 2 * BUFFER  # bytes that count as held while an exchange runs
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_ERROR = 300  # the least status after which no more of a request body is wanted


class Exchange(interfaces.HttpExchange):
    """One streamed request of a connection. `is_whole`: its body, if it has one, has come."""

    metadata = NO_METADATA  # this and what follows: see HttpExchange
    peer = Peer()
    length: int | None = 0
    is_tunnel = has_begun = False
    received = sent = 0

    def __init__(self, owner: ClientSocket, request: HttpRequest, totals: StreamTotals, *, is_whole: bool) -> None:
        self.metadata, self.peer, self.is_tunnel = request.metadata(), owner.peer, request.is_tunnel
        self.length = None if b"transfer-encoding" in request.read else request.length or 0
        self.request = request
        self.size = 0  # bytes that wait to be read
        self.closes = False  # the connection ends with this response
        self.active_at = 0.0  # loop time of the client's last byte, or since when it is waited for
        self._totals = totals
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._pieces: list[bytes] = []
        self._is_whole = is_whole
        self._broken = ""  # why the request body can never be whole
        self._is_chunked = False
        self._is_open = False  # a tunnel that the upstream has accepted
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        for piece in map(bytes, request.parts):
            self.feed(piece)
        request.parts = []
        request.sink = self

    # The connection's side

    @property
    def is_waiting(self) -> bool:
        """Whether the client is waited for: it has not sent the body that it announced."""
        return self._reader is not None and not self.is_tunnel

    def feed(self, piece: bytes) -> None:
        """A piece has come."""
        self._pieces.append(piece)
        self.size += len(piece)
        self._wake()

    def feed_end(self) -> None:
        """The request body is whole, or the client has ended its direction of a tunnel."""
        self._is_whole = True
        self._wake()

    def fail(self, why: str) -> None:
        """The request body can never be whole; `why` says what was found and what was expected."""
        self._broken = why
        self._wake()

    def written(self) -> None:
        """The kernel has taken all that was written."""
        if self._writer is not None and not self._writer.done():
            self._writer.set_result(None)

    def _wake(self) -> None:
        self.active_at = self._loop.time()
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    # See HttpExchange

    @property
    def trailers(self) -> Headers:
        """See HttpExchange."""
        return messages.passed_trailers(self.request.trailers)

    async def read(self) -> bytes:
        """See HttpExchange."""
        while not self._pieces:
            if self._broken:
                raise BrokenBodyError(self._broken)
            if self._is_whole:
                return b""
            self._owner.resume_reading_body()
            if self._pieces or self._is_whole or self._broken:  # from input that had waited to be parsed
                continue
            self._reader = self._loop.create_future()
            self.active_at = self._loop.time()
            try:
                await self._reader
            finally:
                self._reader = None
        piece = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self.size -= len(piece)
        self.received += len(piece)
        self._totals.received += len(piece)
        return piece

    def send_continue(self) -> None:
        """See HttpExchange."""
        if self.request.expects_continue and not self.has_begun:
            self.request.has_continued = True
            self._owner.write(CONTINUE)

    async def respond(self, head: Answer, *, opens_tunnel: bool = False) -> None:
        """See HttpExchange."""
        request = self.request
        self.has_begun = True
        self._is_open = opens_tunnel
        if opens_tunnel:
            self.closes = True
            self._owner.end_http()
            self._totals.opened += 1
            await self._send(response.start(head, request.minor) + messages.header_lines(head.headers) + b"\r\n")
            return
        has_body = request.method != "HEAD" and head.status not in response.WITHOUT_CONTENT
        ends_by_close = False
        own = b""
        if has_body and not messages.has_header(head.headers, b"content-length"):
            ends_by_close = request.minor == 0
            self._is_chunked = not ends_by_close
            own = b"Transfer-Encoding: chunked\r\n" if self._is_chunked else b""
        stops_early = not self._is_whole and (head.status or 0) >= _ERROR
        self.closes = ends_by_close or stops_early or self.is_tunnel or self._owner.must_close(request)
        own += response.connection_line(close=self.closes, minor=request.minor)
        if request.cors and not messages.has_header(head.headers, b"access-control-allow-origin"):
            own += request.cors.encode("latin-1")
        headers = head.headers if self._is_chunked else messages.without(head.headers, b"trailer")
        await self._send(response.start(head, request.minor) + messages.header_lines(headers) + own + b"\r\n")

    async def write(self, data: bytes) -> None:
        """See HttpExchange."""
        self.sent += len(data)
        self._totals.sent += len(data)
        await self._send(b"%x\r\n%b\r\n" % (len(data), data) if self._is_chunked else data)

    async def finish(self, trailers: Headers = ()) -> None:
        """See HttpExchange."""
        if self._is_chunked:
            await self._send(b"0\r\n%b\r\n" % messages.header_lines(trailers))
        if self._is_open:
            self._owner.write_eof()

    def hold(self, size: int) -> bool:
        """See HttpExchange."""
        return self._owner.hold(size)

    def abort(self) -> None:
        """See HttpExchange."""
        self._owner.reset()

    async def _send(self, data: bytes) -> None:
        self._owner.write(data)
        if self._owner.is_writing:
            self._writer = self._loop.create_future()
            try:
                await self._writer
            finally:
                self._writer = None
