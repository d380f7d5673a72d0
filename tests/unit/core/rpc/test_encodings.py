"""Answers that a legacy server has compressed."""

from __future__ import annotations

import gzip
import zlib

import pytest

from gateway.core.rpc.encodings import MOST_MEMBERS, EncodingError, InflatedTooLargeError, content, is_encoded
from gateway.core.rpc.model import Answer

BODY = b"<methodResponse>" + b"x" * 5000 + b"</methodResponse>"


def answer(body: bytes, *encodings: str) -> Answer:
    headers = tuple((b"content-ENCODING", encoding.encode()) for encoding in encodings)
    return Answer(body, "text/xml", None, 200, "OK", ((b"X-A", b"gzip"), *headers))


def raw(body: bytes) -> bytes:
    """What some servers call deflate."""
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(body) + packer.flush()


@pytest.mark.parametrize(
    "encoded",
    [
        answer(BODY),
        answer(BODY, "identity"),
        answer(gzip.compress(BODY), "gzip"),
        answer(gzip.compress(BODY), "X-GZIP"),
        answer(gzip.compress(BODY) + bytes(9), "gzip"),
        answer(gzip.compress(BODY[:100]) + gzip.compress(BODY[100:]), "gzip"),
        answer(zlib.compress(BODY), "deflate"),
        answer(raw(BODY), "deflate"),
        answer(gzip.compress(zlib.compress(BODY)), "deflate, gzip"),
        answer(gzip.compress(zlib.compress(BODY)), "deflate", "gzip"),
    ],
)
def test_the_body_is_what_it_was_before(encoded: Answer) -> None:
    assert content(encoded, len(BODY)) == BODY


def test_what_is_encoded_is_seen_by_its_header() -> None:
    assert is_encoded(answer(b"x", "gzip"))
    assert not is_encoded(answer(b"", "gzip"))  # an answer to HEAD
    assert not is_encoded(answer(b"x", "identity"))
    assert not is_encoded(answer(b"x"))
    assert content(answer(b"", "gzip"), 10) == b""


@pytest.mark.parametrize(
    ("encoded", "says"),
    [
        (answer(BODY, "gzip"), "the body is no valid gzip"),
        (answer(BODY, "deflate"), "the body is no valid deflate"),
        (answer(BODY, "br"), "expected one of gzip, x-gzip, deflate, got 'br'"),
        (answer(gzip.compress(BODY)[:-9], "gzip"), "ends within its compressed stream"),
        (answer(zlib.compress(BODY) + b"more", "deflate"), "there are bytes after"),
        (answer(gzip.compress(b"") * (MOST_MEMBERS + 1), "gzip"), "more than 100 gzip members"),
        (answer(BODY, "gzip, gzip, gzip, gzip"), "at most 3 encodings, got 4"),
    ],
)
def test_a_body_that_is_not_what_is_said_of_it_is_refused(encoded: Answer, says: str) -> None:
    with pytest.raises(EncodingError, match=says):
        content(encoded, 10_000)


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress, raw])
def test_a_bomb_is_never_held(pack: object) -> None:
    assert callable(pack)
    encoding = "gzip" if pack is gzip.compress else "deflate"
    with pytest.raises(InflatedTooLargeError, match="over 1000 bytes"):
        content(answer(pack(bytes(2**24)), encoding), 1000)
    with pytest.raises(InflatedTooLargeError):
        content(answer(gzip.compress(gzip.compress(bytes(2**24))), "gzip, gzip"), 1000)
