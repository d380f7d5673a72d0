"""Addresses such as "tcp:127.0.0.1:8080", "tcp:[::1]:8080" and "unix:/run/x": bound, released, and who is behind them.

Knows sockets, and nothing that is spoken over them.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import socket
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gateway.core.model import Peer

BACKLOG = 1024  # connections that the kernel holds until they are accepted

_TCP = re.compile(r"tcp:(?:\[([^\]]+)\]|([^:\[\]]+)):(\d{1,5})", re.ASCII)
_UNIX = "unix:"
_CREDENTIALS = struct.Struct("iII")  # struct ucred of unix(7): pid, uid, gid

ProtocolFactory = Callable[[], asyncio.BaseProtocol]


@dataclass(frozen=True, slots=True)
class Bound:
    """A server that accepts on one address of the config."""

    server: asyncio.Server
    addresses: tuple[str, ...]  # with the real port where the config said 0
    socket_file: Path | None = None
    inode: int = 0

    def close(self) -> None:
        """Stop accepting, and remove our socket file unless somebody else has put another one in its place."""
        self.server.close()
        if self.socket_file is not None and _inode(self.socket_file) == self.inode:
            self.socket_file.unlink()


async def bind(address: str, factory: ProtocolFactory, socket_mode: int) -> Bound:
    """Bind and accept; raises OSError (ValueError for an address of no known form) whose text names the address."""
    try:
        if address.startswith(_UNIX):
            return await _bind_unix(Path(address.removeprefix(_UNIX)), factory, socket_mode)
        return await _bind_tcp(address, factory)
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {address}: {error.strerror or error}") from error


async def _bind_tcp(address: str, factory: ProtocolFactory) -> Bound:
    match = _TCP.fullmatch(address)
    if match is None:
        raise ValueError(f"expected tcp:HOST:PORT, tcp:[IPV6]:PORT or unix:/PATH, got {address!r}")
    loop = asyncio.get_running_loop()
    server = await loop.create_server(factory, match[1] or match[2], int(match[3]), backlog=BACKLOG)
    return Bound(server, tuple(_tcp(listening.getsockname()) for listening in server.sockets))


async def _bind_unix(path: Path, factory: ProtocolFactory, socket_mode: int) -> Bound:
    listening = _unix_socket(path, socket_mode)
    inode = _inode(path)
    server = await asyncio.get_running_loop().create_unix_server(factory, sock=listening, backlog=BACKLOG)
    return Bound(server, (f"{_UNIX}{path}",), path, inode)


def _unix_socket(path: Path, mode: int) -> socket.socket:
    _remove_stale(path)
    listening = socket.socket(socket.AF_UNIX)
    try:
        listening.bind(str(path))
        path.chmod(mode)  # before listen(), so that nobody connects under the mode the umask left
    except BaseException:
        listening.close()
        raise
    return listening


def _remove_stale(path: Path) -> None:
    """Remove a socket file that nobody answers on; raises OSError when something else is there."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(errno.EEXIST, "the file exists and is no socket")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(0)  # a server whose backlog is full is alive too
        if probe.connect_ex(str(path)) != errno.ECONNREFUSED:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    path.unlink()


def _inode(path: Path) -> int:
    try:
        return path.lstat().st_ino
    except FileNotFoundError:
        return 0


def peer_of(transport: asyncio.BaseTransport) -> Peer:
    """Who is at the other end; a Unix socket also tells uid, gid and pid (SO_PEERCRED, unix(7))."""
    connection = transport.get_extra_info("socket")
    if connection.family != socket.AF_UNIX:
        return Peer(address=_tcp(transport.get_extra_info("peername") or ("unknown", 0)))
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(credentials)
    return Peer(address=f"{_UNIX}{transport.get_extra_info('sockname')}", uid=uid, gid=gid, pid=pid)


def _tcp(name: tuple[str, int] | tuple[str, int, int, int]) -> str:
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"tcp:{host}:{name[1]}"
