"""Paths of the operator's API for the gateway as a whole: status, routes, reload, a call. Knows not how it is done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec
from aiohttp import web

from gateway.control.answers import Path, body, json
from gateway.control.monitoring import Monitored
from gateway.core.rights import Caller, Right
from gateway.steering import Steering


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


def paths(operations: Operations, steering: Steering) -> list[Path]:
    """These paths, answered by the running gateway; a reload is noted in the audit."""

    async def status(_request: web.Request, _who: Caller) -> web.Response:
        return json(await operations.status())

    async def routes(_request: web.Request, _who: Caller) -> web.Response:
        return json(operations.routes())

    async def reload(_request: web.Request, who: Caller) -> web.Response:
        answer = await operations.reload()
        if answer.get("problems"):
            return json(answer, status=409)
        await steering.note(str(who), "reload", "*", {"revision": str(answer["revision"])})
        return json(answer)

    async def call(request: web.Request, _who: Caller) -> web.Response:
        return json(await operations.call(await body(request, CallRequest)))

    return [
        Path("GET", "/v1/status", Right.READ, status),
        Path("GET", "/v1/routes", Right.READ, routes),
        Path("POST", "/v1/reload", Right.CHANGE, reload),
        Path("POST", "/v1/call", Right.CHANGE, call),
    ]
