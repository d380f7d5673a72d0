from __future__ import annotations

import random
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.http.client.response import MAX_OVERHEAD, MOST_KNOWN, KnownResponses, NotHttpError, ResponseParser
from gateway.core.rpc.model import Answer
from tests.fuzz.answers import HTTP, HTTP_TOKENS
from tests.fuzz.mutate import Chance, mutated
from tests.kit.cases import each_case, present
from tests.kit.upstreams import ok

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
BROKEN = (NotHttpError, ConnectionError, EOFError)


def fed(parser: ResponseParser, *pieces: bytes, bodiless: bool = False) -> Answer | None:
    """The answer that these bytes are; None: it is not whole."""
    parser.begin(bodiless=bodiless)
    for piece in pieces:
        parser.feed(piece)
    return parser.head.answer(parser.take()) if parser.is_whole and parser.head is not None else None


def cut(raw: bytes, step: int) -> list[bytes]:
    return [raw[at : at + step] for at in range(0, len(raw), step)]


def test_a_body_in_chunks_of_two_bytes_costs_little_more_than_its_bytes() -> None:
    parser, body = ResponseParser(), b"ab" * 100_000
    pieces = cut(CHUNKED + b"2\r\nab\r\n" * 100_000, 60_000)
    parser.begin(bodiless=False)
    tracemalloc.start()
    for piece in pieces:
        parser.feed(piece)
    held, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (parser.size, most < 3 * len(body), held < 2 * len(body)) == (len(body), True, True)
    parser.feed(b"0\r\n\r\n")
    assert parser.take() == body


@each_case("step", [1, 2, 5, 1000])
def test_a_response_is_the_same_however_its_bytes_are_cut(step: int) -> None:
    raw = (
        b"HTTP/1.1 100 Continue\r\nX: 1\r\n\r\nHTTP/1.1 299 So \xff\r\ntransfer-encoding: chunked\r\nX:\t\xff \r\n\r\n"
        b"a\r\n0\r\n\r\nX: no\r\n5\r\nX: no\r\n0\r\nX-A: 1\r\nX-B:\r\n\r\n"
    )
    parser = ResponseParser()
    headers = ((b"X", b"\xff"),)
    expected = Answer(b"0\r\n\r\nX: noX: no", "", None, 299, "So \udcff", headers)
    assert fed(parser, *cut(raw, step)) == expected
    assert (parser.trailers, parser.continues, parser.is_dirty) == ([(b"X-A", b"1"), (b"X-B", b"")], 1, False)
    assert fed(parser, *cut(ok(b"next"), step)) is not None
    assert parser.trailers == []


@each_case(
    "raw",
    [
        CHUNKED + b"z\r\n0\r\nX-A: 1\r\n\r\n",
        CHUNKED + b"1\r\nA\r\n-6\r\n0\r\nX: y\r\n\r\n",
        CHUNKED + b"0\r\n" + b"X-A: 1\r\n" * 300 + b"\r\n",
        CHUNKED + b"0\r\nX-A: " + b"1" * MAX_OVERHEAD,
        CHUNKED + b"1;" + b"x" * MAX_OVERHEAD,
        b"HTTP/1.1 100 Continue\r\n\r\n" * (MAX_OVERHEAD // 20),
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 300 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * MAX_OVERHEAD,
        b"HTTP/1.1 200 OK\r\nX: \0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
        b"0000000000000053{}",
    ],
)
def test_what_is_no_response_or_never_ends_is_said_to_be_none(raw: bytes) -> None:
    with pytest.raises(NotHttpError):
        fed(ResponseParser(), *cut(raw, 10_000))


def test_a_response_to_head_has_no_body_and_the_next_one_has() -> None:
    parser = ResponseParser(KnownResponses())
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
    for _ in range(2):
        assert fed(parser, head, bodiless=True) == Answer(b"", "", None, 200, "OK", ((b"Content-Length", b"2"),))
        assert not parser.is_dirty
        assert fed(parser, head) is None
        parser.feed(b"ab")
        assert parser.take() == b"ab"
    fed(parser, head + b"ab", bodiless=True)
    assert parser.is_dirty


@each_case("behind", [b"\0", b"HTTP/1.1 200 OK\r\n", ok(b"x"), b"junk"])
def test_bytes_behind_a_response_are_no_part_of_the_next_one(behind: bytes) -> None:
    for raw in ([ok(b"x") + behind], [ok(b"x"), behind]):
        for known in (None, KnownResponses()):
            parser = ResponseParser(known)
            for _ in range(2):
                got = present(fed(parser, *raw))
                assert got.body == b"x"
            assert parser.is_dirty


@each_case(
    ("raw", "bodiless", "keeps"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", True, False),
        (CHUNKED, True, False),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n", False, False),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n", False, False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", True, True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", False, True),
    ],
)
def test_content_that_is_announced_where_none_belongs_never_begins_another_response(
    raw: bytes, bodiless: bool, keeps: bool
) -> None:
    parser = ResponseParser()
    assert fed(parser, raw, bodiless=bodiless) is not None
    assert present(parser.head).keep_alive == keeps


def test_a_body_may_end_with_its_connection() -> None:
    parser = ResponseParser()
    assert fed(parser, b"HTTP/1.0 200 OK\r\n\r\nall") is None
    parser.feed_eof()
    assert (parser.is_whole, parser.take()) == (True, b"all")
    for raw in (b"", b"HTTP/1.1 200 O", ok(b"ab")[:-1], CHUNKED + b"1\r\na\r\n"):
        parser = ResponseParser()
        assert fed(parser, raw) is None
        with pytest.raises(EOFError):
            parser.feed_eof()


def test_another_protocol_is_only_taken_where_it_was_asked_for() -> None:
    raw = b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"
    for bodiless in (False, True):
        with pytest.raises(ConnectionError):
            fed(ResponseParser(), raw, bodiless=bodiless)
    parser = ResponseParser()
    parser.begin(bodiless=True, may_switch=True)
    parser.feed(raw)
    assert parser.head is not None
    assert (parser.head.status, len(parser.head.headers)) == (101, 2)


# Known heads


def said(raw: bytes, known: KnownResponses | None) -> tuple[Answer | str | None, bool, bool]:
    """What comes of these bytes, whether the connection may serve again, and whether bytes were left over."""
    parser = ResponseParser(known)
    try:
        got: Answer | str | None = fed(parser, raw)
    except BROKEN as error:
        got = type(error).__name__
    return got, parser.head is not None and parser.head.keep_alive, parser.is_dirty


@settings(max_examples=500, deadline=None)
@given(st.lists(st.integers(0, 2**32), min_size=1, max_size=4), st.booleans())
def test_known_heads_change_nothing(seeds: list[int], again: bool) -> None:
    pool = (*HTTP, ok(b"x"), ok(b"", "X: y"), ok(b"\r\n\r\nab"), ok(b"x", "Connection: close"))
    known = KnownResponses()
    responses = [mutated(Chance(random.Random(seed), HTTP_TOKENS, pool)) for seed in seeds]
    for raw in [*pool, *responses, *pool, *(responses if again else ())]:
        assert said(raw, known) == said(raw, None)


def test_a_response_with_bytes_behind_it_makes_no_head_known() -> None:
    """The first empty line with CR may be in its body: what is behind it would be taken for the body next time."""
    raw = b"HTTP/1.1 200 OK\nContent-Length: 6\n\nab\r\n\r\n"
    known = KnownResponses()
    for behind in (b"stray ", b"stray2"):
        assert said(raw + behind, known) == said(raw + behind, None)


def test_plain_heads_are_known_and_few_of_them_are_kept() -> None:
    known = KnownResponses()
    for number in range(MOST_KNOWN + 1):
        raw = ok(b"x", f"X: {number}")
        assert known.find(raw) is None
        said(raw, known)
        assert known.find(raw) is not None
    assert known.find(ok(b"x", "X: 0")) is None
    for raw in (
        ok(b"x", "Connection: close"),
        b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx",
        CHUNKED + b"0\r\n\r\n",
    ):
        said(raw, known)
        assert known.find(raw) is None
