"""Headers that concern one connection, and headers that concern the message (RFC 9110 section 7.6.1)."""

from __future__ import annotations

from collections.abc import Iterable

Headers = tuple[tuple[bytes, bytes], ...]

# RFC 9110 section 7.6.1, and what RFC 2616 had in its place.
HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
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


def has(headers: Iterable[tuple[bytes, bytes]], wanted: bytes) -> bool:
    """Whether a header is there; its name in lower case."""
    return any(name.lower() == wanted for name, _ in headers)


def first(headers: Iterable[tuple[bytes, bytes]], wanted: bytes) -> bytes | None:
    """The first value of a header, its name in lower case."""
    return next((value for name, value in headers if name.lower() == wanted), None)


def without(headers: Headers, *unwanted: bytes) -> Headers:
    """The same without some headers, their names in lower case."""
    return tuple((name, value) for name, value in headers if name.lower() not in unwanted)


def lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The headers as bytes."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])
