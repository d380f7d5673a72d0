from __future__ import annotations

import asyncio
import gzip
import tracemalloc
import zlib

from hypothesis import given
from hypothesis import strategies as st

from adapters.http.request import FAULT_STATUS, HttpRefusal, inflate
from adapters.http.server import HttpLimits
from gateway.core.rpc.model import FaultCode
from tests.kit.cases import each_case
from tests.kit.clients import chunked, connect, post
from tests.kit.listeners import CONTENT_TYPE, Waiting, running, talking
from tests.kit.programs import TIMEOUT

# Inflating

BODY = b"<methodCall/>" * 50
PACKED = gzip.compress(BODY, mtime=0)


@each_case(
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


@given(st.binary(max_size=200), st.sampled_from(["gzip", "deflate"]))
def test_junk_is_refused_and_never_raises(body: bytes, encoding: str) -> None:
    result = inflate(body, encoding, 100)
    assert isinstance(result, HttpRefusal | bytes)
    assert isinstance(result, HttpRefusal) or len(result) <= 100


def status_of(result: bytes | HttpRefusal) -> int:
    assert isinstance(result, HttpRefusal)
    return result.http_status


def test_an_unknown_encoding_is_refused_with_415() -> None:
    assert status_of(inflate(BODY, "br", 1000)) == 415
    assert status_of(inflate(BODY, "gzip, gzip", 1000)) == 415


@each_case(
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
    assert set(FAULT_STATUS) == {
        FaultCode.INVALID_REQUEST,
        FaultCode.ACCESS_DENIED,
        FaultCode.TIMEOUT,
        FaultCode.TOO_LARGE,
        FaultCode.BUSY,
    }


# Over the wire


@each_case("request_", [post(b"hello"), chunked(b"he", b"l", b"lo")], ids=["length", "chunked"])
async def test_a_request_split_at_any_byte_is_the_same(request_: bytes) -> None:
    async with running() as address, connect(address) as wire:
        for cut in range(1, len(request_)):
            await wire.send(request_[:cut])
            await wire.send(request_[cut:])
            assert (await wire.reply()).body == b"hello"


async def test_a_body_of_just_the_limit_passes_and_one_more_byte_is_413() -> None:
    for request in (post, lambda body: chunked(body[:600], body[600:])):
        async with talking(limits=HttpLimits(body=1000)) as wire:
            await wire.send(request(b"x" * 1000))
            assert (await wire.reply()).status == 200
            await wire.send(request(b"x" * 1001))
            reply = await wire.reply()
            assert (reply.status, reply.body) == (413, b"too_large: the body is larger than 1000 bytes")


async def test_an_oversize_body_is_refused_before_it_is_read() -> None:
    async with talking() as wire:
        await wire.send(b"POST / HTTP/1.1\r\nHost: gateway\r\nContent-Length: 99999999999999999\r\n\r\n")
        reply = await wire.reply()
    assert (reply.status, reply.headers["connection"]) == (413, "close")


async def test_the_sender_of_a_huge_body_lives_to_read_the_refusal() -> None:
    async with talking(limits=HttpLimits(body=1000)) as wire:
        await wire.send(chunked(*[b"x" * 65536] * 64))
        assert (await wire.reply()).status == 413
        assert await wire.rest() == b""


async def test_an_endless_chunked_body_is_cut_when_it_is_over_the_limit() -> None:
    async with talking(limits=HttpLimits(body=1000)) as wire:
        await wire.send(chunked(b"x" * 999).removesuffix(b"0\r\n\r\n"))
        await wire.send(b"2\r\nxx\r\n")
        assert (await wire.reply()).status == 413


async def test_a_slow_body_is_408_in_the_clients_protocol() -> None:
    async with talking(limits=HttpLimits(body_timeout=0.05)) as wire:
        await wire.send(post(b"hello")[:-1])
        reply = await wire.reply()
        wire.end()
        assert await wire.rest() == b""
    assert (reply.status, reply.body) == (408, b"timeout: the body did not arrive within 0.05 s")
    assert reply.headers["connection"] == "close"


async def test_a_broken_chunk_is_400_at_once() -> None:
    async with talking() as wire:
        head, _, body = chunked(b"hello", lines=("Expect: 100-continue",)).partition(b"\r\n\r\n")
        await wire.send(head + b"\r\n\r\n")
        await wire.raw(25)
        await wire.send(body.replace(b"0\r\n\r\n", b"zz\r\n"))
        reply = await wire.reply()
        assert await wire.rest() == b""
    expected = (
        b"the body is broken: after 5 bytes: Invalid character in chunk size; expected for each chunk its size in "
    )
    assert reply.status == 400
    assert reply.body.startswith(b"invalid_request: " + expected)


async def test_a_broken_chunk_behind_a_waiting_call_is_400_after_its_answer() -> None:
    waiting = Waiting()
    async with talking(waiting) as wire:
        await wire.send(post(b"first"))
        await asyncio.wait_for(waiting.begun.acquire(), TIMEOUT)
        await wire.send(chunked(b"hello").removesuffix(b"0\r\n\r\n"))
        await wire.send(b"zz\r\n")
        waiting.release.set()
        assert (await wire.reply()).body == b"first"
        assert (await wire.reply()).status == 400
        assert await wire.rest() == b""


async def test_a_gzipped_body_is_inflated() -> None:
    async with talking() as wire:
        await wire.send(post(gzip.compress(b"hello"), "/", "Content-Encoding: gzip"))
        assert (await wire.reply()).body == b"hello"


async def test_an_unknown_encoding_is_415_in_the_clients_protocol() -> None:
    async with talking() as wire:
        await wire.send(post(b"x", "/", "Content-Encoding: br"))
        reply = await wire.reply()
    assert (reply.status, reply.headers["content-type"]) == (415, CONTENT_TYPE)
    assert reply.body.startswith(b"invalid_request: Content-Encoding: expected one of gzip, ")


async def test_a_body_encoded_twice_is_415() -> None:
    async with talking() as wire:
        await wire.send(post(b"x", "/", "Content-Encoding: identity", "Content-Encoding: gzip"))
        assert (await wire.reply()).status == 415


async def test_a_client_that_waits_for_100_continue_is_told_to_go_on() -> None:
    head, body = post(b"hello", "/", "Expect: 100-continue")[:-5], b"hello"
    async with talking() as wire:
        await wire.send(head)
        assert (await wire.raw(25)) == b"HTTP/1.1 100 Continue\r\n\r\n"
        await wire.send(body)
        assert (await wire.reply()).body == b"hello"


async def test_an_http_1_0_client_is_not_told_to_go_on() -> None:
    head = post(b"hello", "/", "Expect: 100-continue")[:-5].replace(b"HTTP/1.1", b"HTTP/1.0")
    async with talking() as wire:
        await wire.send(head)
        await wire.send(b"hello")
        assert (await wire.reply()).status == 200


async def test_a_client_that_expects_too_much_is_refused_without_100_continue() -> None:
    async with running(limits=HttpLimits(body=10)) as address:
        for lines, status in (("Expect: 100-continue", 413), ("Expect: a-miracle", 417)):
            async with connect(address) as wire:
                await wire.send(post(b"x" * (11 if status == 413 else 1), "/", lines).partition(b"\r\n\r\n")[0])
                await wire.send(b"\r\n\r\n")
                assert (await wire.reply()).status == status
