"""One HTTP connection: aiohttp's, plus the limits that aiohttp has not; knows no endpoint.

aiohttp (3.14) bounds neither the time nor the total size of a head, lets a client that does not read keep a closed
connection open for ever, and answers broken HTTP with its parser's words.
"""

from __future__ import annotations

import asyncio
import select
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from aiohttp import StreamReader, web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong

from adapters.transports import http_answers
from adapters.transports.addresses import peer_of
from adapters.transports.http_answers import HttpAnswer, Layout
from gateway.core.model import Peer

if TYPE_CHECKING:
    from aiohttp.abc import AbstractStreamWriter

MOST_AHEAD = 2  # requests of one connection that wait for the one being served; then it is not read any more
MAX_HEADERS = 100
READ_BUFFER = 64 * 1024  # bytes of a body held before the socket is left to fill up
LOOK = 0.5  # seconds between two looks at whether a client that sends no more has left
LINGER = 2.0  # seconds for a refused body to be read and dropped, so that its sender lives to read the refusal

SLOW_HEAD = http_answers.text(408, "no complete request arrived in time", close=True)
LONG_HEAD = http_answers.text(431, "the request line and headers are too long", close=True)
NO_HTTP = http_answers.text(400, "this is no valid HTTP request", close=True)
BUG = http_answers.text(500, "internal error", close=True)
FULL = http_answers.text(503, "too many connections", close=True, headers="Retry-After: 1\r\n")


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """What one listener allows; past it a request is refused or its connection cut."""

    body: int = 300 * 1024  # bytes, before and after inflating
    header_bytes: int = 16 * 1024  # request line and headers together
    header_timeout: float = 10.0  # seconds from connecting, or from a request's first byte, to the end of its head
    body_timeout: float = 60.0  # seconds for the whole body
    write_timeout: float = 60.0  # seconds for a whole answer to be taken
    keepalive_timeout: float = 75.0  # seconds between an answer and the next request
    half_closed_timeout: float = 2.0  # seconds that a call goes on whose client has closed its side of a TCP connection
    max_calls: int = 512
    max_connections: int = 1024


class Sent(web.StreamResponse):
    """Tells aiohttp that the answer has left already, and whether the connection stays open."""

    def __init__(self, *, keep_alive: bool) -> None:
        super().__init__()
        self._keep_alive = keep_alive

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:  # noqa: ARG002 (aiohttp's signature)
        """Nothing to prepare."""
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing to write."""


KEEP_OPEN = Sent(keep_alive=True)
CLOSE = Sent(keep_alive=False)


class Owner(Protocol):
    """What a connection tells the listener it belongs to."""

    @property
    def limits(self) -> HttpLimits:
        """What is allowed."""

    @property
    def layout(self) -> Layout:
        """How answers are written."""

    def opened(self, connection: Connection, task: asyncio.Task[None]) -> None:
        """A connection stands; `task` serves it, and outlives it when the client leaves in mid-call."""

    def closed(self, connection: Connection) -> None:
        """It is gone."""

    def cut(self, peer: Peer, why: str) -> None:
        """It was cut by us."""


class Connection(web.RequestHandler):
    """One client's connection."""

    __slots__ = (
        "_call",
        "_departure",
        "_ended",
        "_head_bytes",
        "_head_timer",
        "_owner",
        "_since",
        "_suspect",
        "peer",
        "served",
    )

    def __init__(self, owner: Owner, server: web.Server, loop: asyncio.AbstractEventLoop) -> None:
        limits = owner.limits
        super().__init__(
            server,
            loop=loop,
            keepalive_timeout=limits.keepalive_timeout,
            access_log=None,  # type: ignore[arg-type] # aiohttp accepts it, its annotation does not
            max_line_size=limits.header_bytes,
            max_field_size=limits.header_bytes,
            max_headers=MAX_HEADERS,
            lingering_time=0,  # done by `discard`, which survives a broken body
            read_bufsize=READ_BUFFER,
            auto_decompress=False,  # aiohttp has no limit on the inflated size
        )
        self._max_msg_queue_size = MOST_AHEAD  # aiohttp's own 32 may be megabytes of each client
        self._msg_queue_resume_size = MOST_AHEAD - 1
        self._owner = owner
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._suspect = False  # a head may have come that is too long although none of its lines is
        self._ended = False
        self._call: asyncio.Task[object] | None = None  # the one that an endpoint answers now
        self._since = 0.0  # when it began, or when the client sent its last byte; of the loop's clock
        self._departure: asyncio.TimerHandle | None = None  # the next look at whether the client has left
        self.served = 0  # requests that are done with
        self.peer = Peer()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has come."""
        super().connection_made(transport)
        assert self.transport is not None
        assert self._task_handler is not None
        self.transport.set_write_buffer_limits(high=0)  # drained means: the kernel has every byte
        self.peer = peer_of(transport)
        self._await_head()
        self._owner.opened(self, self._task_handler)

    def connection_lost(self, exc: BaseException | None) -> None:
        """It has left, or we have."""
        self._head_arrived()
        if self._departure is not None:
            self._departure.cancel()
        if self._call is not None:
            self._call.cancel()  # see ports.Endpoint
        super().connection_lost(exc)
        self._messages.clear()  # requests sent ahead, megabytes of them: in a cycle they would stay until a collection
        self._owner.closed(self)

    def data_received(self, data: bytes) -> None:
        """Parse what came, and watch over heads that come in parts."""
        parsed = self._request_count
        super().data_received(data)
        if self._request_count != parsed:
            self._suspect |= self._head_bytes + len(data) > self._owner.limits.header_bytes
            self._head_arrived()
            self._fail_broken_body()
        elif data and self.is_idle:
            self._head_grew(len(data))

    def eof_received(self) -> bool:  # type: ignore[override] # asyncio.Protocol's contract; aiohttp narrows it to None
        """The client sends no more; it may still wait for the answer to what it has sent (a half-closed connection)."""
        self._ended = True
        self._fail_broken_body()
        self._since = self._loop.time()
        self._look_for_departure()
        return not self.is_idle

    def call_begins(self) -> None:
        """The running task waits for an endpoint: it is cancelled when the client leaves."""
        self._call = asyncio.current_task()
        self._since = self._loop.time()

    def call_ends(self) -> None:
        """It waits no more."""
        self._call = None

    def _look_for_departure(self) -> None:
        """A client that sends no more may have left. A Unix socket says so; over TCP only time tells."""
        transport = self.transport
        if transport is None or transport.is_closing() or self.is_idle:
            return
        connection = transport.get_extra_info("socket")
        late = self._loop.time() - self._since >= self._owner.limits.half_closed_timeout
        if has_hung_up(connection) or (self._call is not None and late and connection.family != socket.AF_UNIX):
            transport.abort()
        else:
            self._departure = self._loop.call_later(LOOK, self._look_for_departure)

    @property
    def is_idle(self) -> bool:
        """Whether every request that has come is answered."""
        return self._request_count == self.served

    @property
    def is_last(self) -> bool:
        """Whether no request can follow the one that is served now."""
        return self._ended and self._request_count == self.served + 1

    def is_broken(self, body: StreamReader) -> bool:
        """Whether an unfinished body can never be finished.

        aiohttp queues its complaint about a body behind the request and leaves the body waiting: nothing else can
        stand behind an unfinished one.
        """
        return not body.is_eof() and (self.transport is None or self._ended or bool(self._messages))

    def is_long(self, request: web.BaseRequest) -> bool:
        """Whether the request line and headers together are over the limit; only counted where it can be."""
        if not self._suspect:
            return False
        headers = sum(len(name) + len(value) + len(": \r\n") for name, value in request.raw_headers)
        return len(request.raw_path) + headers > self._owner.limits.header_bytes

    def close_if_idle(self) -> None:
        """Close it unless a request is being served."""
        if self.is_idle:
            self.force_close()

    def abort(self, why: str) -> None:
        """Close it now, and say why."""
        if self.transport is not None:
            self.force_close()
            self._owner.cut(self.peer, why)

    def force_close(self) -> None:
        """Close it without waiting for a client that does not read: what the kernel has not taken by now is lost."""
        transport = self.transport
        if transport is not None and transport.get_write_buffer_size():
            transport.abort()
        super().force_close()

    async def send(self, data: bytes) -> None:
        """Write an answer; returns when the kernel has it, or the connection is no more."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        transport.write(data)
        if self.writing_paused:
            await self._flush()

    async def _flush(self) -> None:
        seconds = self._owner.limits.write_timeout
        try:
            async with asyncio.timeout(seconds):
                await self._drain_helper()
        except ConnectionError:
            return
        except TimeoutError:
            self.abort(f"did not read its answer within {seconds:g} s")

    async def discard(self, body: StreamReader) -> None:
        """Read on for a moment: closing a socket with unread data would take the answer back (RFC 9112 section 9.6)."""
        with suppress(TimeoutError, ConnectionError, web.RequestPayloadError):
            async with asyncio.timeout(LINGER):
                while not body.is_eof() and not self.is_broken(body):
                    await body.readany()

    def handle_error(
        self,
        request: web.BaseRequest,  # noqa: ARG002 (the signature is aiohttp's)
        status: int = 500,  # noqa: ARG002
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002
    ) -> web.StreamResponse:
        """Answer what aiohttp could not parse, or an exception of ours, in words that tell nothing of Python."""
        if isinstance(exc, HttpProcessingError):
            self._refuse(LONG_HEAD if isinstance(exc, LineTooLong) else NO_HTTP, "sent no valid HTTP")
        else:
            self.log_exception("error while serving %s", self.peer.address, exc_info=exc)
            self._refuse(BUG, "was answered with an internal error")
        return CLOSE

    def _refuse(self, answer: HttpAnswer, why: str) -> None:
        if self.transport is not None:
            self.transport.write(self._owner.layout.lay_out(answer))
            self.abort(why)

    def _await_head(self) -> None:
        seconds = self._owner.limits.header_timeout
        self._head_timer = self._loop.call_later(seconds, self._head_is_late, seconds)

    def _head_is_late(self, seconds: float) -> None:
        self._refuse(SLOW_HEAD, f"sent no complete request within {seconds:g} s")

    def _head_grew(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self._owner.limits.header_bytes:
            self._refuse(LONG_HEAD, f"sent a head of more than {self._owner.limits.header_bytes} bytes")
        elif self._head_timer is None:
            self._await_head()

    def _head_arrived(self) -> None:
        self._head_bytes = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _fail_broken_body(self) -> None:
        request = self._current_request
        if request is not None and self.is_broken(request.content):
            request.content.set_exception(web.RequestPayloadError("the body is broken"))


def has_hung_up(connection: socket.socket) -> bool:
    """Whether nobody is at the other end any more, as far as the kernel knows: not only half of it is closed."""
    poll = select.poll()
    poll.register(connection.fileno(), 0)
    return bool(poll.poll(0))


class TurnedAway(asyncio.Protocol):
    """A connection past the cap: told so, and closed."""

    def __init__(self, farewell: bytes) -> None:
        self._farewell = farewell

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say it at once; whatever the client sends is not read."""
        out = cast("asyncio.WriteTransport", transport)  # uvloop's is none by inheritance
        out.write(self._farewell)
        out.close()
