"""Addresses such as "tcp:[::1]:8080", "unix:/run/x" and "systemd:rpc": binding, releasing, peers of connections."""

from __future__ import annotations

import asyncio
import enum
import errno
import os
import re
import select
import socket
import stat
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from msgspec import Struct, field

from gateway.core.rpc import model
from gateway.core.rpc.model import Peer

BACKLOG = 1024  # connections that the kernel holds until they are accepted
_ATTEMPTS = 5  # to share a port; another program may take the one that the kernel has chosen

_TCP = re.compile(r"tcp:(?:\[([^\]]+)\]|([^:\[\]]+)):(\d{1,5})", re.ASCII)
_UNIX = "unix:"
_SYSTEMD = "systemd:"
_FAMILIES = frozenset({socket.AF_INET, socket.AF_INET6, socket.AF_UNIX})
FIRST_INHERITED = 3  # SD_LISTEN_FDS_START
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")

# The loss of a peer's host, or a close during a call, is noticed after some two minutes (tcp(7)).
_ALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
)

ProtocolFactory = Callable[[], asyncio.BaseProtocol]

# From Python 3.13 on, asyncio removes a socket's file, even one that it did not make.
_KEEP_FILE: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}


class InheritedSockets:
    """The sockets that this process was given, by systemd (sd_listen_fds_with_names(3)) or by its supervisor.

    A name may have several sockets, and is taken once. `listening`: they listen already, as those of systemd do.
    """

    def __init__(self, descriptors: Mapping[str, Sequence[int]], *, listening: bool = True) -> None:
        self._descriptors = dict(descriptors)
        self._listening = listening

    @property
    def names(self) -> tuple[str, ...]:
        """The names that no listener has taken."""
        return tuple(self._descriptors)

    def take(self, name: str) -> list[socket.socket]:
        """The sockets of that name; raises OSError that lists the names there are."""
        if name not in self._descriptors:
            there = ", ".join(map(repr, self._descriptors)) or "none"
            raise OSError(f"systemd passed no socket named {name!r}; left to take: {there}")
        return [_adopt(descriptor, name, listening=self._listening) for descriptor in self._descriptors.pop(name)]


def inherited(environment: MutableMapping[str, str] = os.environ) -> InheritedSockets:
    """Take the sockets of systemd for this process, and remove its variables; raises OSError for invalid ones."""
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return InheritedSockets({})
    passed = {name: environment.pop(name) for name in _VARIABLES if name in environment}
    count = passed.get("LISTEN_FDS", "")
    if not (count.isascii() and count.isdigit()):
        raise OSError(f"LISTEN_FDS: expected a number, got {count!r}")
    names = passed["LISTEN_FDNAMES"].split(":") if "LISTEN_FDNAMES" in passed else ["unknown"] * int(count)
    if len(names) != int(count):
        raise OSError(f"LISTEN_FDNAMES: expected {count} names, got {len(names)}")
    descriptors: dict[str, list[int]] = {}
    for descriptor, name in enumerate(names, FIRST_INHERITED):
        os.set_inheritable(descriptor, False)  # noqa: FBT003 - positional only
        descriptors.setdefault(name, []).append(descriptor)
    return InheritedSockets(descriptors)


def _adopt(descriptor: int, name: str, *, listening: bool) -> socket.socket:
    """A descriptor as a socket; raises OSError when it is not a stream socket, or does not listen as it should."""
    adopted = socket.socket(fileno=descriptor)
    listens = adopted.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) or not listening
    if adopted.type != socket.SOCK_STREAM or adopted.family not in _FAMILIES or not listens:
        adopted.close()
        raise OSError(f"the socket named {name!r} is not a listening stream socket (ListenStream=, Accept=no)")
    return adopted


class Bound(Struct):
    """A bound address of the config; connections wait until `accept`."""

    written: str  # as the config has it
    sockets: Sequence[socket.socket]
    socket_file: Path | None = None  # that `bind` has made
    inode: int = 0
    _servers: list[asyncio.Server] = field(default_factory=list)

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses for clients: with the real port where the config says 0, and those of systemd's sockets."""
        names = [(each.family, each.getsockname()) for each in self.sockets]
        return tuple([(_unix if family == socket.AF_UNIX else _tcp)(name) for family, name in names])

    async def accept(self, factory: ProtocolFactory) -> None:
        """Listen and accept; raises OSError naming the address."""
        loop = asyncio.get_running_loop()
        with _naming(self.written):
            for listening in self.sockets:
                listening.listen(BACKLOG)  # uvloop aborts the process when this fails there
                if listening.family == socket.AF_UNIX:
                    made = await loop.create_unix_server(factory, sock=listening, backlog=BACKLOG, **_KEEP_FILE)
                else:
                    made = await loop.create_server(factory, sock=listening, backlog=BACKLOG)
                self._servers.append(made)

    def close(self) -> None:
        """Stop accepting, and remove the socket file unless it was replaced by another."""
        for server in self._servers:
            server.close()
        for unserved in self.sockets[len(self._servers) :]:
            unserved.close()
        if self.socket_file is not None and _inode(self.socket_file) == self.inode:
            with suppress(PermissionError):  # after root is given up; the next start removes it
                self.socket_file.unlink()

    async def closed(self) -> None:
        """Wait until the accepted connections are closed."""
        for server in self._servers:
            await server.wait_closed()


async def bind(address: str, socket_mode: int, inherited: InheritedSockets) -> Bound:
    """Bind; raises OSError (ValueError for an address of no known form) whose text names the address."""
    with _naming(address):
        if address.startswith(_UNIX):
            path = Path(address.removeprefix(_UNIX))
            return Bound(address, [_unix_socket(path, socket_mode)], path, _inode(path))
        if address.startswith(_SYSTEMD):
            return Bound(address, inherited.take(address.removeprefix(_SYSTEMD)))
        return Bound(address, await _tcp_sockets(address))


async def bind_shared(address: str, socket_mode: int, inherited: InheritedSockets, processes: int) -> list[Bound]:
    """Bind an address for several processes; raises as `bind` does.

    Over TCP each process has sockets of its own, among which the kernel spreads connections (SO_REUSEPORT). A Unix
    socket and one of systemd is one for all: the list has one item.
    """
    if address.startswith((_UNIX, _SYSTEMD)):
        shared = await bind(address, socket_mode, inherited)
        for each in shared.sockets:
            each.listen(BACKLOG)  # connections wait while no process accepts them
        return [shared]
    with _naming(address):
        for attempt in range(_ATTEMPTS):
            found = await _tcp_sockets(address)  # without sharing: refused where another program listens
            names = [(each.family, each.getsockname()) for each in found]
            for each in found:
                each.close()
            try:
                return _tcp_shared(address, names, processes)
            except OSError as error:
                if error.errno != errno.EADDRINUSE or attempt == _ATTEMPTS - 1:
                    raise
    raise AssertionError("the last attempt returns or raises")


def _tcp_shared(address: str, names: Sequence[tuple[int, Any]], processes: int) -> list[Bound]:
    with ExitStack() as unless_all:
        bound = []
        for _ in range(processes):
            own = [unless_all.enter_context(_tcp_socket(family, name, shared=True)) for family, name in names]
            bound.append(Bound(address, own))
        unless_all.pop_all()
    return bound


@contextmanager
def _naming(address: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        cure = ": another program listens there; end it, or change `bind`" if error.errno == errno.EADDRINUSE else ""
        text = f"cannot listen on {address}: {error.strerror or error}{cure}"
        raise (OSError(text) if error.errno is None else OSError(error.errno, text)) from error


async def _tcp_sockets(address: str) -> list[socket.socket]:
    """Bind a socket for each address of the host."""
    match = _TCP.fullmatch(address)
    if match is None:
        raise ValueError(f"expected tcp:HOST:PORT, tcp:[IPV6]:PORT, unix:/PATH or systemd:NAME, got {address!r}")
    host, port = match[1] or match[2], int(match[3])
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    names = dict.fromkeys((family, name) for family, _, _, _, name in found)
    with ExitStack() as unless_all:
        sockets = [unless_all.enter_context(_tcp_socket(*one)) for one in names]
        unless_all.pop_all()
    return sockets


def _tcp_socket(family: int, name: tuple[Any, ...], *, shared: bool = False) -> socket.socket:
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        for level, option, number in _ALIVE:  # accepted sockets inherit them
            listening.setsockopt(level, option, number)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind(name)
    except BaseException:
        listening.close()
        raise
    return listening


def _unix_socket(path: Path, mode: int) -> socket.socket:
    _remove_stale(path)
    listening = socket.socket(socket.AF_UNIX)
    try:
        listening.bind(str(path))
        path.chmod(mode)  # before listen(), so that no client connects while the mode is that of the umask
    except BaseException:
        listening.close()
        raise
    return listening


def _remove_stale(path: Path) -> None:
    """Remove a socket file on which no process listens; raises OSError when something else is there."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(errno.EEXIST, "the file exists and is not a socket")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(0)  # a process whose backlog is full listens too
        if probe.connect_ex(str(path)) != errno.ECONNREFUSED:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    path.unlink()


def _inode(path: Path) -> int:
    try:
        return path.lstat().st_ino
    except FileNotFoundError:
        return 0


def peer_of(transport: asyncio.BaseTransport) -> Peer:
    """The peer of a connection; over a Unix socket with uid, gid and pid (SO_PEERCRED, unix(7))."""
    connection = transport.get_extra_info("socket")
    if connection.family != socket.AF_UNIX:
        return Peer(address=_tcp(transport.get_extra_info("peername") or ("unknown", 0)))
    told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, model.CREDENTIALS_SIZE)
    pid, uid, gid = model.credentials(told)
    return Peer(address=_unix(transport.get_extra_info("sockname")), uid=uid, gid=gid, pid=pid)


class Ending(enum.Enum):
    """How much of a connection its peer has closed."""

    NOTHING = 0
    ITS_SIDE = 1  # its direction; it may still read
    ALL = 2  # closed or reset


def ending(transport: asyncio.BaseTransport) -> Ending:
    """How much the peer has closed. Over TCP a close looks like ITS_SIDE until something is sent to it."""
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), select.POLLRDHUP)
    events = poll.poll(0)
    if not events:
        return Ending.NOTHING
    return Ending.ALL if events[0][1] & (select.POLLHUP | select.POLLERR) else Ending.ITS_SIDE


def _unix(name: str | bytes) -> str:
    if isinstance(name, bytes):  # an abstract one: no file
        name = "@" + name[1:].decode(errors="backslashreplace")
    return f"{_UNIX}{name}"


def _tcp(name: tuple[str, int] | tuple[str, int, int, int]) -> str:
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"tcp:{host}:{name[1]}"
