"""Bounds on the operator's sockets, on which aiohttp sets none: connections, how long and how large a request may be.

Each connection carries one request. Its head and body have to arrive in time, and its answer has to be taken in time.
When a peer has its share, or all places are taken, the connection that has waited longest for its request gives way to
the newcomer; when each is being answered, the newcomer is turned away. The last descriptors of the process are left to
the listeners, the buses and the legacy services.
"""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import cast

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from gateway.admin import peer_credentials
from gateway.core.admin.access import ROOT

CONNECTIONS = 64  # at one time, on one socket; root's and the gateway's own come on top
BACKLOG = 64  # connections that the kernel keeps until they are accepted, and that are accepted in one go
RESERVE = 64  # descriptors of the process that are not used here
BODY = 1024**2  # bytes
HEAD = 64 * 1024  # bytes

_log = structlog.get_logger("admin")


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Durations in seconds. `share`: connections of one peer, which is a user, or an address over TCP."""

    connections: int = CONNECTIONS
    share: int = CONNECTIONS // 4
    reserve: int = RESERVE
    request: float = 10.0  # for head and body to arrive
    answer: float = 60.0  # for an answer to be taken
    quiet: float = 10.0  # between two log lines


class ConnectionLimiter:
    """The bounds of one socket. `refused` counts the connections that were turned away or cut."""

    def __init__(self, name: str, limits: ConnectionLimits | None = None) -> None:
        self.name = name
        self.limits = limits or ConnectionLimits()
        self.refused = 0
        self._open: dict[asyncio.BaseTransport, _Connection] = {}  # the oldest first
        self._said_at = float("-inf")
        self._said = 0

    def limit(self, application: web.Application) -> None:
        """Hold the requests of this application to the bounds."""
        application.middlewares.append(self._bounded)
        application.on_response_prepare.append(_last_of_its_connection)

    def protocols(self, inner: Callable[[], asyncio.Protocol]) -> Callable[[], asyncio.Protocol]:
        """The same protocols within the bounds."""
        return lambda: _Connection(self, inner)

    def admit(self, connection: _Connection) -> bool:
        """Whether a new connection may stay; an idle one may be cut for it."""
        transport, limits = connection.transport, self.limits
        left = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - transport.get_extra_info("socket").fileno()
        if left <= limits.reserve // (2 if connection.trusted else 1):  # the kernel gives the lowest free number
            return self._turn_away("few file descriptors are left", connection.peer)
        its = [each for each in self._open.values() if each.peer == connection.peer]
        share = limits.connections if connection.trusted else limits.share
        if len(its) >= share and not self._give_way(its):
            return self._turn_away(f"its {share} connections are all being answered", connection.peer)
        others = [each for each in self._open.values() if not each.trusted]
        if not connection.trusted and len(others) >= limits.connections and not self._give_way(others):
            return self._turn_away(f"all {limits.connections} connections are being answered", connection.peer)
        self._open[transport] = connection
        return True

    def forget(self, connection: _Connection) -> None:
        """It has gone."""
        self._open.pop(connection.transport, None)

    def cut(self, connection: _Connection, why: str) -> None:
        """Close a connection at once."""
        self.forget(connection)
        connection.transport.abort()
        self._turn_away(why, connection.peer)

    def _give_way(self, among: Iterable[_Connection]) -> bool:
        """Whether one that has not sent its request was cut."""
        idle = next((each for each in among if each.waits), None)
        if idle is not None:
            self.cut(idle, "it sent no request while others came")
        return idle is not None

    def _turn_away(self, why: str, peer: str) -> bool:
        """Count it, and log the first and then one line in a while."""
        self.refused += 1
        now = asyncio.get_running_loop().time()
        if now >= self._said_at + self.limits.quiet:
            count, self._said, self._said_at = self.refused - self._said, self.refused, now
            _log.warning("turned away", socket=self.name, why=why, peer=peer, connections=count)
        return False

    @web.middleware
    async def _bounded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        connection = self._open.get(request.transport) if request.transport is not None else None
        try:
            await request.read()
        except (ConnectionError, web.RequestPayloadError):
            raise web.HTTPBadRequest(reason="the request did not arrive whole") from None
        if connection is None:
            return await handler(request)
        connection.work()
        try:
            return await handler(request)
        finally:
            connection.answer()


async def _last_of_its_connection(_request: web.Request, response: web.StreamResponse) -> None:
    response.force_close()
    response.headers["Connection"] = "close"  # aiohttp has made its headers by now


class _Connection(asyncio.Protocol):
    """Passes everything on to aiohttp's protocol, and keeps time."""

    transport: asyncio.Transport
    peer: str
    trusted: bool  # root's, or the gateway's own user's
    waits = True  # for its request

    def __init__(self, limiter: ConnectionLimiter, inner: Callable[[], asyncio.Protocol]) -> None:
        self._limiter = limiter
        self._make = inner
        self._inner: asyncio.Protocol | None = None
        self._received = 0
        self._answered = False
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none of asyncio's classes
        self.peer, self.trusted = _peer(self.transport)
        if not self._limiter.admit(self):
            self.transport.abort()
            return
        self._inner = self._make()
        self._inner.connection_made(transport)
        self._within(self._limiter.limits.request, "its request did not arrive in time")

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        if self._received > HEAD + BODY:
            self._limiter.cut(self, f"it sent more than {HEAD + BODY} bytes")
        elif self._inner is not None:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received() if self._inner is not None else None

    def connection_lost(self, exc: Exception | None) -> None:
        self._within(None)
        self._limiter.forget(self)
        if self._inner is not None:
            self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        self._within(self._limiter.limits.answer, "it did not take its answer")
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        if not self._answered:
            self._within(None)
        if self._inner is not None:
            self._inner.resume_writing()

    def work(self) -> None:
        """The request is here: the gateway may take its time now."""
        self.waits = False
        self._within(None)

    def answer(self) -> None:
        """The answer goes out."""
        self._answered = True
        self._within(self._limiter.limits.answer, "it did not take its answer")

    def _within(self, seconds: float | None, why: str = "") -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if seconds is not None and self._inner is not None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._limiter.cut, self, why)


def _peer(transport: asyncio.Transport) -> tuple[str, bool]:
    """Who has connected, and whether that is root or the gateway's own user."""
    connection: socket.socket = transport.get_extra_info("socket")
    if connection.family != socket.AF_UNIX:
        return str((transport.get_extra_info("peername") or ("?",))[0]), False
    uid, _ = peer_credentials.user(connection)
    return f"uid {uid}", uid in (ROOT, os.geteuid())
