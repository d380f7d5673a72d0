"""Undoes the Content-Encoding of a legacy server's answer, within bounds; lenient, as these servers are old."""

from __future__ import annotations

import zlib

from gateway.core.rpc.model import Answer

_GZIP, _ZLIB, _RAW = 31, 15, -15  # the wbits of zlib
# RFC 9110 section 8.4.1. `deflate` is zlib's format, but some servers write the bare stream.
_FORMATS = {"gzip": (_GZIP,), "x-gzip": (_GZIP,), "deflate": (_ZLIB, _RAW)}
MOST_ENCODINGS = 3  # one upon the other
MOST_MEMBERS = 100  # of one gzip stream; each may be a few bytes that cost as much as a long one


class EncodingError(ValueError):
    """The body is not what its Content-Encoding says; the text says in what."""


class InflatedTooLargeError(EncodingError):
    """The body is larger than it may be once it is inflated."""


def is_encoded(answer: Answer) -> bool:
    """Whether there is anything to undo."""
    return bool(answer.body) and bool(_encodings(answer))


def content(answer: Answer, limit: int) -> bytes:
    """The body as it was before it was encoded; never holds more than `limit` bytes of it, and one.

    Raises EncodingError. A body of many megabytes takes a while: call it in a thread.
    """
    body = answer.body or b""
    encodings = _encodings(answer)
    if len(encodings) > MOST_ENCODINGS:
        raise EncodingError(f"Content-Encoding: expected at most {MOST_ENCODINGS} encodings, got {len(encodings)}")
    for name in reversed(encodings) if body else ():
        if name not in _FORMATS:
            raise EncodingError(f"Content-Encoding: expected one of {', '.join(_FORMATS)}, got {name!r}")
        body = _inflated(body, name, limit)
    return body


def _encodings(answer: Answer) -> list[str]:
    """In the order in which they were applied."""
    values = (value.decode("latin-1") for name, value in answer.headers if name.lower() == b"content-encoding")
    names = (name.strip().lower() for value in values for name in value.split(","))
    return [name for name in names if name not in ("", "identity")]


def _inflated(body: bytes, name: str, limit: int) -> bytes:
    for bits in _FORMATS[name]:
        try:
            return _members(body, bits, limit)
        except zlib.error:
            continue
    raise EncodingError(f"the body is no valid {name}")


def _members(body: bytes, bits: int, limit: int) -> bytes:
    """Every gzip member, or the one stream that there is in the other formats."""
    parts: list[bytes] = []
    room = limit
    for _ in range(MOST_MEMBERS):
        inflater = zlib.decompressobj(bits)
        parts.append(inflater.decompress(body, room + 1))
        room -= len(parts[-1])
        if room < 0:
            raise InflatedTooLargeError(f"the inflated body is over {limit} bytes")
        if not inflater.eof:
            raise EncodingError("the body ends within its compressed stream")
        body = inflater.unused_data.lstrip(b"\0")  # padding, RFC 1952 section 2.2 and what tools do
        if not body:
            return b"".join(parts)
        if bits != _GZIP:
            raise EncodingError("something stands behind the compressed stream")
    raise EncodingError(f"the body has more than {MOST_MEMBERS} gzip members")
