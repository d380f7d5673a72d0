"""The operator's API: JSON over HTTP on a Unix socket, for whom the config lets in. Knows not how things are done."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from importlib.resources import files
from itertools import chain
from pathlib import Path as FilePath

from aiohttp import web

from gateway.admin import handlers, peer_credentials, traffic
from gateway.admin.connection_limits import BACKLOG, ConnectionLimits
from gateway.admin.handlers import CallBody, Operations
from gateway.admin.http import ApiPath, SocketServer, plain_errors
from gateway.admin.monitoring import add_paths
from gateway.admin.service import AdminService
from gateway.admin.traffic import Traffic
from gateway.core.admin.access import AccessRules, Caller, Right

__all__ = ["AdminServer", "CallBody", "Operations", "openapi", "paths"]


class AdminServer(SocketServer):
    """Serves on a Unix socket. Only its owner (and root) can open it, and its group once the config names others.

    Whoever can open it is held against the lists of the config for each request. `group`: in place of the owner's.
    """

    def __init__(
        self,
        path: FilePath,
        operations: Operations,
        steering: AdminService,
        clients: Traffic,
        rights: AccessRules,
        group: int | None = None,
        limits: ConnectionLimits | None = None,
    ) -> None:
        super().__init__("control", _application(paths(operations, steering, clients), operations, rights), limits)
        self._path = path
        self._group = group
        self._mode = 0o660 if rights.shared or group is not None else 0o600
        self.made: tuple[FilePath, ...] = ()  # files and folders that are there because of us
        self._inode: tuple[int, int] | None = None  # of our socket file

    def bind(self) -> None:
        """Take the address; who connects before `start` waits.

        Raises OSError that names the socket when it is taken.
        """
        folders = [folder for folder in self._path.parents if not folder.exists()]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(self._path)
        self._socket = socket.socket(socket.AF_UNIX)
        before = os.umask(0o177)
        try:
            self._socket.bind(str(self._path))
            self._socket.listen(BACKLOG)  # at once: a socket that refuses connections passes for one left behind
            self._inode = _inode(self._path)
            if self._group is not None:
                os.chown(self._path, -1, self._group, follow_symlinks=False)
            self._path.chmod(self._mode)
        except OSError as error:
            self._socket.close()
            self._socket = None
            self._unlink()
            raise OSError(error.errno, f"cannot listen on {self._path}: {error.strerror or error}") from error
        finally:
            os.umask(before)
        self.made = (*folders, self._path)

    async def stop(self) -> None:
        """Close and remove the socket."""
        await super().stop()
        self._unlink()

    def _unlink(self) -> None:
        """Remove the socket file while it is ours."""
        if self._inode is not None and self._inode == _inode(self._path):
            self._path.unlink(missing_ok=True)
        self._inode = None


def _inode(path: FilePath) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _remove_stale(path: FilePath) -> None:
    """Remove a socket file on which nobody listens; a full queue is a sign of somebody who does. Never waits."""
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
        except OSError as error:
            raise OSError(error.errno, f"cannot tell whether {path} is in use: {error.strerror or error}") from error
    raise OSError(f"{path}: another gateway answers on this admin socket")


def paths(operations: Operations, steering: AdminService, clients: Traffic) -> list[ApiPath]:
    """Every path of the API but those that machines ask (monitoring)."""

    async def document(_request: web.Request, _who: Caller) -> web.Response:
        return web.Response(body=openapi(), content_type="application/json")

    described = ApiPath("GET", "/v1/openapi.json", Right.READ, document)
    groups = (
        handlers.running_paths(operations, steering),
        handlers.migration_paths(steering),
        handlers.promotion_paths(steering.promoting),
        handlers.rollout_paths(steering.rollouts),
        traffic.paths(clients),
    )
    return [*chain.from_iterable(groups), described]


def openapi() -> bytes:
    """The API as an OpenAPI 3.1 document."""
    return files("gateway.admin").joinpath("openapi.json").read_bytes()


def _application(served: Sequence[ApiPath], operations: Operations, rights: AccessRules) -> web.Application:
    application = web.Application(middlewares=[plain_errors])
    add_paths(application, operations)
    for path in served:
        application.router.add_route(path.verb, path.path, _guarded(path, rights))
    return application


def _guarded(path: ApiPath, rights: AccessRules) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """The handler for those who have the right."""

    async def handle(request: web.Request) -> web.StreamResponse:
        return await path.handle(request, peer_credentials.check(request, rights, path.right))

    return handle
