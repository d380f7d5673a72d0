"""Listeners, connections to them, and pools of connections to upstreams, as the tests of this folder need them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from adapters.http.client.request import parse_url
from adapters.http.client.upstream import DEFAULT_LIMITS as POOL_LIMITS
from adapters.http.client.upstream import ConnectionPoolLimits, HttpUpstreamConnection
from adapters.http.server import DEFAULT_LIMITS, HttpLimits, HttpServer
from adapters.limits import Quota
from gateway.core.interfaces import Endpoint, Resolve
from tests.kit.clients import HttpReply, Wire, connect, post
from tests.kit.listeners import Echo, Waiting
from tests.kit.programs import TIMEOUT

LOCAL = "tcp:127.0.0.1:0"
HEAD = b"POST / HTTP/1.1\r\nHost: gateway\r\n"
GET = b"GET / HTTP/1.1\r\nHost: gateway\r\n\r\n"


@asynccontextmanager
async def serving(
    served: Endpoint | Resolve | None = None,
    limits: HttpLimits = DEFAULT_LIMITS,
    *,
    binds: Sequence[str] = (LOCAL,),
    **options: Any,
) -> AsyncIterator[HttpServer]:
    """Run a listener with one endpoint behind every path (an Echo), or with what `served` finds."""
    endpoint = served or Echo()
    server = HttpServer("rpc", binds, endpoint if callable(endpoint) else lambda _: endpoint, limits, **options)
    await server.start()
    try:
        yield server
    finally:
        await server.stop(0)


@asynccontextmanager
async def running(*served: Any, **options: Any) -> AsyncIterator[str]:
    """The same; yields its address."""
    async with serving(*served, **options) as server:
        yield server.addresses[0]


@asynccontextmanager
async def connected(*served: Any, **options: Any) -> AsyncIterator[tuple[HttpServer, Wire]]:
    """The same with one connection to it."""
    async with serving(*served, **options) as server, connect(server.addresses[0]) as wire:
        yield server, wire


@asynccontextmanager
async def talking(*served: Any, **options: Any) -> AsyncIterator[Wire]:
    """The same; yields the connection."""
    async with connected(*served, **options) as (_, wire):
        yield wire


async def ask(wire: Wire, message: bytes) -> HttpReply:
    """Send a message, and read one answer."""
    await wire.send(message)
    return await wire.reply()


async def begin(wire: Wire, endpoint: Waiting, message: bytes = post(b"x")) -> None:
    """Send a message, and wait until its call runs."""
    await wire.send(message)
    await asyncio.wait_for(endpoint.begun.acquire(), TIMEOUT)


@asynccontextmanager
async def pool(
    url: str, limits: ConnectionPoolLimits = POOL_LIMITS, quota: Quota | None = None, **tls: Any
) -> AsyncIterator[HttpUpstreamConnection]:
    """Connections to an upstream, which is called xapi."""
    made = HttpUpstreamConnection("xapi", parse_url(url, **tls), limits, quota=quota)
    await made.start()
    try:
        yield made
    finally:
        await asyncio.wait_for(made.stop(), TIMEOUT)
