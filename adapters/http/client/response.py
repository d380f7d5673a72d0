"""Reads the responses of an upstream, one at a time (RFC 9112, on llhttp). Pure: no socket, no clock.

llhttp is as lenient as legacy services need: lines may end in LF alone, and a header may have any byte but zero.

The same upstream sends the same heads again and again. `KnownResponses` keeps the plain ones by their bytes: a response
that consists of a known head and of as many bytes as it announces is not parsed again, as the same bytes mean the same.
"""

from __future__ import annotations

import httptools
from msgspec import Struct
from msgspec.structs import replace

from adapters.http import messages
from adapters.http.messages import Pieces, add_piece, joined
from adapters.http.response import relayed_head
from gateway.core.rpc.model import Answer, Headers

MAX_HEADERS = 256  # of a head, and of trailers
MAX_OVERHEAD = 256 * 1024  # bytes of a head, of trailers, or of chunk framing without a byte of content
LONGEST_KNOWN = 1024  # bytes of a head that is remembered
MOST_KNOWN = 256  # heads of one upstream that are remembered

_CONTINUE = 100
_SWITCHING_PROTOCOLS = 101
_FIRST_FINAL = 200  # lower statuses are interim, RFC 9110 section 15.2
_OK = 200
_WITHOUT_CONTENT = frozenset({204, 304})  # RFC 9110 section 6.4.1
_HEAD_END = b"\r\n\r\n"


class NotHttpError(Exception):
    """What came is not HTTP."""


class ResponseHead(Struct, frozen=True):
    """The head of a final response. `headers`: all of them, as the upstream wrote them."""

    status: int
    reason: str
    headers: Headers
    keep_alive: bool  # another request may follow, as far as the upstream has said
    length: int | None  # Content-Length; bytes of the body where it is not chunked
    is_chunked: bool
    end_to_end: Headers  # those of the message alone
    content_type: str
    forwarded: bytes = b""  # the head that a client gets, where it is known; see Answer.known_head

    def answer(self, body: bytes | None) -> Answer:
        """The response of which everything is read."""
        return Answer(body, self.content_type, None, self.status, self.reason, self.end_to_end)


class KnownResponses:
    """The heads of responses of one upstream: 200, with a length, over a connection that stays open."""

    def __init__(self) -> None:
        self._known: dict[bytes, ResponseHead] = {}

    def add(self, response: bytes, head: ResponseHead) -> None:
        """Remember the head of a whole response that came in one piece."""
        end = response.find(_HEAD_END) + len(_HEAD_END)
        if head.status != _OK or not head.keep_alive or head.length is None or head.is_chunked:
            return
        if end > LONGEST_KNOWN or end + head.length != len(response):
            return
        if len(self._known) >= MOST_KNOWN:
            self._known.clear()
        if not messages.has_header(head.end_to_end, b"content-encoding"):
            head = replace(head, forwarded=relayed_head(head.answer(None)))
        self._known[response[:end]] = head

    def find(self, response: bytes) -> tuple[ResponseHead, bytes] | None:
        """Head and body of a whole response whose head is known; None: it must be parsed."""
        end = response.find(_HEAD_END) + len(_HEAD_END)
        head = self._known.get(response[:end])
        if head is None or end + (head.length or 0) != len(response):
            return None
        return head, response[end:]


class ResponseParser:
    """The responses over one connection. Each begins with `begin`, and is whole before the next one begins."""

    def __init__(self, known: KnownResponses | None = None) -> None:
        self._known = known
        self._parser: httptools.HttpResponseParser | None = None
        self._bodiless = self._may_switch = False
        self._is_untouched = True  # no byte of this response has come
        self._headers: list[tuple[bytes, bytes]] = []
        self._reason = b""
        self._overhead = 0  # bytes since the last byte of content
        self.head: ResponseHead | None = None  # of the final response
        self.continues = 0  # how often 100 (Continue) came
        self.parts: Pieces = []  # of the body; the reader takes them out
        self.size = 0  # bytes in `parts`
        self.trailers: list[tuple[bytes, bytes]] = []
        self.is_whole = True
        self.is_dirty = False  # bytes have come that belong to no response

    def begin(self, *, bodiless: bool, may_switch: bool = False) -> None:
        """A request was sent; `bodiless`: its response has no body, whatever its head says (HEAD).

        `may_switch`: the request asked for another protocol, so 101 is a final response.
        """
        self._bodiless, self._may_switch = bodiless, may_switch
        self._is_untouched, self.is_whole = True, False
        self.head = None
        self.continues = self._overhead = self.size = 0
        if self.parts:
            self.parts = []
        if self.trailers:
            self.trailers = []

    def feed(self, data: bytes) -> None:
        """The next bytes; raises NotHttpError, or ConnectionError when the upstream changes the protocol unasked."""
        if self.is_whole:
            self.is_dirty = True
            return
        body = self.take_known(data)
        if body is not None:
            self.parts.append(body)
            self.size = len(body)
            return
        is_first, self._is_untouched = self._is_untouched, False
        self._overhead += len(data)
        if not self._parse(data):
            if self._overhead > MAX_OVERHEAD:
                raise NotHttpError(f"found more than {MAX_OVERHEAD} bytes without content")
        elif is_first and self._known is not None and self.head is not None and not (self._bodiless or self.is_dirty):
            self._known.add(data, self.head)

    def take_known(self, data: bytes) -> bytes | None:
        """The body, if these bytes are a whole response whose head is known; None: they must be fed."""
        if not self._is_untouched or self._known is None or self._bodiless or self.is_whole:
            return None
        found = self._known.find(data)
        if found is None:
            return None
        self._is_untouched, self.is_whole = False, True
        self.head, body = found
        return body

    def _parse(self, data: bytes) -> bool:
        """Returns whether the response is whole."""
        parser = self._parser
        if parser is None:
            parser = self._parser = httptools.HttpResponseParser(self)
            parser.set_dangerous_leniencies(
                lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
            )
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            raise ConnectionError("the connection was upgraded") from None
        except httptools.HttpParserError as error:
            self._parser = None
            if self.is_whole:  # what is wrong came behind it
                self.is_dirty = self.is_dirty or not (self._bodiless and data.endswith(b"\n"))
            else:
                raise NotHttpError(str(error)) from error
        return self.is_whole

    def feed_eof(self) -> None:
        """The connection has ended without an error; raises EOFError when the response is not whole."""
        if self.is_whole:
            return
        if self.head is None or self.head.length is not None or self.head.is_chunked:  # RFC 9112 section 6.3
            raise EOFError("the connection has ended before the response")
        self.is_whole = True

    def take(self) -> bytes:
        """The part of the body that has come and was not taken yet."""
        parts, self.parts, self.size = self.parts, [], 0
        return joined(parts)

    # Of llhttp

    def on_message_begin(self) -> None:
        """The first byte of a response, interim or final."""
        if self.is_whole:
            self.is_dirty = True
            raise NotHttpError("another response")
        self._headers, self._reason = [], b""

    def on_status(self, reason: bytes) -> None:
        """A part of the reason."""
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer behind the body."""
        if b"\0" in value or len(self._headers) >= MAX_HEADERS:
            raise NotHttpError("a zero byte in a header, or too many headers")
        self._headers.append((name, value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        """The head is whole."""
        parser = self._parser
        assert parser is not None
        status = parser.get_status_code()
        if status < _FIRST_FINAL and not (status == _SWITCHING_PROTOCOLS and self._may_switch):
            self.continues += status == _CONTINUE
            return
        headers, self._headers = tuple(self._headers), []
        codings = [value for name, value in headers if name.lower() == b"transfer-encoding"]
        length = messages.first_header(headers, b"content-length")
        end_to_end = messages.end_to_end(headers)
        # A server that sends the content which it announces, where none belongs, would begin the next answer with it.
        is_misleading = (self._bodiless or status in _WITHOUT_CONTENT) and (bool(codings) or length not in (None, b"0"))
        self.head = ResponseHead(
            status,
            self._reason.decode("utf-8", "surrogateescape"),
            headers,
            parser.should_keep_alive() and not is_misleading,
            int(length) if length is not None and length.isdigit() else None,
            bool(codings) and codings[-1].lower().endswith(b"chunked"),
            end_to_end,
            (messages.first_header(end_to_end, b"content-type") or b"").decode("latin-1"),
        )
        if self._bodiless:
            self.is_whole = True
            raise NotHttpError("no body follows")  # llhttp would wait for one

    def on_body(self, data: bytes) -> None:
        """A part of the body."""
        add_piece(self.parts, data)
        self.size += len(data)
        self._overhead = 0

    def on_message_complete(self) -> None:
        """A response is whole."""
        if self.head is not None:
            self.trailers, self._headers = self._headers, []
            self.is_whole = True
