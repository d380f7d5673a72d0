"""The operator's API: JSON over HTTP on a Unix socket. Knows what an operator may ask, not how it is done."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Protocol

import msgspec
import structlog
from aiohttp import web

from gateway.control.monitoring import Monitored, add_paths
from gateway.control.serving import Serving

_log = structlog.get_logger("control")


class CallRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /v1/call. `listener`, `path` and `codec` narrow down the endpoint; params are JSON values."""

    method: str
    params: list[object] = []
    listener: str | None = None
    path: str | None = None
    codec: str | None = None


class Operations(Monitored, Protocol):
    """What the running gateway offers its operator; every answer is JSON-able."""

    async def status(self) -> Mapping[str, object]:
        """Readiness, listeners, buses, services, calls in flight."""

    def routes(self) -> list[Mapping[str, object]]:
        """Every mapped method at every endpoint."""

    async def reload(self) -> Mapping[str, object]:
        """Swap in new mappings: {"revision": live, "problems": [...], ...}; with problems nothing has changed."""

    async def call(self, request: CallRequest) -> Mapping[str, object]:
        """Make one call; {"value": ...} or {"fault": ...}, and {"steps": [...]}; raises LookupError or ValueError."""


class Server(Serving):
    """Serves `operations` on a Unix socket that only its owner (and root) can open."""

    def __init__(self, path: Path, operations: Operations) -> None:
        super().__init__(_application(operations))
        self._path = path
        self.made: tuple[Path, ...] = ()  # files and folders that are there because of us

    def bind(self) -> None:
        """Take the address and let nobody in; raises OSError that names the socket when it is taken."""
        folders = [folder for folder in self._path.parents if not folder.exists()]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(self._path)
        self._socket = socket.socket(socket.AF_UNIX)
        before = os.umask(0o177)
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


def _remove_stale(path: Path) -> None:
    if not path.is_socket():
        return
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink()
            return
    raise OSError(f"{path}: another gateway answers on this control socket")


def _application(operations: Operations) -> web.Application:
    async def status(_request: web.Request) -> web.Response:
        return _json(await operations.status())

    async def routes(_request: web.Request) -> web.Response:
        return _json(operations.routes())

    async def reload(_request: web.Request) -> web.Response:
        answer = await operations.reload()
        return _json(answer, status=409 if answer.get("problems") else 200)

    async def call(request: web.Request) -> web.Response:
        return _json(await operations.call(msgspec.json.decode(await request.read(), type=CallRequest)))

    application = web.Application(middlewares=[_plain_errors])
    add_paths(application, operations)
    application.router.add_get("/v1/status", status)
    application.router.add_get("/v1/routes", routes)
    application.router.add_post("/v1/reload", reload)
    application.router.add_post("/v1/call", call)
    return application


@web.middleware
async def _plain_errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Answer every error as {"error": text}, and none with a traceback."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        return _json({"error": error.reason}, status=error.status)
    except (LookupError, ValueError) as error:
        return _json({"error": str(error.args[0]) if error.args else str(error)}, status=422)
    except Exception:  # noqa: BLE001 - a bug is logged here and costs one request
        _log.exception("a bug answered this request", path=request.path)
        return _json({"error": "internal error"}, status=500)


def _json(document: object, status: int = 200) -> web.Response:
    body = msgspec.json.encode(document, enc_hook=str)
    return web.Response(body=body, status=status, content_type="application/json")
