"""HTTP POST in, bytes out; knows no protocol.

One Transport is one listener of the config, on one address or several. Any of them is answered by the endpoint that
`resolve` names for the path (as written by the client: nothing is unescaped, the query is cut off). What no endpoint
takes, other verbs too, goes to the one named `otherwise` where there is one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from aiohttp import HttpVersion11, web

from adapters.transports import addresses, http_answers, http_body, http_headers
from adapters.transports.activation import Inherited
from adapters.transports.http_answers import HttpAnswer, Layout
from adapters.transports.http_body import BUSY, Refusal
from adapters.transports.http_connection import (
    CLOSE,
    FULL,
    KEEP_OPEN,
    LONG_HEAD,
    Connection,
    HttpLimits,
    Sent,
    TurnedAway,
)
from adapters.transports.room import Held, Room
from gateway.core import ports
from gateway.core.model import Answer, Carried, FaultCode, Peer

__all__ = ["DEFAULT_LIMITS", "FramingFaults", "HttpLimits", "Transport"]

# How a message is answered that could not be read at all: in the client's protocol, or the way old xapi does.
FramingFaults = Literal["protocol", "http500"]

RETRY_AFTER = "Retry-After: 1\r\n"
NOT_FOUND = http_answers.text(404, "nothing is served at this path")
NOT_ALLOWED = http_answers.text(405, "this is an RPC endpoint: send a POST", headers="Allow: POST\r\n")
NO_TUNNEL = http_answers.text(501, "a tunnel is not passed on: connect to the service itself", close=True)
FRAMING_CODES = frozenset({FaultCode.INVALID_REQUEST, FaultCode.TOO_LARGE})

DEFAULT_LIMITS = HttpLimits()
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


def _ignore(_: str) -> None:
    """Tell nobody."""


class Transport(ports.Transport):
    """An HTTP/1.1 listener for RPC endpoints."""

    def __init__(
        self,
        name: str,
        binds: Sequence[str],
        resolve: ports.Resolve,
        limits: HttpLimits = DEFAULT_LIMITS,
        *,
        framing_faults: FramingFaults = "protocol",
        headers: Mapping[str, str] = _NO_HEADERS,  # added to every answer
        socket_mode: int = 0o660,
        room: Room | None = None,  # shared with other listeners
        inherited: Inherited | None = None,  # where "systemd:NAME" is found
        on_cut: Callable[[str], object] = _ignore,  # told which client was cut, and why
        otherwise: ports.Endpoint | None = None,
    ) -> None:
        self.name = name
        self.limits = limits
        self.layout = Layout(headers)
        self._binds = tuple(binds)
        self._resolve = resolve
        self._as_xapi = framing_faults == "http500"
        self._socket_mode = socket_mode
        self._room = room or Room()
        self._inherited = inherited or Inherited({})
        self._on_cut = on_cut
        self._otherwise = otherwise
        self._bound: list[addresses.Bound] = []
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._calls = 0  # in an endpoint
        self._requests = 0  # from the end of the head to the end of the answer
        self._stopping = False
        self._empty = asyncio.Event()

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where it listens now, with real ports."""
        return tuple(address for bound in self._bound for address in bound.addresses)

    @property
    def socket_files(self) -> tuple[Path, ...]:
        """The files of Unix sockets that are ours, to be removed at stop."""
        return tuple(bound.socket_file for bound in self._bound if bound.socket_file is not None)

    async def bind(self) -> None:
        """Take every address and let nobody in; raises OSError naming the address, and then has none."""
        try:
            for address in self._binds[len(self._bound) :]:
                self._bound.append(await addresses.bind(address, self._socket_mode, self._inherited))
        except BaseException:
            self._close_sockets()
            raise

    async def start(self) -> None:
        """Accept, bind first where that is not done; raises OSError naming the address, and then listens nowhere."""
        await self.bind()
        self._stopping = False
        self._empty.clear()
        loop = asyncio.get_running_loop()
        server = web.Server(self._serve, loop=loop)
        farewell = self.layout.lay_out(FULL)

        def accept() -> asyncio.BaseProtocol:
            if len(self._connections) >= self.limits.max_connections:
                return TurnedAway(farewell)
            return Connection(self, server, loop)

        try:
            for bound in self._bound:
                await bound.accept(accept)
        except BaseException:
            self._close_sockets()
            raise

    async def stop(self, grace: float) -> int:
        """Stop accepting, let calls in flight finish for `grace` seconds; returns how many were cut off."""
        self._stopping = True
        bound = tuple(self._bound)
        self._close_sockets()
        for connection in tuple(self._connections):
            connection.close_if_idle()
        cut = await self._finish(grace)
        for address in bound:
            await address.closed()
        return cut

    def _close_sockets(self) -> None:
        for bound in self._bound:
            bound.close()
        self._bound.clear()

    async def _finish(self, grace: float) -> int:
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace)
        cut = self._requests
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for connection in tuple(self._connections):
            connection.force_close()
        if self._connections:
            await self._empty.wait()
        return cut

    def opened(self, connection: Connection, task: asyncio.Task[None]) -> None:
        """See Owner."""
        self._connections.add(connection)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self._stopping:  # accepted in the very moment
            connection.force_close()

    def closed(self, connection: Connection) -> None:
        """See Owner."""
        self._connections.discard(connection)
        if self._stopping and not self._connections:
            self._empty.set()

    def cut(self, peer: Peer, why: str) -> None:
        """See Owner."""
        self._on_cut(f"{peer.address} {why}")

    async def _serve(self, request: web.BaseRequest) -> Sent:
        """Answer one request. When its client leaves, what waits for the endpoint is cancelled: see ports.Endpoint."""
        connection = request.protocol
        assert isinstance(connection, Connection)
        try:
            answer = await self._respond(request, connection)
            if not request.content.is_eof():
                await connection.discard(request.content)
            return KEEP_OPEN if self._may_stay_open(request, connection, answer) else CLOSE
        finally:
            connection.served += 1

    async def _respond(self, request: web.BaseRequest, connection: Connection) -> HttpAnswer:
        self._requests += 1
        try:
            with Held(self._room) as held:
                answer = await self._answer(request, connection, held)
                held.become(len(answer.body or b""))  # a call that is made is answered, however full it is
                if not self._may_stay_open(request, connection, answer):
                    answer = answer._replace(close=True)
                if answer.hang_up:
                    connection.force_close()
                else:
                    await connection.send(self._lay_out(request, answer))
        finally:
            self._requests -= 1
        return answer

    def _lay_out(self, request: web.BaseRequest, answer: HttpAnswer) -> bytes:
        minor = int(request.version >= HttpVersion11)
        return self.layout.lay_out(answer, minor=minor, bodiless=request.method == "HEAD")

    def _may_stay_open(self, request: web.BaseRequest, connection: Connection, answer: HttpAnswer) -> bool:
        if answer.close or self._stopping or connection.is_last:
            return False
        return request.keep_alive and request.content.is_eof()

    async def _answer(self, request: web.BaseRequest, connection: Connection, held: Held) -> HttpAnswer:
        if connection.is_long(request):
            return LONG_HEAD
        endpoint = self._resolve(_target(request).partition("?")[0])
        as_it_is = endpoint is None or request.method != "POST"
        if as_it_is:
            if self._otherwise is None:
                return NOT_FOUND if endpoint is None else NOT_ALLOWED
            if request.method == "CONNECT":
                return NO_TUNNEL
            endpoint = self._otherwise
        assert endpoint is not None
        if self._is_full:
            return self._refused(endpoint, BUSY)  # before its body takes up memory
        plain = self._as_xapi and not as_it_is
        body = await http_body.read(request, connection, self.limits, held, plain=plain, inflated=not as_it_is)
        if not isinstance(body, Refusal):
            return await self._call(endpoint, body, connection, _carried(request, inflated=not as_it_is))
        return self._refused(endpoint, body)

    @property
    def _is_full(self) -> bool:
        return self._calls >= self.limits.max_calls or self._room.is_full

    async def _call(
        self, endpoint: ports.Endpoint, body: bytes, connection: Connection, carried: Carried
    ) -> HttpAnswer:
        if self._calls >= self.limits.max_calls or self._room.calls >= self._room.max_calls:
            return self._refused(endpoint, BUSY)
        self._calls += 1
        self._room.calls += 1
        connection.call_begins()
        try:
            return self._answered(await endpoint.answer(body, connection.peer, carried))
        finally:
            connection.call_ends()
            self._calls -= 1
            self._room.calls -= 1

    def _answered(self, answer: Answer) -> HttpAnswer:
        if answer.hang_up:
            return http_answers.hang_up()
        if answer.status is not None:
            return http_answers.relay(answer)
        if answer.fault is not None and self._as_xapi:
            return http_answers.page(answer.fault.message)
        return HttpAnswer(204 if answer.body is None else 200, answer.content_type, answer.body)

    def _refused(self, endpoint: ports.Endpoint, refusal: Refusal) -> HttpAnswer:
        if self._as_xapi and refusal.fault.code in FRAMING_CODES:
            return http_answers.page(refusal.fault.message)
        answer = endpoint.refuse(refusal.fault)
        headers = RETRY_AFTER if refusal.fault.code is FaultCode.BUSY else ""
        return HttpAnswer(refusal.http_status, answer.content_type, answer.body or b"", headers=headers)


def _target(request: web.BaseRequest) -> str:
    """Path and query as the client wrote them."""
    target = request.raw_path
    if target.startswith("/") or target == "*":
        return target
    return request.rel_url.raw_path_qs  # absolute-form, RFC 9112 section 3.2.2


def _carried(request: web.BaseRequest, *, inflated: bool) -> Carried:
    headers = request.raw_headers
    if inflated and "Content-Encoding" in request.headers:
        headers = http_headers.without(headers, b"content-encoding")
    return Carried(request.method, _target(request), headers)
