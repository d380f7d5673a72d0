"""A legacy server in a thread that answers whatever it is told to, and a client that reads answers byte by byte.

For tests that hold what went through the gateway against what goes without it. Knows no protocol above HTTP.
"""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

PATIENCE = 60.0

# What belongs to one connection, and so is never the same on two of them.
OF_THE_CONNECTION = frozenset({b"connection", b"keep-alive", b"transfer-encoding"})


@dataclass(frozen=True)
class Message:
    """A request or an answer. `start`: a request's verb and target, an answer's status and reason."""

    start: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    def carried(self, *others: bytes) -> Message:
        """What arrives at the far end: without what belongs to the connection, and without `others`."""
        left_out = OF_THE_CONNECTION | set(others)
        kept = tuple((name, value) for name, value in self.headers if name.lower() not in left_out)
        return Message(self.start, kept, self.body)


@dataclass
class Tap:
    """The server: gives `answer` to every request, and ends the connection after it when `ends`."""

    answer: bytes = b""
    ends: bool = False
    port: int = 0
    seen: list[Message] = field(default_factory=list)


@contextmanager
def wiretap() -> Iterator[Tap]:
    """Run one until the block ends."""
    tap = Tap()

    class Handler(socketserver.StreamRequestHandler):
        timeout = PATIENCE

        def handle(self) -> None:
            reader = Reader(self.connection)
            while (request := reader.request()) is not None:
                tap.seen.append(request)
                self.connection.sendall(tap.answer)
                if tap.ends:
                    return

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = False
        allow_reuse_address = True
        request_queue_size = 64

    with Server(("127.0.0.1", 0), Handler) as server:
        tap.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield tap
        finally:
            server.shutdown()
            thread.join(PATIENCE)


class Reader:
    """One connection, read message by message."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._held = b""

    def request(self) -> Message | None:
        """The next request; None at the end."""
        head = self._head()
        if head is None:
            return None
        start, headers = head
        verb, target, _ = start.split(b" ")
        if _value(headers, b"transfer-encoding") == b"chunked":
            return Message(verb + b" " + target, headers, self._chunks())
        length = int(_value(headers, b"content-length") or 0)
        return Message(verb + b" " + target, headers, self._exactly(length))

    def answer(self, *, bodiless: bool = False) -> Message:
        """The next answer, put together where it comes in chunks."""
        head = self._head()
        assert head is not None, "no answer"
        start, headers = head
        _, status, reason = (*start.split(b" ", 2), b"")[:3]
        message = status + b" " + reason
        if bodiless or status in (b"204", b"304"):
            return Message(message, headers, b"")
        if _value(headers, b"transfer-encoding") == b"chunked":
            return Message(message, headers, self._chunks())
        length = _value(headers, b"content-length")
        body = self._rest() if length is None else self._exactly(int(length))
        return Message(message, headers, body)

    def at_end(self) -> bool:
        """Whether the other side closes, and says nothing more."""
        return not self._held and not self._connection.recv(1)

    def _head(self) -> tuple[bytes, tuple[tuple[bytes, bytes], ...]] | None:
        while b"\r\n\r\n" not in self._held:
            if not self._more():
                assert not self._held, self._held
                return None
        head, _, self._held = self._held.partition(b"\r\n\r\n")
        start, *lines = head.split(b"\r\n")
        return start, tuple((name, value.strip(b" \t")) for name, _, value in (line.partition(b":") for line in lines))

    def _chunks(self) -> bytes:
        parts = []
        while size := int(self._line(), 16):
            parts.append(self._exactly(size))
            self._line()
        self._line()
        return b"".join(parts)

    def _line(self) -> bytes:
        while b"\r\n" not in self._held:
            assert self._more(), "the connection ended"
        line, _, self._held = self._held.partition(b"\r\n")
        return line

    def _exactly(self, size: int) -> bytes:
        while len(self._held) < size:
            assert self._more(), "the connection ended"
        found, self._held = self._held[:size], self._held[size:]
        return found

    def _rest(self) -> bytes:
        while self._more():
            pass
        found, self._held = self._held, b""
        return found

    def _more(self) -> bool:
        try:
            data = self._connection.recv(65536)
        except ConnectionError:
            data = b""
        self._held += data
        return bool(data)


def _value(headers: tuple[tuple[bytes, bytes], ...], wanted: bytes) -> bytes | None:
    return next((value for name, value in headers if name.lower() == wanted), None)


@contextmanager
def dialled(port: int) -> Iterator[tuple[socket.socket, Reader]]:
    """A connection to a port of this host."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        yield connection, Reader(connection)
