"""Requests to an upstream: its address, and how a request is written (RFC 9112).

A url is `http://host:port/path`, `https://host:port/path`, `http+unix:///socket` or `http+unix:///socket:/path`.
"""

from __future__ import annotations

import ssl
from urllib.parse import urlsplit

from msgspec import Struct

from adapters.http import messages
from gateway.core.interfaces import HttpExchange
from gateway.core.rpc.model import Headers, RequestMetadata

PORTS = {"http": 80, "https": 443}
MOST_HEADS = 64  # that are kept for one upstream
_WITH_CONTENT = frozenset({"POST", "PUT", "PATCH"})  # a length is expected of them, RFC 9110 section 8.6


class UpstreamAddress(Struct, frozen=True):
    """Where an upstream listens. `path`: the target of every request; empty: the client's target."""

    url: str
    socket: str = ""
    host: str = ""
    port: int = 0
    path: str = ""
    named: bytes = b"localhost"  # the Host header, where the client sent none
    tls: ssl.SSLContext | None = None


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


def request_head(
    address: UpstreamAddress, length: int, carried: RequestMetadata, *, host: bytes = b"", close: bool = False
) -> bytes:
    """The head of a request with a whole body, without `Expect`, which the listener has answered."""
    headers = messages.without(messages.end_to_end(carried.headers), b"expect")
    if length or carried.verb in _WITH_CONTENT or messages.has_header(headers, b"content-length"):
        headers = _with_length(headers, length)
    return _head(address, carried, headers, host, b"Connection: close\r\n" if close else b"")


def write_head(address: UpstreamAddress, exchange: HttpExchange, *, host: bytes = b"", close: bool = False) -> bytes:
    """The head of a streamed request, with the client's framing; of a tunnel, with every header."""
    carried = exchange.metadata
    if exchange.is_tunnel:
        return _head(address, carried, carried.headers, host, b"")
    headers = messages.end_to_end(carried.headers)
    own = b"Connection: close\r\n" if close else b""
    if b"trailers" in (messages.first_header(carried.headers, b"te") or b"").lower():
        own += b"TE: trailers\r\nConnection: TE\r\n"
    if exchange.length is None:
        announced = messages.first_header(carried.headers, b"trailer")
        headers = messages.without(headers, b"content-length")
        if announced is not None:
            headers = (*headers, (b"Trailer", announced))
        own = b"Transfer-Encoding: chunked\r\n" + own
    elif carried.verb in _WITH_CONTENT:
        headers = _with_length(headers, exchange.length)
    return _head(address, carried, headers, host, own)


def _head(address: UpstreamAddress, carried: RequestMetadata, headers: Headers, host: bytes, own: bytes) -> bytes:
    """Request line and headers as the client wrote them; `host` replaces its Host, `own` lines are added."""
    if host:
        headers = messages.without(headers, b"host")
    if host or not messages.has_header(headers, b"host"):
        headers = ((b"Host", host or address.named), *headers)
    target = address.path or carried.target or "/"
    start = f"{carried.verb} {target} HTTP/1.1\r\n".encode("utf-8", "surrogateescape")
    return b"%b%b%b\r\n" % (start, messages.header_lines(headers), own)


def _with_length(headers: Headers, length: int) -> Headers:
    """The headers with a Content-Length; the client's own where it is right."""
    said = messages.first_header(headers, b"content-length")
    if said is not None and said.isdigit() and int(said) == length:
        return headers
    return (*messages.without(headers, b"content-length"), (b"Content-Length", b"%d" % length))


class RequestHeads:
    """The heads of requests to one upstream. Requests that share their metadata, as known ones do, share their head."""

    def __init__(self, address: UpstreamAddress, host: bytes, *, close: bool) -> None:
        self._address, self._host, self._close = address, host, close
        self._written: dict[int, tuple[RequestMetadata, int, bytes]] = {}  # by the id of the metadata

    def of(self, carried: RequestMetadata, length: int) -> bytes:
        """The head of a request with a body of so many bytes."""
        known = self._written.get(id(carried))
        if known is not None and known[0] is carried and known[1] == length:
            return known[2]
        head = request_head(self._address, length, carried, host=self._host, close=self._close)
        if len(self._written) >= MOST_HEADS:
            self._written.clear()
        self._written[id(carried)] = carried, length, head
        return head
