"""One HTTP/1.1 connection to an upstream: its address, how a request is written, how an answer is read (RFC 9112).

The parser and the flow control are aiohttp's. Its client is not used: that would write headers of its own, quote the
target again, and send some requests twice. A url is `http://host:port/path`, `https://host:port/path`,
`http+unix:///socket` or `http+unix:///socket:/path`.
"""

from __future__ import annotations

import asyncio
import os
import select
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlsplit

from aiohttp import ClientError, StreamReader
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import RawResponseMessage

from adapters.http import headers as http_headers
from adapters.limits import Reservation
from gateway.core.interfaces import HttpExchange
from gateway.core.rpc.model import Answer, RequestMetadata

PORTS = {"http": 80, "https": 443}
_WITH_CONTENT = frozenset({"POST", "PUT", "PATCH"})  # a length is expected of them, RFC 9110 section 8.6


@dataclass(frozen=True, slots=True)
class UpstreamAddress:
    """Where an upstream listens. `path`: the target of every request; empty: the client's target."""

    url: str
    socket: str = ""
    host: str = ""
    port: int = 0
    path: str = ""
    named: bytes = b"localhost"  # the Host header, where the client sent none
    tls: ssl.SSLContext | None = None

    @property
    def is_tls(self) -> bool:
        """Whether it is reached over TLS."""
        return self.tls is not None


def parse_url(url: str, *, ca_file: str | None = None, verify: bool = True) -> UpstreamAddress:
    """Parse a url; raises ValueError that says what was expected, OSError when the CA file cannot be read."""
    scheme, _, rest = url.partition("://")
    if scheme == "http+unix":
        socket, _, path = rest.partition(":")
        if not socket.startswith("/") or (path and not path.startswith("/")):
            raise ValueError(f"expected http+unix:///SOCKET or http+unix:///SOCKET:/PATH, got {url!r}")
        return UpstreamAddress(url, socket=socket, path=path)
    parts = urlsplit(url)
    if scheme not in PORTS or not parts.hostname or parts.username or parts.fragment:
        raise ValueError(f"expected http://HOST:PORT/PATH, https://HOST:PORT/PATH or http+unix:///SOCKET, got {url!r}")
    port = parts.port or PORTS[scheme]
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    tls = _tls(ca_file, verify=verify) if scheme == "https" else None
    return UpstreamAddress(url, host=parts.hostname, port=port, path=path, named=parts.netloc.encode("ascii"), tls=tls)


def _tls(ca_file: str | None, *, verify: bool) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca_file)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def write_request(
    address: UpstreamAddress, body: bytes, carried: RequestMetadata, *, host: bytes = b"", close: bool = False
) -> bytes:
    """A whole request, without `Expect`, which the listener has answered."""
    headers = http_headers.without(http_headers.end_to_end(carried.headers), b"expect")
    if len(body) or carried.verb in _WITH_CONTENT or http_headers.has(headers, b"content-length"):
        headers = _with_length(headers, len(body))
    return _head(address, carried, headers, host, b"Connection: close\r\n" if close else b"") + body


def write_head(address: UpstreamAddress, exchange: HttpExchange, *, host: bytes = b"", close: bool = False) -> bytes:
    """The head of a streamed request, with the client's framing; of a tunnel, with every header."""
    carried = exchange.metadata
    if exchange.is_tunnel:
        return _head(address, carried, carried.headers, host, b"")
    headers = http_headers.end_to_end(carried.headers)
    own = b"Connection: close\r\n" if close else b""
    if exchange.length is None:
        headers = http_headers.without(headers, b"content-length")
        own = b"Transfer-Encoding: chunked\r\n" + own
    elif carried.verb in _WITH_CONTENT:
        headers = _with_length(headers, exchange.length)
    return _head(address, carried, headers, host, own)


def _head(
    address: UpstreamAddress, carried: RequestMetadata, headers: http_headers.Headers, host: bytes, own: bytes
) -> bytes:
    """Request line and headers as the client wrote them; `host` replaces its Host, `own` lines are added."""
    if host:
        headers = http_headers.without(headers, b"host")
    if host or not http_headers.has(headers, b"host"):
        headers = ((b"Host", host or address.named), *headers)
    target = address.path or carried.target or "/"
    start = f"{carried.verb} {target} HTTP/1.1\r\n".encode("utf-8", "surrogateescape")
    return b"%b%b%b\r\n" % (start, http_headers.lines(headers), own)


def _with_length(headers: http_headers.Headers, length: int) -> http_headers.Headers:
    """The headers with a Content-Length; the client's own where it is right."""
    said = http_headers.first(headers, b"content-length")
    if said is not None and said.isdigit() and int(said) == length:
        return headers
    return (*http_headers.without(headers, b"content-length"), (b"Content-Length", b"%d" % length))


MAX_HEAD_LINE = 64 * 1024
MAX_HEADERS = 256
READ_BUFFER = 64 * 1024
_CONTINUE = 100
_SWITCHING_PROTOCOLS = 101
_FIRST_REFUSED = 300  # of a tunnel
_FIRST_FINAL = 200  # lower statuses are interim, RFC 9110 section 15.2

# How a connection ends before its answer is whole.
LOST = (ClientError, HttpProcessingError, OSError, EOFError)


class TooLargeError(Exception):
    """An answer is over a limit; the text names the limit."""


class ClientConnection(ResponseHandler):
    """A connection for one request at a time; another may follow when `is_reusable`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, tls: bool) -> None:
        super().__init__(loop)
        self._tls = tls
        self._unsent = 0  # bytes of a request, when the kernel took none of it at first
        self.was_unwritten = False  # the request was aborted before a byte of it was sent
        self._idle_timer: asyncio.TimerHandle | None = None
        self._is_last = False  # no request may follow this answer
        self._message: RawResponseMessage | None = None  # the head of the answer that is being read
        self.promises_keep_alive = False  # the answer has `Connection: keep-alive`

    @property
    def is_reusable(self) -> bool:
        """Whether another request may be sent: all is sent, the answer is read to its end, and neither side closes."""
        transport = self.transport
        if transport is None or transport.is_closing() or transport.get_write_buffer_size():
            return False
        return not self._is_last and not self.should_close

    def start_idle(self, seconds: float) -> None:
        """Close after `seconds` unless a request starts."""
        self._idle_timer = self._loop.call_later(seconds, self.close)

    def start(self, request: bytes, *, bodiless: bool, buffer: int = READ_BUFFER) -> bool:
        """Send a request; False when certainly no byte of it was sent, because the upstream has closed."""
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        transport = self.transport
        if transport is None or transport.is_closing() or self.should_close:
            return False
        socket = transport.get_extra_info("socket").fileno()
        if _is_readable(socket):
            return False
        self.set_response_params(
            skip_payload=bodiless,
            read_until_eof=True,
            auto_decompress=False,
            read_bufsize=buffer,
            max_line_size=MAX_HEAD_LINE,
            max_field_size=MAX_HEAD_LINE,
            max_headers=MAX_HEADERS,
        )
        sent = 0 if self._tls else _write(socket, request)
        if sent is None:
            return False
        self._unsent = 0 if sent or self._tls else len(request)
        if sent < len(request):
            transport.write(request[sent:] if sent else request)
        return True

    def abort(self) -> None:
        """Close now; `was_unwritten` tells afterwards whether certainly no byte was sent.

        Over TLS nobody knows. Once one byte has left, nothing tells: a server may obey a request that it has not read
        to its end, and a reset says only that something was unread.
        """
        transport = self.transport
        if self._unsent and transport is not None:
            self.was_unwritten = transport.get_write_buffer_size() >= self._unsent
        super().abort()

    async def answer(self, limit: int, held: Reservation) -> Answer:
        """Read the whole answer, byte for byte; raises one of LOST, or TooLargeError."""
        message, payload = await self._final(_nothing)
        body = await _whole(payload, limit, held)
        self._message = message
        self.end_of_answer(is_sent=True)
        headers = http_headers.end_to_end(message.raw_headers)
        return _answer(message, headers, body)

    async def head(self, on_continue: Callable[[], None]) -> tuple[Answer, StreamReader]:
        """Read the head of the final response; returns it and the body. Raises one of LOST. `on_continue`: for 100."""
        self._message, payload = await self._final(on_continue)
        headers = http_headers.end_to_end(self._message.raw_headers)
        if self._message.chunked:
            headers = http_headers.without(headers, b"content-length")
        return _answer(self._message, headers, None), payload

    async def head_of_tunnel(self) -> tuple[Answer, StreamReader]:
        """Read the head of the response to a tunnel, with every header; returns it and the body of a refusal."""
        message, payload = await self.read()
        while message.code < _FIRST_FINAL and message.code != _SWITCHING_PROTOCOLS:
            message, payload = await self.read()
        headers = message.raw_headers
        if message.code >= _FIRST_REFUSED:
            headers = http_headers.end_to_end(headers)
        return _answer(message, headers, None), payload

    async def _final(self, on_continue: Callable[[], None]) -> tuple[RawResponseMessage, StreamReader]:
        message, payload = await self.read()
        while message.code < _FIRST_FINAL:
            if message.upgrade:
                raise ClientError("the connection was upgraded")
            if message.code == _CONTINUE:
                on_continue()
            message, payload = await self.read()
        return message, payload

    def end_of_answer(self, *, is_sent: bool) -> None:
        """Note that the answer was read to its end; `is_sent`: and the request sent to its end. Sets `is_reusable`."""
        message = self._message
        assert message is not None
        self._is_last = message.should_close or not is_sent or not self._is_clean()
        said = http_headers.first(message.raw_headers, b"connection") or b""
        self.promises_keep_alive = said.strip().lower() == b"keep-alive"

    async def write(self, data: bytes) -> None:
        """Send a piece; returns when the write buffer has space. Raises one of LOST."""
        if self.transport is None:
            raise ConnectionResetError("the connection is closed")
        self.transport.write(data)
        await self._drain_helper()

    def reset(self) -> None:
        """Close now; reading a response ends with one of LOST."""
        if self.transport is not None:
            self.transport.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Of aiohttp, which takes a reset for the end of a body that is framed by the end of the connection."""
        payload = self._payload
        if exc is not None and payload is not None and not payload.is_eof():
            payload.set_exception(exc)
        super().connection_lost(exc)

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        """Of aiohttp: it would tell who waits for a head, but not who reads a body, of a chunk that is none.

        A reader that has just been woken looks at the end alone before it waits again, so it is told of one too.
        """
        payload = self._payload
        if payload is not None and not payload.is_eof() and payload.exception() is None:
            payload.set_exception(exc, *cause)
            payload.feed_eof()
        super().set_exception(exc, *cause)

    def _is_clean(self) -> bool:
        """Whether no byte has arrived behind the answer; aiohttp keeps later ones, and `should_close` tells.

        Else what is left would be read as the beginning of the next answer.
        """
        parser, self._parser = self._parser, None
        try:
            return parser is None or parser.feed_eof() is None
        except Exception:  # noqa: BLE001 - any error means that there is a fragment
            return False


def _is_readable(socket: int) -> bool:
    """Whether there is input. On an idle connection this is its end: no request waits for a response."""
    poll = select.poll()
    poll.register(socket, select.POLLIN)
    return bool(poll.poll(0))


def _write(socket: int, request: bytes) -> int | None:
    """Bytes that were sent at once; None when the upstream has closed, so that it received none."""
    try:
        return os.write(socket, request)
    except BlockingIOError:
        return 0
    except OSError:
        return None


def _answer(message: RawResponseMessage, headers: http_headers.Headers, body: bytes | None) -> Answer:
    kind = http_headers.first(headers, b"content-type") or b""
    return Answer(body, kind.decode("latin-1"), None, message.code, message.reason, headers)


def _nothing() -> None:
    """Drop a 100 (Continue) that no client waits for."""


async def _whole(payload: StreamReader, limit: int, held: Reservation) -> bytes:
    parts: list[bytes] = []
    size = 0
    while not payload.at_eof():
        parts.append(await payload.readany())
        size += len(parts[-1])
        if size > limit:
            raise TooLargeError(f"is over {limit} bytes")
        if not held.fits(size):
            raise TooLargeError("does not fit into what may be held at one time")
        held.resize(size)
    broken = payload.exception()
    if broken is not None:
        raise broken
    return b"".join(parts)


_Made = TypeVar("_Made", bound=ClientConnection)


async def connect(address: UpstreamAddress, seconds: float) -> ClientConnection:
    """Connect; raises OSError (TimeoutError after `seconds`), and then nothing was sent."""
    return await connect_as(ClientConnection, address, seconds)


async def connect_as(kind: type[_Made], address: UpstreamAddress, seconds: float) -> _Made:
    """Connect with another class of connection; see `connect`."""
    loop = asyncio.get_running_loop()

    def make() -> _Made:
        return kind(loop, tls=address.is_tls)

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
