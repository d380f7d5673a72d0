"""An HTTP listener with one endpoint behind every path, and a connection to it; knows no protocol."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TypedDict, Unpack

from adapters.http.server import DEFAULT_LIMITS, HttpLimits, HttpServer, MalformedResponse
from adapters.http.web_origins import WebOrigins
from adapters.limits import Quota
from gateway.core.interfaces import Endpoint, StreamingEndpoint
from tests.kit.clients import Wire, connect
from tests.kit.endpoints import Echo

LOCAL = "tcp:127.0.0.1:0"


class Options(TypedDict, total=False):
    malformed_response: MalformedResponse
    headers: Mapping[str, str]
    on_abort: Callable[[str], object]
    quota: Quota
    passthrough: StreamingEndpoint | None
    web: WebOrigins
    needs_host: bool


@asynccontextmanager
async def running(
    endpoint: Endpoint | None = None,
    limits: HttpLimits = DEFAULT_LIMITS,
    **options: Unpack[Options],
) -> AsyncIterator[str]:
    """A listener with one endpoint behind every path; gives its address."""
    served = endpoint or Echo()
    server = HttpServer("rpc", [LOCAL], lambda path: served, limits, **options)
    await server.start()
    try:
        yield server.addresses[0]
    finally:
        await server.stop(0)


@asynccontextmanager
async def talking(
    endpoint: Endpoint | None = None, limits: HttpLimits = DEFAULT_LIMITS, **options: Unpack[Options]
) -> AsyncIterator[Wire]:
    """The same with one connection to it."""
    async with running(endpoint, limits, **options) as address, connect(address) as wire:
        yield wire
