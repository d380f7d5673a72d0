"""What both sides of HTTP do with messages: headers of a connection and of the message, trailers, pieces of bodies."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypeAlias

from gateway.core.rpc.model import Headers

# RFC 9110 section 7.6.1, and what RFC 2616 had in its place.
HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding "
    b"upgrade".split()
)

# Fields that are no trailers, because a server acts on them before the body (RFC 9110 section 6.5.1): framing, routing,
# authentication, conditions and controls of a request, controls of a response, the format of the content.
_NOT_IN_TRAILERS = HOP_BY_HOP | {
    *(b"content-encoding", b"content-length", b"content-range", b"content-type"),
    *(b"authorization", b"cookie", b"proxy-authentication-info", b"set-cookie", b"www-authenticate"),
    *(b"cache-control", b"expect", b"host", b"max-forwards", b"pragma", b"range"),
    *(b"if-match", b"if-modified-since", b"if-none-match", b"if-range", b"if-unmodified-since"),
    *(b"age", b"date", b"expires", b"location", b"retry-after", b"vary"),
}
_TRAILER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # token, RFC 9110 section 5.6.2
_CONTROLS = re.compile(rb"[\x00\r\n]")


def passed_trailers(trailers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """The trailers that are passed on: valid fields that may stand behind a body."""
    return tuple(
        (name, value)
        for name, value in trailers
        if _TRAILER.fullmatch(name) and name.lower() not in _NOT_IN_TRAILERS and not _CONTROLS.search(value)
    )


def end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """The headers of the message, in their order and as they were written."""
    kept = []
    named: set[bytes] = set()
    for name, value in headers:
        lower = name.lower()
        if lower == b"connection":
            named.update(option.strip() for option in value.lower().split(b","))
        elif lower not in HOP_BY_HOP:
            kept.append((name, value))
    if not named - _OPTIONS:
        return tuple(kept)
    return tuple((name, value) for name, value in kept if name.lower() not in named or name.lower() in _NEVER_NAMED)


_OPTIONS = frozenset({b"close", b"keep-alive", b""})  # options of Connection that name no header
_NEVER_NAMED = frozenset({b"host", b"content-length", b"content-type"})  # needed by every message


def has_header(headers: Iterable[tuple[bytes, bytes]], wanted: bytes) -> bool:
    """Whether a header is there; its name in lower case."""
    return wanted in [name.lower() for name, _ in headers]


def first_header(headers: Iterable[tuple[bytes, bytes]], wanted: bytes) -> bytes | None:
    """The first value of a header, its name in lower case."""
    return next((value for name, value in headers if name.lower() == wanted), None)


def without(headers: Headers, *unwanted: bytes) -> Headers:
    """The same without some headers, their names in lower case."""
    return tuple((name, value) for name, value in headers if name.lower() not in unwanted)


def header_lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The headers as bytes."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])


# Bodies that are read whole, gathered so that many small pieces cost no more than their bytes

MOST_PIECES = 256  # each an object of its own; a body in chunks of a byte or two would cost many times its bytes

Pieces: TypeAlias = "list[bytes | bytearray]"


def add_piece(pieces: Pieces, data: bytes) -> None:
    """Add a piece."""
    if len(pieces) < MOST_PIECES:
        pieces.append(data)
        return
    if len(pieces) == MOST_PIECES:
        pieces.append(bytearray())
    pieces[MOST_PIECES] += data


def joined(pieces: Pieces) -> bytes:
    """The pieces as one."""
    return bytes(pieces[0]) if len(pieces) == 1 else b"".join(pieces)
