"""A web application on a socket that is bound first and lets people in later. Knows no address and no path."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import msgspec
import structlog
from aiohttp import web

from gateway.admin.connection_limits import BACKLOG, ConnectionLimiter, ConnectionLimits
from gateway.core.admin.access import Caller, Right
from gateway.core.admin.records import Rejected, StateRefused

STOP_PATIENCE = 1.0  # seconds for a request to end at stop; the calls of clients have had the grace time before


class SocketServer:
    """What the servers of the operator's side are. `bind` fills `_socket`; it raises OSError that names the address."""

    def __init__(self, name: str, application: web.Application, limits: ConnectionLimits | None = None) -> None:
        self._socket: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self.guard = ConnectionLimiter(name, limits)
        self.guard.over(application)
        self._runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=STOP_PATIENCE)

    def bind(self) -> None:
        """Take the address and let nobody in."""
        raise NotImplementedError

    async def start(self) -> None:
        """Let people in; bind first where that is not done."""
        if self._socket is None:
            self.bind()
        assert self._socket is not None
        await self._runner.setup()
        assert self._runner.server is not None
        protocols = self.guard.protocols(self._runner.server)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(protocols, sock=self._socket, backlog=BACKLOG)

    async def stop(self) -> None:
        """Close."""
        if self._server is not None:
            self._server.close()
        await self._runner.cleanup()
        if self._socket is not None:
            self._socket.close()
            self._socket = None


# What every path of the operator's API shares: bodies in, JSON out, refusals in words. Knows no path.


_log = structlog.get_logger("admin")

Handler = Callable[[web.Request, Caller], Awaitable[web.StreamResponse]]

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class ApiPath:
    """One operation of the API, and the right it needs."""

    verb: str
    path: str
    right: Right
    handle: Handler


async def body(request: web.Request, kind: type[_T]) -> _T:
    """The JSON that was sent; nothing is an empty object."""
    return msgspec.json.decode(await request.read() or b"{}", type=kind)


def query(request: web.Request, kind: type[_T]) -> _T:
    """What stands behind the question mark."""
    return msgspec.convert(dict(request.query), kind, strict=False)


def json(document: object, status: int = 200) -> web.Response:
    """An answer. What came of it is what the gateway says, or that it refused."""
    if isinstance(document, StateRefused):
        return json({"error": document.why}, _status(document))
    encoded = msgspec.json.encode(document, enc_hook=str)
    return web.Response(body=encoded, status=status, content_type="application/json")


def _status(refused: StateRefused) -> int:
    """422: the wish is wrong; 409: somebody else was faster; 503: it cannot be written down, or read, for now."""
    if isinstance(refused, Rejected):
        return 422
    return 409 if refused.conflict else 503


@web.middleware
async def plain_errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Answer every error as {"error": text}, and none with a traceback."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        return json({"error": error.reason}, status=error.status)
    except (LookupError, ValueError) as error:
        return json({"error": str(error.args[0]) if error.args else str(error)}, status=422)
    except Exception:  # noqa: BLE001 - a bug is logged here and costs one request
        _log.exception("a bug answered this request", path=request.path)
        return json({"error": "internal error"}, status=500)
