"""An upstream made of one function for each connection, in threads of its own: it reads and writes as the test says."""

from __future__ import annotations

import queue
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.kit.programs import TIMEOUT

MARK = b"\0"  # the first byte of a connection that `_catch_up` makes

Serve = Callable[[socket.socket], object]


class RawServer:
    """What it does with the next connections (`serve`), and what came of those (`results`, errors too)."""

    def __init__(self, url: str, catch_up: Callable[[], object]) -> None:
        self.url = url
        self._catch_up = catch_up
        self._serve: Serve = lambda connection: None
        self.results: queue.Queue[object] = queue.Queue()

    @property
    def serve(self) -> Serve:
        return self._serve

    @serve.setter
    def serve(self, serve: Serve) -> None:
        self._catch_up()  # a connection of before, which was not accepted yet, must not meet this function
        self._serve = serve
        self.results = queue.Queue()

    def result(self) -> object:
        """What the oldest connection that has ended came to."""
        return self.results.get(timeout=TIMEOUT)


@contextmanager
def raw_server(path: Path | None = None, tls: ssl.SSLContext | None = None) -> Iterator[RawServer]:
    """Run one on a Unix socket, or on a TCP port of its own."""
    listening = (
        socket.create_server(str(path), family=socket.AF_UNIX) if path else socket.create_server(("127.0.0.1", 0))
    )
    scheme = "https" if tls else "http"
    url = f"http+unix://{path}" if path else f"{scheme}://127.0.0.1:{listening.getsockname()[1]}"
    caught_up: queue.Queue[None] = queue.Queue()
    server = RawServer(url, partial(_catch_up, listening, caught_up))
    threads: list[threading.Thread] = []
    open_now: set[socket.socket] = set()

    def one(plain: socket.socket, serve: Serve, results: queue.Queue[object]) -> None:
        try:
            plain.settimeout(TIMEOUT)
            if not _is_for_test(plain, caught_up):
                plain.close()
                return
            with tls.wrap_socket(plain, server_side=True) if tls else plain as connection:
                open_now.add(connection)
                results.put(serve(connection))
                open_now.discard(connection)
        except (OSError, AssertionError, ValueError) as error:
            results.put(error)

    def accept() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=one, args=(connection, server.serve, server.results)))
            threads[-1].start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield server
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        accepting.join(TIMEOUT)
        for connection in tuple(open_now):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        for thread in threads:
            thread.join(TIMEOUT)


def _catch_up(listening: socket.socket, caught_up: queue.Queue[None]) -> None:
    """Wait until every connection that was made before is accepted."""
    with socket.socket(listening.family) as plug:
        plug.connect(listening.getsockname())
        plug.sendall(MARK)
        caught_up.get(timeout=TIMEOUT)


def _is_for_test(plain: socket.socket, caught_up: queue.Queue[None]) -> bool:
    """Whether it is not a probe of the gateway, which only connects, and not of `_catch_up`."""
    first = plain.recv(1, socket.MSG_PEEK)
    if first == MARK:
        caught_up.put(None)
    return first not in (b"", MARK)


def make_certificate(folder: Path) -> Path:
    """Make a key and a self-signed certificate of 127.0.0.1, in one file."""
    path = folder / "both.pem"
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    files = ("-keyout", str(path), "-out", str(path), "-subj", "/CN=old", "-addext", "subjectAltName=IP:127.0.0.1")
    subprocess.run(("openssl", "req", "-x509", *curve, *files), check=True, capture_output=True)
    return path


def read_head(connection: socket.socket) -> bytes:
    """The head of a message, read byte by byte so that nothing behind it is taken."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        if not byte:
            break
        head += byte
    return head


def read_exactly(connection: socket.socket, size: int) -> bytes:
    """So many bytes; fewer when the connection ends before."""
    parts = []
    while size and (part := connection.recv(min(size, 65536))):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def read_to_end(connection: socket.socket) -> bytes:
    """All bytes to the end of the peer's side; a reset ends it too."""
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionError:
        pass
    return b"".join(parts)
