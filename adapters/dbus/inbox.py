"""The incoming bytes of a connection: long messages are kept apart from those that the library reads.

The library reads a message as a whole, in compiled code that nothing interrupts: about 7 ms for each MiB, while every
other call waits. So the library gets the messages up to LARGE, and a longer one goes to `on_large` as bytes, once all
of it has come and the library has processed each message before it. (D-Bus specification, "Message Format")
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable
from typing import Any

from gateway.core.dbus.marshal import MAX_MESSAGE

LARGE = 128 * 1024  # bytes of a message: about 1 ms to read
HEAD = 16  # bytes up to the header fields, whose length is the last number
_LENGTHS = {ord("l"): struct.Struct("<4xI4xI").unpack_from, ord("B"): struct.Struct(">4xI4xI").unpack_from}


class Inbox:
    """Stands in for the socket of a connection: the library's reads pass through `recv`."""

    def __init__(self, sock: socket.socket) -> None:
        self.on_large: Callable[[bytearray], None] | None = None  # None: the library gets all messages
        self._sock = sock
        self._left = 0  # bytes to come of a message that the library gets
        self._head = b""  # the first bytes of a message whose length has not come yet
        self._large: bytearray | None = None  # a large message that is coming
        self._filled = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def recv(self, size: int) -> bytes:
        """Return bytes for the library. Raises BlockingIOError where there are none, b"" is the end."""
        if self._large is not None:
            return self._fill(self._large)
        data = self._sock.recv(size)
        if not data:
            return data
        if self._head:
            data, self._head = self._head + data, b""
        at, end = self._left, len(data)
        while end - at >= HEAD:
            unpack = _LENGTHS.get(data[at])
            body, fields = unpack(data, at) if unpack is not None else (0, MAX_MESSAGE)
            length = HEAD + fields + -fields % 8 + body
            if LARGE < length <= MAX_MESSAGE and self.on_large is not None:  # the library refuses what is longer
                self._large, self._filled, self._left = bytearray(length), end - at, 0
                self._large[: end - at] = data[at:]
                return _some(data[:at])
            at += length
        if at < end:
            data, self._head, at = data[:at], data[at:], end
        self._left = at - end
        return _some(data)

    def _fill(self, large: bytearray) -> bytes:
        """Read on in a large message: never beyond its end, and once in each turn of the loop."""
        received = self._sock.recv_into(memoryview(large)[self._filled :])
        if not received:
            return b""
        self._filled += received
        if self._filled == len(large):
            self._large = None
            assert self.on_large is not None, "it was there when the message began"
            self.on_large(large)
        return _some(b"")


def _some(data: bytes) -> bytes:
    if not data:
        raise BlockingIOError(errno.EAGAIN, "no bytes for the library yet")
    return data
