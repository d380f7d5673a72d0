"""What the applications behind the sockets of the operator's side share: JSON bodies and answers, errors, limits.

This and what imports it needs aiohttp, so a gateway imports it with the first connection (sockets.py).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol
from urllib.parse import urlsplit

import msgspec
from aiohttp import web

from gateway.admin import peer_credentials
from gateway.admin.connection_limits import ConnectionLimiter
from gateway.config.checks import is_loopback
from gateway.core.admin.access import AccessRules, Caller, Right, denial
from gateway.core.admin.records import Rejected, StateRefused
from gateway.core.dbus.names import printable
from gateway.core.logger import Logger
from gateway.ops.exposition import CONTENT_TYPE

STOP_TIMEOUT = 1.0  # seconds for a request to end at stop; the calls of clients have had the grace period before

_log = Logger("admin")

# A request, what it says, and who asks -> a response, or what is encoded as one; perhaps awaitable.
Handler = Callable[[web.Request, Any, Caller], object]


def runner(application: web.Application, limiter: ConnectionLimiter) -> web.AppRunner:
    """What answers the requests of a socket: this application, within the limits of the socket."""

    @web.middleware
    async def limited(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        connection = limiter.find(request.transport)
        try:
            await request.read()
        except (ConnectionError, web.RequestPayloadError):
            raise web.HTTPBadRequest(reason="the request is incomplete") from None
        if connection is None:
            return await handler(request)
        connection.work()
        try:
            return await handler(request)
        finally:
            connection.answer()

    application.middlewares.append(limited)
    application.on_response_prepare.append(_last_of_its_connection)
    return web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=STOP_TIMEOUT)


async def _last_of_its_connection(_request: web.Request, response: web.StreamResponse) -> None:
    response.force_close()
    response.headers["Connection"] = "close"  # aiohttp has made its headers by now


def check_right(request: web.Request, rights: AccessRules, right: Right) -> Caller:
    """The caller of a request, as the kernel reports its peer; raises HTTPForbidden unless it has the right."""
    assert request.transport is not None
    found = peer_credentials.caller(request.transport.get_extra_info("socket"))
    if not rights.have(found, right):
        raise web.HTTPForbidden(reason=denial(found, right))
    return found


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


def check_range(name: str, value: float, least: float, most: float) -> None:
    """Raise ValueError unless a field is in its range."""
    if not least <= value <= most:
        raise ValueError(f"{name}: expected {least:g} to {most:,.0f}, got {value:g}")


def json(document: object, status: int = 200) -> web.Response:
    """Return an answer, or the error of a refusal.

    422: the request is wrong; 409: another decision was faster; 503: the state cannot be written or read now.
    """
    if isinstance(document, StateRefused):
        status = 422 if isinstance(document, Rejected) else 409 if document.conflict else 503
        document = {"error": document.why}
    encoded = msgspec.json.encode(document, enc_hook=str)
    return web.Response(body=encoded, status=status, content_type="application/json")


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


# The monitoring paths, on the admin socket and on a TCP port of their own.


class MonitoredGateway(Protocol):
    """The part of the running gateway that monitoring uses."""

    async def unready(self) -> Sequence[str]:
        """Return why it is not ready; empty if it is."""

    def warnings(self) -> Sequence[str]:
        """Return problems that do not affect calls."""

    async def metrics(self) -> bytes:
        """Return all metrics in the Prometheus text format."""


def add_paths(application: web.Application, monitored: MonitoredGateway) -> web.Application:
    """Add the three paths to an application."""

    async def alive(_request: web.Request) -> web.Response:
        return json({"alive": True})

    async def ready(_request: web.Request) -> web.Response:
        reasons = await monitored.unready()
        answer = {"ready": not reasons, "reasons": reasons, "warnings": monitored.warnings()}
        return json(answer, status=503 if reasons else 200)

    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(body=await monitored.metrics(), headers={"Content-Type": CONTENT_TYPE})

    for path, handler in (("/healthz", alive), ("/readyz", ready), ("/metrics", metrics)):
        application.router.add_get(path, handler)
    return application
