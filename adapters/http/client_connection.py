"""One HTTP/1.1 connection to a legacy service: aiohttp's, with its bytes left alone; knows no pool and no protocol.

aiohttp's client itself would write headers of its own, quote the target anew, and send some requests twice.
"""

from __future__ import annotations

import asyncio
import os
import select
import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit

from aiohttp import ClientError, StreamReader
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError

from adapters.http import headers as http_headers
from adapters.limits import Reservation
from gateway.core.rpc.model import Answer, RequestMetadata

# Where a legacy service is, from its url, and how a request to it is written; opens nothing.
#
# `http://host:port/path`, `https://host:port/path`, `http+unix:///socket` and `http+unix:///socket:/path`.


PORTS = {"http": 80, "https": 443}
_WITH_CONTENT = frozenset({"POST", "PUT", "PATCH"})  # a length is expected of them, RFC 9110 section 8.6
_OURS = (b"expect",)  # the listener has answered it


@dataclass(frozen=True, slots=True)
class UpstreamAddress:
    """An address. `path`: where every request goes; empty: where the client sent it."""

    url: str
    socket: str = ""
    host: str = ""
    port: int = 0
    path: str = ""
    named: bytes = b"localhost"  # Host, where the client said none
    tls: ssl.SSLContext | None = None

    @property
    def is_tls(self) -> bool:
        """Whether it is reached over TLS."""
        return self.tls is not None


def parse_url(url: str, *, ca_file: str | None = None, verify: bool = True) -> UpstreamAddress:
    """Read a url; raises ValueError saying what is wrong with it, OSError when the CA file cannot be read."""
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
    parse_url: UpstreamAddress, body: bytes, carried: RequestMetadata, *, host: bytes = b"", close: bool = False
) -> bytes:
    """A whole request: the client's headers as they are, but for what concerns its connection and not the message."""
    headers = http_headers.without(http_headers.end_to_end(carried.headers), *_OURS)
    if host:
        headers = http_headers.without(headers, b"host")
    if host or not http_headers.has(headers, b"host"):
        headers = ((b"Host", host or parse_url.named), *headers)
    target = parse_url.path or carried.target or "/"
    own = b"Connection: close\r\n" if close else b""
    start = f"{carried.verb} {target} HTTP/1.1\r\n".encode("utf-8", "surrogateescape")
    return b"%b%b%b\r\n%b" % (start, http_headers.lines(_measured(headers, body, carried.verb)), own, body)


def _measured(headers: http_headers.Headers, body: bytes, verb: str) -> http_headers.Headers:
    """With the length of the body: as the client wrote it unless that is another now."""
    said = http_headers.first(headers, b"content-length")
    if said is None:
        wanted = body or verb in _WITH_CONTENT
        return (*headers, (b"Content-Length", b"%d" % len(body))) if wanted else headers
    if said.isdigit() and int(said) == len(body):
        return headers
    return (*http_headers.without(headers, b"content-length"), (b"Content-Length", b"%d" % len(body)))


MAX_HEAD_LINE = 64 * 1024
MAX_HEADERS = 256
READ_BUFFER = 64 * 1024
_FIRST_FINAL = 200  # statuses below are on the way to one, RFC 9110 section 15.2

# How a connection ends before its answer is whole.
LOST = (ClientError, HttpProcessingError, OSError, EOFError)


class TooLargeError(Exception):
    """An answer is larger than there is room for; the text says what for."""


class ClientConnection(ResponseHandler):
    """A request at a time; used again only when `is_reusable`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, tls: bool) -> None:
        super().__init__(loop)
        self._tls = tls
        self._unsent = 0  # bytes of a request of which the kernel took none at first
        self.was_unwritten = False  # the request was let go of before any byte of it had left
        self._rest: asyncio.TimerHandle | None = None
        self._last = False  # the answer said that there will be no other
        self.was_promised = False  # the answer said in so many words that there may be another

    @property
    def is_reusable(self) -> bool:
        """Whether another request can be sent: everything sent, the whole answer read, and nobody closes."""
        transport = self.transport
        if transport is None or transport.is_closing() or transport.get_write_buffer_size():
            return False
        return not self._last and not self.should_close

    def rest(self, seconds: float) -> None:
        """Be idle, and be closed after a while."""
        self._rest = self._loop.call_later(seconds, self.close)

    def begin(self, request: bytes, *, bodiless: bool) -> bool:
        """Write a request; False when for certain nothing of it left, because the other side has closed."""
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None
        transport = self.transport
        if transport is None or transport.is_closing() or self.should_close:
            return False
        socket = transport.get_extra_info("socket").fileno()
        if _has_something_to_say(socket):
            return False
        self.set_response_params(
            skip_payload=bodiless,
            read_until_eof=True,
            auto_decompress=False,
            read_bufsize=READ_BUFFER,
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
        """Close it now; `was_unwritten` tells afterwards whether for certain nothing had left.

        Over TLS nobody knows. Once one byte has left, nothing tells: a server may obey a request that it has not read
        to its end, and a reset says only that something was unread.
        """
        transport = self.transport
        if self._unsent and transport is not None:
            self.was_unwritten = transport.get_write_buffer_size() >= self._unsent
        super().abort()

    async def answer(self, limit: int, held: Reservation) -> Answer:
        """The whole answer, byte for byte; raises one of LOST, or TooLargeError."""
        message, payload = await self.read()
        while message.code < _FIRST_FINAL:
            if message.upgrade:
                raise ClientError("the connection was upgraded")
            message, payload = await self.read()
        body = await _whole(payload, limit, held)
        self._last = message.should_close or not self._is_clean()
        said = http_headers.first(message.raw_headers, b"connection") or b""
        self.was_promised = said.strip().lower() == b"keep-alive"
        headers = http_headers.end_to_end(message.raw_headers)
        kind = http_headers.first(headers, b"content-type") or b""
        return Answer(body, kind.decode("latin-1"), None, message.code, message.reason, headers)

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
        """Whether nothing came behind the answer; if something does later, aiohttp keeps it and `should_close` says so.

        Else what is left would be read as the beginning of the next answer.
        """
        parser, self._parser = self._parser, None
        try:
            return parser is None or parser.feed_eof() is None
        except Exception:  # noqa: BLE001 - whatever the parser says of a fragment, there is one
            return False


def _has_something_to_say(socket: int) -> bool:
    """Whether an idle connection can be read: its end, as there is nothing to be answered."""
    poll = select.poll()
    poll.register(socket, select.POLLIN)
    return bool(poll.poll(0))


def _write(socket: int, request: bytes) -> int | None:
    """How much left at once; None when the other side has closed, so that nothing can have arrived."""
    try:
        return os.write(socket, request)
    except BlockingIOError:
        return 0
    except OSError:
        return None


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
        held.become(size)
    broken = payload.exception()
    if broken is not None:
        raise broken
    return b"".join(parts)


async def connect(site: UpstreamAddress, seconds: float) -> ClientConnection:
    """A new connection; raises OSError (TimeoutError past `seconds`), and then nothing was sent."""
    loop = asyncio.get_running_loop()

    def make() -> ClientConnection:
        return ClientConnection(loop, tls=site.is_tls)

    async with asyncio.timeout(seconds):
        if site.socket:
            _, made = await loop.create_unix_connection(make, site.socket)
        else:
            _, made = await loop.create_connection(make, site.host, site.port, ssl=site.tls)
    return made


def reason(error: OSError) -> str:
    """Why there is no connection, in words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        return f"no TLS could be agreed on ({getattr(error, 'reason', None) or 'unknown'})"
    if isinstance(error, TimeoutError):
        return "no connection in time"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    return error.strerror or "no connection"
