"""Limits of the admin socket and the metrics port: connections, and time and size of a request.

Each connection carries one request. Head and body must arrive in time, and the response must be read in time. When a
peer has its share of connections, or all are used, the connection that has waited longest for its request is closed
for the new one; if all have their request, the new one is refused. The last descriptors of the process are reserved
for listeners, buses and upstreams.
"""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from collections.abc import Callable, Iterable
from typing import cast

from msgspec import Struct

from gateway.admin import peer_credentials
from gateway.core.admin.access import ROOT
from gateway.core.logger import Logger, LogLimiter

CONNECTIONS = 64  # on one socket, and as many more of root and the gateway's user
BACKLOG = 64  # connections that the kernel queues, and that are accepted at once
RESERVE = 64  # descriptors of the process that these sockets do not use
BODY = 1024**2  # bytes
HEAD = 64 * 1024  # bytes

_log = Logger("admin")


class ConnectionLimits(Struct, frozen=True):
    """Durations in seconds. `share`: connections of one peer, a user or over TCP an address."""

    connections: int = CONNECTIONS
    share: int = CONNECTIONS // 4
    reserve: int = RESERVE
    request: float = 10.0  # from the connection to the whole request
    answer: float = 60.0  # for the response to be read
    log_interval: float = 10.0  # between two log lines


class ConnectionLimiter:
    """The limits of one socket."""

    def __init__(self, name: str, limits: ConnectionLimits | None = None) -> None:
        self.name = name
        self.limits = limits or ConnectionLimits()
        self._open: dict[asyncio.BaseTransport, LimitedConnection] = {}  # the oldest first
        self._log_limiter = LogLimiter(self.limits.log_interval)

    def find(self, transport: asyncio.BaseTransport | None) -> LimitedConnection | None:
        """The open connection with this transport."""
        return self._open.get(transport) if transport is not None else None

    def admit(self, connection: LimitedConnection) -> bool:
        """Return whether a new connection is accepted; an idle one may be closed for it."""
        transport, limits = connection.transport, self.limits
        left = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - transport.get_extra_info("socket").fileno()
        if left <= limits.reserve // (2 if connection.trusted else 1):  # the kernel gives the lowest free number
            return self._refuse("few file descriptors are left", connection.peer)
        of_peer = [each for each in self._open.values() if each.peer == connection.peer]
        share = limits.connections if connection.trusted else limits.share
        if len(of_peer) >= share and not self._close_idle(of_peer):
            return self._refuse(f"its {share} connections are all being answered", connection.peer)
        others = [each for each in self._open.values() if not each.trusted]
        if not connection.trusted and len(others) >= limits.connections and not self._close_idle(others):
            return self._refuse(f"all {limits.connections} connections are being answered", connection.peer)
        self._open[transport] = connection
        return True

    def forget(self, connection: LimitedConnection) -> None:
        """Remove a closed connection."""
        self._open.pop(connection.transport, None)

    def cut(self, connection: LimitedConnection, why: str) -> None:
        """Close a connection at once."""
        self.forget(connection)
        connection.transport.abort()
        self._refuse(why, connection.peer)

    def _close_idle(self, connections: Iterable[LimitedConnection]) -> bool:
        """Close the oldest connection without a request; return whether there was one."""
        idle = next((each for each in connections if each.waits), None)
        if idle is not None:
            self.cut(idle, "it sent no request while others waited")
        return idle is not None

    def _refuse(self, why: str, peer: str) -> bool:
        """Log a refusal, at most once in `log_interval`, with the number of those since."""
        count = self._log_limiter.occurred()
        if count:
            _log.warning("turned away", socket=self.name, why=why, peer=peer, connections=count)
        return False


class LimitedConnection(asyncio.Protocol):
    """Passes everything on to a protocol of the HTTP server, with timers. `serve` says which, now or later."""

    transport: asyncio.Transport
    peer: str
    trusted: bool  # of root or the gateway's user
    waits = True  # the request has not arrived

    def __init__(self, limiter: ConnectionLimiter, serve: Callable[[LimitedConnection], None]) -> None:
        self._limiter = limiter
        self._serve = serve
        self._inner: asyncio.Protocol | None = None
        self._early = bytearray()  # what has come before there was an inner protocol
        self._received = 0
        self._answered = False
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a new connection, or refuse it."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop has its own class
        self.peer, self.trusted = _peer(self.transport)
        if not self._limiter.admit(self):
            self.transport.abort()
            return
        self._set_timer(self._limiter.limits.request, "its request did not arrive in time")
        self._serve(self)

    def pass_on(self, inner: asyncio.Protocol) -> None:
        """Pass the connection on to a protocol, with what has come until now; unless it has been closed."""
        if self.transport.is_closing():
            return
        self._inner = inner
        inner.connection_made(self.transport)
        if self._early:
            inner.data_received(bytes(self._early))
            self._early = bytearray()

    def data_received(self, data: bytes) -> None:
        """Count the bytes of a request."""
        self._received += len(data)
        if self._received > HEAD + BODY:
            self._limiter.cut(self, f"it sent more than {HEAD + BODY} bytes")
        elif self._inner is not None:
            self._inner.data_received(data)
        else:
            self._early += data

    def eof_received(self) -> bool | None:
        """The peer sends no more."""
        return self._inner.eof_received() if self._inner is not None else None

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._set_timer(None)
        self._limiter.forget(self)
        if self._inner is not None:
            self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        """The kernel has not taken everything that was written; the peer has to read in time."""
        self._set_timer(self._limiter.limits.answer, "it did not read its response")
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        """The kernel has taken everything that was written."""
        if not self._answered:
            self._set_timer(None)
        if self._inner is not None:
            self._inner.resume_writing()

    def work(self) -> None:
        """The request has arrived; stop its timer."""
        self.waits = False
        self._set_timer(None)

    def answer(self) -> None:
        """The response is being sent; start its timer."""
        self._answered = True
        self._set_timer(self._limiter.limits.answer, "it did not read its response")

    def _set_timer(self, seconds: float | None, why: str = "") -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if seconds is not None and not self.transport.is_closing():
            self._timer = asyncio.get_running_loop().call_later(seconds, self._limiter.cut, self, why)


def _peer(transport: asyncio.Transport) -> tuple[str, bool]:
    """The peer of a connection, and whether it is root or the gateway's user."""
    connection: socket.socket = transport.get_extra_info("socket")
    if connection.family != socket.AF_UNIX:
        return str((transport.get_extra_info("peername") or ("?",))[0]), False
    uid, _ = peer_credentials.user(connection)
    return f"uid {uid}", uid in (ROOT, os.geteuid())
