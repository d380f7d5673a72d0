"""The sockets of the operator's side: the file of the admin socket, and ports for monitoring and for the web page.

`bind` takes the address before root is given up; `start` accepts connections once the gateway is ready. Their HTTP
server is aiohttp, which needs 12 MB and 0.1 s of imports, and is asked rarely: it is imported when the first connection
comes, in a thread, and the connections wait for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.admin.connection_limits import BACKLOG, ConnectionLimiter, ConnectionLimits, LimitedConnection
from gateway.core.logger import Logger

if TYPE_CHECKING:  # imported with the first connection
    from aiohttp import web

MAX_PORT = 65535

_log = Logger("admin")


class SocketServer:
    """A server. `bound` binds its socket, and raises OSError that names the address.

    `make` imports and makes what answers, in any thread.
    """

    def __init__(
        self,
        name: str,
        bound: Callable[[], socket.socket],
        make: Callable[[], web.Application],
        limits: ConnectionLimits | None = None,
    ) -> None:
        self.limiter = ConnectionLimiter(name, limits)
        self._bound = bound
        self._make = make
        self._socket: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._runner: web.AppRunner | None = None
        self._waiting: list[LimitedConnection] = []  # for the runner
        self._starting: asyncio.Task[None] | None = None  # the runner

    def bind(self) -> None:
        """Bind the address; connections wait until `start`. Raises OSError that names it."""
        self._socket = self._bound()

    def adopt(self, bound: socket.socket) -> None:
        """Use a socket that another process has bound, and whose file it removes."""
        self._socket = bound

    def prepare(self) -> None:
        """Import and make what answers now: a process that gives up root may be unable to read it later."""
        if self._runner is None:
            from gateway.admin.http import runner

            self._runner = runner(self._make(), self.limiter)

    async def start(self) -> None:
        """Accept connections; bind first if that is not done."""
        if self._socket is None:
            self.bind()
        assert self._socket is not None

        def connection() -> LimitedConnection:
            return LimitedConnection(self.limiter, self._serve)

        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(connection, sock=self._socket, backlog=BACKLOG)

    async def stop(self) -> None:
        """Close all connections and the socket."""
        if self._server is not None:
            self._server.close()
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait([self._starting])
        self._drop_waiting()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _serve(self, connection: LimitedConnection) -> None:
        """Pass a new connection on, or have it wait for what answers it."""
        if self._runner is not None and self._runner.server is not None:
            connection.pass_on(self._runner.server())
            return
        self._waiting.append(connection)
        if self._starting is None:
            self._starting = asyncio.get_running_loop().create_task(self._start_runner())  # `stop` waits for it

    async def _start_runner(self) -> None:
        try:
            await asyncio.to_thread(self.prepare)
            assert self._runner is not None
            await self._runner.setup()
            assert self._runner.server is not None
            while self._waiting:
                self._waiting.pop(0).pass_on(self._runner.server())
        except Exception:  # noqa: BLE001 - the modules cannot be read, for example; the next connection tries again
            _log.exception("no request can be answered", socket=self.limiter.name)
            self._drop_waiting()
        finally:
            self._starting = None

    def _drop_waiting(self) -> None:
        while self._waiting:
            self._waiting.pop().transport.abort()


class TcpServer(SocketServer):
    """A server on "tcp:HOST:PORT"."""

    def __init__(self, name: str, address: str, make: Callable[[], web.Application]) -> None:
        super().__init__(name, partial(listening_at, address), make)
        self._address = address

    @property
    def address(self) -> str:
        """The address, with the real port if the config has port 0."""
        if self._socket is None:
            return self._address
        host, port = self._socket.getsockname()[:2]
        return f"tcp:[{host}]:{port}" if ":" in host else f"tcp:{host}:{port}"


def listening_at(address: str) -> socket.socket:
    """A socket that listens on "tcp:HOST:PORT"; raises OSError that names the address."""
    host, _, port = address.removeprefix("tcp:").rpartition(":")
    try:
        if int(port) > MAX_PORT:  # the standard library raises, and leaves a socket open
            raise OSError(f"port {port}: expected at most {MAX_PORT}")  # noqa: TRY301
        family = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host.strip("[]"), int(port)), family=family)
    except OSError as error:
        raise OSError(f"cannot listen on {address}: {error.strerror or error}") from error


class AdminSocket:
    """The file of the admin socket. `shared`: its group may open it; `group`: another group than the owner's."""

    def __init__(self, path: Path, group: int | None = None, *, shared: bool = False) -> None:
        self.path = path
        self.made: tuple[Path, ...] = ()  # files and folders that `bind` has created
        self._group = group
        self._mode = 0o660 if shared or group is not None else 0o600
        self._inode: tuple[int, int] | None = None  # of our socket file

    def bind(self) -> socket.socket:
        """Bind the socket; raises OSError that names it and says what to do."""
        try:
            return self._bind()
        except OSError as error:
            denied = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
            cure = (
                "; in [admin] set `socket` to a path where this user may create files, or run as root" if denied else ""
            )
            text = f"cannot listen on the admin socket {self.path}: {error.strerror or error}{cure}"
            raise OSError(error.errno or errno.EINVAL, text) from error

    def _bind(self) -> socket.socket:
        folders = [folder for folder in self.path.parents if not folder.exists()]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(self.path)
        bound = socket.socket(socket.AF_UNIX)
        before = os.umask(0o177)
        try:
            bound.bind(str(self.path))
            bound.listen(BACKLOG)  # at once: a socket that refuses connections looks stale
            self._inode = _inode(self.path)
            if self._group is not None:
                os.chown(self.path, -1, self._group, follow_symlinks=False)
            self.path.chmod(self._mode)
        except BaseException:
            bound.close()
            self.unlink()
            raise
        finally:
            os.umask(before)
        self.made = (*folders, self.path)
        return bound

    def unlink(self) -> None:
        """Remove the socket file if `bind` created it."""
        if self._inode is not None and self._inode == _inode(self.path):
            self.path.unlink(missing_ok=True)
        self._inode = None


class AdminServer(SocketServer):
    """A server on the admin socket. Only its owner and root can open it, and its group once the config names others."""

    def __init__(self, file: AdminSocket, make: Callable[[], web.Application]) -> None:
        super().__init__("admin", file.bind, make)
        self._file = file

    @property
    def made(self) -> tuple[Path, ...]:
        """Files and folders that this server created."""
        return self._file.made

    async def stop(self) -> None:
        """Close the socket and remove its file."""
        await super().stop()
        self._file.unlink()


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _remove_stale(path: Path) -> None:
    """Remove a socket file without a listener. A full queue means that there is one. Never waits."""
    if not path.is_socket():
        return
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
        probe.settimeout(0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:
            pass
    text = "another gateway answers there; end it, or in [admin] set `socket` to another path"
    raise OSError(errno.EADDRINUSE, text)
