"""Bytes of one connection in, requests out (RFC 9112), by llhttp. Pure: no socket, no clock.

Bytes wait in `unread` and are parsed in pieces, and only while no request is served. So the requests that a client
sends ahead wait as bytes, and few of them are parsed at a time. llhttp skips the body of a request that asks for an
upgrade; such a body is read by a second parser, from a head without the upgrade.
"""

from __future__ import annotations

import httptools

from adapters.http import response
from adapters.http.messages import add_piece
from adapters.http.quotas import HttpLimits
from adapters.http.request import HttpRequest, shown
from adapters.http.response import HttpResponse

MAX_HEADERS = 100
HEAD_PIECE = 4 * 1024  # bytes parsed at a time: no more requests are ready at once than these can hold
BODY_PIECE = 16 * 1024  # the same inside a body without a length
LARGEST_PIECE = 64 * 1024  # the same inside a body with a length

LONG_HEAD = response.text(431, "the request line and headers are too long", close=True)

# What clients of other protocols send first -> what was found
_OTHER_PROTOCOLS = {b"\x16\x03": "a TLS handshake", b"PRI * HTTP/2.0": "the preface of HTTP/2"}
_VERSION = "expected HTTP/1.1 or HTTP/1.0"
_EXPECTED = "expected METHOD TARGET HTTP/1.1, then lines NAME: VALUE and an empty one, each ended by CRLF (RFC 9112)"
_EXPECTED_CHUNKS = "expected for each chunk its size in hexadecimal, CRLF, that many bytes, CRLF"

_VERSIONS = {"1.1": 1, "1.0": 0}


def not_http(why: str) -> tuple[HttpResponse, str]:
    """The failure for bytes that are no request: `why` says what was found, and what was expected."""
    return response.text(400, f"invalid HTTP request: {why}", close=True), f"sent an invalid HTTP request: {why}"


class _StopParsing(Exception):  # noqa: N818 - it ends the parser's work, and is not an error of ours
    """Ends the work of llhttp on a head that is refused."""

    def __init__(self, failure: tuple[HttpResponse, str]) -> None:
        self.failure = failure


class RequestParser:
    """The input of one connection. A request that has a `sink` gives it the body as it comes."""

    __slots__ = (
        "_has_ended",
        "_head_bytes",
        "_headers",
        "_is_replayed",
        "_limits",
        "_needs_host",
        "_overhead",
        "_parser",
        "_piece",
        "_target",
        "broken",
        "current",
        "failure",
        "has_begun",
        "is_last",
        "ready",
        "unread",
    )

    def __init__(self, limits: HttpLimits, *, needs_host: bool) -> None:
        self.unread = b""  # bytes that are not parsed yet
        self.ready: list[HttpRequest] = []  # whole requests that wait for their turn
        self.current: HttpRequest | None = None  # its body is coming
        self.failure: tuple[HttpResponse, str] | None = None  # after all requests before it; and why, for the log
        self.has_begun = False  # a part of a request has come
        self.broken = ""  # why the body that is coming can never be whole
        self.is_last = False  # no request follows the last one that was parsed
        self._limits = limits
        self._needs_host = needs_host
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)
        self._head_bytes = 0  # of the head alone
        self._piece = 0  # bytes of the piece that is parsed, from the end of the last head
        self._overhead = 0  # bytes since the last progress of a body
        self._has_ended = False  # a request has ended in this piece
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._is_replayed = False  # the head of the request that wanted an upgrade, once more

    def close(self) -> None:
        """Drop all input; nothing is parsed from now on."""
        self.drop()
        self._parser = None  # which refers to this object

    def rest(self) -> None:
        """No input is expected for a while: hold no parser, which takes 1 KB, if nothing has begun."""
        if not (self.has_begun or self.is_last or self.current or self.ready or self.unread):
            self._parser = None

    def end(self) -> None:
        """Nothing of HTTP follows; bytes that come are left as they are."""
        self.is_last = True
        self._parser = None  # which takes 1 KB

    def drop(self) -> None:
        """Drop all input."""
        self.unread, self.current = b"", None
        self.ready.clear()

    def parse(self) -> None:
        """Parse a piece of `unread`: as much as may hold one request, or a part of its body."""
        current = self.current
        if current is None:
            most = HEAD_PIECE
        elif current.length is None:
            most = BODY_PIECE
        else:
            most = min(current.length - current.size, LARGEST_PIECE)
        piece, self.unread = self.unread[:most], self.unread[most:]
        self._piece = len(piece)
        self._has_ended = False
        parser = self._parser = self._parser or httptools.HttpRequestParser(self)
        begins = not self.has_begun
        start = b"" if self.has_begun else piece
        try:
            parser.feed_data(piece)
        except httptools.HttpParserUpgrade as upgrade:
            self._decline_upgrade(piece[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self._fail(error, b"" if self._has_ended else start)
        if self.ready or self._has_ended:
            if begins and len(self.ready) == 1 and not self.has_begun:
                self.ready[0].keep_head(piece)
            return  # the piece has ended a request, or more of them
        limit = self._limits.header_bytes
        self._overhead += self._piece
        if self.current is None and self.has_begun:
            self._head_bytes += self._piece
            if self._head_bytes > limit and self.failure is None:
                self.failure = self._long_head()
        elif self._overhead > limit + BODY_PIECE and self.failure is None:
            self.failure = not_http(
                f"found {self._overhead} bytes of chunk framing without a body byte; at most {limit}"
            )

    def _long_head(self) -> tuple[HttpResponse, str]:
        return LONG_HEAD, f"sent a head of more than {self._limits.header_bytes} bytes"

    def _fail(self, error: httptools.HttpParserError, start: bytes) -> None:
        """Keep the response to invalid bytes until all requests before them are answered.

        `start`: the first bytes of the request, where they are known.
        """
        if self.is_last:
            return  # bytes behind a request that said it was the last
        self.is_last = True
        self.unread = b""
        cause = error.__context__
        if isinstance(cause, _StopParsing):
            self.failure = cause.failure
        elif isinstance(error, httptools.HttpParserCallbackError):
            raise error
        elif self.current is not None:
            self.broken = f"after {self.current.size} bytes: {error}; {_EXPECTED_CHUNKS}"
        else:
            other = next((what for first, what in _OTHER_PROTOCOLS.items() if start.startswith(first)), "")
            if other:
                self.failure = not_http(f"found {other}; {_VERSION} without TLS")
            elif start and isinstance(error, httptools.HttpParserInvalidMethodError):
                self.failure = not_http(f"found '{shown(start.split(maxsplit=1)[0])}' as the method; {_EXPECTED}")
            else:
                self.failure = not_http(f"{error}; {_EXPECTED}")

    def _decline_upgrade(self, rest: bytes) -> None:
        """Read the body that llhttp has skipped with a second parser. `rest`: the bytes behind the head."""
        request = self.current
        self.unread = rest + self.unread
        if request is None:  # CONNECT: nothing of HTTP follows
            self.is_last = True
            return
        has_body = bool(request.length) or b"transfer-encoding" in request.read
        request.wants_upgrade = not has_body and request.minor == 1  # RFC 9110 section 7.8: not of HTTP/1.0
        if b"transfer-encoding" in request.read:
            framing = b"Transfer-Encoding: chunked\r\n"
        else:
            framing = b"Content-Length: %d\r\n" % (request.length or 0)
        self._parser = httptools.HttpRequestParser(self)  # the old one may have seen `Connection: close`
        self._is_replayed = True
        self._parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % framing)
        self._is_replayed = False

    def on_message_begin(self) -> None:
        """Of llhttp: the first byte of a request."""
        if not self._is_replayed:
            self.has_begun = True
            self._head_bytes = 0
            self._target = b""

    def on_url(self, url: bytes) -> None:
        """Of llhttp: a part of the target."""
        if not self._is_replayed:
            self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Of llhttp: a header, or a trailer behind the body."""
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Of llhttp: the head is whole."""
        if self._is_replayed:
            return
        parser = self._parser
        assert parser is not None
        minor = _VERSIONS.get(parser.get_http_version())
        if minor is None:
            raise _StopParsing(not_http(f"found HTTP/{parser.get_http_version()}; {_VERSION}"))
        method = "POST" if parser.get_method() == b"POST" else parser.get_method().decode("ascii")
        headers, self._headers = self._headers, []
        most, size = self._limits.header_bytes, 0
        if self._head_bytes + self._piece + HEAD_PIECE > most:  # it is counted: a head may begin within a piece
            size = len(self._target) + sum(len(name) + len(value) + len(": \r\n") for name, value in headers)
        if len(headers) > MAX_HEADERS or size > most:
            raise _StopParsing(self._long_head())
        request = HttpRequest(method, self._target, minor, headers, keep_alive=parser.should_keep_alive())
        problem = request.check_framing(needs_host=self._needs_host)
        if problem:
            raise _StopParsing(not_http(problem))
        self.current = request
        self._overhead = -self._piece  # as this piece is added in the end

    def on_body(self, data: bytes) -> None:
        """Of llhttp: a part of the body; a part over the limit is counted and not kept.

        Before its turn a request has the rest of one piece at most, and it may be one whose body is streamed.
        """
        request = self.current
        assert request is not None
        request.size += len(data)
        if request.sink is not None:
            request.sink.feed(data)
        elif request.size <= self._limits.body or not request.is_admitted:
            add_piece(request.parts, data)
        self._overhead = -self._piece

    def on_message_complete(self) -> None:
        """Of llhttp: a request is whole."""
        request, parser = self.current, self._parser
        assert request is not None
        assert parser is not None
        if parser.should_upgrade() and request.method != "CONNECT":
            return  # its body was skipped
        if self._headers:
            request.trailers, self._headers = tuple(self._headers), []
        self.current = None
        self.has_begun = False
        self._has_ended = True
        if request.sink is not None:
            request.sink.feed_end()
        else:
            self.ready.append(request)
        if request.method == "CONNECT":
            request.keep_alive = False  # nothing of HTTP follows
        if not request.keep_alive:
            self.is_last = True
