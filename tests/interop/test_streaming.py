"""Streamed requests and tunnels through a gateway: what a peer does, the other one sees, and nothing piles up between.

Whole files of clients that people use pass in test_day_one.py, with the memory that it takes.
"""

from __future__ import annotations

import hashlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kit.cases import each_case, expect
from tests.kit.gateway import Process, configured
from tests.kit.programs import TIMEOUT, resident_bytes, until
from tests.kit.raw_server import RawServer, make_certificate, raw_server, read_exactly, read_head, read_to_end

MIB = 1024**2
SIZE = 64 * MIB
BLOCK = bytes(range(256)) * 256  # 64 KiB
DIGEST = hashlib.sha256(BLOCK * (SIZE // len(BLOCK))).hexdigest()
GROWTH = 24 * MIB  # of the gateway's memory, at most, while 64 MiB pass
PUT = b"PUT /import HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
GET = b"GET /export HTTP/1.1\r\nHost: a\r\n\r\n"

CONFIG = """\
[listener.rpc]
bind = ["tcp:127.0.0.1:0", "unix:{folder}/rpc"]
unmapped = "passthrough"
upstream = "old"
tunnels = ["/console"]
max_tunnels = 2
body_timeout = "60s"
[upstream.old]
url = "{url}"
"""


class Front:
    """A running gateway in front of an upstream that a test scripts."""

    def __init__(self, upstream: RawServer, process: Process) -> None:
        self.upstream = upstream
        self.process = process

    @contextmanager
    def connected(self, first: bytes = b"", *, unix: bool = False) -> Iterator[socket.socket]:
        """A client's connection, and what it says at first."""
        with socket.socket(socket.AF_UNIX if unix else socket.AF_INET) as connection:
            connection.settimeout(TIMEOUT)
            rpc = str(self.process.config.parent / "rpc")
            connection.connect(rpc if unix else ("127.0.0.1", self.process.port))
            connection.sendall(first)
            yield connection


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    folder = tmp_path_factory.mktemp("gateway")
    with raw_server(folder / "old") as upstream, configured(folder, CONFIG, url=upstream.url) as process:
        yield Front(upstream, process)


def send_blocks(connection: socket.socket) -> None:
    for _ in range(SIZE // len(BLOCK)):
        connection.sendall(BLOCK)


def digest(connection: socket.socket) -> str:
    """Read SIZE bytes."""
    found, left = hashlib.sha256(), SIZE
    while left and (part := connection.recv(min(left, len(BLOCK)))):
        found.update(part)
        left -= len(part)
    return found.hexdigest()


def sent_until_stuck(connection: socket.socket) -> int:
    """Send up to SIZE bytes; returns how many before the other side took no more for a second."""
    connection.settimeout(1.0)
    sent, data = 0, memoryview(BLOCK * (SIZE // len(BLOCK)))
    try:
        while sent < SIZE:
            sent += connection.send(data[sent : sent + len(BLOCK)])
    except TimeoutError:
        pass
    connection.settimeout(TIMEOUT)
    return sent


def test_an_upstream_may_answer_first_and_read_then(gateway: Front) -> None:
    """As xapi does for PUT /import."""

    def take(connection: socket.socket) -> str:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        return digest(connection)

    gateway.upstream.serve = take
    with gateway.connected(PUT % SIZE) as client:
        assert read_head(client).startswith(b"HTTP/1.1 200 OK\r\n")
        send_blocks(client)
        assert gateway.upstream.result() == DIGEST
        assert read_exactly(client, 5) == b"0\r\n\r\n"


def test_an_upstream_may_refuse_a_body_that_it_has_not_read(gateway: Front) -> None:
    def refuse(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\nno")

    gateway.upstream.serve = refuse
    with gateway.connected(PUT % SIZE) as client:
        assert b"Connection: close\r\n" in read_head(client)
        assert read_to_end(client) == b"no"


def test_a_reader_that_stops_stops_the_upstream(gateway: Front) -> None:
    stuck = threading.Event()

    def export(connection: socket.socket) -> int:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE)
        sent = sent_until_stuck(connection)
        stuck.set()
        connection.sendall(memoryview(BLOCK * (SIZE // len(BLOCK)))[sent:])
        return sent

    gateway.upstream.serve = export
    with gateway.connected(GET) as client:
        read_head(client)
        assert stuck.wait(TIMEOUT)
        assert gateway.process.series("xcp_gateway_calls_in_flight") == 1
        assert digest(client) == DIGEST
    assert expect(int, gateway.upstream.result()) < SIZE // 2  # the buffers of two sockets, and ours


def test_an_upstream_that_stops_reading_stops_the_client(gateway: Front) -> None:
    going_on = threading.Event()

    def take(connection: socket.socket) -> str:
        read_head(connection)
        assert going_on.wait(TIMEOUT)
        found = digest(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        return found

    gateway.upstream.serve = take
    with gateway.connected(PUT % SIZE) as client:
        sent = sent_until_stuck(client)
        assert sent < SIZE // 2
        going_on.set()
        client.sendall(memoryview(BLOCK * (SIZE // len(BLOCK)))[sent:])
        assert read_head(client).startswith(b"HTTP/1.1 200")
    assert gateway.upstream.result() == DIGEST


@each_case("unix", [False, True])
def test_a_client_that_leaves_ends_the_upstreams_connection(gateway: Front, unix: bool) -> None:
    def export(connection: socket.socket) -> str:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE)
        try:
            send_blocks(connection)
        except ConnectionError:
            return "ended"
        return "sent"

    gateway.upstream.serve = export
    with gateway.connected(GET, unix=unix) as client:
        read_head(client)
    assert gateway.upstream.result() == "ended"


@each_case("half", [True, False])
def test_a_client_that_ends_its_body_early_ends_the_upstreams(gateway: Front, half: bool) -> None:
    begun = threading.Event()

    def take(connection: socket.socket) -> bytes:
        read_head(connection)
        begun.set()
        return read_to_end(connection)

    gateway.upstream.serve = take
    with gateway.connected(PUT % 100 + b"part") as client:
        assert begun.wait(TIMEOUT), "a client that leaves sooner is not passed on at all"
        if half:
            client.shutdown(socket.SHUT_WR)
            assert read_head(client).startswith(b"HTTP/1.1 400 ")
    assert gateway.upstream.result() == b"part"


CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n4\r\npart\r\n"


@each_case(
    ("version", "begun"),
    [(b"1.1", b"Content-Length: 9\r\n\r\npart"), (b"1.1", CHUNKED), (b"1.0", CHUNKED)],
)
def test_an_upstream_that_breaks_off_is_never_the_end_of_a_response(
    gateway: Front, version: bytes, begun: bytes
) -> None:
    """A response in chunks lacks its last one; where only the end frames it, the connection resets."""

    def break_off(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n" + begun)

    gateway.upstream.serve = break_off
    with gateway.connected(GET.replace(b"1.1", version)) as client, pytest.raises(ConnectionResetError):
        list(iter(lambda: client.recv(65536), b""))


# Tunnels

CONNECT = b"CONNECT /console?uuid=1 HTTP/1.0\r\nHost: a\r\n\r\n"
UPGRADE = (
    b"GET /console/ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: k\r\n\r\n"
)
ACCEPTS = {
    CONNECT: b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nCache-Control: no-cache\r\n\r\n",
    UPGRADE: b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s\r\n\r\n",
}
GREETING = b"RFB 003.008\n"


def echo(accept: bytes) -> Callable[[socket.socket], bytes]:
    """An upstream that accepts and then says what it hears, to the end; greets first, in the same breath."""

    def serve(connection: socket.socket) -> bytes:
        request = read_head(connection)
        connection.sendall(accept + GREETING)
        while data := connection.recv(65536):
            connection.sendall(data)
        return request

    return serve


def echoed(client: socket.socket) -> str:
    """Send SIZE bytes while they come back; then end this direction, and read the end of the other one."""
    sending = threading.Thread(target=send_blocks, args=(client,))
    sending.start()
    found = digest(client)
    sending.join(TIMEOUT)
    client.shutdown(socket.SHUT_WR)  # the upstream sees it, and ends in turn; over TLS both end at once
    assert read_to_end(client) == b""
    return found


@each_case("request_", [CONNECT, UPGRADE])
def test_a_tunnel_carries_bytes_both_ways_in_bounded_memory_and_ends_with_its_peers(
    gateway: Front, request_: bytes
) -> None:
    gateway.upstream.serve = echo(ACCEPTS[request_])
    Path(f"/proc/{gateway.process.pid}/clear_refs").write_text("5")  # the peak counts from now on
    before = resident_bytes(gateway.process.pid, "VmHWM")
    with gateway.connected(request_ + b"first") as client:
        accept = ACCEPTS[request_].replace(b"HTTP/1.1", b"HTTP/1.0") if request_ is CONNECT else ACCEPTS[request_]
        assert read_head(client) == accept
        assert read_exactly(client, 17) == GREETING + b"first"
        assert gateway.process.series("xcp_gateway_tunnels_open") == 1
        assert echoed(client) == DIGEST
    assert resident_bytes(gateway.process.pid, "VmHWM") - before < GROWTH
    seen = expect(bytes, gateway.upstream.result())
    assert seen.split(b"\r\n")[1:] == request_.split(b"\r\n")[1:]
    until(lambda: "tunnel" in {row["protocol"] for row in gateway.process.ask("GET", "/v1/clients")})


def test_a_tunnel_goes_over_tls(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(make_certificate(tmp_path))
    with (
        raw_server(tls=context) as upstream,
        configured(tmp_path, f"{CONFIG}verify = false\n", url=upstream.url) as process,
        Front(upstream, process).connected() as client,
    ):
        upstream.serve = echo(ACCEPTS[CONNECT])
        client.sendall(CONNECT)
        read_head(client)
        assert read_exactly(client, len(GREETING)) == GREETING
        assert echoed(client) == DIGEST


@each_case("request_", [CONNECT, UPGRADE])
def test_what_follows_a_refused_tunnel_reaches_no_upstream(gateway: Front, request_: bytes) -> None:
    def refuse(connection: socket.socket) -> bytes:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno")
        return read_to_end(connection)

    gateway.upstream.serve = refuse
    behind = b"POST /RPC2 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
    with gateway.connected(request_ + behind) as client:
        assert b" 403 No\r\n" in read_head(client)
        assert read_to_end(client) == b"no"
    assert gateway.upstream.result() == b""


def test_too_many_tunnels_are_refused(gateway: Front) -> None:
    gateway.upstream.serve = echo(ACCEPTS[CONNECT])
    with gateway.connected(CONNECT) as one, gateway.connected(CONNECT) as two:
        for client in (one, two):
            read_head(client)
        with gateway.connected(CONNECT) as three:
            assert read_head(three).startswith(b"HTTP/1.0 503 ")
        one.close()
        gateway.upstream.result()
        until(lambda: gateway.process.series("xcp_gateway_tunnels_open") == 1)
        with gateway.connected(CONNECT) as four:
            assert read_head(four).startswith(b"HTTP/1.0 200 ")


def test_a_reset_of_the_upstream_is_the_clients_end(gateway: Front) -> None:
    def broken(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(ACCEPTS[CONNECT])
        assert connection.recv(5) == b"hello"

    gateway.upstream.serve = broken
    with gateway.connected(CONNECT) as client:
        read_head(client)
        client.sendall(b"hello, and more that it never reads")
        assert read_to_end(client) == b""
    gateway.upstream.result()
