"""The `unixexec:` transport, which the library lacks: a process whose stdin and stdout are the bus; knows no D-Bus.

D-Bus specification, "Executed Subprocesses on Unix". The library connects to a socket of ours in a private directory,
and the other end of that very connection is what the process gets.
"""

from __future__ import annotations

import asyncio
import socket
import tempfile
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote

PREFIX = "unixexec:"
PATIENCE = 1.0  # seconds a process gets to end after its stdin is closed

T = TypeVar("T")


def command(address: str) -> list[str]:
    """The command line in an address; raises ValueError."""
    pairs = dict(pair.partition("=")[::2] for pair in address.removeprefix(PREFIX).split(",") if pair)
    options = {key: unquote(value) for key, value in pairs.items()}
    if not options.get("path"):
        raise ValueError("a unixexec address needs path=")
    arguments: list[str] = []
    while (key := f"argv{len(arguments) + 1}") in options:
        arguments.append(options[key])
    return [options["path"], *arguments]


async def through_process(address: str, connect: Callable[[str], Awaitable[T]]) -> tuple[T, Process]:
    """Start the process, and `connect` to a unix: address that leads to it."""
    argv = command(address)
    with tempfile.TemporaryDirectory(prefix="unixexec-") as directory, _listener(directory) as listener:
        spawning = asyncio.ensure_future(_spawn(listener, argv))
        try:
            connected = await connect(f"unix:path={directory}/socket")
        except BaseException:
            await _abort(spawning)
            raise
        return connected, await spawning


def _listener(directory: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(Path(directory, "socket")))
    listener.listen(1)
    listener.settimeout(0)
    return listener


async def _spawn(listener: socket.socket, argv: list[str]) -> Process:
    other_end, _ = await asyncio.get_running_loop().sock_accept(listener)
    with other_end:
        other_end.settimeout(None)  # blocking or not belongs to the socket itself, which the process shares
        return await asyncio.create_subprocess_exec(*argv, stdin=other_end.fileno(), stdout=other_end.fileno())


async def _abort(spawning: asyncio.Future[Process]) -> None:
    """Leave no process behind; a command that cannot be started is the better reason to give."""
    if not spawning.done():
        await asyncio.wait({spawning}, timeout=PATIENCE)
    if spawning.cancel():
        await asyncio.wait({spawning})
    if not spawning.cancelled():
        await end(spawning.result())


async def end(process: Process) -> None:
    """Wait for it to end, which closing its stdin makes it do; insist after a while."""
    try:
        await asyncio.wait_for(process.wait(), PATIENCE)
    except TimeoutError:
        process.kill()
        await process.wait()
