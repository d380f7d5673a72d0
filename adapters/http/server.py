"""An HTTP/1.1 listener on one or several addresses.

A POST whose path has an endpoint (`resolve`, by the path without its query and without empty segments) is answered by
that endpoint. A path that an upstream could take for that of another endpoint, or of no tunnel, is refused. All other
requests go to `passthrough`, where there is one, and are streamed.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Literal
from urllib.parse import unquote

from adapters.http import addresses, response
from adapters.http.addresses import InheritedSockets
from adapters.http.client_socket import ClientSocket
from adapters.http.connection import HttpConnection
from adapters.http.quotas import HttpLimits, PeerShare, Quotas, StreamTotals
from adapters.http.request import HttpRefusal, HttpRequest, KnownHeads
from adapters.http.response import HttpResponse, ResponseWriter
from adapters.http.web_origins import WebOrigins
from adapters.limits import Quota
from gateway.core import interfaces
from gateway.core.logger import LogLimiter
from gateway.core.rpc.model import Answer, FaultCode, Peer

__all__ = ["DEFAULT_LIMITS", "HttpLimits", "HttpServer", "MalformedResponse"]

# The response to a message that could not be read at all: in the client's protocol, or a page as old xapi sends it.
MalformedResponse = Literal["dialect", "protocol", "http500"]

RETRY_AFTER = "Retry-After: 1\r\n"
NOT_FOUND = response.text(404, "nothing is served at this path")
NOT_ALLOWED = response.text(405, "this is an RPC endpoint: send a POST", headers="Allow: POST\r\n")
NO_TUNNEL = response.text(501, "no tunnel at this path: list it in `tunnels` of this listener", close=True)
AMBIGUOUS_PATH = response.text(
    400, "the path leads elsewhere once its percent-encoding and its dot segments are resolved: write it without them"
)
TOO_MANY_TUNNELS = response.text(
    503, "too many tunnels (`max_tunnels` of this listener)", close=True, headers=RETRY_AFTER
)
FRAMING_CODES = frozenset({FaultCode.INVALID_REQUEST, FaultCode.TOO_LARGE})
LOG_INTERVAL = 1.0  # seconds between two log lines about evicted connections

MANY_SLASHES = re.compile("//+")

DEFAULT_LIMITS = HttpLimits()
EVERYBODY = WebOrigins()
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


def is_below(path: str, above: str) -> bool:
    """Whether a path is another one or lies below it: "/a/b" is below "/a" and "/a/", "/ab" is not."""
    return path == above or (path.startswith(above) and (above.endswith("/") or path[len(above)] == "/"))


def as_servers_read_it(path: str) -> str:
    """Return a path without percent-encoding, empty and dot segments (RFC 3986 section 6.2.2): some servers do so."""
    segments: list[str] = []
    for segment in unquote(path).split("/"):
        if segment == "..":
            del segments[-1:]
        elif segment not in ("", "."):
            segments.append(segment)
    return "/" + "/".join(segments)


class HttpServer(interfaces.Transport):
    """An HTTP/1.1 listener for RPC endpoints."""

    def __init__(
        self,
        name: str,
        binds: Sequence[str],
        resolve: interfaces.Resolve,
        limits: HttpLimits = DEFAULT_LIMITS,
        *,
        malformed_response: MalformedResponse = "dialect",
        headers: Mapping[str, str] = _NO_HEADERS,  # added to every answer
        socket_mode: int = 0o660,
        quota: Quota | None = None,  # shared with other listeners
        inherited: InheritedSockets | None = None,  # where "systemd:NAME" is found
        on_abort: Callable[[str], object] = lambda _: None,  # called with the address of an aborted client, and why
        passthrough: interfaces.StreamingEndpoint | None = None,
        streams: interfaces.ResolveStream | None = None,  # what streams events, where the listener allows it
        web: WebOrigins = EVERYBODY,  # the web pages and host names that are served
        needs_host: bool = True,  # HTTP/1.1 without a Host header is refused
    ) -> None:
        self.name = name
        self.limits = limits
        self.writer = ResponseWriter(headers)
        self.quota = quota or Quota()
        self.needs_host = needs_host
        self.is_stopping = False
        self.quotas = Quotas(self.quota, limits)
        self.streamed: Mapping[str, StreamTotals] = self.quotas.streamed  # since the start: "http" (bodies), "tunnel"
        self._binds = tuple(binds)
        self._resolve = resolve
        self.known_heads = KnownHeads(resolve)
        self._malformed_response = malformed_response
        self._socket_mode = socket_mode
        self._inherited = inherited or InheritedSockets({})
        self._on_abort = on_abort
        self._passthrough = passthrough
        self._streams = streams
        self._web = web
        self._bound: list[addresses.Bound] = []
        self._connections: set[ClientSocket] = set()
        self._orphans: set[asyncio.Task[None]] = set()  # cancelled calls whose connection is gone
        self._evictions = LogLimiter(LOG_INTERVAL)
        self._empty = asyncio.Event()

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses it listens on now, with real ports."""
        return tuple(address for bound in self._bound for address in bound.addresses)

    @property
    def tunnels(self) -> int:
        """How many tunnels are open."""
        return self.quotas.tunnels

    @property
    def socket_files(self) -> tuple[Path, ...]:
        """The files of its own Unix sockets, which are removed at stop."""
        return tuple(bound.socket_file for bound in self._bound if bound.socket_file is not None)

    async def bind(self) -> None:
        """Bind every address without accepting; raises OSError naming the address, and then binds none."""
        try:
            for address in self._binds[len(self._bound) :]:
                self._bound.append(await addresses.bind(address, self._socket_mode, self._inherited))
        except BaseException:
            self._close_sockets()
            raise

    async def start(self) -> None:
        """Accept connections, binding first if needed; raises OSError naming the address, and then listens nowhere."""
        await self.bind()
        self.is_stopping = False
        loop = asyncio.get_running_loop()
        try:
            for bound in self._bound:
                await bound.accept(lambda: HttpConnection(self, loop))
        except BaseException:
            self._close_sockets()
            raise

    async def stop(self, grace: float) -> int:
        """Stop accepting; calls in flight have `grace` seconds to finish. Returns how many were aborted.

        Tunnels may have fewer seconds (`tunnel_grace`): then their upstreams see the end of the client's direction.
        """
        self.is_stopping = True
        bound = tuple(self._bound)
        self._close_sockets()
        for connection in tuple(self._connections):
            if connection.is_idle:
                connection.force_close()
        seconds = grace if self.limits.tunnel_grace is None else self.limits.tunnel_grace
        ending = asyncio.get_running_loop().call_later(seconds, self._end_tunnels) if seconds < grace else None
        cut = 0
        if self._connections:
            self._empty.clear()
            try:
                await asyncio.wait_for(self._empty.wait(), grace)
            except TimeoutError:
                cut = sum(not connection.is_idle for connection in self._connections)
                for connection in tuple(self._connections):
                    connection.force_close()
                await self._empty.wait()
        if self._orphans:
            await asyncio.wait(self._orphans)
        if ending is not None:
            ending.cancel()
        for address in bound:
            await address.closed()
        return cut

    def _end_tunnels(self) -> None:
        for connection in tuple(self._connections):
            connection.end_tunnel()

    def _close_sockets(self) -> None:
        for bound in self._bound:
            bound.close()
        self._bound.clear()

    # For the connections

    def add_connection(self, connection: ClientSocket) -> PeerShare | None:
        """Count a new connection; returns the share of its peer, or None when there are too many connections."""
        if self.is_stopping:  # accepted just before the stop
            return None
        share = self.quotas.enter(connection, connection.peer)
        if share is not None:
            self._connections.add(connection)
        return share

    def remove_connection(self, connection: ClientSocket, share: PeerShare, task: asyncio.Task[None] | None) -> None:
        """Stop counting a connection; `task` is its cancelled call, which is counted until it has ended."""
        self.quotas.leave(connection, share)
        self._connections.discard(connection)
        if task is not None:
            self._orphans.add(task)
            task.add_done_callback(lambda ended: self._end_orphan(ended, share))
        if not self._connections:
            self._empty.set()

    def _end_orphan(self, task: asyncio.Task[None], share: PeerShare) -> None:
        self._orphans.discard(task)
        self.quotas.end_call(share)

    def log_abort(self, peer: Peer, why: str) -> None:
        """Log that the gateway closed the connection of a peer, and why."""
        self._on_abort(f"{peer.address} {why}")

    def log_eviction(self, whose: str, among: int) -> None:
        """Log that an idle connection was closed for a new one; see QuotaMember. At most one line a second."""
        evictions = self._evictions.occurred()
        if evictions:
            what = "an idle connection" if evictions == 1 else f"{evictions} idle connections"
            self._on_abort(f"{whose} gave up {what} of {among} for newcomers")

    def admit(self, request: HttpRequest) -> HttpResponse | None:
        """Set what serves a request; returns a response where the head alone is refused."""
        request.is_admitted = True
        path = MANY_SLASHES.sub("/", request.path) if "//" in request.path else request.path
        endpoint = self._resolve(path)
        if ("%" in path or "/." in path) and self._is_ambiguous(path):
            return AMBIGUOUS_PATH
        if request.method == "POST" and endpoint is not None:
            request.endpoint = endpoint
        else:
            stream = self._streams(path, request.wants_upgrade) if self._streams and request.method == "GET" else None
            request.is_events = stream is not None
            request.passthrough = stream or self._passthrough
        if not request.is_plain or self._web.checks_hosts:
            refusal = self._web.check(request)
            if refusal is not None:
                return self.refuse(request, refusal)
            preflight = self._web.preflight(request, any_method=self._passthrough is not None)
            if preflight is not None:
                return HttpResponse(204, response.TEXT, None, headers=preflight)
        if request.endpoint is None and request.passthrough is None:
            return NOT_FOUND if endpoint is None else NOT_ALLOWED
        if request.method == "CONNECT" or request.wants_upgrade:
            refused = self._admit_tunnel(request, path)
            if refused is not None:
                return refused
        plain = self._malformed_response == "http500" and request.passthrough is None
        refusal = request.check_head(self.limits.body, plain=plain)
        return None if refusal is None else self.refuse(request, refusal)

    def _admit_tunnel(self, request: HttpRequest, path: str) -> HttpResponse | None:
        """Set whether a request opens a tunnel; returns the response to one that may not."""
        request.is_tunnel = request.is_events or (request.passthrough is not None and self._may_tunnel(path))
        if request.method == "CONNECT" and not request.is_tunnel:
            return NO_TUNNEL
        counts = request.is_tunnel and not request.is_events
        return TOO_MANY_TUNNELS if counts and self.quotas.tunnels >= self.limits.max_tunnels else None

    def _may_tunnel(self, path: str) -> bool:
        return any(is_below(path, above) for above in self.limits.tunnels)

    def _is_ambiguous(self, path: str) -> bool:
        """Return whether the upstream could take a path for one that another endpoint, or no tunnel, serves here."""
        plain = as_servers_read_it(path)
        return self._resolve(plain) is not self._resolve(path) or self._may_tunnel(plain) != self._may_tunnel(path)

    def refuse(self, request: HttpRequest, refusal: HttpRefusal) -> HttpResponse:
        """The response to a request that its endpoint does not get."""
        fault, status = refusal.fault, refusal.http_status
        headers = RETRY_AFTER if fault.code is FaultCode.BUSY else ""
        if request.endpoint is None:
            return response.text(status, fault.message, headers=headers)
        answer = request.endpoint.refuse(fault)
        if fault.code in FRAMING_CODES and self._is_page(answer):
            return response.page(fault.message)
        return HttpResponse(status, answer.content_type, answer.body or b"", headers=headers)

    def to_response(self, answer: Answer) -> HttpResponse:
        """The response that carries an endpoint's answer."""
        if answer.hang_up:
            return response.HANG_UP
        if answer.status is not None:
            return response.relay(answer)
        if answer.fault is not None and self._is_page(answer):
            return response.page(answer.fault.message)
        return HttpResponse(204 if answer.body is None else 200, answer.content_type, answer.body)

    def _is_page(self, answer: Answer) -> bool:
        """Whether a message that was refused is answered with a page."""
        return self._malformed_response == "http500" or (self._malformed_response == "dialect" and answer.as_page)
