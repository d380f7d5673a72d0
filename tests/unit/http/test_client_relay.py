"""The upstream's side of a streamed request: what of an exchange is sent, and what is known when it fails."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from adapters.http.client.upstream import ConnectionPoolLimits, HttpUpstreamConnection
from gateway.core.rpc.model import HUNG_UP, Answer, Fault, FaultCode, RequestMetadata
from tests.kit.cases import each_case, expect
from tests.kit.exchanges import MemoryExchange
from tests.kit.upstreams import Last, legacy_server, ok
from tests.unit.http.listening import pool

GET = RequestMetadata("GET", "/export", ((b"Host", b"x"), (b"Range", b"bytes=0-"), (b"Connection", b"close")))
PUT = RequestMetadata("PUT", "/import", ((b"Host", b"x"), (b"Content-Length", b"6"), (b"Expect", b"100-continue")))
CHUNKED = RequestMetadata("PUT", "/import", ((b"Host", b"x"), (b"Transfer-Encoding", b"chunked")))
CONNECT = RequestMetadata("CONNECT", "/console?uuid=1", ((b"Host", b"x"), (b"Connection", b"keep-alive")))


async def relayed(xapi: HttpUpstreamConnection, exchange: MemoryExchange, idle_timeout: float = 60.0) -> Answer | Fault:
    got = await asyncio.wait_for(xapi.relay(exchange, idle_timeout), 60)
    assert xapi.is_idle
    return got


async def test_a_request_is_sent_as_it_came_and_its_connection_serves_the_next() -> None:
    async with (
        legacy_server(lambda _: ok(b"answer", "X-Odd: 1")) as old,
        pool(old.url, ConnectionPoolLimits(keepalive=True)) as xapi,
    ):
        for exchange in (MemoryExchange(PUT, b"abc", b"def", length=6), MemoryExchange(GET)):
            got = expect(Answer, await relayed(xapi, exchange))
            assert (got.status, got.headers) == (200, ((b"Content-Length", b"6"), (b"X-Odd", b"1")))
            assert (exchange.head, exchange.body, exchange.is_finished) == (got, b"answer", True)
        assert old.requests == [
            b"PUT /import HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\nExpect: 100-continue\r\n\r\nabcdef",
            b"GET /export HTTP/1.1\r\nHost: x\r\nRange: bytes=0-\r\n\r\n",
        ]
        assert old.connections == 1


async def test_a_body_without_a_length_goes_on_in_chunks() -> None:
    seen = b""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        seen = await reader.readuntil(b"0\r\n\r\n")
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 Done\r\n\r\n")
        writer.close()

    exchange = MemoryExchange(CHUNKED, b"abc", b"def", length=None)
    async with raw_upstream(serve) as xapi:
        got = await relayed(xapi, exchange)
    assert isinstance(got, Answer)
    assert (got.status, exchange.continues) == (204, 1)
    head = b"PUT /import HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert seen == head + b"3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n"


async def test_trailers_pass_both_ways_and_the_next_request_has_none() -> None:
    """Those that a server would have to know before the body are dropped (RFC 9110 section 6.5.1)."""
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n") + await reader.readuntil(b"\r\n\r\n"))
        writer.write(
            b"HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\n"
            b"X-Sum: 1\r\nSet-Cookie: no\r\nX-More:  2 \r\n\r\n"
        )
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx")
        writer.close()

    headers = ((b"Host", b"x"), (b"Transfer-Encoding", b"chunked"), (b"Trailer", b"X-Sum"), (b"TE", b"trailers"))
    chunked = RequestMetadata("PUT", "/import", headers)
    first = MemoryExchange(chunked, b"abc", length=None, trailers=((b"X-Sum", b"7"),))
    second = MemoryExchange(GET)
    async with raw_upstream(serve, ConnectionPoolLimits(keepalive=True)) as xapi:
        got = expect(Answer, await relayed(xapi, first))
        await relayed(xapi, second)
    assert (b"Trailer", b"X-Sum") in got.headers
    assert (first.body, first.sent_trailers) == (b"abc", ((b"X-Sum", b"1"), (b"X-More", b"2")))
    assert (second.body, second.sent_trailers) == (b"x", ())
    assert heads[0].endswith(b"\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 7\r\n\r\n")
    assert all(each in heads[0] for each in (b"Trailer: X-Sum\r\n", b"TE: trailers\r\nConnection: TE\r\n"))


@each_case(
    ("raw", "name", "begun"),
    [
        (b"", HUNG_UP, False),
        (b"rubbish\r\n\r\n", "", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart", HUNG_UP, True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n", HUNG_UP, True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nno size", "", False),
    ],
)
async def test_an_upstream_that_fails_is_a_fault_whether_the_response_had_begun_or_not(
    raw: bytes, name: str, begun: bool
) -> None:
    async with legacy_server(lambda _: Last(raw)) as old, pool(old.url) as xapi:
        exchange = MemoryExchange(GET)
        got = expect(Fault, await relayed(xapi, exchange))
        assert (got.code, got.name, exchange.has_begun, exchange.is_finished) == (
            FaultCode.NO_REPLY,
            name,
            begun,
            False,
        )
        assert xapi.status().idle == 0


async def test_an_upstream_that_is_not_there_got_nothing(tmp_path: Path) -> None:
    async with pool(f"http+unix://{tmp_path}/none") as xapi:
        for exchange in (MemoryExchange(GET), MemoryExchange(CONNECT, is_tunnel=True)):
            got = expect(Fault, await relayed(xapi, exchange))
            assert (got.code, exchange.has_begun) == (FaultCode.UNAVAILABLE, False)


async def test_a_body_that_ends_too_early_ends_the_upstreams_connection() -> None:
    async with legacy_server() as old, pool(old.url) as xapi:
        got = expect(Fault, await relayed(xapi, MemoryExchange(PUT, b"abc", length=6, breaks=True)))
        assert got.code is FaultCode.INVALID_REQUEST
        await asyncio.wait_for(old.left.acquire(), 60)
        assert old.requests == []
        old.left.release()


async def test_an_upstream_that_stays_silent_is_a_time_out_and_one_that_is_stopped_fails_what_streams() -> None:
    async with legacy_server(held=True) as old, pool(old.url) as xapi:
        got = expect(Fault, await relayed(xapi, MemoryExchange(GET), 0.05))
        assert (got.code, got.message) == (
            FaultCode.TIMEOUT,
            "no byte from or to the legacy service 'xapi' within 0.05 s; it may have been executed",
        )
        old.answers = lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart"
        old.hold.set()
        exchange = MemoryExchange(GET)
        streaming = asyncio.ensure_future(relayed(xapi, exchange))
        await asyncio.wait_for(exchange.written.wait(), 60)
        await xapi.stop()
        got = expect(Fault, await streaming)
        assert got.code is FaultCode.NO_REPLY
        assert isinstance(await relayed(xapi, MemoryExchange(GET)), Fault)
        assert isinstance(await relayed(xapi, MemoryExchange(CONNECT, is_tunnel=True)), Fault)


async def test_streamed_requests_leave_half_of_the_connections_to_calls_and_a_tunnel_takes_none() -> None:
    async with legacy_server(held=True) as old, pool(old.url, ConnectionPoolLimits(connections=4, waiting=2)) as xapi:
        streams = [asyncio.ensure_future(xapi.relay(MemoryExchange(GET), 60)) for _ in range(3)]  # one waits
        for _ in range(2):
            await asyncio.wait_for(old.seen.acquire(), 60)
        refused = expect(Fault, await asyncio.wait_for(xapi.relay(MemoryExchange(GET), 60), 60))
        assert (refused.code, xapi.status().waiting) == (FaultCode.BUSY, 1)
        calls = [asyncio.ensure_future(xapi.send(b"x", RequestMetadata("POST", "/", ()))) for _ in range(2)]
        tunnel = MemoryExchange(CONNECT, is_tunnel=True)
        tunnelling = asyncio.ensure_future(xapi.relay(tunnel, 60))
        for _ in range(3):
            await asyncio.wait_for(old.seen.acquire(), 60)  # all reach the upstream beside the streams
        old.answers = lambda request: Last(b"HTTP/1.1 200 OK\r\n\r\nRFB") if b"CONNECT" in request else ok(b"x")
        old.hold.set()
        done = await asyncio.wait_for(asyncio.gather(*streams, *calls, tunnelling), 60)
        assert all(isinstance(each, Answer) for each in done)
        assert tunnel.body == b"RFB"
        assert xapi.is_idle


@asynccontextmanager
async def raw_upstream(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    limits: ConnectionPoolLimits | None = None,
) -> AsyncIterator[HttpUpstreamConnection]:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with pool(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", limits or ConnectionPoolLimits()) as xapi:
        yield xapi
    server.close()


@pytest.mark.parametrize("streams", [True, False])
async def test_a_reset_is_never_the_end_of_a_body(streams: bool) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\n\r\npart")
        await read.wait()
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    read = asyncio.Event()
    async with raw_upstream(serve) as xapi:
        exchange = MemoryExchange(GET)
        asked = relayed(xapi, exchange) if streams else xapi.send(b"", GET)
        got = asyncio.ensure_future(asked)
        await (exchange.written.wait() if streams else asyncio.sleep(0.1))
        read.set()
        fault = expect(Fault, await asyncio.wait_for(got, 60))
        assert (fault.code, exchange.is_finished) == (FaultCode.NO_REPLY, False)


async def test_a_tunnel_of_which_one_direction_has_ended_ends_when_nothing_passes() -> None:
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await reader.read()  # the client's end, after which this upstream says nothing more
        await ended.wait()
        writer.close()

    async with raw_upstream(serve, ConnectionPoolLimits(half_closed_timeout=0.05)) as xapi:
        exchange = MemoryExchange(CONNECT, is_tunnel=True)
        assert isinstance(await relayed(xapi, exchange), Answer)
        assert exchange.is_finished is False
        ended.set()


@each_case("accept", [b"HTTP/1.1 200 OK\r\nX: 1\r\n\r\n", b"HTTP/1.0 299 Fine\r\n\r\n"])
@each_case("cut", [1, 5, 100])
async def test_the_head_that_opens_a_tunnel_is_found_however_it_is_cut(accept: bytes, cut: int) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        answer = b"HTTP/1.1 100 Continue\r\n\r\n" + accept + b"RFB 003.008\n"
        for at in range(0, len(answer), cut):
            writer.write(answer[at : at + cut])
            await writer.drain()
            await asyncio.sleep(0)
        writer.close()

    exchange = MemoryExchange(CONNECT, is_tunnel=True)
    async with raw_upstream(serve) as xapi:
        got = await relayed(xapi, exchange)
    assert isinstance(got, Answer)
    assert (got.status, exchange.body) == (int(accept[9:12]), b"RFB 003.008\n")
