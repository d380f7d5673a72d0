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
from collections.abc import Callable

from aiohttp import StreamReader

from adapters.http.client_connection import LOST, MAX_HEAD_LINE, ClientConnection
from gateway.core.interfaces import BrokenBodyError, HttpExchange
from gateway.core.rpc.model import Answer

PIECE = 32 * 1024  # bytes; aiohttp and asyncio stop reading a socket when they hold twice as many
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
            head, payload = await connection.head(exchange.send_continue)
            body.progress()
            await exchange.respond(head)
            await _copy(payload, exchange, body.progress)
            if head.status in _OK:
                await sending
            if not body.is_broken:
                connection.end_of_answer(is_sent=body.is_sent)
                await exchange.finish()
        except LOST as error:
            failure = error
        finally:
            sending.cancel()
    if body.is_broken:
        raise BrokenBodyError
    if failure is not None:
        raise failure
    return head


class _RequestBody:
    """Sends the body of a request. An upstream that reads no more of it is no failure: its response tells why."""

    def __init__(self, connection: ClientConnection, exchange: HttpExchange, progress: Callable[[], None]) -> None:
        self._connection = connection
        self._exchange = exchange
        self.progress = progress
        self.is_sent = False
        self.is_broken = False  # the client ended its side too early

    async def send(self) -> None:
        """Send it to the end."""
        in_chunks = self._exchange.length is None
        try:
            while piece := await self._exchange.read():
                self.progress()
                await self._connection.write(b"%x\r\n%b\r\n" % (len(piece), piece) if in_chunks else piece)
            if in_chunks:
                await self._connection.write(b"0\r\n\r\n")
            self.is_sent = True
        except LOST:
            return
        except BrokenBodyError:
            self.is_broken = True
            self._connection.reset()  # the upstream learns that the body ends here


async def _copy(payload: StreamReader, exchange: HttpExchange, progress: Callable[[], None]) -> None:
    while not payload.at_eof():
        piece = await payload.readany()
        progress()
        if piece:
            await exchange.write(piece)
    broken = payload.exception()
    if broken is not None:
        raise broken


class TunnelConnection(ClientConnection):
    """A connection that becomes a tunnel when the upstream accepts; until then it reads HTTP."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, tls: bool) -> None:
        super().__init__(loop, tls=tls)
        self.is_connect = False
        self.reader: asyncio.StreamReader | None = None  # of the tunnel's bytes, once it is accepted
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
            head, self._head = self._head[: end + len(_HEAD_END)], self._head[end + len(_HEAD_END) :]
            status = _status(head)
            if status in _OK if self.is_connect else status == _SWITCHING_PROTOCOLS:
                self.reader = asyncio.StreamReader(PIECE, self._loop)
                if self.transport is not None:
                    self.reader.set_transport(self.transport)
                super().data_received(head)
                self.reader.feed_data(self._head)
                self._head = b""
                return
            self._is_refused = status not in range(100, 200)
            if self._is_refused:
                head, self._head = head + self._head, b""
            super().data_received(head)
        if len(self._head) > MAX_HEAD_LINE:
            self._is_refused = True
            super().data_received(self._head)

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """The upstream sends no more; of a tunnel, it may still read."""
        if self.reader is None:
            super().eof_received()
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
        head, payload = await connection.head_of_tunnel()
        await exchange.respond(head, opens_tunnel=connection.reader is not None)
        if connection.reader is None:
            await _copy(payload, exchange, lambda: limit.reschedule(loop.time() + idle_timeout))
            await exchange.finish()
            return head
    carrier = _Carrier(connection, connection.reader, exchange)
    async with asyncio.TaskGroup() as group:
        pending = {group.create_task(each, name="tunnel") for each in (carrier.out(), carrier.back())}
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

    def __init__(self, connection: TunnelConnection, reader: asyncio.StreamReader, exchange: HttpExchange) -> None:
        self._connection = connection
        self._reader = reader
        self._exchange = exchange
        self._loop = asyncio.get_running_loop()
        self.moved_at = self._loop.time()  # the last byte, or the end of a direction
        self.is_broken = False  # the upstream's connection was reset

    async def out(self) -> None:
        """To the upstream, until the client ends its direction."""
        try:
            while piece := await self._exchange.read():
                self.moved_at = self._loop.time()
                await self._connection.write(piece)
        except LOST:
            self.is_broken = True
        self.moved_at = self._loop.time()
        transport = self._connection.transport
        if transport is not None and not transport.is_closing():
            transport.write_eof() if transport.can_write_eof() else transport.close()  # TLS has no half-close

    async def back(self) -> None:
        """To the client, until the upstream ends its direction."""
        try:
            while piece := await self._reader.read(PIECE):
                self.moved_at = self._loop.time()
                await self._exchange.write(piece)
        except LOST:
            self.is_broken = True
        self.moved_at = self._loop.time()
        await self._exchange.finish()


def _status(head: bytes) -> int:
    words = head.split(b" ", 2)
    return int(words[1][:3]) if len(words) > 1 and words[1][:3].isdigit() else 0
