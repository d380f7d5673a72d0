"""One HTTP/1.1 connection to an upstream, for one request at a time.

At most once. A request is written to the socket at once, so that it is known whether a byte of it has left: before that
nothing was executed, and after that the outcome is unknown, because a reset does not tell what the upstream had read.
Over TLS it is always unknown. A connection that has become readable while it was idle has ended, and is given no
request; a new one of TLS has the session tickets of its server to read.
"""

from __future__ import annotations

import asyncio
import os
import select
import ssl
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeVar, cast

from adapters.http import messages
from adapters.http.client.request import UpstreamAddress
from adapters.http.client.response import KnownResponses, NotHttpError, ResponseHead, ResponseParser
from adapters.limits import Quota
from gateway.core.rpc.model import Answer, Headers

if TYPE_CHECKING:  # a pool makes the connections
    from adapters.http.client.upstream import SentRequest

# How a connection ends before its answer is whole.
LOST = (OSError, EOFError, NotHttpError)


class TooLargeError(Exception):
    """An answer is over a limit; the text names the limit."""


class ClientConnection(asyncio.Protocol):
    """A connection for one request at a time; another may follow when `is_reusable`.

    `on_lost` is called when it has ended. `known`: the heads of responses that need not be parsed again.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        tls: bool,
        known: KnownResponses | None = None,
        on_lost: Callable[[ClientConnection], object] | None = None,
    ) -> None:
        self._loop = loop
        self.clock = loop.time
        self._tls = tls
        self._on_lost = on_lost
        self.transport: asyncio.Transport | None = None
        self.closed: asyncio.Future[None] = loop.create_future()  # done when the connection has ended
        self.idle_since = 0.0  # of the loop's clock
        self._socket = -1
        self._poll = select.poll()
        self._response = ResponseParser(known)
        self._error: Exception | None = None  # why the response can never be whole
        self._waiting: asyncio.Future[None] | None = None  # for bytes of the response, or its end
        self.sent: SentRequest | None = None  # in its place: a request that no task waits for
        self._held = 0  # bytes of an answer that are counted in the quota
        self._draining: asyncio.Future[None] | None = None  # for space in the write buffer
        self._is_full = False  # the write buffer
        self._most_unread: int | None = None  # bytes of a streamed body; None: the answer is read whole
        self._is_paused = False
        self.is_sent = True  # the whole request
        self._is_new = True  # no request was sent yet
        self._unsent = 0  # bytes of a request, when the kernel took none of it at first
        self.was_unwritten = False  # the request was aborted before a byte of it was sent

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's class does not inherit from it
        self._socket = transport.get_extra_info("socket").fileno()
        self._poll.register(self._socket, select.POLLIN)

    def data_received(self, data: bytes) -> None:
        """Bytes of a response."""
        response, sent = self._response, self.sent
        if sent is not None and sent.upstream.takes_whole(len(data)):
            body = response.take_known(data)
            if body is not None:
                assert response.head is not None
                sent.upstream.finish(sent, response.head, body)
                return
        try:
            response.feed(data)
        except LOST as error:
            self._fail(error)
            return
        most = self._most_unread
        if most is not None and response.size > most and not self._is_paused and self.transport is not None:
            self._is_paused = True
            self.transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: BaseException | None) -> None:
        """The connection is gone; a reset is never the end of a body."""
        self.transport = None
        if not self._response.is_whole and self._error is None:
            try:
                if exc is not None:
                    raise exc if isinstance(exc, OSError) else ConnectionResetError("the connection was reset")
                self._response.feed_eof()
            except LOST as error:
                self._error = error
        self._wake()
        if self._draining is not None and not self._draining.done():
            self._draining.set_exception(ConnectionResetError("the connection is closed"))
        if not self.closed.done():
            self.closed.set_result(None)
        if self._on_lost is not None:
            self._on_lost(self)

    def pause_writing(self) -> None:
        """The write buffer is full."""
        self._is_full = True

    def resume_writing(self) -> None:
        """The write buffer has space again."""
        self._is_full = False
        if self._draining is not None and not self._draining.done():
            self._draining.set_result(None)

    # The request

    def start(self, request: bytes, *, bodiless: bool, buffer: int | None = None) -> bool:
        """Send a request; False when certainly no byte of it was sent, because the upstream has closed.

        `buffer`: bytes of the response body that may wait here to be read; None: the answer is read whole.
        """
        transport = self.transport
        if transport is None or transport.is_closing() or self._response.is_dirty:
            return False
        if not (self._tls and self._is_new) and self._poll.poll(0):
            return False  # readable: that is the end of an idle connection, as no request waits for a response
        self._is_new = False
        sent = 0
        if not self._tls:
            try:
                sent = os.write(self._socket, request)
            except BlockingIOError:
                sent = 0
            except OSError:
                return False
        self._response.begin(bodiless=bodiless)
        self._error = None
        self._most_unread = buffer
        self.is_sent = True
        self._unsent = 0 if sent or self._tls else len(request)
        if sent < len(request):
            transport.write(request[sent:] if sent else request)
        return True

    async def write(self, data: bytes) -> None:
        """Send a piece; returns when the write buffer has space. Raises one of LOST."""
        if self.transport is None:
            raise ConnectionResetError("the connection is closed")
        self.transport.write(data)
        if self._is_full:
            self._draining = self._loop.create_future()
            try:
                await self._draining
            finally:
                self._draining = None

    # The response

    async def answer(self, limit: int, quota: Quota) -> Answer:
        """Read the whole answer, byte for byte; raises one of LOST, or TooLargeError. `quota`: for a part of it."""
        try:
            while (answer := self.answer_now(limit, quota)) is None:
                await self._more()
            return answer
        finally:
            self.release(quota)

    def answer_now(self, limit: int, quota: Quota) -> Answer | None:
        """The same where the answer is whole; None while it is not. The caller calls `release` in the end."""
        response, held = self._response, self._held
        size = response.size
        if size > limit:
            raise TooLargeError(f"is over {limit} bytes")
        if size != held and not quota.fits(size - held):
            raise TooLargeError("does not fit into what may be held at one time")
        if response.is_whole:
            assert response.head is not None
            return response.head.answer(response.take())
        self._check_open()
        if size != held:
            quota.reserve(size - held)
            self._held = size
        return None

    def release(self, quota: Quota) -> None:
        """Count nothing of an answer any more."""
        if self._held:
            quota.reserve(-self._held)
            self._held = 0

    async def head(self, on_continue: Callable[[], None]) -> Answer:
        """Read the head of the final response, whose body follows in `read`; raises one of LOST.

        `on_continue`: called for 100 (Continue).
        """
        response, told = self._response, 0
        while True:
            while told < response.continues:
                told += 1
                on_continue()
            if response.head is not None and not isinstance(self._error, NotHttpError):
                return _streamed(response.head)
            await self._more()

    async def read(self) -> bytes:
        """The next piece of a streamed body; empty at its end. Raises one of LOST."""
        response = self._response
        while not response.size:
            if response.is_whole:
                return b""
            await self._more()
        piece = response.take()
        if self._is_paused and self.transport is not None:
            self._is_paused = False
            self.transport.resume_reading()
        return piece

    def _more(self) -> asyncio.Future[None]:
        """Done when there is more of the response; raises one of LOST when there will never be."""
        self._check_open()
        self._waiting = self._loop.create_future()
        return self._waiting

    def _check_open(self) -> None:
        if self._error is not None:
            raise self._error
        if self.transport is None:
            raise ConnectionResetError("the connection is closed")

    @property
    def trailers(self) -> Headers:
        """The trailers behind a streamed body in chunks that may be passed on; known when the body has ended."""
        return messages.passed_trailers(self._response.trailers)

    # The connection

    @property
    def is_reusable(self) -> bool:
        """Whether another request may be sent: all is sent, the answer is whole, and neither side closes."""
        transport, response = self.transport, self._response
        if transport is None or transport.is_closing() or transport.get_write_buffer_size():
            return False
        if not response.is_whole or response.is_dirty or not self.is_sent:
            return False
        return response.head is not None and response.head.keep_alive

    @property
    def promises_keep_alive(self) -> bool:
        """Whether the answer has `Connection: keep-alive`."""
        head = self._response.head
        said = None if head is None else messages.first_header(head.headers, b"connection")
        return said is not None and said.strip().lower() == b"keep-alive"

    def abort(self) -> None:
        """Close now; `was_unwritten` tells afterwards whether certainly no byte was sent.

        Once one byte has left, nothing tells: a server may obey a request that it has not read to its end, and a reset
        says only that something was unread.
        """
        transport = self.transport
        if self._unsent and transport is not None:
            self.was_unwritten = transport.get_write_buffer_size() >= self._unsent
        self.reset()

    def reset(self) -> None:
        """Close now; reading a response ends with one of LOST."""
        if self.transport is not None:
            self.transport.abort()

    def _fail(self, error: Exception) -> None:
        self._error = error
        self._wake()
        self.reset()

    def _wake(self) -> None:
        if self.sent is not None:
            self.sent.upstream.progress(self.sent)
            return
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_result(None)


def _streamed(head: ResponseHead) -> Answer:
    """The head of a response whose body is streamed: in chunks, it is framed anew."""
    if not head.is_chunked:
        return head.answer(None)
    headers = messages.without(head.end_to_end, b"content-length")
    announced = messages.first_header(head.headers, b"trailer")
    if announced is not None:
        headers = (*headers, (b"Trailer", announced))
    return Answer(None, head.content_type, None, head.status, head.reason, headers)


_Made = TypeVar("_Made", bound=ClientConnection)


async def connect(kind: Callable[..., _Made], address: UpstreamAddress, seconds: float, **how: object) -> _Made:
    """Make a connection of this kind; raises OSError (TimeoutError after `seconds`), and then nothing was sent."""
    loop = asyncio.get_running_loop()
    make = partial(kind, loop, tls=address.tls is not None, **how)
    async with asyncio.timeout(seconds):
        if address.socket:
            _, made = await loop.create_unix_connection(make, address.socket)
        else:
            _, made = await loop.create_connection(make, address.host, address.port, ssl=address.tls)
    return made


def reason(error: OSError) -> str:
    """The reason of a failed connection, for messages."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        return f"no TLS could be agreed on ({getattr(error, 'reason', None) or 'unknown'})"
    if isinstance(error, TimeoutError):
        return "no connection in time"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    return error.strerror or "no connection"
