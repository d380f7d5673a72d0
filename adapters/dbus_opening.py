"""Opens a connection to a message bus, and lets go of one without harm. Knows no message."""

from __future__ import annotations

import array
import asyncio
import os
import socket
from typing import Any, cast

from dbus_fast.aio import MessageBus
from dbus_fast.auth import AuthAnonymous, AuthExternal

GIVE_UP_TIMEOUT = 0.5  # seconds for a connection, or an attempt at one, to see that its socket is shut

# A broker may give so many descriptors with one message, and no more than the kernel gives at a time.
_ANCILLARY = socket.CMSG_SPACE(253 * array.array("i").itemsize)


class Inbox:
    """The socket as the library reads from it: each descriptor that comes is closed at once.

    A broker keeps a reply with a descriptor back from whoever has not negotiated them, and the caller waits for ever:
    so they are negotiated. The message comes as any other, and its `h` is a number that leads nowhere.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def recv(self, size: int) -> bytes:
        """Read, as a socket does."""
        data, ancillary, _, _ = self._sock.recvmsg(size, _ANCILLARY)
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                _close_all(content)
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


def _close_all(content: bytes) -> None:
    descriptors = array.array("i")
    descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
    for descriptor in descriptors:
        os.close(descriptor)


class _External(AuthExternal):
    """The library's, which takes a bus that cannot pass descriptors on for one that refuses us."""

    def _receive_line(self, line: str) -> str:
        return "BEGIN" if self.negotiating_fds and line.startswith("ERROR") else super()._receive_line(line)


class _Bus(MessageBus):
    """The library's, with the Inbox in place of its own way to take descriptors, which costs three reads a message."""

    async def _authenticate(self) -> None:
        await super()._authenticate()
        if self._negotiate_unix_fd:
            self._negotiate_unix_fd = False
            self._sock = cast("socket.socket", Inbox(cast("socket.socket", self._sock)))


async def connect(address: str) -> MessageBus:
    """Connect and authenticate; raises whatever the library does. Nothing is left of an attempt that is cancelled."""
    over_tcp = address.startswith("tcp:")  # which carries neither credentials nor descriptors
    auth = AuthAnonymous() if over_tcp else _External()
    bus = _Bus(bus_address=address, auth=auth, negotiate_unix_fd=not over_tcp)
    connecting = asyncio.ensure_future(bus.connect())
    try:
        return await asyncio.shield(connecting)
    except asyncio.CancelledError:
        await _give_up(bus, connecting)
        raise


async def close(bus: MessageBus) -> None:
    """Close a connection, and wait until its socket is shut."""
    bus.disconnect()
    await asyncio.wait({asyncio.ensure_future(bus.wait_for_disconnect())}, timeout=GIVE_UP_TIMEOUT)  # type: ignore[no-untyped-call] # theirs


async def _give_up(bus: MessageBus, connecting: asyncio.Task[MessageBus]) -> None:
    """End an attempt to connect from below, by its socket.

    A `connect` that is cancelled may close its descriptor and still watch it; uvloop aborts the process for that.
    """
    bus.disconnect()
    _, still = await asyncio.wait({connecting}, timeout=GIVE_UP_TIMEOUT)
    if still:  # it has no socket yet
        connecting.cancel()
        await asyncio.wait({connecting})
    if not connecting.cancelled() and connecting.exception() is None:
        await close(bus)
