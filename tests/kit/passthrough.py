"""A listener before a legacy service, whole: sockets, endpoint, upstream connections, and what was counted.

`plainly` leaves out the way without a task, so that both ways can be compared.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from msgspec.structs import replace

from adapters import upstream as legacy
from adapters.codecs import CODECS
from adapters.dialects import DIALECTS
from adapters.http.client.request import parse_url
from adapters.http.client.upstream import ConnectionPoolLimits, HttpUpstreamConnection
from adapters.http.quotas import HttpLimits
from adapters.http.server import HttpServer
from adapters.limits import Quota
from gateway.core.interfaces import Backend, Endpoint
from gateway.core.migration.modes import Migration, Mode, Setting
from gateway.core.routing.route import CallFinished, Effect, Route
from gateway.core.rpc.model import (
    NO_METADATA,
    Answer,
    Call,
    Fault,
    MessageLimits,
    Outcome,
    Peer,
    Reply,
    RequestMetadata,
)
from gateway.mapping.table import EndpointKey, EndpointTable
from gateway.migration.collector import StatisticsCollector
from gateway.ops.metrics import Calls
from gateway.pipeline.dispatcher import Dispatcher
from gateway.pipeline.endpoint import RpcEndpoint
from tests.kit.mappings import route
from tests.kit.programs import TIMEOUT

_OLD = Migration(Setting(Mode.LEGACY), upstream="old")
_NEW = Migration(Setting(Mode.DBUS), upstream="old")
ROUTES: dict[str, Route] = {
    "get": replace(route("get", migration=_OLD), effect=Effect.READ),
    "set": replace(route("set", migration=_OLD), effect=Effect.WRITE),
    "new": replace(route("new", migration=_NEW), effect=Effect.READ),
}


_CLIENT = CODECS["xmlrpc"](MessageLimits(body=2**30, elements=2**30))


class _New(Backend):
    """The D-Bus side: it answers "new"."""

    async def start(self) -> None:
        """Nothing to connect."""

    async def call(self, route: Route, call: Call) -> Outcome:
        return Reply("new")

    async def stop(self) -> None:
        """Nothing to close."""


class Plainly(Endpoint):
    """An endpoint whose messages are all answered in a task."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    async def answer(self, body: bytes, peer: Peer, carried: RequestMetadata = NO_METADATA) -> Answer:
        return await self._endpoint.answer(body, peer, carried)

    def refuse(self, fault: Fault) -> Answer:
        return self._endpoint.refuse(fault)


@dataclass
class Front:
    """The gateway's part. `finished`: each call that has ended."""

    dispatcher: Dispatcher
    server: HttpServer
    pool: HttpUpstreamConnection
    quota: Quota
    calls: Calls = field(default_factory=Calls)
    statistics: StatisticsCollector = field(default_factory=lambda: StatisticsCollector(lambda: 0.0))
    finished: list[CallFinished] = field(default_factory=list)
    ended: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))  # one for each of them

    def listen(self, finished: CallFinished) -> None:
        """Note a call that has ended."""
        self.calls.count(finished)
        self.statistics.count(finished)
        self.finished.append(finished)
        self.ended.release()

    async def wait(self, calls: int) -> None:
        """Wait until so many further calls have ended."""
        async with asyncio.timeout(TIMEOUT):
            for _ in range(calls):
                await self.ended.acquire()

    def counted(self) -> object:
        """What was counted, without times."""
        batch = self.statistics.take()
        methods = {method: counts.counters for method, counts in batch.evidence.items()}
        clients = {(key.method, key.agent): (each.count, each.redirects) for key, each in batch.clients.items()}
        outcomes = [(each.route.method, each.call.params, each.outcome, each.side) for each in self.finished]
        return sorted(outcomes, key=repr), dict(self.calls.outcomes()), methods, sorted(clients.items())

    @property
    def held(self) -> object:
        """Calls and bytes that are under way, everywhere."""
        mine = self.server.quotas.calls, self.quota.calls, self.quota.buffered, self.dispatcher.in_flight
        return *mine, self.pool.status().in_flight, len(self.dispatcher._deadlines)


@asynccontextmanager
async def front(
    url: str,
    *,
    plainly: bool = False,
    seconds: float = TIMEOUT,
    limits: HttpLimits | None = None,
    pool: ConnectionPoolLimits | None = None,
    routes: dict[str, Route] | None = None,
) -> AsyncIterator[Front]:
    """Run it before the legacy service at a URL."""
    quota = Quota()
    connections = HttpUpstreamConnection(
        "old", parse_url(url), pool or ConnectionPoolLimits(keepalive=True), host="old", quota=quota
    )
    codec, dialect = CODECS["xmlrpc"](MessageLimits()), DIALECTS["plain"]("xmlrpc")
    known = legacy.Upstream("old", connections, codec, dialect, frozenset({"xmlrpc"}), timeout=seconds)
    upstreams = legacy.Backend({"old": known})
    dispatcher = Dispatcher(_New(), upstreams=upstreams)
    table = EndpointTable(EndpointKey("rpc", "/"), "xmlrpc", "plain", routes or ROUTES, passthrough_to="old")
    endpoint: Endpoint = RpcEndpoint(table, codec, dialect, dispatcher, client=_CLIENT)
    served = Plainly(endpoint) if plainly else endpoint
    server = HttpServer("rpc", ["tcp:127.0.0.1:0"], lambda _: served, limits or HttpLimits(), quota=quota)
    made = Front(dispatcher, server, connections, quota)
    dispatcher.add_listener(made.listen)
    await upstreams.start()
    await server.start()
    try:
        yield made
    finally:
        await server.stop(0)
        await asyncio.wait_for(upstreams.stop(), TIMEOUT)


class Client:
    """A client of it, which connects again where it must. `answers`: bytes as they came, for each message."""

    def __init__(self, address: str) -> None:
        _, host, port = address.split(":")
        self._where = host, int(port)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, pieces: Sequence[bytes], answers: int = 1) -> list[bytes]:
        """Send bytes piece by piece, and return the answers; an empty one is a connection that was closed."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._where)
        reader, writer = self._streams
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        return [await self._answer(reader) for _ in range(answers)]

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        async with asyncio.timeout(TIMEOUT):
            try:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"(?i)content-length: *(\d+)", head)
                size = int(length[1]) if length else 0 if head.split()[1] == b"204" else -1
                body = await (reader.read() if size < 0 else reader.readexactly(size))
            except (asyncio.IncompleteReadError, ConnectionError):
                await self.close()
                return b""
        if size < 0 or head.startswith(b"HTTP/1.0") or re.search(rb"(?i)\r\nconnection: close", head):
            await self.close()
        return head + body

    async def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            with suppress(ConnectionError):
                await self._streams[1].wait_closed()
            self._streams = None
