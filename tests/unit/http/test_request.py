from __future__ import annotations

import gzip
import tracemalloc
import zlib
from contextlib import suppress
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from adapters.http.request import HttpRefusal, inflate
from adapters.http.server import HttpLimits
from tests.kit.cases import each_case, expect
from tests.kit.clients import chunked, post
from tests.unit.http.listening import GET, HEAD, ask, talking

# Inflating

BODY = b"<methodCall/>" * 50
PACKED = gzip.compress(BODY, mtime=0)


@each_case(
    ("encoding", "content"),
    [("gzip", PACKED), ("GZip", PACKED), ("x-gzip", PACKED), ("deflate", zlib.compress(BODY)), ("identity", BODY)],
)
def test_each_encoding_is_undone(encoding: str, content: bytes) -> None:
    assert inflate(content, encoding, len(BODY)) == BODY


@given(st.binary(max_size=200), st.sampled_from(["gzip", "deflate"]))
def test_junk_is_refused_and_never_raises(body: bytes, encoding: str) -> None:
    result = inflate(body, encoding, 100)
    assert isinstance(result, HttpRefusal | bytes)
    assert isinstance(result, HttpRefusal) or len(result) <= 100


@each_case(
    ("encoding", "content", "limit", "status"),
    [
        ("br", BODY, 1000, 415),
        ("gzip, gzip", BODY, 1000, 415),
        ("gzip", b"", 1000, 400),
        ("gzip", PACKED[:-1], 1000, 400),
        ("gzip", PACKED + b"x", 1000, 400),
        ("gzip", PACKED * 2, 10_000, 400),
        ("gzip", PACKED[:-8] + bytes(8), 1000, 400),
        ("gzip", BODY, 1000, 400),
        ("gzip", PACKED, len(BODY) - 1, 413),
    ],
)
def test_what_cannot_be_inflated_is_refused(encoding: str, content: bytes, limit: int, status: int) -> None:
    assert expect(HttpRefusal, inflate(content, encoding, limit)).http_status == status


def test_a_gzip_bomb_stops_at_the_limit() -> None:
    bomb = gzip.compress(bytes(50 * 1024 * 1024))
    tracemalloc.start()
    try:
        assert expect(HttpRefusal, inflate(bomb, "gzip", 300 * 1024)).http_status == 413
        assert tracemalloc.get_traced_memory()[1] < 2 * 1024 * 1024
    finally:
        tracemalloc.stop()


# Over the wire


def head(version: str, *lines: str) -> bytes:
    return "\r\n".join((f"POST / HTTP/{version}", *lines, "", "")).encode()


EXPECTS = ("Expect: 100-continue",)
ONE = b"Content-Length: 1\r\n\r\nx"
HOST = b"Host: gateway\r\n"
UPGRADE = ("Connection: Upgrade", "Upgrade: websocket")
SMALL, SHORT = {"limits": HttpLimits(body=1000)}, {"limits": HttpLimits(header_bytes=1000)}
TOO_LARGE = "413 too_large: the body is larger than 1000 bytes"
BROKEN = "400 invalid_request: the body is broken: "
BAD_SIZE = f"{BROKEN}after 5 bytes: Invalid character in chunk size; expected for each chunk its size in hexadecimal, "
LONG_HEAD = "431 the request line and headers are too long"
ALLOWED = "405 this is an RPC endpoint: send a POST"
PARTS = b"X-Part: 1234567890\r\n" * 60
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"

Row = tuple[str, bytes, list[str], bool]  # what is said, its bytes, how each answer begins, whether the connection ends
ROWS: list[tuple[dict[str, Any], list[Row]]] = [
    (
        {},
        [
            ("HTTP/1.1", b"POST / HTTP/1.1\r\n" + HOST + ONE, ["200 x"], False),
            ("HTTP/1.1 that closes", b"POST / HTTP/1.1\r\nConnection: close\r\n" + HOST + ONE, ["200 x"], True),
            ("HTTP/1.0", b"POST / HTTP/1.0\r\n" + ONE, ["200 x"], True),
            ("HTTP/1.0 that stays", b"POST / HTTP/1.0\r\nConnection: keep-alive\r\n" + ONE, ["200 x"], False),
            (
                "another method",
                GET + GET.replace(b"GET", b"PUT") + GET.replace(b"GET", b"OPTIONS"),
                [ALLOWED] * 3,
                False,
            ),
            (
                "chunks, an extension and trailers",
                CHUNKED + b"5;a=b\r\nhello\r\n0\r\nHost: x\r\n\r\n",
                ["200 hello"],
                False,
            ),
            *(
                (f"a chunk of doubtful length: {broken!r}", CHUNKED + broken, [BROKEN], True)
                for broken in (
                    b"1\nx\n0\n\n",
                    b"0x1\r\nx\r\n",
                    b"1 \r\nx\r\n",
                    b"1;a\n\r\nx\r\n",
                    b"-1\r\n",
                    b"1\r\nxx\r\n",
                )
            ),
            ("a chunk size without end", CHUNKED + b"f" * 20, [BROKEN], True),
            ("a trailer that frames", CHUNKED + b"0\r\nContent-Length: 9\r\n" + PARTS, [BROKEN], True),
            *(
                (f"framing without end: {endless!r}", CHUNKED + endless + b"X: y\r\n" * 20_000, ["400 "], True)
                for endless in (b"0\r\nX: ", b"0\r\n", b"1;")
            ),
            (
                "a broken chunk behind a call",
                post(b"call") + chunked(b"hello")[:-5] + b"zz\r\n",
                ["200 call", BAD_SIZE],
                True,
            ),
            ("a broken chunk of one who waits", chunked(b"hello", lines=EXPECTS)[:-5] + b"zz\r\n", [BAD_SIZE], True),
            ("gzip", post(gzip.compress(b"hello"), "/", "Content-Encoding: gzip"), ["200 hello"], False),
            (
                "what nobody can inflate",
                post(b"x", "/", "Content-Encoding: br"),
                ["415 invalid_request: Content-Encoding: expected one of gzip, "],
                False,
            ),
            ("two encodings", post(b"x", "/", "Content-Encoding: identity", "Content-Encoding: gzip"), ["415 "], False),
            ("100-continue in HTTP/1.0", head("1.0", *EXPECTS, "Content-Length: 1") + b"x", ["200 x"], True),
            ("another expectation", post(b"x", "/", "Expect: a-miracle"), ["417 "], False),
            (
                "an upgrade with chunks",
                chunked(b"he", b"llo", lines=UPGRADE) + post(b"b"),
                ["200 hello", "200 b"],
                False,
            ),
            (
                "upgrades",
                post(b"", "/", *UPGRADE) + post(b"d", "/", *UPGRADE) + post(b"e"),
                ["200 ", "200 d", "200 e"],
                False,
            ),
            (
                "an upgrade that closes",
                post(b"e", "/", "Connection: Upgrade, close", "Upgrade: h2c") + GET,
                ["200 e"],
                True,
            ),
            (
                "two on one line",
                post(b"first") + post(b"\r\n\r\n") + b"\r\n\r\n" + post(b"next"),  # RFC 9112 section 2.2
                ["200 first", "200 \r\n\r\n", "200 next"],
                False,
            ),
        ],
    ),
    ({"needs_host": False}, [("no host where none is needed", b"POST / HTTP/1.1\r\n" + ONE, ["200 x"], False)]),
    (
        SMALL,
        [
            ("a body at the limit", post(b"x" * 1000), ["200 xx"], False),
            ("a body over it", post(b"x" * 1001), [TOO_LARGE], False),
            ("chunks at the limit", chunked(b"x" * 600, b"x" * 400), ["200 xx"], False),
            ("chunks over it", chunked(b"x" * 600, b"x" * 401), [TOO_LARGE], False),
            ("many chunks over it", chunked(*[b"x" * 65536] * 64), [TOO_LARGE], True),
            ("chunks over it so far", chunked(b"x" * 999)[:-5] + b"2\r\nxx\r\n", [TOO_LARGE], True),
            ("a body that is not sent", head("1.1", "Host: x", f"Content-Length: {'9' * 17}"), [TOO_LARGE], True),
            ("one who waits to send too much", post(b"x" * 1001, "/", *EXPECTS)[:-1001], [TOO_LARGE], True),
        ],
    ),
    (
        SHORT,
        [
            ("a long line", post(b"", "/" + "x" * 1000), [LONG_HEAD], True),
            ("a long header", post(b"", "/", "X-Long: " + "x" * 1000), [LONG_HEAD], True),
            ("many headers", HEAD + PARTS + b"\r\n", [LONG_HEAD], True),
            ("a long head in part", HEAD + PARTS, [LONG_HEAD], True),
            ("a short head with a long body", post(b"x" * 2000) * 2, ["200 xx"] * 2, False),
        ],
    ),
]


@each_case(("options", "row"), [(options, row) for options, rows in ROWS for row in rows])
async def test_each_request_gets_its_answers_and_the_connection_goes_on_or_ends(
    options: dict[str, Any], row: Row
) -> None:
    _, sent, answers, ends = row
    async with talking(**options) as wire:
        with suppress(ConnectionError):
            await wire.send(sent)
        for begins in answers:
            reply = await wire.reply()
            assert f"{reply.status} {reply.body.decode()}".startswith(begins)
        if ends:
            assert await wire.rest() == b""
        else:
            assert (await ask(wire, post(b"goes on"))).body == b"goes on"


@each_case("request_", [post(b"hello"), chunked(b"he", b"l", b"lo")])
async def test_a_request_split_at_any_byte_is_the_same(request_: bytes) -> None:
    async with talking() as wire:
        for cut in range(1, len(request_)):
            await wire.send(request_[:cut])
            assert (await ask(wire, request_[cut:])).body == b"hello"


async def test_a_slow_body_is_408_in_the_clients_protocol() -> None:
    async with talking(limits=HttpLimits(body_timeout=0.05)) as wire:
        reply = await ask(wire, post(b"hello")[:-1])
        wire.end()
        assert await wire.rest() == b""
    assert (reply.status, reply.body) == (408, b"timeout: the body did not arrive within 0.05 s")
    assert reply.headers["connection"] == "close"


async def test_who_waits_for_100_continue_is_told_to_go_on_but_for_clients_of_1_0() -> None:
    async with talking() as wire:
        head = post(b"hello", "/", *EXPECTS)[:-5]
        await wire.send(head)
        assert (await wire.raw(25)) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert (await ask(wire, b"hello")).body == b"hello"
        await wire.send(head.replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert (await ask(wire, b"hello")).status == 200
