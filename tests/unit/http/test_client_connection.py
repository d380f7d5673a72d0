from __future__ import annotations

import asyncio
import select
import socket
import ssl
import threading
from collections.abc import Awaitable
from contextlib import suppress
from pathlib import Path

import pytest

from adapters.http.client.connection import LOST, ClientConnection, TooLargeError, connect, reason
from adapters.http.client.request import parse_url
from adapters.limits import Quota
from gateway.core.rpc.model import Answer
from tests.kit.cases import each_case
from tests.kit.raw_server import make_certificate, raw_server
from tests.kit.upstreams import legacy_server, ok

REQUEST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi"


def answer(connection: ClientConnection, request: bytes = REQUEST, quota: Quota | None = None) -> Awaitable[Answer]:
    """Send a request; returns its answer, which may still have to come."""
    assert connection.start(request, bodiless=False)
    return asyncio.ensure_future(asyncio.wait_for(connection.answer(1000, quota or Quota()), 60))


async def gone(connection: ClientConnection) -> None:
    connection.abort()
    await asyncio.wait_for(asyncio.wait([connection.closed]), 60)


@each_case(("more", "ends"), [(bytes(20), None), (b"", LOST), (bytes(200), TooLargeError)])
async def test_what_is_held_of_an_answer_counts_until_it_is_read_given_up_or_too_much(
    more: bytes, ends: type[Exception] | None
) -> None:
    quota = Quota(max_buffered=100)
    async with legacy_server(held=True) as old:
        connection = await connect(ClientConnection, parse_url(old.url), 5)
        reading = answer(connection, quota=quota)
        await asyncio.sleep(0)
        size = 40 + len(more or bytes(20))
        connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (size, bytes(40)))
        await asyncio.sleep(0)
        assert quota.buffered == 40
        connection.data_received(more)
        if not more:
            connection.abort()
        if ends is None:
            assert (await reading).body == bytes(60)
        else:
            with pytest.raises(ends, match="does not fit" if ends is TooLargeError else None):
                await reading
        assert quota.buffered == 0
        await gone(connection)


def wait_until_readable(connection: ClientConnection) -> None:
    """The loop does not run meanwhile, and reads nothing."""
    assert connection.transport is not None
    poll = select.poll()
    poll.register(connection.transport.get_extra_info("socket").fileno(), select.POLLIN)
    assert poll.poll(60_000)


@pytest.mark.parametrize("unix", [True, False])
async def test_nothing_is_written_to_a_connection_that_was_closed_meanwhile(tmp_path: Path, unix: bool) -> None:
    answered = threading.Event()

    def serve(plain: socket.socket) -> bool:
        plain.recv(65536)
        plain.sendall(ok(b"x"))
        return answered.wait(60)

    with raw_server(tmp_path / "socket" if unix else None) as old:
        old.serve = serve
        connection = await connect(ClientConnection, parse_url(old.url), 5)
        await answer(connection)
        answered.set()
        wait_until_readable(connection)
        assert not connection.start(REQUEST, bodiless=False)
        await gone(connection)


async def test_a_large_request_is_written_whole(tmp_path: Path) -> None:
    body = bytes(3_000_000)
    request = b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    async with legacy_server(socket=tmp_path / "socket") as old:
        connection = await connect(ClientConnection, parse_url(old.url), 5)
        await answer(connection, request)
        assert old.requests == [request]
        await gone(connection)


@each_case(
    ("error", "words"),
    [
        (ConnectionRefusedError("[Errno 111] Connect call failed"), "connection refused"),
        (ssl.SSLError(1, "WRONG_VERSION_NUMBER"), "no TLS could be agreed on (unknown)"),
        (OSError("something"), "no connection"),
    ],
)
def test_why_there_is_no_connection_is_said_in_words(error: OSError, words: str) -> None:
    assert reason(error) == words


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
        connection = await connect(ClientConnection, parse_url(url, ca_file=str(certificate)), 60)
        assert await asyncio.to_thread(agreed.wait, 60)
        connected.set()
        wait_until_readable(connection)
        try:
            assert (await answer(connection)).body == b"x"
        finally:
            await gone(connection)
        assert old.result() == "TLSv1.3"
