"""The monitoring paths /healthz, /readyz and /metrics, on the admin socket and on a TCP port of their own."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec
from aiohttp import web

from gateway.admin.connection_limits import ConnectionLimits
from gateway.admin.http import SocketServer
from gateway.ops.metrics import CONTENT_TYPE

MAX_PORT = 65535


class MonitoredGateway(Protocol):
    """The part of the running gateway that monitoring uses."""

    async def unready(self) -> Sequence[str]:
        """Return why it is not ready; empty if it is."""

    def warnings(self) -> Sequence[str]:
        """Return problems that do not affect calls."""

    async def metrics(self) -> bytes:
        """Return all metrics in the Prometheus text format."""


def add_paths(application: web.Application, monitored: MonitoredGateway) -> None:
    """Add the three paths to an application."""

    async def alive(_request: web.Request) -> web.Response:
        return _json({"alive": True})

    async def ready(_request: web.Request) -> web.Response:
        reasons = await monitored.unready()
        answer = {"ready": not reasons, "reasons": reasons, "warnings": monitored.warnings()}
        return _json(answer, status=503 if reasons else 200)

    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(body=await monitored.metrics(), headers={"Content-Type": CONTENT_TYPE})

    for path, handler in (("/healthz", alive), ("/readyz", ready), ("/metrics", metrics)):
        application.router.add_get(path, handler)


class MonitoringServer(SocketServer):
    """Serves only the three paths, on "tcp:HOST:PORT"."""

    def __init__(self, address: str, monitored: MonitoredGateway, limits: ConnectionLimits | None = None) -> None:
        application = web.Application()
        add_paths(application, monitored)
        super().__init__("metrics", application, limits)
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
        host, _, port = self._address.removeprefix("tcp:").rpartition(":")
        try:
            self._socket = _listening(host.strip("[]"), int(port))
        except OSError as error:
            raise OSError(f"cannot listen on {self._address}: {error.strerror or error}") from error


def _listening(host: str, port: int) -> socket.socket:
    if port > MAX_PORT:  # the standard library raises, and leaves a socket open
        raise OSError(f"port {port}: expected at most {MAX_PORT}")
    family = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]
    return socket.create_server((host, port), family=family)


def _json(document: Mapping[str, object], status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(document), status=status, content_type="application/json")
