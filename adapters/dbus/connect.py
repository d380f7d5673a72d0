"""Connect to a message bus and close a connection; adds what the library lacks.

- The `unixexec:` transport (D-Bus specification, "Executed Subprocesses on Unix"): the library connects to a socket in
  a private directory, and the process gets the other end of that connection as stdin and stdout.
- File descriptors: they are negotiated, since a broker otherwise holds a reply with a descriptor back for ever. No
  read takes them, so the kernel closes them.
- Cancellation: an attempt to connect that is cancelled leaves no socket behind.
- The end of a broker that had not read everything: its socket has an error then, and uvloop calls the reader once more
  and never again. The library stops after one message, so it would wait for ever for what comes behind it.
"""

from __future__ import annotations

import asyncio
import socket
import tempfile
from asyncio.subprocess import Process
from pathlib import Path
from typing import cast
from urllib.parse import unquote

from dbus_fast.aio import MessageBus
from dbus_fast.auth import AuthAnonymous, AuthExternal

from adapters.dbus.messages import Inbox

PREFIX = "unixexec:"
EXIT_TIMEOUT = 1.0  # seconds a process gets to end after its stdin is closed


def command(address: str) -> list[str]:
    """Return the command line of a unixexec: address; raises ValueError."""
    pairs = dict(pair.partition("=")[::2] for pair in address.removeprefix(PREFIX).split(",") if pair)
    options = {key: unquote(value) for key, value in pairs.items()}
    if not options.get("path"):
        raise ValueError("a unixexec address needs path=")
    arguments: list[str] = []
    while (key := f"argv{len(arguments) + 1}") in options:
        arguments.append(options[key])
    return [options["path"], *arguments]


async def through_process(address: str) -> tuple[Bus, Process]:
    """Start the process, and connect to a unix: address that leads to it. Returns the connection and the process."""
    argv = command(address)
    with (
        tempfile.TemporaryDirectory(prefix="unixexec-") as directory,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener,
    ):
        listener.bind(str(Path(directory, "socket")))
        listener.listen(1)
        listener.settimeout(0)
        spawning = asyncio.ensure_future(_spawn(listener, argv))
        try:
            connected = await connect(f"unix:path={directory}/socket")
        except BaseException:  # end the process; an error of starting it takes precedence as the reason
            if not spawning.done():
                await asyncio.wait({spawning}, timeout=EXIT_TIMEOUT)
            if spawning.cancel():
                await asyncio.wait({spawning})
            if not spawning.cancelled():
                await end(spawning.result())
            raise
        return connected, await spawning


async def _spawn(listener: socket.socket, argv: list[str]) -> Process:
    other_end, _ = await asyncio.get_running_loop().sock_accept(listener)
    with other_end:
        other_end.settimeout(None)  # blocking or not belongs to the socket itself, which the process shares
        return await asyncio.create_subprocess_exec(*argv, stdin=other_end.fileno(), stdout=other_end.fileno())


async def end(process: Process) -> None:
    """Wait for a process to end after its stdin was closed; kill it after EXIT_TIMEOUT."""
    try:
        await asyncio.wait_for(process.wait(), EXIT_TIMEOUT)
    except TimeoutError:
        process.kill()
        await process.wait()


END_READ_WITHIN = 0.1  # seconds from an error of the socket to the end of what the broker had sent before
GIVE_UP_TIMEOUT = 0.5  # seconds for a connection to notice that its socket is closed


class _External(AuthExternal):
    """The library takes an ERROR in the negotiation of descriptors for a refusal; this class goes on without them."""

    def _receive_line(self, line: str) -> str:
        return "BEGIN" if self.negotiating_fds and line.startswith("ERROR") else super()._receive_line(line)


class Bus(MessageBus):
    """The library's connection, read without room for descriptors: with it, the library makes three reads a message.

    The kernel closes descriptors for which a read has no room (unix(7), "SCM_RIGHTS"). The message itself is
    delivered; its `h` values are indices without a descriptor.
    """

    async def _authenticate(self) -> None:
        await super()._authenticate()
        self._negotiate_unix_fd = False
        assert self._sock is not None, "it is connected"
        self.inbox = Inbox(self._sock, self.end_soon)
        self._sock = cast("socket.socket", self.inbox)

    def end_soon(self, error: Exception) -> None:
        """End the connection with this error of its socket, unless its end is read before."""
        self._loop.call_later(END_READ_WITHIN, self.end, error)

    def end(self, error: Exception) -> None:
        """End the connection with this error; does nothing where it has ended."""
        if not self._disconnected:  # else its descriptor may be another connection's
            self._finalize(error)


async def connect(address: str) -> Bus:
    """Connect and authenticate; raises the library's exceptions. A cancelled attempt leaves nothing behind."""
    over_tcp = address.startswith("tcp:")  # TCP carries neither credentials nor descriptors
    auth = AuthAnonymous() if over_tcp else _External()
    bus = Bus(bus_address=address, auth=auth, negotiate_unix_fd=not over_tcp)
    connecting = asyncio.ensure_future(bus.connect())
    try:
        await asyncio.shield(connecting)
    except asyncio.CancelledError:
        # Cancelling it can close a descriptor that the loop still watches, for which uvloop aborts the process.
        bus.disconnect()
        _, still = await asyncio.wait({connecting}, timeout=GIVE_UP_TIMEOUT)
        if still:  # it has no socket yet
            connecting.cancel()
            await asyncio.wait({connecting})
        if not connecting.cancelled() and connecting.exception() is None:
            await close(bus)
        raise
    return bus


async def close(bus: MessageBus) -> None:
    """Close a connection and wait until its socket is closed."""
    bus.disconnect()
    await asyncio.wait({asyncio.ensure_future(bus.wait_for_disconnect())}, timeout=GIVE_UP_TIMEOUT)  # type: ignore[no-untyped-call] # theirs
