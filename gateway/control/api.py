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

from gateway.control import access, moving, promoting, rollouts, running, traffic
from gateway.control.answers import Path, plain_errors
from gateway.control.monitoring import add_paths
from gateway.control.running import CallRequest, Operations
from gateway.control.serving import Serving
from gateway.control.traffic import Traffic
from gateway.core.rights import Caller, Right, Rights
from gateway.steering import Steering

__all__ = ["CallRequest", "Operations", "Server", "openapi", "paths"]


class Server(Serving):
    """Serves on a Unix socket. Only its owner (and root) can open it, unless the config names others.

    Then all can, and each connection is held against the lists: a file has one group, and the lists may name several.
    """

    def __init__(
        self, path: FilePath, operations: Operations, steering: Steering, clients: Traffic, rights: Rights
    ) -> None:
        super().__init__(_application(paths(operations, steering, clients), operations, rights))
        self._path = path
        self._umask = 0o111 if rights.shared else 0o177
        self.made: tuple[FilePath, ...] = ()  # files and folders that are there because of us

    def bind(self) -> None:
        """Take the address and let nobody in; raises OSError that names the socket when it is taken."""
        folders = [folder for folder in self._path.parents if not folder.exists()]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(self._path)
        self._socket = socket.socket(socket.AF_UNIX)
        before = os.umask(self._umask)
        try:
            self._socket.bind(str(self._path))
        except OSError as error:
            self._socket.close()
            self._socket = None
            raise OSError(error.errno, f"cannot listen on {self._path}: {error.strerror or error}") from error
        finally:
            os.umask(before)
        self.made = (*folders, self._path)

    async def stop(self) -> None:
        """Close and remove the socket."""
        ours = self._socket is not None
        await super().stop()
        if ours:
            self._path.unlink(missing_ok=True)


def _remove_stale(path: FilePath) -> None:
    if not path.is_socket():
        return
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink()
            return
    raise OSError(f"{path}: another gateway answers on this control socket")


def paths(operations: Operations, steering: Steering, clients: Traffic) -> list[Path]:
    """Every path of the API but those that machines ask (monitoring)."""

    async def document(_request: web.Request, _who: Caller) -> web.Response:
        return web.Response(body=openapi(), content_type="application/json")

    described = Path("GET", "/v1/openapi.json", Right.READ, document)
    groups = (
        running.paths(operations, steering),
        moving.paths(steering),
        promoting.paths(steering.promoting),
        rollouts.paths(steering.rollouts),
        traffic.paths(clients),
    )
    return [*chain.from_iterable(groups), described]


def openapi() -> bytes:
    """The API as an OpenAPI 3.1 document."""
    return files("gateway.control").joinpath("openapi.json").read_bytes()


def _application(served: Sequence[Path], operations: Operations, rights: Rights) -> web.Application:
    application = web.Application(middlewares=[plain_errors])
    add_paths(application, operations)
    for path in served:
        application.router.add_route(path.verb, path.path, _guarded(path, rights))
    return application


def _guarded(path: Path, rights: Rights) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """The handler for those who have the right."""

    async def handle(request: web.Request) -> web.StreamResponse:
        return await path.handle(request, access.check(request, rights, path.right))

    return handle
