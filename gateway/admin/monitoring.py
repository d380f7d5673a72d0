"""The monitoring paths /healthz, /readyz and /metrics, on the admin socket and on a TCP port of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec
from aiohttp import web

from gateway.ops.exposition import CONTENT_TYPE


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


def application(monitored: MonitoredGateway) -> web.Application:
    """Only the three paths."""
    made = web.Application()
    add_paths(made, monitored)
    return made


def _json(document: Mapping[str, object], status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(document), status=status, content_type="application/json")
