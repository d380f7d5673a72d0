"""Bytes out over one socket, in order: what comes within one turn of the loop leaves in one send; knows no D-Bus.

The library makes a system call for each message, and takes an error of it for the end of the connection, also when the
socket's buffer is merely full. Here a full buffer is waited for, and a broken socket is left for its reader to find.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable


class Outbox:
    """A stream whose places are counted in bytes from its start."""

    def __init__(self, sock: socket.socket) -> None:
        self.written = 0  # what the kernel has taken
        self._put = 0  # what we were given
        self._sock = sock
        self._fd = sock.fileno()
        self._loop = asyncio.get_running_loop()
        self._backlog = bytearray()
        self._holes: list[tuple[int, int]] = []  # (start, end) of what was withdrawn, in order; not in the backlog
        self._corked = False  # something has left in this turn already: gather the rest
        self._stuck = False  # waiting until the socket is writable
        self._watchers: deque[tuple[int, Callable[[], None]]] = deque()

    def put(self, data: bytes | bytearray) -> int:
        """Take one whole message; tells where it ends. It is with the kernel when `written` has come so far."""
        self._put += len(data)
        self._backlog += data
        if not self._corked:
            self._corked = True
            self._loop.call_soon(self._uncork)
            self._push()
        return self._put

    def send(self, data: memoryview) -> int:
        """What the library calls as if this were its socket; it never has to wait."""
        self.put(bytes(data))
        return len(data)

    def when_written(self, place: int, tell: Callable[[], None]) -> None:
        """Call `tell` when `written` has come to `place`; never if the socket breaks before. Places only grow."""
        self._watchers.append((place, tell))

    def withdraw(self, end: int, size: int) -> bool:
        """Take back the message of `size` bytes that ends at `end`; false when a byte of it has left already."""
        start = end - size
        if start < self.written:
            return False
        at = start - self.written - sum(until - since for since, until in self._holes if since < start)
        del self._backlog[at : at + size]
        self._holes.append((start, end))
        self._holes.sort()
        self._advance(0)
        if self._stuck and self._sock.fileno() >= 0:
            self._wait_for_room()
        return True

    def _advance(self, sent: int) -> None:
        """Count what has left, and pass over what was withdrawn."""
        self.written += sent
        while self._holes and self._holes[0][0] <= self.written:
            since, until = self._holes.pop(0)
            self.written += until - since
        while self._watchers and self._watchers[0][0] <= self.written:
            self._watchers.popleft()[1]()

    def _uncork(self) -> None:
        self._corked = False
        if self._backlog and not self._stuck:
            self._push()

    def _push(self) -> None:
        if self._sock.fileno() < 0 or (self._stuck and not self._backlog):
            return
        try:
            sent = self._sock.send(self._backlog)
        except OSError:
            sent = 0
        del self._backlog[:sent]
        self._advance(sent)
        self._wait_for_room()

    def _wait_for_room(self) -> None:
        """Be called again when the socket takes more, as long as there is more."""
        if self._stuck == bool(self._backlog):
            return
        self._stuck = not self._stuck
        if self._stuck:
            self._loop.add_writer(self._fd, self._push)
        else:
            self._loop.remove_writer(self._fd)
