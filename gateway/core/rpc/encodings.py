"""Removes the Content-Encoding of a legacy server's answer, within limits. Lenient in reading."""

from __future__ import annotations

import zlib

from gateway.core.rpc.model import Answer

_GZIP, _ZLIB, _RAW = 31, 15, -15  # the wbits of zlib
# RFC 9110 section 8.4.1. `deflate` is zlib's format, but some servers write the bare stream.
_FORMATS = {"gzip": (_GZIP,), "x-gzip": (_GZIP,), "deflate": (_ZLIB, _RAW)}
MOST_ENCODINGS = 3  # applied one after the other
MOST_MEMBERS = 100  # of one gzip stream; each may be a few bytes that cost as much as a long one


class EncodingError(ValueError):
    """The body does not match its Content-Encoding; the message says where."""


class InflatedTooLargeError(EncodingError):
    """The inflated body is over the limit."""


def is_encoded(answer: Answer) -> bool:
    """Whether the body has a Content-Encoding."""
    return bool(answer.body) and bool(_encodings(answer))


def content(answer: Answer, limit: int) -> bytes:
    """The decoded body, of at most `limit` bytes; raises EncodingError.

    A body of many megabytes takes a while: call this in a thread.
    """
    body = answer.body or b""
    encodings = _encodings(answer)
    if len(encodings) > MOST_ENCODINGS:
        raise EncodingError(f"Content-Encoding: expected at most {MOST_ENCODINGS} encodings, got {len(encodings)}")
    for name in reversed(encodings) if body else ():
        if name not in _FORMATS:
            raise EncodingError(f"Content-Encoding: expected one of {', '.join(_FORMATS)}, got {name!r}")
        for bits in _FORMATS[name]:
            try:
                body = _members(body, bits, limit)
                break
            except zlib.error:
                continue
        else:
            raise EncodingError(f"the body is not valid {name}")
    return body


def _encodings(answer: Answer) -> list[str]:
    """The names of the encodings, in the order in which they were applied."""
    values = [value.decode("latin-1") for name, value in answer.headers if name.lower() == b"content-encoding"]
    if not values:
        return []
    names = (name.strip().lower() for value in values for name in value.split(","))
    return [name for name in names if name not in ("", "identity")]


def _members(body: bytes, bits: int, limit: int) -> bytes:
    """All members of a gzip stream, or the single stream of another format."""
    parts: list[bytes] = []
    left = limit
    for _ in range(MOST_MEMBERS):
        inflater = zlib.decompressobj(bits)
        parts.append(inflater.decompress(body, left + 1))
        left -= len(parts[-1])
        if left < 0:
            raise InflatedTooLargeError(f"the inflated body is over {limit} bytes")
        if not inflater.eof:
            raise EncodingError("the body ends within its compressed stream")
        body = inflater.unused_data.lstrip(b"\0")  # padding, RFC 1952 section 2.2 and what tools do
        if not body:
            return b"".join(parts)
        if bits != _GZIP:
            raise EncodingError("there are bytes after the compressed stream")
    raise EncodingError(f"the body has more than {MOST_MEMBERS} gzip members")
