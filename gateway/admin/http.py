"""What both servers of the admin side share: a bound socket, JSON bodies and answers, errors without tracebacks.

`SocketServer.bind` takes the address before root is given up; `start` accepts connections once the gateway is ready.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
import structlog
from aiohttp import web

from gateway.admin.connection_limits import BACKLOG, ConnectionLimiter, ConnectionLimits
from gateway.core.admin.access import Caller
from gateway.core.admin.records import Rejected, StateRefused

STOP_TIMEOUT = 1.0  # seconds for a request to end at stop; the calls of clients have had the grace period before


class SocketServer:
    """Base of the servers. `bind` of a subclass sets `_socket`; it raises OSError that names the address."""

    def __init__(self, name: str, application: web.Application, limits: ConnectionLimits | None = None) -> None:
        self._socket: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self.limiter = ConnectionLimiter(name, limits)
        self.limiter.limit(application)
        self._runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=STOP_TIMEOUT)

    def bind(self) -> None:
        """Bind the address; connections wait until `start`."""
        raise NotImplementedError

    async def start(self) -> None:
        """Accept connections; bind first if that is not done."""
        if self._socket is None:
            self.bind()
        assert self._socket is not None
        await self._runner.setup()
        assert self._runner.server is not None
        protocols = self.limiter.protocols(self._runner.server)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(protocols, sock=self._socket, backlog=BACKLOG)

    async def stop(self) -> None:
        """Close all connections and the socket."""
        if self._server is not None:
            self._server.close()
        await self._runner.cleanup()
        if self._socket is not None:
            self._socket.close()
            self._socket = None


_log = structlog.get_logger("admin")

Handler = Callable[[web.Request, Caller], Awaitable[web.StreamResponse]]

_T = TypeVar("_T")


async def body(request: web.Request, kind: type[_T]) -> _T:
    """Decode the JSON body; no body is an empty object. Raises msgspec.ValidationError (a ValueError)."""
    return msgspec.json.decode(await request.read() or b"{}", type=kind)


def query(request: web.Request, kind: type[_T]) -> _T:
    """Decode the query string."""
    return msgspec.convert(dict(request.query), kind, strict=False)


def check_range(name: str, value: float, least: float, most: float) -> None:
    """Raise ValueError unless a field is in its range."""
    if not least <= value <= most:
        raise ValueError(f"{name}: expected {least:g} to {most:,.0f}, got {value:g}")


def json(document: object, status: int = 200) -> web.Response:
    """Return an answer, or the error of a refusal."""
    if isinstance(document, StateRefused):
        return json({"error": document.why}, _status(document))
    encoded = msgspec.json.encode(document, enc_hook=str)
    return web.Response(body=encoded, status=status, content_type="application/json")


def _status(refused: StateRefused) -> int:
    """422: the request is wrong; 409: another decision was faster; 503: the state cannot be written or read now."""
    if isinstance(refused, Rejected):
        return 422
    return 409 if refused.conflict else 503


@web.middleware
async def plain_errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Answer every error with {"error": text}, never with a traceback."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        return json({"error": error.reason}, status=error.status)
    except (LookupError, ValueError) as error:
        return json({"error": str(error.args[0]) if error.args else str(error)}, status=422)
    except Exception:  # noqa: BLE001 - a bug is logged here and costs one request
        _log.exception("unexpected error in a request", path=request.path)
        return json({"error": "internal error"}, status=500)
