from __future__ import annotations

import gzip
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.transports.http_body import FAULT_STATUS, Refusal, inflate
from gateway.core.model import FaultCode

BODY = b"<methodCall/>" * 50
PACKED = gzip.compress(BODY, mtime=0)


@pytest.mark.parametrize(
    ("encoding", "content"),
    [
        ("gzip", PACKED),
        ("GZip", PACKED),
        ("x-gzip", PACKED),
        ("deflate", zlib.compress(BODY)),
        ("identity", BODY),
    ],
)
def test_each_encoding_is_undone(encoding: str, content: bytes) -> None:
    assert inflate(content, encoding, len(BODY)) == BODY


@given(st.binary(max_size=2000))
def test_what_gzip_packs_comes_out_equal(body: bytes) -> None:
    assert inflate(gzip.compress(body), "gzip", 2000) == body


@given(st.binary(max_size=200), st.sampled_from(["gzip", "deflate"]))
def test_junk_is_refused_and_never_raises(body: bytes, encoding: str) -> None:
    result = inflate(body, encoding, 100)
    assert isinstance(result, Refusal | bytes)
    assert isinstance(result, Refusal) or len(result) <= 100


def status_of(result: bytes | Refusal) -> int:
    assert isinstance(result, Refusal)
    return result.http_status


def test_an_unknown_encoding_is_refused_with_415() -> None:
    assert status_of(inflate(BODY, "br", 1000)) == 415
    assert status_of(inflate(BODY, "gzip, gzip", 1000)) == 415


@pytest.mark.parametrize(
    "content",
    [
        b"",
        PACKED[:-1],
        PACKED + b"x",
        PACKED * 2,
        PACKED[:-8] + bytes(8),
        BODY,
    ],
    ids=["empty", "cut short", "trailing junk", "two members", "wrong checksum", "plain"],
)
def test_a_damaged_stream_is_refused_with_400(content: bytes) -> None:
    assert status_of(inflate(content, "gzip", 10_000)) == 400


def test_the_limit_is_exact() -> None:
    assert inflate(PACKED, "gzip", len(BODY)) == BODY
    assert status_of(inflate(PACKED, "gzip", len(BODY) - 1)) == 413


def test_a_gzip_bomb_stops_at_the_limit() -> None:
    bomb = gzip.compress(bytes(200 * 1024 * 1024), 9)
    tracemalloc.start()
    try:
        assert status_of(inflate(bomb, "gzip", 300 * 1024)) == 413
        assert tracemalloc.get_traced_memory()[1] < 2 * 1024 * 1024
    finally:
        tracemalloc.stop()


def test_every_fault_of_this_transport_has_a_status() -> None:
    assert set(FAULT_STATUS) == {FaultCode.INVALID_REQUEST, FaultCode.TIMEOUT, FaultCode.TOO_LARGE, FaultCode.BUSY}
