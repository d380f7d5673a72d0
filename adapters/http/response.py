"""Writes HTTP/1.x responses as bytes (RFC 9112). The head of each kind of response is made once a second."""

from __future__ import annotations

import html
import re
import time
from collections.abc import Mapping
from email.utils import formatdate
from http import HTTPStatus
from typing import NamedTuple

from adapters.http import messages
from gateway.core.rpc.model import Answer, Headers

RESERVED = frozenset({"connection", "content-length", "content-type", "date", "retry-after", "transfer-encoding"})
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)  # token, RFC 9110 section 5.6.2
_VALUE = re.compile(r"[ -~]*", re.ASCII)

_MOST_HEADS = 256
LARGE = 64 * 1024  # bytes of a response that are written without being copied behind their head
TEXT = "text/plain"
HTML = "text/html"
WITHOUT_CONTENT = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})


class HttpResponse(NamedTuple):
    """The response to one request; `body` is None where there is no content (204)."""

    status: int
    content_type: str
    body: bytes | None
    close: bool = False
    headers: str = ""  # whole lines
    relayed: Answer | None = None  # an upstream's answer, which is passed on unchanged
    hang_up: bool = False  # nothing is written, and the connection ends


def is_plain(answer: Answer) -> bool:
    """Whether it is short enough to be copied, and nothing of it is for the transport to decide.

    That is an endpoint's own answer to a message that it could read, or an upstream's with a Content-Length.
    """
    if answer.body is None or len(answer.body) > LARGE or answer.hang_up:
        return False
    if answer.status is None:
        return answer.fault is None
    return messages.has_header(answer.headers, b"content-length")


HANG_UP = HttpResponse(0, TEXT, None, close=True, hang_up=True)  # the connection is closed, as the upstream did


def relay(answer: Answer) -> HttpResponse:
    """An upstream's answer."""
    assert answer.status is not None
    return HttpResponse(answer.status, answer.content_type, answer.body, relayed=answer)


def text(status: int, message: str, *, close: bool = False, headers: str = "") -> HttpResponse:
    """A response in plain text, where the client's protocol is not known."""
    return HttpResponse(status, TEXT, f"{message}\n".encode(), close, headers)


def page(message: str) -> HttpResponse:
    """The response of old xapi to a request that it cannot read: a page with status 500, and a closed connection."""
    body = f"<html><body><h1>HTTP 500 internal server error</h1>{html.escape(message)}</body></html>"
    return HttpResponse(500, HTML, body.encode(), close=True)


class ResponseWriter:
    """Writes the responses of one listener; `headers` are added to each. Raises ValueError for an invalid one."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._fixed = "".join(f"{name}: {value}\r\n" for name, value in _checked(headers).items())
        self._second = 0  # of the dates in `_heads`, since the epoch
        self._heads: dict[tuple[int, str, str, int, bool, bool], bytes] = {}
        self._plain: dict[str, bytes] = {}  # heads of plain answers by their Content-Type
        self._relayed: dict[tuple[int, str, Headers], bytes] = {}  # heads of upstreams' answers with a Content-Length

    def write(self, answer: HttpResponse, *, minor: int = 1, bodiless: bool = False) -> bytes:
        """The whole response; `minor`: of the request's HTTP version; `bodiless`: for HEAD."""
        return b"".join(self.head_and_body(answer, minor=minor, bodiless=bodiless))

    def head_and_body(self, answer: HttpResponse, *, minor: int, bodiless: bool) -> tuple[bytes, bytes]:
        """Head and body; see `write`."""
        body = answer.body
        content = b"" if bodiless or body is None else body
        if answer.relayed is not None:
            return _as_it_came(answer, answer.relayed, minor, bodiless=bodiless), content
        now = int(time.time())
        if now != self._second or len(self._heads) > _MOST_HEADS:  # the headers of preflights differ
            self._begin_second(now)
        key = (answer.status, answer.content_type, answer.headers, minor, answer.close, body is not None)
        head = self._heads.get(key)
        if head is None:
            head = self._heads[key] = self._write_head(*key)
        return head if body is None else b"%b%d\r\n\r\n" % (head, len(body)), content

    def write_plain(self, answer: Answer) -> bytes:
        """The whole response of an endpoint in HTTP/1.1, on a connection that stays open; see `is_plain`."""
        body, now = answer.body, int(time.time())
        assert body is not None
        if answer.status is not None:
            key = (answer.status, answer.reason, answer.headers)
            head = self._relayed.get(key)
            if head is None:
                if len(self._relayed) >= _MOST_HEADS:
                    self._relayed.clear()
                head = self._relayed[key] = relayed_head(answer)
            return head + body
        if now != self._second:
            self._begin_second(now)
        head = self._plain.get(answer.content_type)
        if head is None:
            head = self._write_head(HTTPStatus.OK, answer.content_type, "", 1, close=False, has_body=True)
            self._plain[answer.content_type] = head
        return b"%b%d\r\n\r\n%b" % (head, len(body), body)

    def _begin_second(self, now: int) -> None:
        self._second = now
        self._heads.clear()
        self._plain.clear()

    def _write_head(
        self,
        status: int,
        content_type: str,
        headers: str,
        minor: int,
        close: bool,  # noqa: FBT001 - as the key has it
        has_body: bool,  # noqa: FBT001
    ) -> bytes:
        lines = [f"HTTP/1.{minor} {status} {HTTPStatus(status).phrase}\r\n", self._fixed, headers]
        if status != HTTPStatus.NO_CONTENT:
            lines.append(f"Content-Type: {content_type}\r\n")
        lines.append(connection_line(close=close, minor=minor).decode())
        date = formatdate(self._second, usegmt=True)
        return "".join((*lines, f"Date: {date}\r\n", "Content-Length: " if has_body else "\r\n")).encode("latin-1")


def _as_it_came(answer: HttpResponse, came: Answer, minor: int, *, bodiless: bool) -> bytes:
    """Status line and headers of an upstream, with a Content-Length where it sent none.

    CORS headers are added where a web page of a listed origin asks and the upstream sends none.
    """
    ours = b""
    if came.status not in WITHOUT_CONTENT and not bodiless and not messages.has_header(came.headers, b"content-length"):
        ours = b"Content-Length: %d\r\n" % len(came.body or b"")
    ours += connection_line(close=answer.close, minor=minor)
    if answer.headers and not messages.has_header(came.headers, b"access-control-allow-origin"):
        ours += answer.headers.encode("latin-1")
    return b"%b%b%b\r\n" % (start(came, minor), messages.header_lines(came.headers), ours)


def relayed_head(came: Answer) -> bytes:
    """The head of an upstream's answer for a client of HTTP/1.1 whose connection stays open."""
    return _as_it_came(relay(came), came, 1, bodiless=False)


def start(came: Answer, minor: int) -> bytes:
    """The status line of an upstream's answer, for a client that speaks HTTP/1.`minor`."""
    return b"HTTP/1.%d %d %b\r\n" % (minor, came.status or 0, came.reason.encode("utf-8", "surrogateescape"))


def connection_line(*, close: bool, minor: int) -> bytes:
    """Whether the connection ends with an answer; empty where that is the version's default (RFC 9112 section 9.3)."""
    if close != (minor == 1):
        return b""
    return b"Connection: close\r\n" if close else b"Connection: keep-alive\r\n"


def _checked(headers: Mapping[str, str]) -> Mapping[str, str]:
    for name, value in headers.items():
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise ValueError(f"header {name!r}: expected a name and a value of printable ASCII, got {value!r}")
        if name.lower() in RESERVED:
            raise ValueError(f"header {name!r} is set by the gateway itself: leave it out")
    return headers
