from __future__ import annotations

import gzip
import tracemalloc
import zlib

from hypothesis import given
from hypothesis import strategies as st

from adapters.http.request import HttpRefusal, inflate
from adapters.http.server import HttpLimits
from tests.kit.cases import each_case, expect
from tests.kit.clients import chunked, connect, post
from tests.kit.listeners import CONTENT_TYPE, Waiting
from tests.unit.http.listening import ask, begin, running, talking

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


@each_case("request_", [post(b"hello"), chunked(b"he", b"l", b"lo")])
async def test_a_request_split_at_any_byte_is_the_same(request_: bytes) -> None:
    async with talking() as wire:
        for cut in range(1, len(request_)):
            await wire.send(request_[:cut])
            assert (await ask(wire, request_[cut:])).body == b"hello"


async def test_a_body_of_just_the_limit_passes_and_one_more_byte_is_413() -> None:
    for request in (post, lambda body: chunked(body[:600], body[600:])):
        async with talking(limits=HttpLimits(body=1000)) as wire:
            assert (await ask(wire, request(b"x" * 1000))).status == 200
            reply = await ask(wire, request(b"x" * 1001))
            assert (reply.status, reply.body) == (413, b"too_large: the body is larger than 1000 bytes")


async def test_an_oversize_body_is_refused_before_it_is_read_and_its_sender_lives_to_read_the_refusal() -> None:
    async with running(limits=HttpLimits(body=1000)) as address:
        async with connect(address) as wire:
            reply = await ask(wire, post(b"").replace(b"Content-Length: 0", b"Content-Length: 99999999999999999"))
            assert (reply.status, reply.headers["connection"]) == (413, "close")
        async with connect(address) as wire:
            assert (await ask(wire, chunked(*[b"x" * 65536] * 64))).status == 413
            assert await wire.rest() == b""
        async with connect(address) as wire:
            await wire.send(chunked(b"x" * 999).removesuffix(b"0\r\n\r\n"))
            assert (await ask(wire, b"2\r\nxx\r\n")).status == 413


async def test_a_slow_body_is_408_in_the_clients_protocol() -> None:
    async with talking(limits=HttpLimits(body_timeout=0.05)) as wire:
        reply = await ask(wire, post(b"hello")[:-1])
        wire.end()
        assert await wire.rest() == b""
    assert (reply.status, reply.body) == (408, b"timeout: the body did not arrive within 0.05 s")
    assert reply.headers["connection"] == "close"


async def test_a_broken_chunk_is_400_at_once_or_after_the_answer_of_the_call_before() -> None:
    async with talking() as wire:
        head, _, body = chunked(b"hello", lines=("Expect: 100-continue",)).partition(b"\r\n\r\n")
        await wire.send(head + b"\r\n\r\n")
        await wire.raw(25)
        reply = await ask(wire, body.replace(b"0\r\n\r\n", b"zz\r\n"))
        assert await wire.rest() == b""
    assert reply.status == 400
    assert reply.body.startswith(
        b"invalid_request: the body is broken: after 5 bytes: Invalid character in chunk size; expected for each chunk "
    )
    waiting = Waiting()
    async with talking(waiting) as wire:
        await begin(wire, waiting, post(b"first"))
        await wire.send(chunked(b"hello").removesuffix(b"0\r\n\r\n"))
        await wire.send(b"zz\r\n")
        waiting.release.set()
        assert (await wire.reply()).body == b"first"
        assert (await wire.reply()).status == 400
        assert await wire.rest() == b""


async def test_a_body_is_inflated_or_refused_in_the_clients_protocol() -> None:
    async with talking() as wire:
        assert (await ask(wire, post(gzip.compress(b"hello"), "/", "Content-Encoding: gzip"))).body == b"hello"
        reply = await ask(wire, post(b"x", "/", "Content-Encoding: br"))
        assert (reply.status, reply.headers["content-type"]) == (415, CONTENT_TYPE)
        assert reply.body.startswith(b"invalid_request: Content-Encoding: expected one of gzip, ")
        twice = post(b"x", "/", "Content-Encoding: identity", "Content-Encoding: gzip")
        assert (await ask(wire, twice)).status == 415


async def test_who_waits_for_100_continue_is_told_to_go_on_but_for_clients_of_1_0() -> None:
    head, body = post(b"hello", "/", "Expect: 100-continue")[:-5], b"hello"
    async with talking() as wire:
        await wire.send(head)
        assert (await wire.raw(25)) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert (await ask(wire, body)).body == b"hello"
        await wire.send(head.replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert (await ask(wire, body)).status == 200


@each_case(("line", "status"), [("Expect: 100-continue", 413), ("Expect: a-miracle", 417)])
async def test_a_client_that_expects_too_much_is_refused_without_100_continue(line: str, status: int) -> None:
    async with talking(limits=HttpLimits(body=10)) as wire:
        head = post(b"x" * (11 if status == 413 else 1), "/", line).partition(b"\r\n\r\n")[0]
        assert (await ask(wire, head + b"\r\n\r\n")).status == status
