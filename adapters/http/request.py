"""One request: its head checked, the reasons of a refusal, its body inflated. Pure: no socket, no clock.

llhttp (strict) has refused already most of what two servers may understand differently: a bare LF, folded lines,
white space before a colon, Content-Length twice or beside Transfer-Encoding (RFC 9112 section 11.2). `check_framing`
refuses the rest.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping
from typing import Protocol

from msgspec import Struct

from adapters.http import messages
from adapters.http.messages import Pieces, joined
from gateway.core.interfaces import Endpoint, StreamingEndpoint
from gateway.core.rpc.model import Fault, FaultCode, Headers, RequestMetadata

# Content-Encoding -> the wbits of zlib (RFC 9110 section 8.4.1; deflate is zlib's format, RFC 1950)
ENCODINGS: Mapping[str, int] = {"gzip": 31, "x-gzip": 31, "deflate": 15}

FAULT_STATUS: Mapping[FaultCode, int] = {
    FaultCode.INVALID_REQUEST: 400,
    FaultCode.ACCESS_DENIED: 403,
    FaultCode.TIMEOUT: 408,
    FaultCode.TOO_LARGE: 413,
    FaultCode.BUSY: 503,
}
_LENGTH_REQUIRED = 411
_UNSUPPORTED_ENCODING = 415
_EXPECTATION_FAILED = 417

# The headers that this package reads; a second one of a name is joined to the first with a comma.
READ = frozenset(
    b"access-control-request-headers access-control-request-method content-encoding content-length expect host origin "
    b"sec-fetch-site transfer-encoding".split()
)
HEAD_END = b"\r\n\r\n"
_MANY_READINGS = re.compile(r"//|%|/\.")  # in a path that leads elsewhere once it is resolved
LONGEST_HEAD = 1024  # bytes of a head that is remembered
MOST_HEADS = 256  # heads that one listener remembers
_SHOWN = 40  # bytes of what a client wrote, in a message
# How names are usually written -> as they stand in READ, or empty. Other spellings are looked at in lower case.
_SPELLED = {
    **{name: name for name in READ},
    **{name.title(): name for name in READ},
    **dict.fromkeys((b"Accept", b"Accept-Encoding", b"Connection", b"Content-Type", b"User-Agent"), b""),
}
# scheme "://" authority, then path and query (RFC 9112 section 3.2.2); an IPv6 address in brackets
_ABSOLUTE = re.compile(r"https?://((?:[^/?#@\[\]:]+|\[[0-9A-Fa-f:.]+\])(?::\d*)?)([/?].*)?", re.ASCII | re.IGNORECASE)


class HttpRefusal(Struct, frozen=True):
    """Why a request does not reach its endpoint; `status` replaces that of FAULT_STATUS."""

    fault: Fault
    status: int = 0

    @property
    def http_status(self) -> int:
        """The status of the response."""
        return self.status or FAULT_STATUS[self.fault.code]


BUSY = HttpRefusal(Fault(FaultCode.BUSY, "too many calls at once, try again"))


def too_large(limit: int) -> HttpRefusal:
    """A body over the limit."""
    return HttpRefusal(Fault(FaultCode.TOO_LARGE, f"the body is larger than {limit} bytes"))


def broken_body(why: str) -> HttpRefusal:
    """A body that can never be whole; `why` says what was found."""
    return _invalid(f"the body is broken: {why}")


def too_slow(seconds: float) -> HttpRefusal:
    """A body that is not whole in time."""
    return HttpRefusal(Fault(FaultCode.TIMEOUT, f"the body did not arrive within {seconds:g} s"))


def _invalid(message: str, status: int = 0) -> HttpRefusal:
    return HttpRefusal(Fault(FaultCode.INVALID_REQUEST, message), status)


class BodySink(Protocol):
    """Takes a body piece by piece. Trailers are in the request when it is whole."""

    def feed(self, piece: bytes) -> None:
        """The next piece."""

    def feed_end(self) -> None:
        """The body is whole."""


class HttpRequest:
    """A request whose head is whole. The fields of the class are set while its body arrives, and when it is served."""

    authority: bytes | None = None  # of a target in absolute form
    size = 0  # bytes of the body that have arrived, kept or not
    endpoint: Endpoint | None = None  # reads the whole body
    passthrough: StreamingEndpoint | None = None  # streams the body, in place of an endpoint
    wants_upgrade = False  # it has no body and asks for another protocol (RFC 9110 section 7.8)
    is_tunnel = False
    is_events = False  # a stream of events: it holds little, and may be read as slowly as its client likes
    sink: BodySink | None = None  # takes the body in place of `parts`
    cors = ""  # header lines for a web page of a listed origin
    trailers: Headers = ()  # behind a body in chunks
    is_admitted = False
    has_continued = False
    head = b""  # its bytes as they came, where requests that begin with the same bytes may be served alike
    _metadata: RequestMetadata | None = None

    def __init__(
        self, method: str, target: bytes, minor: int, headers: list[tuple[bytes, bytes]], *, keep_alive: bool
    ) -> None:
        self.method = method
        self.minor = minor  # of HTTP/1.x
        self.headers = headers
        self.keep_alive = keep_alive
        self.target = self.path = target.decode("latin-1")  # as the client wrote it; llhttp accepts only ASCII
        self.parts: Pieces = []  # of the body
        read: dict[bytes, bytes] = {}
        for name, value in headers:
            known = _SPELLED.get(name)
            if known is None:
                lower = name.lower()
                known = lower if lower in READ else b""
            if known:
                read[known] = b"%b, %b" % (read[known], value) if known in read else value
        length = read.get(b"content-length")
        self.length = None if length is None else int(length)  # bytes; llhttp accepts only digits
        # Host and Content-Length are all that this package reads of it
        self.is_plain = len(read) == 2 and length is not None and b"host" in read
        self.read = read if self.is_plain else {name: value.rstrip(b" \t") for name, value in read.items()}

    def check_framing(self, *, needs_host: bool) -> str:
        """What two servers could read differently in this head, and what was expected; empty where there is nothing.

        Sets `path`, and `target` without its authority.
        """
        read = self.read
        if self.is_plain and self.target[0] == "/" and b"," not in read[b"host"]:
            if "?" in self.target:
                self.path = self.target.partition("?")[0]
            return ""
        coding = read.get(b"transfer-encoding")
        if coding is not None and self.minor == 0:
            return "found Transfer-Encoding in HTTP/1.0; expected Content-Length"
        if coding is not None and coding.lower() != b"chunked":
            return f"found Transfer-Encoding: {shown(coding)}; expected chunked alone"
        host = read.get(b"host")
        if host is None:
            if self.minor == 1 and needs_host:
                return 'found no Host header; HTTP/1.1 needs one (or `missing_host = "accept"` of the listener)'
        elif b"," in host:  # two of them (RFC 9112 section 3.2)
            return f"found Host: {shown(host)}; expected one host"
        if not self.target.startswith("/") and self.target != "*" and self.method != "CONNECT":
            found = _ABSOLUTE.fullmatch(self.target)
            if found is None:
                target = shown(self.target.encode("latin-1"))
                return f"found the target {target}; expected a path, an http or https URL, or *"
            self.authority = found[1].encode()
            rest = found[2] or "/"
            self.target = rest if rest.startswith("/") else f"/{rest}"
        self.path = self.target.partition("?")[0]
        return ""

    def check_head(self, limit: int, *, plain: bool) -> HttpRefusal | None:
        """Why the head alone is refused; `plain` refuses what old xapi does: no Content-Length, and Expect.

        `limit` does not hold for a body that is streamed.
        """
        if self.length is not None and self.length > limit and self.passthrough is None:
            return too_large(limit)
        if plain and self.length is None:
            return _invalid("Content-Length is required", _LENGTH_REQUIRED)
        expect = self.read.get(b"expect")
        if expect is not None and (plain or expect.lower() != b"100-continue"):
            return _invalid("Expect is not supported", _EXPECTATION_FAILED)
        return None

    @property
    def ended_early(self) -> str:
        """Why the body can never be whole when the client has ended its direction."""
        if self.length is None:
            return f"found its end after {self.size} bytes; expected a last chunk of size 0"
        return f"found its end after {self.size} bytes; expected {self.length} (Content-Length)"

    @property
    def expects_continue(self) -> bool:
        """Whether the client waits for 100 (Continue) before it sends the body (RFC 9110 section 10.1.1)."""
        return self.minor == 1 and not self.has_continued and b"expect" in self.read

    def body(self, limit: int) -> bytes | HttpRefusal:
        """The whole body, inflated."""
        content = joined(self.parts)
        self.parts.clear()
        if self.size > limit:
            return too_large(limit)
        encoding = None if self.is_plain else self.read.get(b"content-encoding")
        if encoding is None:
            return content
        return inflate(content, encoding.decode("latin-1"), limit)

    def metadata(self) -> RequestMetadata:
        """The request without its body, for the endpoint."""
        if self._metadata is None:
            headers = tuple(self.headers)
            if self.passthrough is None and b"content-encoding" in self.read:
                headers = messages.without(headers, b"content-encoding")
            self._metadata = RequestMetadata(self.method, self.target, headers)
        return self._metadata

    def keep_head(self, piece: bytes) -> None:
        """Keep the head, where `piece` is this request and nothing else; see KnownHeads."""
        if (
            self.is_plain
            and self.method == "POST"
            and self.minor == 1
            and self.keep_alive
            and not self.wants_upgrade
            and self.size == self.length
            and not _MANY_READINGS.search(self.path)
        ):
            end = piece.find(HEAD_END) + len(HEAD_END)
            if end + self.size == len(piece) and end <= LONGEST_HEAD:
                self.head = piece[:end]


class KnownHeads:
    """The heads of requests that a listener has served, by their bytes: clients send the same head again and again.

    The same bytes mean the same request. So a message that consists of a known head and of as many bytes as it
    announces is served without parsing and without checking the head again. Only plain heads are kept: a POST in
    HTTP/1.1 with a Content-Length on a connection that stays open, which an endpoint has taken.
    """

    def __init__(self, resolve: Callable[[str], Endpoint | None]) -> None:
        self._resolve = resolve
        self._known: dict[bytes, HttpRequest] = {}

    def add(self, request: HttpRequest) -> None:
        """Remember the head of a request that its endpoint takes."""
        if len(self._known) >= MOST_HEADS:
            self._known.clear()
        self._known[request.head] = request

    def find(self, message: bytes) -> HttpRequest | None:
        """Return the request with the head of a whole message; its body is the rest. None: it must be parsed."""
        end = message.find(HEAD_END) + len(HEAD_END)
        request = self._known.get(message[:end])
        if request is None or end + request.size != len(message):
            return None
        if self._resolve(request.path) is not request.endpoint:  # a reload has replaced it
            self._known.clear()
            return None
        return request


def shown(value: bytes) -> str:
    """The beginning of what a client wrote, in printable ASCII, for messages."""
    text = value[:_SHOWN].decode("latin-1").encode("unicode_escape").decode()
    return f"{text}..." if len(value) > _SHOWN else text


def inflate(content: bytes, encoding: str, limit: int) -> bytes | HttpRefusal:
    """Undo a Content-Encoding; at most `limit` + 1 bytes of the result are held."""
    name = encoding.strip().lower()
    if name == "identity":
        return content
    if name not in ENCODINGS:
        known = ", ".join((*ENCODINGS, "identity"))
        return _invalid(f"Content-Encoding: expected one of {known}", _UNSUPPORTED_ENCODING)
    inflater = zlib.decompressobj(ENCODINGS[name])
    try:
        inflated = inflater.decompress(content, limit + 1)
    except zlib.error:
        return _invalid(f"the body is broken: found no valid {name}, which Content-Encoding promises")
    if len(inflated) > limit:
        return too_large(limit)
    if not inflater.eof or inflater.unused_data:  # one gzip member: many small ones would cost time out of proportion
        return _invalid(f"the body is broken: expected a single, whole {name} stream")
    return inflated
