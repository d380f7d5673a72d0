from __future__ import annotations

import asyncio
import select
import socket
import ssl
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from adapters.http.client.connection import LOST, ClientConnection, TooLargeError, connect, reason
from adapters.http.client.request import parse_url
from adapters.http.client.response import NotHttpError
from adapters.limits import Quota
from gateway.core.rpc.model import Answer
from tests.kit.cases import each_case
from tests.kit.raw_server import make_certificate, raw_server
from tests.kit.upstreams import LegacyServer, legacy_server, ok

REQUEST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi"


async def ask(old: LegacyServer, *, limit: int = 1000, quota: Quota | None = None) -> Answer:
    connection = await connect(parse_url(old.url), 5)
    try:
        return await again(connection, limit=limit, quota=quota)
    finally:
        await gone(connection)


async def again(connection: ClientConnection, *, limit: int = 1000, quota: Quota | None = None) -> Answer:
    assert connection.start(REQUEST, bodiless=False)
    return await asyncio.wait_for(connection.answer(limit, quota or Quota()), 60)


async def gone(connection: ClientConnection) -> None:
    connection.abort()
    await asyncio.wait_for(asyncio.wait([connection.closed]), 60)


@each_case("pieces", [[b"2\r\n", b"abc"], [b"2\r\na", b"b\r\n:"], [b"2\r\nab", b"\r\n:"]])
async def test_who_reads_a_body_is_told_at_once_of_a_chunk_that_is_none(pieces: list[bytes]) -> None:
    async with legacy_server(held=True) as old:
        connection = await connect(parse_url(old.url), 5)
        assert connection.start(REQUEST, bodiless=False)
        reading = asyncio.ensure_future(connection.answer(1000, Quota()))
        for piece in (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", *pieces):
            connection.data_received(piece)
            await asyncio.sleep(0)  # it is read
        with pytest.raises(NotHttpError):
            await asyncio.wait_for(reading, 60)
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


async def test_a_large_answer_is_not_held() -> None:
    async with legacy_server(lambda _: ok(bytes(2000))) as old:
        with pytest.raises(TooLargeError, match="is over 1000 bytes"):
            await ask(old)
        quota = Quota(max_buffered=100)
        with pytest.raises(TooLargeError, match="does not fit"):
            await ask(old, limit=5000, quota=quota)
        assert quota.buffered == 0


async def test_what_is_held_of_an_answer_counts_until_it_is_read_or_given_up() -> None:
    quota = Quota(max_buffered=100)
    async with legacy_server(held=True) as old:
        for fails in (False, True):
            connection = await connect(parse_url(old.url), 5)
            assert connection.start(REQUEST, bodiless=False)
            reading = asyncio.ensure_future(connection.answer(1000, quota))
            await asyncio.sleep(0)
            connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 60\r\n\r\n" + bytes(40))
            await asyncio.sleep(0)
            assert quota.buffered == 40
            if fails:
                connection.abort()
                with pytest.raises(LOST):
                    await asyncio.wait_for(reading, 60)
            else:
                connection.data_received(bytes(20))
                assert (await asyncio.wait_for(reading, 60)).body == bytes(60)
            assert quota.buffered == 0
            await gone(connection)


async def test_a_large_request_is_written_whole(tmp_path: Path) -> None:
    body = bytes(3_000_000)
    async with legacy_server(socket=tmp_path / "socket") as old:
        connection = await connect(parse_url(old.url), 5)
        request = b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        assert connection.start(request, bodiless=False)
        await asyncio.wait_for(connection.answer(1000, Quota()), 60)
        assert old.requests == [request]
        await gone(connection)


async def test_why_there_is_no_connection_is_said_in_words(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as none:
        await connect(parse_url(f"http+unix://{tmp_path}/none"), 5)
    assert reason(none.value) == "No such file or directory"
    assert reason(ConnectionRefusedError("[Errno 111] Connect call failed")) == "connection refused"
    assert reason(TimeoutError()) == "no connection in time"
    assert reason(OSError("something")) == "no connection"
    assert reason(ssl.SSLError(1, "WRONG_VERSION_NUMBER")).startswith("no TLS could be agreed on")


async def test_session_tickets_are_not_taken_for_the_end_of_a_new_connection(tmp_path: Path) -> None:
    """A server of TLS 1.3 sends them when the handshake has ended for the client, which may send its request before."""
    certificate, agreed, connected = make_certificate(tmp_path), threading.Event(), threading.Event()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    def serve(plain: socket.socket) -> str:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_side=True)
        while True:
            incoming.write(plain.recv(65536))
            with suppress(ssl.SSLWantReadError):
                tls.do_handshake()
                break
            plain.sendall(outgoing.read())
        agreed.set()
        assert connected.wait(60)
        plain.sendall(outgoing.read())  # the tickets
        got = b""
        while not got.endswith(b"hi"):
            with suppress(ssl.SSLWantReadError):
                got += tls.read()
                continue
            incoming.write(plain.recv(65536))
        tls.write(ok(b"x"))
        plain.sendall(outgoing.read())
        return str(tls.version())

    with raw_server() as old:
        old.serve = serve
        url = old.url.replace("http:", "https:")
        connection = await connect(parse_url(url, ca_file=str(certificate)), 60)
        assert await asyncio.to_thread(agreed.wait, 60)
        connected.set()
        assert connection.transport is not None
        poll = select.poll()
        poll.register(connection.transport.get_extra_info("socket").fileno(), select.POLLIN)
        assert poll.poll(60_000)  # the loop does not run meanwhile, and reads nothing
        try:
            assert (await again(connection)).body == b"x"
        finally:
            await gone(connection)
        assert old.result() == "TLSv1.3"
