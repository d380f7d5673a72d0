"""Streams one exchange over a connection to an upstream: request body out, response in, both at once; or a tunnel.

The response may begin, and end, before the request body is whole: xapi answers `PUT /import` first and reads then. Each
side waits for the slower peer, so at most PIECE bytes of a direction are held here, beside one read of a socket. The
timeout counts from the last byte in either direction.

A tunnel (CONNECT, RFC 9110 section 9.3.6; Upgrade, section 7.8) has a connection of its own, never one that was used.
Once the upstream accepts, bytes pass unread. A peer that ends its direction leaves the other one open (half-close);
when nothing passes for a while after that, the tunnel ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from msgspec.structs import replace

from adapters.http import messages
from adapters.http.client.connection import LOST, ClientConnection
from adapters.http.client.response import MAX_OVERHEAD, ResponseHead, ResponseParser
from gateway.core.interfaces import BrokenBodyError, HttpExchange
from gateway.core.rpc.model import Answer

PIECE = 32 * 1024  # bytes; a socket is not read while more wait, beside one read of it
_OK = range(200, 300)
_SWITCHING_PROTOCOLS = 101
_HEAD_END = b"\r\n\r\n"


async def relay(connection: ClientConnection, exchange: HttpExchange, idle_timeout: float) -> Answer:
    """Stream one exchange whose head was written; returns the head of the response.

    Raises BrokenBodyError, TimeoutError or one of LOST; the connection is then of no more use.
    """
    loop = asyncio.get_running_loop()
    failure: Exception | None = None
    async with asyncio.timeout(idle_timeout) as limit, asyncio.TaskGroup() as group:
        body = _RequestBody(connection, exchange, lambda: limit.reschedule(loop.time() + idle_timeout))
        sending = group.create_task(body.send(), name="request body")
        try:
            head = await connection.head(exchange.send_continue)
            body.progress()
            await exchange.respond(head)
            await _copy(connection, exchange, body.progress)
            if head.status in _OK:
                await sending
            if body.broken is None:
                connection.is_sent = body.is_sent
                await exchange.finish(connection.trailers)
        except LOST as error:
            failure = error
        finally:
            sending.cancel()
    if body.broken is not None:
        raise body.broken
    if failure is not None:
        raise failure
    return head


class _RequestBody:
    """Sends the body of a request. An upstream that reads no more of it is not a failure: its response tells why."""

    def __init__(self, connection: ClientConnection, exchange: HttpExchange, progress: Callable[[], None]) -> None:
        self._connection = connection
        self._exchange = exchange
        self.progress = progress
        self.is_sent = False
        self.broken: BrokenBodyError | None = None  # the client's body can never be whole

    async def send(self) -> None:
        """Send it to the end."""
        in_chunks = self._exchange.length is None
        try:
            while piece := await self._exchange.read():
                self.progress()
                await self._connection.write(b"%x\r\n%b\r\n" % (len(piece), piece) if in_chunks else piece)
            if in_chunks:
                await self._connection.write(b"0\r\n%b\r\n" % messages.header_lines(self._exchange.trailers))
            self.is_sent = True
        except LOST:
            return
        except BrokenBodyError as error:
            self.broken = error
            self._connection.reset()  # the upstream learns that the body ends here


async def _copy(connection: ClientConnection, exchange: HttpExchange, progress: Callable[[], None]) -> None:
    while piece := await connection.read():
        progress()
        await exchange.write(piece)


class TunnelConnection(ClientConnection):
    """A connection that becomes a tunnel when the upstream accepts; until then it reads HTTP."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, tls: bool) -> None:
        super().__init__(loop, tls=tls)
        self.is_connect = False
        self.reader: asyncio.StreamReader | None = None  # of the tunnel's bytes, once it is accepted
        self._opening: ResponseHead | None = None  # the head that accepts it
        self._head = b""
        self._is_refused = False

    def data_received(self, data: bytes) -> None:
        """Bytes of the upstream: of heads until one accepts the tunnel or refuses it."""
        if self.reader is not None:
            self.reader.feed_data(data)
            return
        if self._is_refused:
            super().data_received(data)
            return
        self._head += data
        while (end := self._head.find(_HEAD_END)) >= 0:
            head, rest = self._head[: end + len(_HEAD_END)], self._head[end + len(_HEAD_END) :]
            words = head.split(b" ", 2)
            status = int(words[1][:3]) if len(words) > 1 and words[1][:3].isdigit() else 0
            if status in _OK if self.is_connect else status == _SWITCHING_PROTOCOLS:
                self._open(head, rest)
                return
            if status not in range(100, 200):
                break
            self._head = rest
        if end >= 0 or len(self._head) > MAX_OVERHEAD:
            self._is_refused = True
            rest, self._head = self._head, b""
            super().data_received(rest)

    def _open(self, head: bytes, rest: bytes) -> None:
        parser = ResponseParser()
        parser.begin(bodiless=True, may_switch=True)
        try:
            parser.feed(head)
        except LOST as error:
            self._fail(error)
            return
        self._opening = parser.head
        self.reader = asyncio.StreamReader(PIECE, self._loop)
        if self.transport is not None:
            self.reader.set_transport(self.transport)
        self.reader.feed_data(rest)
        self._head = b""
        self._wake()

    async def head_of_tunnel(self) -> Answer:
        """Read the head of the response: with every header where it accepts; else the body follows in `read`."""
        while self._opening is None and self._response.head is None:
            await self._more()
        if self._opening is None:
            return await self.head(lambda: None)
        return replace(self._opening.answer(None), headers=self._opening.headers)

    def eof_received(self) -> bool | None:
        """The upstream sends no more; of a tunnel, it may still read."""
        if self.reader is None:
            return None
        self.reader.feed_eof()
        return not self._tls

    def connection_lost(self, exc: BaseException | None) -> None:
        """The connection is gone."""
        if self.reader is not None:
            if exc is not None:
                self.reader.set_exception(exc if isinstance(exc, Exception) else ConnectionResetError())
            else:
                self.reader.feed_eof()
        super().connection_lost(exc)


async def tunnel(
    connection: TunnelConnection, exchange: HttpExchange, idle_timeout: float, half_closed_timeout: float
) -> Answer:
    """Connect a client with an upstream until both have ended their direction; returns the head of the response.

    The response of an upstream that refuses is sent as any other. `idle_timeout` and the errors of `relay` hold until
    the tunnel is open; an open tunnel may be idle for as long as its peers like. `half_closed_timeout`: seconds.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(idle_timeout) as limit:
        head = await connection.head_of_tunnel()
        await exchange.respond(head, opens_tunnel=connection.reader is not None)
        if connection.reader is None:
            await _copy(connection, exchange, lambda: limit.reschedule(loop.time() + idle_timeout))
            await exchange.finish()
            return head
    carrier, reader = _Carrier(loop), connection.reader
    async with asyncio.TaskGroup() as group:
        directions = (carrier.out(exchange, connection), carrier.back(reader, exchange))
        pending = {group.create_task(each, name="tunnel") for each in directions}
        seconds: float | None = None
        while pending and not carrier.is_broken and (seconds is None or seconds > 0):
            _, pending = await asyncio.wait(pending, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            seconds = carrier.moved_at + half_closed_timeout - loop.time()
        for task in pending:
            task.cancel()
    if carrier.is_broken:
        exchange.abort()
    return head


class _Carrier:
    """Carries the bytes of an open tunnel."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.moved_at = loop.time()  # the last byte, or the end of a direction
        self.is_broken = False  # the upstream's connection was reset

    async def out(self, exchange: HttpExchange, connection: TunnelConnection) -> None:
        """To the upstream, until the client ends its direction."""
        await self._carry(exchange.read, connection.write)
        transport = connection.transport
        if transport is not None and not transport.is_closing():
            transport.write_eof() if transport.can_write_eof() else transport.close()  # TLS has no half-close

    async def back(self, reader: asyncio.StreamReader, exchange: HttpExchange) -> None:
        """To the client, until the upstream ends its direction."""
        await self._carry(partial(reader.read, PIECE), exchange.write)
        await exchange.finish()

    async def _carry(self, read: Callable[[], Awaitable[bytes]], write: Callable[[bytes], Awaitable[None]]) -> None:
        try:
            while piece := await read():
                self.moved_at = self._loop.time()
                await write(piece)
        except LOST:
            self.is_broken = True
        self.moved_at = self._loop.time()
