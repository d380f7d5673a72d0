"""The admin API: JSON over HTTP on a Unix socket, for the users and groups that the config names."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from pathlib import Path as FilePath

import msgspec
from aiohttp import web

from gateway.admin import api, handlers, peer_credentials
from gateway.admin.connection_limits import BACKLOG, ConnectionLimits
from gateway.admin.handlers import Operations
from gateway.admin.http import Handler, SocketServer, check_origin, plain_errors
from gateway.admin.monitoring import add_paths
from gateway.admin.service import AdminService
from gateway.admin.traffic import Traffic, traffic_handlers
from gateway.core.admin.access import AccessRules, Caller, Right


class AdminSocket:
    """The file of the admin socket. `shared`: its group may open it; `group`: another group than the owner's."""

    def __init__(self, path: FilePath, group: int | None = None, *, shared: bool = False) -> None:
        self.path = path
        self.made: tuple[FilePath, ...] = ()  # files and folders that `bind` has created
        self._group = group
        self._mode = 0o660 if shared or group is not None else 0o600
        self._inode: tuple[int, int] | None = None  # of our socket file

    def bind(self) -> socket.socket:
        """Bind the socket; raises OSError that names it when another process uses it."""
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
        except OSError as error:
            bound.close()
            self.unlink()
            raise OSError(error.errno, f"cannot listen on {self.path}: {error.strerror or error}") from error
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
    """Serves the API on a Unix socket. Only its owner and root can open it, and its group once the config names others.

    Each request is checked against the lists of the config. `group`: the socket's group instead of the owner's.
    """

    def __init__(
        self,
        path: FilePath,
        operations: Operations,
        service: AdminService,
        clients: Traffic,
        rights: AccessRules,
        group: int | None = None,
        limits: ConnectionLimits | None = None,
    ) -> None:
        served = handlers_by_name(operations, service, clients)
        super().__init__("admin", _application(served, operations, rights), limits)
        self._file = AdminSocket(path, group, shared=rights.shared)

    @property
    def made(self) -> tuple[FilePath, ...]:
        """Files and folders that this server created."""
        return self._file.made

    def bind(self) -> None:
        """Bind the socket; raises OSError that names it when another process uses it."""
        self._socket = self._file.bind()

    async def stop(self) -> None:
        """Close the socket and remove its file."""
        await super().stop()
        self._file.unlink()


def _inode(path: FilePath) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _remove_stale(path: FilePath) -> None:
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
        except OSError as error:
            raise OSError(error.errno, f"cannot tell whether {path} is in use: {error.strerror or error}") from error
    raise OSError(f"{path}: another gateway answers on this admin socket")


def handlers_by_name(operations: Operations, service: AdminService, clients: Traffic) -> dict[str, Handler]:
    """The handler of each operation that needs a right, by its name in `api.OPERATIONS`."""

    async def openapi(_request: web.Request, _caller: Caller) -> web.Response:
        described = await asyncio.to_thread(_described)
        return web.Response(body=described, content_type="application/json")

    return {
        **handlers.gateway_handlers(operations, service),
        **handlers.migration_handlers(service),
        **handlers.rollback_handlers(service),
        **handlers.promotion_handlers(service.promoting),
        **handlers.rollout_handlers(service.rollouts),
        **traffic_handlers(clients),
        "openapi": openapi,
    }


@cache
def _described() -> bytes:
    """The OpenAPI document, which takes a while to make."""
    return msgspec.json.encode(api.document())


def _application(served: Mapping[str, Handler], operations: Operations, rights: AccessRules) -> web.Application:
    application = web.Application(middlewares=[plain_errors])
    add_paths(application, operations)
    for each in api.OPERATIONS:
        if each.right is not None:
            application.router.add_route(each.verb, each.path, _checked(served[each.name], each.right, rights))
    return application


def _checked(
    handler: Handler, right: Right, rights: AccessRules
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """The handler for callers that have the right, and not for web pages: a socket may be forwarded to a TCP port."""

    async def handle(request: web.Request) -> web.StreamResponse:
        check_origin(request)
        return await handler(request, peer_credentials.check(request, rights, right))

    return handle
