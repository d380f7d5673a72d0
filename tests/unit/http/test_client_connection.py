from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest
from aiohttp.http_exceptions import HttpProcessingError

from adapters.http.client_connection import LOST, ClientConnection, TooLargeError, connect, parse_url, reason
from adapters.limits import Quota, Reservation
from gateway.core.rpc.model import Answer
from tests.kit.upstreams import Answers, Last, LegacyServer, legacy_server, ok

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"
REQUEST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi"


async def ask(old: LegacyServer, *, bodiless: bool = False, limit: int = 1000, quota: Quota | None = None) -> Answer:
    connection = await connect(parse_url(old.url), 5)
    try:
        return await again(connection, bodiless=bodiless, limit=limit, quota=quota)
    finally:
        await gone(connection)


async def again(
    connection: ClientConnection, *, bodiless: bool = False, limit: int = 1000, quota: Quota | None = None
) -> Answer:
    assert connection.start(REQUEST, bodiless=bodiless)
    with Reservation(quota or Quota()) as held:
        return await asyncio.wait_for(connection.answer(limit, held), 60)


async def gone(connection: ClientConnection) -> None:
    closed = connection.closed
    connection.abort()
    if closed is not None:
        await asyncio.wait_for(asyncio.wait([closed]), 60)
        closed.cancelled() or closed.exception()


async def answered(raw: bytes, *, bodiless: bool = False) -> Answer:
    async with legacy_server(lambda _: raw) as old:
        got = await ask(old, bodiless=bodiless)
        assert old.requests == [REQUEST]
    return got


async def test_an_answer_is_read_byte_for_byte() -> None:
    got = await answered(
        b"HTTP/1.1 299 So \xc3\xa4 So\r\nX-One: \xff\r\nx-one:  b \r\nContent-Length: 3\r\n\r\n\x00\xff\n"
    )
    assert (got.status, got.reason, got.body) == (299, "So ä So", b"\x00\xff\n")
    assert got.headers == ((b"X-One", b"\xff"), (b"x-one", b"b"), (b"Content-Length", b"3"))
    assert got.content_type == ""


@pytest.mark.parametrize("pieces", [[b"2\r\n", b"abc"], [b"2\r\na", b"b\r\n:"], [b"2\r\nab", b"\r\n:"]])
async def test_who_reads_a_body_is_told_at_once_of_a_chunk_that_is_none(pieces: list[bytes]) -> None:
    async with legacy_server(held=True) as old:
        connection = await connect(parse_url(old.url), 5)
        assert connection.start(REQUEST, bodiless=False)
        with Reservation(Quota()) as held:
            reading = asyncio.ensure_future(connection.answer(1000, held))
            for piece in (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", *pieces):
                connection.data_received(piece)
                await asyncio.sleep(0)  # it is read
            with pytest.raises(HttpProcessingError):
                await asyncio.wait_for(reading, 60)
        await gone(connection)


@pytest.mark.parametrize(
    ("raw", "body", "headers"),
    [
        (CHUNKED + b"X: y\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n", b"abc", ((b"X", b"y"),)),
        (Last(b"HTTP/1.0 200 OK\r\n\r\nall of it"), b"all of it", ()),
        (ok(b"no gzip", "Content-Encoding: gzip"), b"no gzip", None),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + ok(b"x"), b"x", None),
    ],
    ids=["in chunks", "to the end of its connection", "never inflated", "behind an interim one"],
)
async def test_the_body_of_an_answer_is_read(
    raw: bytes, body: bytes, headers: tuple[tuple[bytes, bytes], ...] | None
) -> None:
    got = await answered(raw)
    assert got.body == body
    assert headers is None or got.headers == headers


async def test_an_answer_to_head_has_a_length_and_no_content() -> None:
    got = await answered(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n", bodiless=True)
    assert (got.body, got.headers) == (b"", ((b"Content-Length", b"500"),))


async def test_a_connection_serves_again_when_its_answer_was_whole() -> None:
    async with legacy_server() as old:
        connection = await connect(parse_url(old.url), 5)
        for _ in range(3):
            assert (await again(connection)).body == b"answer"
            assert connection.is_reusable
        assert old.connections == 1
        await gone(connection)


@pytest.mark.parametrize(
    "raw",
    [
        ok(b"x", "Connection: close"),
        b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx",
        ok(b"x") + b"HTTP/1.1 200 OK\r\n",
    ],
    ids=["said so", "HTTP/1.0", "more than one answer"],
)
async def test_a_connection_does_not_serve_again_when_it_ends(raw: bytes) -> None:
    async with legacy_server(lambda _: raw) as old:
        connection = await connect(parse_url(old.url), 5)
        assert (await again(connection)).body == b"x"
        assert not connection.is_reusable
        await gone(connection)


@pytest.mark.parametrize("unix", [True, False])
async def test_nothing_is_written_to_a_connection_that_was_closed_meanwhile(tmp_path: Path, unix: bool) -> None:
    async with legacy_server(socket=tmp_path / "socket" if unix else None) as old:
        connection = await connect(parse_url(old.url), 5)
        await again(connection)
        await old.close_connections()
        await asyncio.wait_for(old.left.acquire(), 60)
        old.left.release()
        assert not connection.start(REQUEST, bodiless=False)
        assert len(old.requests) == 1
        await gone(connection)


@pytest.mark.parametrize(
    "answers",
    [
        lambda _: None,
        lambda _: Last(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab"),
        lambda _: Last(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"),
        lambda _: Last(b"HTTP/1.1 200 O"),
        lambda _: b"0000000000000053{}",
        lambda _: b"HTTP/1.1 101 Upgrade\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
    ],
    ids=["no answer", "half a body", "half a chunk", "half a head", "no HTTP", "another protocol"],
)
async def test_an_answer_that_is_not_whole_is_lost(answers: Answers) -> None:
    async with legacy_server(answers) as old:
        with pytest.raises(LOST):
            await ask(old)


async def test_a_large_answer_is_not_held() -> None:
    async with legacy_server(lambda _: ok(bytes(2000))) as old:
        with pytest.raises(TooLargeError, match="is over 1000 bytes"):
            await ask(old)
        quota = Quota(max_buffered=100)
        with pytest.raises(TooLargeError, match="does not fit"):
            await ask(old, limit=5000, quota=quota)
        assert quota.buffered == 0


async def test_a_large_request_is_written_whole(tmp_path: Path) -> None:
    body = bytes(3_000_000)
    async with legacy_server(socket=tmp_path / "socket") as old:
        connection = await connect(parse_url(old.url), 5)
        request = b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        assert connection.start(request, bodiless=False)
        with Reservation(Quota()) as held:
            await asyncio.wait_for(connection.answer(1000, held), 60)
        assert old.requests == [request]
        await gone(connection)


async def test_an_idle_connection_closes_itself() -> None:
    async with legacy_server() as old:
        connection = await connect(parse_url(old.url), 5)
        await again(connection)
        connection.start_idle(0.01)
        await asyncio.wait_for(old.left.acquire(), 60)
        old.left.release()
        assert not connection.is_reusable


async def test_why_there_is_no_connection_is_said_in_words(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as none:
        await connect(parse_url(f"http+unix://{tmp_path}/none"), 5)
    assert reason(none.value) == "No such file or directory"
    assert reason(ConnectionRefusedError("[Errno 111] Connect call failed")) == "connection refused"
    assert reason(TimeoutError()) == "no connection in time"
    assert reason(OSError("something")) == "no connection"
    assert reason(ssl.SSLError(1, "WRONG_VERSION_NUMBER")).startswith("no TLS could be agreed on")
