"""What both servers of the admin side share: a bound socket, JSON bodies and answers, errors without tracebacks.

`SocketServer.bind` takes the address before root is given up; `start` accepts connections once the gateway is ready.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec
from aiohttp import web

from gateway.admin.connection_limits import BACKLOG, ConnectionLimiter, ConnectionLimits
from gateway.config.doubts import is_loopback
from gateway.core.admin.access import Caller
from gateway.core.admin.records import Rejected, StateRefused
from gateway.core.dbus.names import printable
from gateway.core.logger import Logger

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

    def adopt(self, bound: socket.socket) -> None:
        """Use a socket that another process has bound, and whose file it removes."""
        self._socket = bound

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


MAX_PORT = 65535


class TcpServer(SocketServer):
    """A server on "tcp:HOST:PORT"."""

    def __init__(
        self, name: str, address: str, application: web.Application, limits: ConnectionLimits | None = None
    ) -> None:
        super().__init__(name, application, limits)
        self._address = address

    @property
    def address(self) -> str:
        """The address, with the real port if the config has port 0."""
        if self._socket is None:
            return self._address
        host, port = self._socket.getsockname()[:2]
        return f"tcp:[{host}]:{port}" if ":" in host else f"tcp:{host}:{port}"

    def bind(self) -> None:
        """Bind the address; raise OSError that names it."""
        self._socket = listening_at(self._address)


def listening_at(address: str) -> socket.socket:
    """A socket that listens on "tcp:HOST:PORT"; raises OSError that names the address."""
    host, _, port = address.removeprefix("tcp:").rpartition(":")
    try:
        return _listening(host.strip("[]"), int(port))
    except OSError as error:
        raise OSError(f"cannot listen on {address}: {error.strerror or error}") from error


def _listening(host: str, port: int) -> socket.socket:
    if port > MAX_PORT:  # the standard library raises, and leaves a socket open
        raise OSError(f"port {port}: expected at most {MAX_PORT}")
    family = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]
    return socket.create_server((host, port), family=family)


_log = Logger("admin")

Handler = Callable[[web.Request, Caller], Awaitable[web.StreamResponse]]

_T = TypeVar("_T")


_OUR_NAME = "gateway"  # as the commands send it
_OWN = frozenset({"none", "same-origin"})  # Sec-Fetch-Site of what a user opens, and of what a page asks its own server


def check_origin(request: web.Request, *, links: bool = False) -> None:
    """Raise HTTPForbidden for a request that a web page of another site has made. `links`: it may lead here by GET.

    A browser makes it with its user's access to a loopback port, and says so in Origin or Sec-Fetch-Site. Host has the
    name that the page has used; the DNS of another site may answer with a loopback address (DNS rebinding).
    """
    host = request.headers.get("Host")
    if host is not None and not _is_here(host):
        raise _foreign(f"unknown host '{printable(host[:200])}': expected localhost, gateway or a loopback address")
    origin, site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site", "none")
    is_link = links and request.method == "GET"
    if origin not in (None, f"http://{host}") or (site not in _OWN and not is_link):
        raise _foreign("requests of web pages of other sites are not served here")


def _foreign(reason: str) -> web.HTTPForbidden:
    return web.HTTPForbidden(reason=reason, text=reason)


def _is_here(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return name == _OUR_NAME or is_loopback(name)


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
