"""A listener whose object the test sees, and what most tests do over a connection to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from adapters.http.server import DEFAULT_LIMITS, HttpLimits, HttpServer
from gateway.core.interfaces import Endpoint, Resolve
from tests.kit.clients import HttpReply, Wire, connect, post
from tests.kit.listeners import LOCAL, Waiting
from tests.kit.programs import TIMEOUT

HEAD = b"POST / HTTP/1.1\r\nHost: gateway\r\n"
GET = b"GET / HTTP/1.1\r\nHost: gateway\r\n\r\n"


@asynccontextmanager
async def serving(
    served: Endpoint | Resolve | None, *binds: str, limits: HttpLimits = DEFAULT_LIMITS, **options: Any
) -> AsyncIterator[HttpServer]:
    """Run a listener with one endpoint behind every path, or with what `served` finds."""
    resolve = served if callable(served) else lambda path: served
    server = HttpServer("rpc", binds or [LOCAL], resolve, limits, **options)
    await server.start()
    try:
        yield server
    finally:
        await server.stop(0)


@asynccontextmanager
async def connected(served: Endpoint | Resolve | None, **options: Any) -> AsyncIterator[tuple[HttpServer, Wire]]:
    """The same with one connection to it."""
    async with serving(served, **options) as server, connect(server.addresses[0]) as wire:
        yield server, wire


async def ask(wire: Wire, message: bytes) -> HttpReply:
    """Send a message, and read one answer."""
    await wire.send(message)
    return await wire.reply()


async def begin(wire: Wire, endpoint: Waiting, message: bytes = post(b"x")) -> None:
    """Send a message, and wait until its call runs."""
    await wire.send(message)
    await asyncio.wait_for(endpoint.begun.acquire(), TIMEOUT)
