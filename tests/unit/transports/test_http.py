from __future__ import annotations

import asyncio
import gzip
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypedDict, Unpack

import aiohttp
import pytest

from adapters.transports.http import DEFAULT_LIMITS, FramingFaults, HttpLimits, Transport
from gateway.core.model import Answer, Fault, FaultCode, Peer
from gateway.core.ports import Endpoint
from tests.kit.clients import DEADLINE, Wire, chunked, connect, post
from tests.kit.endpoints import CONTENT_TYPE, Broken, Echo, Fixed, Waiting

LOCAL = "tcp:127.0.0.1:0"
GET = b"GET / HTTP/1.1\r\nHost: gateway\r\n\r\n"
FAULT = Answer(b"a fault", CONTENT_TYPE, Fault(FaultCode.PARSE_ERROR, "<no> message"))


class Options(TypedDict, total=False):
    framing_faults: FramingFaults
    headers: Mapping[str, str]
    on_cut: Callable[[str], object]


@asynccontextmanager
async def running(
    endpoint: Endpoint | None = None,
    limits: HttpLimits = DEFAULT_LIMITS,
    **options: Unpack[Options],
) -> AsyncIterator[str]:
    """A listener with one endpoint behind every path; gives its address."""
    served = endpoint or Echo()
    transport = Transport("rpc", [LOCAL], lambda path: served, limits, **options)
    await transport.start()
    try:
        yield transport.addresses[0]
    finally:
        await transport.stop(0)


@asynccontextmanager
async def talking(
    endpoint: Endpoint | None = None, limits: HttpLimits = DEFAULT_LIMITS, **options: Unpack[Options]
) -> AsyncIterator[Wire]:
    """The same with one connection to it."""
    async with running(endpoint, limits, **options) as address, connect(address) as wire:
        yield wire


@pytest.fixture(autouse=True)
def _nothing_is_logged(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No client can make the transport log an exception, but for the endpoint that breaks its contract."""
    yield
    if "a_bug_behind" not in request.node.name:
        assert [record.getMessage() for record in caplog.get_records("call") if record.levelno >= logging.ERROR] == []


# What is answered


async def test_a_post_is_answered_with_the_endpoints_bytes_and_exact_content_type() -> None:
    async with talking(Fixed(Answer(b"<a/>", "text/xml"))) as wire:
        await wire.send(post(b"hello"))
        reply = await wire.reply()
    assert (reply.status, reply.body) == (200, b"<a/>")
    assert set(reply.headers) == {"content-type", "date", "content-length"}
    assert reply.headers["content-type"] == "text/xml"


async def test_an_answer_without_body_is_204() -> None:
    async with talking(Fixed(Answer(None, "application/json"))) as wire:
        await wire.send(post(b"notify") * 2)
        for _ in range(2):
            reply = await wire.reply()
            assert (reply.status, reply.body) == (204, b"")
            assert set(reply.headers) == {"date"}


async def test_the_listeners_headers_are_on_every_answer() -> None:
    headers = {"Access-Control-Allow-Origin": "*", "cache-control": "no-cache, no-store"}
    async with talking(headers=headers) as wire:
        for request in (post(b"x"), GET, b"garbage\r\n\r\n"):
            await wire.send(request)
            reply = await wire.reply()
            assert (reply.headers["access-control-allow-origin"], reply.headers["cache-control"]) == tuple(
                headers.values()
            )


async def test_other_methods_than_post_are_405_and_keep_the_connection() -> None:
    async with talking() as wire:
        for method in ("GET", "PUT", "OPTIONS", "DELETE"):
            await wire.send(GET.replace(b"GET", method.encode()))
            reply = await wire.reply()
            assert (reply.status, reply.headers["allow"], reply.headers["content-type"]) == (405, "POST", "text/plain")
        await wire.send(post(b"still here"))
        assert (await wire.reply()).body == b"still here"


async def test_head_gets_no_body() -> None:
    async with talking() as wire:
        await wire.send(GET.replace(b"GET", b"HEAD").replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        head, _, body = (await wire.rest()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 405 ")
    assert body == b""


async def test_the_path_is_resolved_as_written_without_its_query() -> None:
    asked: list[str] = []
    echo = Echo()

    def resolve(path: str) -> Endpoint | None:
        asked.append(path)
        return echo if path.startswith("/rpc") else None

    transport = Transport("rpc", [LOCAL], resolve)
    await transport.start()
    async with connect(transport.addresses[0]) as wire:
        for path in ("/rpc?session=1", "/rpc/%2e%2E/x", "/elsewhere", "http://gateway/rpc?a=b", "/rpc//a"):
            await wire.send(post(b"x", path))
            assert (await wire.reply()).status == (404 if path == "/elsewhere" else 200)
    await transport.stop(0)
    assert asked == ["/rpc", "/rpc/%2e%2E/x", "/elsewhere", "/rpc", "/rpc//a"]


async def test_an_ordinary_client_is_served() -> None:
    async with running() as address, aiohttp.ClientSession() as session:
        url = address.replace("tcp:", "http://")
        for body in (b"", b"x", os.urandom(300 * 1024)):
            async with session.post(url, data=body) as reply:
                assert (reply.status, await reply.read()) == (200, body)
                assert reply.content_type == CONTENT_TYPE


async def test_many_connections_are_answered_each_with_its_own() -> None:
    async with running() as address, aiohttp.ClientSession() as session:

        async def ask(number: int) -> bytes:
            async with session.post(address.replace("tcp:", "http://"), data=b"%d" % number) as reply:
                return await reply.read()

        assert await asyncio.gather(*(ask(n) for n in range(60))) == [b"%d" % n for n in range(60)]


# The conventions for a message that could not be read


async def test_a_refused_message_is_200_in_its_protocol() -> None:
    async with talking(Fixed(FAULT)) as wire:
        await wire.send(post(b"junk"))
        reply = await wire.reply()
    assert (reply.status, reply.body, reply.headers["content-type"]) == (200, b"a fault", CONTENT_TYPE)


async def test_a_refused_message_is_a_page_and_the_end_where_old_xapi_is_expected() -> None:
    async with talking(Fixed(FAULT), framing_faults="http500") as wire:
        await wire.send(post(b"junk"))
        reply = await wire.reply()
        assert await wire.rest() == b""
    assert (reply.status, reply.headers["content-type"], reply.headers["connection"]) == (500, "text/html", "close")
    assert b"&lt;no&gt; message" in reply.body


@pytest.mark.parametrize(
    "request_",
    [
        chunked(b"x"),
        b"POST / HTTP/1.1\r\nHost: gateway\r\n\r\n",
        post(b"x", "/", "Expect: 100-continue"),
        post(b"x" * 1001),
        post(b"x", "/", "Content-Encoding: br"),
    ],
    ids=["chunked", "no length", "expect", "oversize", "unknown encoding"],
)
async def test_what_old_xapi_cannot_read_is_refused_its_way(request_: bytes) -> None:
    echo = Echo()
    async with talking(echo, HttpLimits(body=1000), framing_faults="http500") as wire:
        await wire.send(request_)
        reply = await wire.reply()
        assert (reply.status, reply.headers["content-type"], reply.headers["connection"]) == (500, "text/html", "close")
        assert await wire.rest() == b""
    assert echo.seen == []


# Bodies


@pytest.mark.parametrize("request_", [post(b"hello"), chunked(b"he", b"l", b"lo")], ids=["length", "chunked"])
async def test_a_request_split_at_any_byte_is_the_same(request_: bytes) -> None:
    async with running() as address, connect(address) as wire:
        for cut in range(1, len(request_)):
            await wire.send(request_[:cut])
            await wire.send(request_[cut:])
            assert (await wire.reply()).body == b"hello"


async def test_a_request_that_comes_byte_by_byte_is_the_same() -> None:
    async with talking() as wire:
        for byte in post(b"hello"):
            await wire.send(bytes([byte]))
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
    assert (reply.status, reply.body) == (400, b"invalid_request: the body is broken")


async def test_a_broken_chunk_behind_a_waiting_call_is_400_after_its_answer() -> None:
    waiting = Waiting()
    async with talking(waiting) as wire:
        await wire.send(post(b"first"))
        await asyncio.wait_for(waiting.begun.acquire(), DEADLINE)
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


async def test_a_gzip_bomb_is_413() -> None:
    async with talking() as wire:
        await wire.send(post(gzip.compress(bytes(20_000_000)), "/", "Content-Encoding: gzip"))
        assert (await wire.reply()).status == 413


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


# Heads


async def test_a_connection_that_sends_nothing_is_closed() -> None:
    told: list[str] = []
    async with talking(limits=HttpLimits(header_timeout=0.05), on_cut=told.append) as wire:
        name = wire.name
        assert (await wire.reply()).status == 408
        assert await wire.rest() == b""
    assert told == [f"{name} sent no complete request within 0.05 s"]


async def test_a_head_that_drips_is_closed_however_often_it_drips() -> None:
    async with talking(limits=HttpLimits(header_timeout=0.2)) as wire:
        await wire.send(post(b"first"))
        assert (await wire.reply()).body == b"first"
        await wire.send(b"POST / HTTP/1.1\r\n")

        async def drip() -> None:
            while True:
                await wire.send(b"X-Slow: 1\r\n")
                await asyncio.sleep(0.02)

        dripping = asyncio.ensure_future(drip())
        reply = await wire.reply()
        dripping.cancel()
        await asyncio.wait([dripping])
        assert dripping.cancelled() or isinstance(dripping.exception(), ConnectionError)
    assert (reply.status, reply.headers["connection"]) == (408, "close")


async def test_the_head_timer_does_not_run_while_a_call_is_served_or_the_connection_rests() -> None:
    waiting = Waiting()
    limits = HttpLimits(header_timeout=0.05, keepalive_timeout=0.2)
    async with talking(waiting, limits) as wire:
        loop = asyncio.get_running_loop()
        await wire.send(post(b"x"))
        loop.call_later(0.1, waiting.release.set)
        assert (await wire.reply()).status == 200
        answered = loop.time()
        assert await wire.rest() == b""
        assert loop.time() - answered > 0.15


async def test_an_idle_connection_is_closed_without_a_word() -> None:
    async with talking(limits=HttpLimits(keepalive_timeout=0.05)) as wire:
        await wire.send(post(b"x"))
        assert (await wire.reply()).status == 200
        assert await wire.rest() == b""


@pytest.mark.parametrize(
    "head",
    [
        b"POST /" + b"x" * 1000 + b" HTTP/1.1\r\nHost: gateway\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: gateway\r\nX-Long: " + b"x" * 1000 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: gateway\r\n" + b"X-Part: 1234567890\r\n" * 60 + b"\r\n",
    ],
    ids=["path", "one header", "all headers"],
)
async def test_a_long_head_is_431_whole_or_in_parts(head: bytes) -> None:
    async with running(limits=HttpLimits(header_bytes=1000)) as address:
        async with connect(address) as wire:
            await wire.send(head)
            assert (await wire.reply()).status == 431
        async with connect(address) as wire:
            await wire.send(head[:-4])
            assert (await wire.reply()).status == 431
            assert await wire.rest() == b""


async def test_a_long_head_behind_a_waiting_call_is_refused_after_its_answer() -> None:
    waiting = Waiting()
    async with talking(waiting, HttpLimits(header_bytes=1000)) as wire:
        await wire.send(post(b"first"))
        await asyncio.wait_for(waiting.begun.acquire(), DEADLINE)
        await wire.send(post(b"second", "/", *["X-Part: 1234567890"] * 60))
        waiting.release.set()
        assert (await wire.reply()).body == b"first"
        assert (await wire.reply()).status == 431
        assert await wire.rest() == b""


async def test_a_short_head_with_a_long_body_is_no_long_head() -> None:
    async with talking(limits=HttpLimits(header_bytes=200)) as wire:
        await wire.send(post(b"x" * 1000) * 2)
        assert [len((await wire.reply()).body) for _ in range(2)] == [1000, 1000]


@pytest.mark.parametrize(
    "garbage",
    [
        b"garbage\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"FRAME 000000000100",
        b"POST / HTTP/1.1\r\n\r\n",
        b"POST / HTTP/9.9\r\nHost: gateway\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: gateway\r\nContent-Length: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: gateway\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: gateway\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        b"POST / HTTP/1.1\r\nHost: gateway\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: gateway\r\nA\x00: b\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: gateway\r\n folded: b\r\n\r\n",
        b"POST http://[/ HTTP/1.1\r\nHost: gateway\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        bytes(range(256)),
    ],
)
async def test_garbage_is_answered_with_one_line_that_tells_nothing_of_python(garbage: bytes) -> None:
    echo = Echo()
    async with talking(echo) as wire:
        await wire.send(garbage)
        reply = await wire.reply()
        assert await wire.rest() == b""
    assert (reply.status, reply.body) == (400, b"this is no valid HTTP request\n")
    assert set(reply.headers) == {"content-type", "date", "content-length", "connection"}
    assert echo.seen == []


async def test_an_upgrade_is_declined_by_serving_the_request() -> None:
    async with talking() as wire:
        await wire.send(post(b"a", "/", "Connection: Upgrade", "Upgrade: websocket") + post(b"b"))
        assert [(await wire.reply()).body for _ in range(2)] == [b"a", b"b"]


async def test_a_bug_behind_the_transport_is_500_and_logged_but_not_told(caplog: pytest.LogCaptureFixture) -> None:
    async with talking(Broken()) as wire:
        await wire.send(post(b"x"))
        reply = await wire.reply()
        assert await wire.rest() == b""
    assert (reply.status, reply.body) == (500, b"internal error\n")
    assert "a secret of ours" in caplog.text


# Connections


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with talking() as wire:
        await wire.send(b"".join(post(b"%d" % n) for n in range(100)))
        assert [(await wire.reply()).body for _ in range(100)] == [b"%d" % n for n in range(100)]


async def test_a_pipelined_request_waits_for_the_one_before() -> None:
    waiting = Waiting()
    async with talking(waiting) as wire:
        await wire.send(post(b"one") + post(b"two"))
        await asyncio.wait_for(waiting.begun.acquire(), DEADLINE)
        assert waiting.begun.locked()
        waiting.release.set()
        assert [(await wire.reply()).body for _ in range(2)] == [b"one", b"two"]


@pytest.mark.parametrize(
    ("version", "header", "stays"),
    [
        ("1.1", "", True),
        ("1.1", "Connection: close\r\n", False),
        ("1.0", "", False),
        ("1.0", "Connection: keep-alive\r\n", True),
    ],
)
async def test_a_connection_stays_open_as_its_version_says(version: str, header: str, stays: bool) -> None:
    request = f"POST / HTTP/{version}\r\nHost: gateway\r\n{header}Content-Length: 1\r\n\r\nx".encode()
    async with talking() as wire:
        await wire.send(request)
        assert (await wire.reply()).status == 200
        if stays:
            await wire.send(request)
            assert (await wire.reply()).status == 200
        else:
            assert await wire.rest() == b""


async def test_a_client_that_has_sent_its_last_byte_still_gets_its_answers() -> None:
    async with talking() as wire:
        await wire.send(post(b"one") + post(b"two"))
        wire.end()
        assert [(await wire.reply()).body for _ in range(2)] == [b"one", b"two"]
        assert await wire.rest() == b""


async def test_a_body_that_ends_early_reaches_no_endpoint() -> None:
    echo = Echo()
    async with talking(echo) as wire:
        await wire.send(post(b"hello")[:-1])
        wire.end()
        assert (await wire.reply()).status == 400
        assert await wire.rest() == b""
    assert echo.seen == []


async def test_a_body_that_ends_while_it_is_read_reaches_no_endpoint() -> None:
    echo = Echo()
    async with talking(echo) as wire:
        await wire.send(post(b"hello", "/", "Expect: 100-continue")[:-1])
        await wire.raw(25)
        wire.end()
        assert (await wire.reply()).body == b"invalid_request: the body is broken"
        assert await wire.rest() == b""
    assert echo.seen == []


async def test_a_call_goes_on_when_its_client_leaves() -> None:
    waiting = Waiting()
    async with running(waiting) as address:
        async with connect(address) as wire:
            await wire.send(post(b"write this"))
            await asyncio.wait_for(waiting.begun.acquire(), DEADLINE)
        async with connect(address) as wire:  # by now the listener has seen the first one leave
            await wire.send(GET)
            await wire.reply()
        waiting.release.set()
        await asyncio.wait_for(waiting.finished.acquire(), DEADLINE)
        assert [body for body, _ in waiting.seen] == [b"write this"]


async def test_a_client_that_does_not_read_is_cut_off() -> None:
    told: asyncio.Queue[str] = asyncio.Queue()
    endpoint = Fixed(Answer(bytes(50_000_000), CONTENT_TYPE))
    async with talking(endpoint, HttpLimits(write_timeout=0.05), on_cut=told.put_nowait) as wire:
        await wire.send(post(b"x"))
        why = await asyncio.wait_for(told.get(), DEADLINE)
        assert why == f"{wire.name} did not read its answer within 0.05 s"
        assert len(await wire.rest()) < 50_000_000


async def test_a_client_that_reads_slowly_gets_all_of_a_large_answer() -> None:
    async with talking(Fixed(Answer(bytes(20_000_000), CONTENT_TYPE))) as wire:
        await wire.send(post(b"x"))
        assert len((await wire.reply()).body) == 20_000_000


async def test_calls_past_the_cap_are_refused_at_once_in_the_clients_protocol() -> None:
    waiting = Waiting()
    async with (
        running(waiting, HttpLimits(max_calls=1)) as address,
        connect(address) as first,
        connect(address) as second,
    ):
        await first.send(post(b"one"))
        await asyncio.wait_for(waiting.begun.acquire(), DEADLINE)
        await second.send(post(b"two"))
        reply = await second.reply()
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")
        assert reply.body == b"busy: too many calls at once, try again"
        waiting.release.set()
        assert (await first.reply()).body == b"one"
        await second.send(post(b"three"))
        assert (await second.reply()).body == b"three"


async def test_slow_senders_take_no_room_from_calls() -> None:
    async with (
        running(limits=HttpLimits(max_calls=1)) as address,
        connect(address) as slow,
        connect(address) as quick,
    ):
        await slow.send(post(b"slow", "/", "Expect: 100-continue")[:-4])
        await slow.raw(25)
        await quick.send(post(b"quick"))
        assert (await quick.reply()).body == b"quick"
        await slow.send(b"slow")
        assert (await slow.reply()).body == b"slow"


async def test_connections_past_the_cap_are_told_and_closed_and_room_is_made_again() -> None:
    async with running(limits=HttpLimits(max_connections=1)) as address:
        async with connect(address) as first:
            await first.send(post(b"x"))
            await first.reply()
            async with connect(address) as second:
                reply = await second.reply()
                assert (reply.status, reply.headers["retry-after"]) == (503, "1")
                assert await second.rest() == b""
            await first.send(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            await first.rest()
        async with connect(address) as third:
            await third.send(post(b"x"))
            assert (await third.reply()).status == 200


# Peers and addresses


async def test_two_addresses_are_one_listener_and_each_names_its_peers(tmp_path: Path) -> None:
    echo = Echo()
    unix = f"unix:{tmp_path}/rpc"
    transport = Transport("rpc", [LOCAL, "tcp:[::1]:0", unix], lambda path: echo)
    await transport.start()
    names = []
    for address in transport.addresses:
        async with connect(address) as wire:
            await wire.send(post(b"x"))
            assert (await wire.reply()).body == b"x"
            names.append(unix if address == unix else wire.name)
    await transport.stop(0)
    assert transport.addresses == ()
    tcp, tcp6, local = (peer for _, peer in echo.seen)
    assert (tcp, tcp6.address) == (Peer(names[0]), names[1].replace("::1", "[::1]"))
    assert local == Peer(unix, uid=os.getuid(), gid=os.getgid(), pid=os.getpid())


async def test_a_listener_that_cannot_have_all_its_addresses_has_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    path = tmp_path / "rpc"
    transport = Transport("rpc", [f"unix:{path}", f"unix:{tmp_path}/file"], lambda path: None)
    with pytest.raises(OSError, match=f"{tmp_path}/file"):
        await transport.start()
    assert transport.addresses == ()
    assert not path.exists()


# The end


async def test_stop_answers_the_call_in_flight_and_closes_what_is_idle() -> None:
    waiting = Waiting()
    transport = Transport("rpc", [LOCAL], lambda path: waiting)
    await transport.start()
    address = transport.addresses[0]
    async with connect(address) as idle, connect(address) as busy:
        await idle.send(GET)
        await idle.reply()
        await busy.send(post(b"x"))
        await asyncio.wait_for(waiting.begun.acquire(), DEADLINE)
        stopping = asyncio.ensure_future(transport.stop(DEADLINE))
        assert await idle.rest() == b""
        with pytest.raises(ConnectionRefusedError):
            await refused(address)
        waiting.release.set()
        reply = await busy.reply()
        assert (reply.body, reply.headers["connection"]) == (b"x", "close")
        assert await asyncio.wait_for(stopping, DEADLINE) == 0
        assert await busy.rest() == b""


async def test_stop_cuts_what_does_not_end_in_time_and_counts_it() -> None:
    waiting = Waiting()
    transport = Transport("rpc", [LOCAL], lambda path: waiting)
    await transport.start()
    address = transport.addresses[0]
    async with connect(address) as one, connect(address) as two, connect(address):
        for wire in (one, two):
            await wire.send(post(b"x"))
            await asyncio.wait_for(waiting.begun.acquire(), DEADLINE)
        assert await asyncio.wait_for(transport.stop(0.05), DEADLINE) == 2
        assert await one.rest() == await two.rest() == b""


async def test_stop_waits_for_a_call_whose_client_has_left() -> None:
    waiting = Waiting()
    transport = Transport("rpc", [LOCAL], lambda path: waiting)
    await transport.start()
    async with connect(transport.addresses[0]) as wire:
        await wire.send(post(b"write this"))
        await asyncio.wait_for(waiting.begun.acquire(), DEADLINE)
    stopping = asyncio.ensure_future(transport.stop(DEADLINE))
    await asyncio.sleep(0)
    waiting.release.set()
    assert await asyncio.wait_for(stopping, DEADLINE) == 0
    assert [body for body, _ in waiting.seen] == [b"write this"]


async def test_stop_is_not_held_up_by_a_client_that_does_not_read() -> None:
    begun = asyncio.Event()

    class Large(Echo):
        async def answer(self, body: bytes, peer: Peer) -> Answer:
            begun.set()
            return Answer(bytes(50_000_000), CONTENT_TYPE)

    large = Large()
    transport = Transport("rpc", [LOCAL], lambda path: large)
    await transport.start()
    async with connect(transport.addresses[0]) as wire:
        await wire.send(post(b"x"))
        await asyncio.wait_for(begun.wait(), DEADLINE)
        assert await asyncio.wait_for(transport.stop(0.05), DEADLINE) == 1


async def test_stop_without_a_single_connection_ends_at_once() -> None:
    transport = Transport("rpc", [LOCAL], lambda path: None)
    await transport.start()
    assert await asyncio.wait_for(transport.stop(60), DEADLINE) == 0


async def refused(address: str) -> None:
    host, _, port = address.removeprefix("tcp:").rpartition(":")
    with socket.socket() as client:
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, (host, int(port)))
