"""Bodies of any size and tunnels go through a gateway with bounded memory; what a peer does, the other one sees."""

from __future__ import annotations

import hashlib
import json
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kit.cases import expect
from tests.kit.gateway import Process, gateway_process
from tests.kit.programs import TIMEOUT, until
from tests.kit.raw_server import RawServer, make_certificate, raw_server, read_exactly, read_head, read_to_end

MIB = 1024**2
SIZE = 64 * MIB
BLOCK = bytes(range(256)) * 256  # 64 KiB
DIGEST = hashlib.sha256(BLOCK * (SIZE // len(BLOCK))).hexdigest()
GROWTH = 24 * MIB  # of the gateway's memory, at most, while 64 MiB pass

CONFIG = """\
grace = "300ms"
[listener.rpc]
bind = ["unix:{folder}/rpc", "tcp:127.0.0.1:0"]
unmapped = "passthrough"
upstream = "old"
tunnels = ["/console"]
max_tunnels = 2
body_timeout = "60s"
{more}
[upstream.old]
url = "{url}"
{tls}
[mappings]
directories = ["mappings"]
[admin]
socket = "{folder}/admin"
[log]
format = "json"
"""


class Front:
    """A running gateway in front of an upstream that a test scripts."""

    def __init__(self, folder: Path, upstream: RawServer, process: Process) -> None:
        self.upstream = upstream
        self.process = process
        self._folder = folder
        self._port = int(process.wait_for("ready")["listening"][1].rpartition(":")[2])

    @contextmanager
    def connected(self, *, tcp: bool = False) -> Iterator[socket.socket]:
        """A client's connection."""
        with socket.socket(socket.AF_INET if tcp else socket.AF_UNIX) as connection:
            connection.settimeout(TIMEOUT)
            connection.connect(("127.0.0.1", self._port) if tcp else str(self._folder / "rpc"))
            yield connection

    def admin(self, method: str, path: str) -> bytes:
        """Ask the admin API."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(TIMEOUT)
            connection.connect(str(self._folder / "admin"))
            head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close"
            connection.sendall(f"{head}\r\n\r\n".encode())
            return read_to_end(connection).partition(b"\r\n\r\n")[2]

    @contextmanager
    def bounded(self) -> Iterator[None]:
        """Fail when the gateway's memory grows by more than GROWTH bytes meanwhile."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")  # the peak counts from now on
        before = self._peak()
        yield
        assert self._peak() - before < GROWTH

    def _peak(self) -> int:
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmHWM")

    def series(self, name: str) -> float:
        """The sum of a series of /metrics."""
        lines = self.admin("GET", "/metrics").decode().splitlines()
        return sum(
            float(line.rpartition(" ")[2]) for line in lines if line.startswith(name) and not line.startswith("#")
        )


@contextmanager
def front(folder: Path, upstream: RawServer, *, more: str = "", tls: str = "") -> Iterator[Front]:
    (folder / "mappings").mkdir()
    (folder / "gateway.toml").write_text(CONFIG.format(url=upstream.url, folder=folder, more=more, tls=tls))
    with gateway_process(folder / "gateway.toml") as process:
        yield Front(folder, upstream, process)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    folder = tmp_path_factory.mktemp("gateway")
    with raw_server(folder / "old") as upstream, front(folder, upstream) as running:
        yield running


@contextmanager
def in_thread(work: threading.Thread) -> Iterator[None]:
    work.start()
    try:
        yield
    finally:
        work.join(TIMEOUT)


def send_blocks(connection: socket.socket, *, chunked: bool) -> None:
    for _ in range(SIZE // len(BLOCK)):
        connection.sendall(b"%x\r\n%b\r\n" % (len(BLOCK), BLOCK) if chunked else BLOCK)
    if chunked:
        connection.sendall(b"0\r\n\r\n")


def digest(connection: socket.socket, *, chunked: bool) -> str:
    """Read a body of SIZE bytes."""
    found, reader = hashlib.sha256(), connection.makefile("rb")
    with reader:
        if not chunked:
            for _ in range(SIZE // len(BLOCK)):
                found.update(reader.read(len(BLOCK)))
            return found.hexdigest()
        while size := int(reader.readline(), 16):
            found.update(reader.read(size))
            assert reader.readline() == b"\r\n"
        assert reader.readline() == b"\r\n"
    return found.hexdigest()


def no_content(connection: socket.socket) -> bytes:
    request = read_head(connection)
    connection.sendall(b"HTTP/1.1 204 No\r\n\r\n")
    return request


@pytest.mark.parametrize("framing", ["length", "chunks", "end"])
def test_an_export_of_any_size_passes_with_bounded_memory(gateway: Front, framing: str) -> None:
    def export(connection: socket.socket) -> bytes:
        request = read_head(connection)
        lines = {"length": b"Content-Length: %d\r\n" % SIZE, "chunks": b"Transfer-Encoding: chunked\r\n", "end": b""}
        connection.sendall(b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 0-1/*\r\n%b\r\n" % lines[framing])
        send_blocks(connection, chunked=framing == "chunks")
        return request

    gateway.upstream.serve = export
    with gateway.bounded(), gateway.connected() as client:
        client.sendall(b"GET /export?uuid=1 HTTP/1.1\r\nHost: a\r\nRange: bytes=0-\r\n\r\n")
        head = read_head(client)
        assert head.startswith(b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 0-1/*\r\n")
        assert (b"Transfer-Encoding: chunked" in head) == (framing != "length")
        assert digest(client, chunked=framing != "length") == DIGEST
    request = expect(bytes, gateway.upstream.result())
    assert b"Range: bytes=0-\r\n" in request


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("expects", [True, False])
def test_an_import_of_any_size_passes_with_bounded_memory(gateway: Front, chunked: bool, expects: bool) -> None:
    def take(connection: socket.socket) -> tuple[bytes, str]:
        request = read_head(connection)
        if expects:
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        found = digest(connection, chunked=chunked)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone")
        return request, found

    gateway.upstream.serve = take
    with gateway.bounded(), gateway.connected() as client:
        framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % SIZE
        expect = b"Expect: 100-continue\r\n" if expects else b""
        client.sendall(b"PUT /import HTTP/1.1\r\nHost: a\r\n%b%b\r\n\r\n" % (expect, framing))
        if expects:
            assert read_head(client) == b"HTTP/1.1 100 Continue\r\n\r\n"
        send_blocks(client, chunked=chunked)
        assert read_head(client).startswith(b"HTTP/1.1 200 OK\r\n")
        assert read_exactly(client, 4) == b"done"
        result = gateway.upstream.result()
        gateway.upstream.serve = no_content
        client.sendall(b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n")  # the connection goes on
        assert read_head(client).startswith(b"HTTP/1.1 204 No\r\n")
    gateway.upstream.result()
    assert isinstance(result, tuple), result
    assert (result[1], framing in result[0]) == (DIGEST, True)


def test_trailers_of_chunked_bodies_pass_both_ways(gateway: Front) -> None:
    def take(connection: socket.socket) -> bytes:
        request = read_head(connection) + read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Back: 2\r\n\r\n")
        return request

    gateway.upstream.serve = take
    with gateway.connected() as client:
        client.sendall(
            b"PUT /import HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
            b"3\r\nabc\r\n0\r\nX-Sum: 1\r\nAuthorization: no\r\n\r\n"
        )
        assert read_to_end(client).endswith(b"\r\n\r\n2\r\nok\r\n0\r\nX-Back: 2\r\n\r\n")
    request = gateway.upstream.result()
    assert isinstance(request, bytes)
    assert request.endswith(b"\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n")


def test_an_upstream_may_answer_first_and_read_then(gateway: Front) -> None:
    """As xapi does for PUT /import."""

    def take(connection: socket.socket) -> str:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        return digest(connection, chunked=False)

    gateway.upstream.serve = take
    with gateway.connected() as client:
        client.sendall(b"PUT /import HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % SIZE)
        assert read_head(client).startswith(b"HTTP/1.1 200 OK\r\n")
        send_blocks(client, chunked=False)
        assert gateway.upstream.result() == DIGEST
        assert read_exactly(client, 5) == b"0\r\n\r\n"


def test_an_upstream_may_refuse_a_body_that_it_has_not_read(gateway: Front) -> None:
    def refuse(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\nno")

    gateway.upstream.serve = refuse
    with gateway.connected() as client:
        client.sendall(b"PUT /import HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % SIZE)
        head = read_head(client)
        assert head.startswith(b"HTTP/1.1 401 No\r\n")
        assert b"Connection: close\r\n" in head
        assert read_to_end(client) == b"no"


def test_a_reader_that_stops_stops_the_upstream(gateway: Front) -> None:
    sent = 0
    blocked = threading.Event()

    def export(connection: socket.socket) -> None:
        nonlocal sent
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE)
        connection.settimeout(1.0)
        while sent < SIZE:
            try:
                sent += connection.send(BLOCK)
            except TimeoutError:
                blocked.set()
                connection.settimeout(TIMEOUT)

    gateway.upstream.serve = export
    with gateway.connected() as client:
        client.sendall(b"GET /export HTTP/1.1\r\nHost: a\r\n\r\n")
        read_head(client)
        assert blocked.wait(TIMEOUT)
        assert sent < SIZE // 2  # the buffers of two Unix sockets, and ours
        assert gateway.series("xcp_gateway_calls_in_flight") == 1
        assert digest_of_rest(client) == SIZE


def digest_of_rest(client: socket.socket) -> int:
    size = 0
    while size < SIZE and (part := client.recv(65536)):
        size += len(part)
    return size


def test_an_upstream_that_stops_reading_stops_the_client(gateway: Front) -> None:
    going_on = threading.Event()

    def take(connection: socket.socket) -> str:
        read_head(connection)
        assert going_on.wait(TIMEOUT)
        found = digest(connection, chunked=False)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        return found

    gateway.upstream.serve = take
    with gateway.connected() as client:
        client.sendall(b"PUT /import HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % SIZE)
        client.settimeout(1.0)
        sent, data = 0, memoryview(BLOCK * (SIZE // len(BLOCK)))
        try:
            while sent < SIZE:
                sent += client.send(data[sent : sent + 65536])
        except TimeoutError:
            pass
        assert sent < SIZE // 2
        client.settimeout(TIMEOUT)
        going_on.set()
        client.sendall(data[sent:])
        assert read_head(client).startswith(b"HTTP/1.1 200")
    assert gateway.upstream.result() == DIGEST


@pytest.mark.parametrize("tcp", [True, False])
def test_a_client_that_leaves_ends_the_upstreams_connection(gateway: Front, tcp: bool) -> None:
    begun = threading.Event()

    def export(connection: socket.socket) -> str:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE)
        begun.set()
        try:
            send_blocks(connection, chunked=False)
        except ConnectionError:
            return "ended"
        return "sent"

    gateway.upstream.serve = export
    with gateway.connected(tcp=tcp) as client:
        client.sendall(b"GET /export HTTP/1.1\r\nHost: a\r\n\r\n")
        assert begun.wait(TIMEOUT)
        read_head(client)
    assert gateway.upstream.result() == "ended"


@pytest.mark.parametrize("half", [True, False])
def test_a_client_that_ends_its_body_early_ends_the_upstreams(gateway: Front, half: bool) -> None:
    begun = threading.Event()

    def take(connection: socket.socket) -> bytes:
        read_head(connection)
        begun.set()
        return read_to_end(connection)

    gateway.upstream.serve = take
    with gateway.connected() as client:
        client.sendall(b"PUT /import HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\npart")
        assert begun.wait(TIMEOUT), "a client that leaves sooner is not passed on at all"
        if half:
            client.shutdown(socket.SHUT_WR)
            assert read_head(client).startswith(b"HTTP/1.1 400 ")
    assert gateway.upstream.result() == b"part"


def test_a_client_that_ends_its_side_after_its_request_still_gets_the_response(gateway: Front) -> None:
    def answer(connection: socket.socket) -> bytes:
        request = read_head(connection) + read_exactly(connection, 2)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        return request

    gateway.upstream.serve = answer
    with gateway.connected() as client:
        client.sendall(b"PUT /x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi")
        client.shutdown(socket.SHUT_WR)
        assert read_to_end(client).endswith(b"\r\n\r\nok")


@pytest.mark.parametrize(("version", "framing"), [("1.1", "Content-Length: 9\r\n"), ("1.1", ""), ("1.0", "")])
def test_an_upstream_that_breaks_off_is_never_the_end_of_a_response(gateway: Front, version: str, framing: str) -> None:
    """A response in chunks lacks its last one; where only the end frames it, the connection resets."""

    def break_off(connection: socket.socket) -> None:
        read_head(connection)
        chunked = "" if framing else "Transfer-Encoding: chunked\r\n"
        body = b"part" if framing else b"4\r\npart\r\n"
        connection.sendall(f"HTTP/1.1 200 OK\r\n{framing}{chunked}\r\n".encode() + body)

    gateway.upstream.serve = break_off
    with gateway.connected(tcp=True) as client:
        client.sendall(f"GET /export HTTP/{version}\r\nHost: a\r\n\r\n".encode())
        reader = client.makefile("rb")
        with reader, pytest.raises(ConnectionResetError):
            reader.read()


# Tunnels

CONNECT = b"CONNECT /console?uuid=1 HTTP/1.0\r\nHost: a\r\n\r\n"
UPGRADE = (
    b"GET /console/ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: k\r\n\r\n"
)
ACCEPTS = {
    CONNECT: b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nCache-Control: no-cache\r\n\r\n",
    UPGRADE: b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s\r\n\r\n",
}


def echo(accept: bytes) -> Callable[[socket.socket], bytes]:
    """An upstream that accepts and then says what it hears, to the end; greets first, in the same breath."""

    def serve(connection: socket.socket) -> bytes:
        request = read_head(connection)
        connection.sendall(accept + b"RFB 003.008\n")
        while data := connection.recv(65536):
            connection.sendall(data)
        return request

    return serve


@pytest.mark.parametrize("request_", [CONNECT, UPGRADE])
def test_a_tunnel_carries_bytes_both_ways_and_ends_with_its_peers(gateway: Front, request_: bytes) -> None:
    gateway.upstream.serve = echo(ACCEPTS[request_])
    with gateway.bounded(), gateway.connected(tcp=True) as client:
        client.sendall(request_ + b"first")
        accept = ACCEPTS[request_].replace(b"HTTP/1.1", b"HTTP/1.0") if request_ is CONNECT else ACCEPTS[request_]
        assert read_head(client) == accept
        assert read_exactly(client, 17) == b"RFB 003.008\nfirst"
        with in_thread(threading.Thread(target=lambda: send_blocks(client, chunked=False))):
            assert digest(client, chunked=False) == DIGEST
        assert gateway.series("xcp_gateway_tunnels_open") == 1
        client.shutdown(socket.SHUT_WR)  # the upstream sees the end, and ends in turn
        assert read_to_end(client) == b""
    seen = expect(bytes, gateway.upstream.result())
    assert seen.split(b"\r\n")[1:] == request_.split(b"\r\n")[1:]
    until(lambda: "tunnel" in {row["protocol"] for row in json.loads(gateway.admin("GET", "/v1/clients"))})


def test_a_tunnel_is_opened_only_where_the_listener_allows_it(gateway: Front) -> None:
    gateway.upstream.serve = no_content
    with gateway.connected() as client:
        client.sendall(CONNECT.replace(b"/console", b"/consoles"))
        assert read_head(client).startswith(b"HTTP/1.0 501 ")
    with gateway.connected() as client:  # not a tunnel: a request like any other
        client.sendall(UPGRADE.replace(b"/console", b"/other"))
        assert read_head(client).startswith(b"HTTP/1.1 204 ")
    seen = expect(bytes, gateway.upstream.result())
    assert b"Upgrade" not in seen


@pytest.mark.parametrize("request_", [CONNECT, UPGRADE])
def test_what_follows_a_refused_tunnel_reaches_no_upstream(gateway: Front, request_: bytes) -> None:
    def refuse(connection: socket.socket) -> bytes:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno")
        return read_to_end(connection)

    gateway.upstream.serve = refuse
    with gateway.connected() as client:
        client.sendall(request_ + b"POST /RPC2 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        assert b" 403 No\r\n" in read_head(client)
        assert read_to_end(client) == b"no"
    assert gateway.upstream.result() == b""


def test_too_many_tunnels_are_refused(gateway: Front) -> None:
    gateway.upstream.serve = echo(ACCEPTS[CONNECT])
    with gateway.connected() as one, gateway.connected() as two, gateway.connected() as three:
        for client in (one, two):
            client.sendall(CONNECT)
            read_head(client)
        three.sendall(CONNECT)
        assert read_head(three).startswith(b"HTTP/1.0 503 ")
        one.close()
        gateway.upstream.result()
        until(lambda: gateway.series("xcp_gateway_tunnels_open") == 1)
        with gateway.connected() as four:
            four.sendall(CONNECT)
            assert read_head(four).startswith(b"HTTP/1.0 200 ")


def test_a_reset_of_either_peer_is_the_others_end(gateway: Front) -> None:
    def broken(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(ACCEPTS[CONNECT])
        assert connection.recv(5) == b"hello"

    gateway.upstream.serve = broken
    with gateway.connected() as client:
        client.sendall(CONNECT)
        read_head(client)
        client.sendall(b"hello, and more that it never reads")
        assert read_to_end(client) == b""
    gateway.upstream.result()


def test_a_tunnel_lives_across_a_reload_and_ends_with_the_grace(tmp_path: Path) -> None:
    with (
        raw_server(tmp_path / "old") as upstream,
        front(tmp_path, upstream) as gateway,
        gateway.connected() as client,
    ):
        upstream.serve = echo(ACCEPTS[CONNECT])
        client.sendall(CONNECT)
        read_head(client)
        assert read_exactly(client, 12) == b"RFB 003.008\n"
        config = gateway.process.config
        config.write_text(config.read_text().replace("[upstream.old]", '[upstream.old]\nidle = "1s"'))
        gateway.process.signal(signal.SIGHUP)
        gateway.process.wait_for("reloaded")
        client.sendall(b"still here")
        assert read_exactly(client, 10) == b"still here"
        gateway.process.signal(signal.SIGTERM)
        assert read_to_end(client) == b""
        gateway.process.wait_for("stopped after 0.3 s, 1 calls cut off")
        assert gateway.process.wait() == 0


def test_bodies_and_tunnels_go_over_tls(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(make_certificate(tmp_path))
    with raw_server(tls=context) as upstream, front(tmp_path, upstream, tls="verify = false") as gateway:
        gateway.upstream.serve = echo(ACCEPTS[CONNECT])
        with gateway.connected() as client:
            client.sendall(CONNECT)
            read_head(client)
            assert read_exactly(client, 12) == b"RFB 003.008\n"
            with in_thread(threading.Thread(target=lambda: send_blocks(client, chunked=False))):
                assert digest(client, chunked=False) == DIGEST
            client.shutdown(socket.SHUT_WR)
            assert read_to_end(client) == b""
