"""Calls to upstreams, each in its own codec and dialect.

A message that an upstream understands as the client wrote it is passed through. Any other call is encoded again: in
the client's own codec where the upstream understands it, because JSON has types that the old XML has not; else in the
upstream's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from http import HTTPStatus
from typing import Literal, Self, TypeAlias

from msgspec import Struct, field
from msgspec.structs import replace

from gateway.core import interfaces
from gateway.core.admin.status import UpstreamStatus
from gateway.core.dbus.names import quoted
from gateway.core.dbus.results import coerce_numbers
from gateway.core.interfaces import Wanted, always
from gateway.core.routing.route import Effect, Route
from gateway.core.rpc import encodings
from gateway.core.rpc.model import (
    REDIRECTS,
    Answer,
    Call,
    Fault,
    FaultCode,
    Outcome,
    Reply,
    RequestMetadata,
    charset_of,
)
from gateway.core.rpc.trace_context import KEY, TraceContext

__all__ = ["Arguments", "Backend", "Upstream", "UpstreamStatus"]

# How an upstream takes parameters: as the client sent them, all by name, or all by position.
Arguments: TypeAlias = Literal["sent", "named", "positional"]

# Faults of the upstream about the message itself. The client's message was valid, so it gets REMOTE instead.
_ABOUT_THE_MESSAGE = frozenset({FaultCode.PARSE_ERROR, FaultCode.INVALID_REQUEST, FaultCode.TOO_LARGE})
PROBE_AGE = 30.0  # seconds for which an upstream that was reached counts as reachable
_FIRST_BAD = HTTPStatus.MULTIPLE_CHOICES  # a redirect is not an answer to a call


class Upstream(Struct, frozen=True):
    """One upstream and its protocols. Two with an equal `key` are the same, and share the connections."""

    key: object
    connection: interfaces.UpstreamConnection
    codec: interfaces.Codec
    dialect: interfaces.Dialect
    speaks: frozenset[str]  # codecs whose messages it understands as clients write them
    arguments: Arguments = "sent"
    timeout: float = 86_400.0  # seconds for an answer
    max_answer: int = 32 * 1024**2  # bytes of an answer, once it is inflated
    dashes: bool = False  # reserve_memory is called reserve-memory there
    also: Mapping[str, Self] = field(default_factory=dict)  # the same upstream in the other codecs of `speaks`

    @property
    def is_untyped(self) -> bool:
        """Whether its numbers arrive as text: in the XML of legacy servers, and in a xenstore."""
        return self.codec.name == "xenstore" or (self.codec.name == "xmlrpc" and self.dialect.name != "plain")


class Backend(interfaces.UpstreamBackend):
    """All upstreams of the config, by name."""

    def __init__(self, upstreams: Mapping[str, Upstream]) -> None:
        self._upstreams = dict(upstreams)
        self._retiring: list[interfaces.UpstreamConnection] = []  # replaced; kept until their calls have ended
        self._reached: dict[int, float] = {}  # by id of the connection: when the last probe reached it
        self._running = False

    async def start(self) -> None:
        """Start every connection."""
        self._running = True
        for upstream in self._upstreams.values():
            await upstream.connection.start()

    async def stop(self) -> None:
        """Fail what is still waiting, close."""
        self._running = False
        connections, self._retiring = self._connections(), []
        await asyncio.gather(*(connection.stop() for connection in connections))

    def _connections(self) -> list[interfaces.UpstreamConnection]:
        return [*(upstream.connection for upstream in self._upstreams.values()), *self._retiring]

    def _found(self, name: str | None) -> Upstream | Fault:
        upstream = self._upstreams.get(name or "")
        if upstream is None or not self._running:
            return Fault(FaultCode.UNAVAILABLE, f"no upstream '{name or ''}' is configured; the call was not sent")
        return upstream

    async def reconfigure(self, upstreams: Mapping[str, Upstream]) -> None:
        """Use these upstreams from the next call on. Unchanged ones keep connections, removed ones end their calls."""
        before = self._upstreams
        after = {
            name: before[name] if name in before and before[name].key == upstream.key else upstream
            for name, upstream in upstreams.items()
        }
        connections = [upstream.connection for upstream in after.values()]
        for upstream in after.values():
            if all(upstream.connection is not old.connection for old in before.values()):
                await upstream.connection.start()
        self._upstreams = after
        self._reached = {}
        gone = [old.connection for old in before.values() if old.connection not in connections]
        for connection in gone:
            connection.retire()
        retired = (*self._retiring, *gone)
        done = [connection for connection in retired if connection.is_idle]
        self._retiring = [connection for connection in retired if not connection.is_idle]
        await asyncio.gather(*(connection.stop() for connection in done))

    async def call(self, route: Route, call: Call, wanted: Wanted = always) -> Outcome:
        """Answer one call; the dispatcher holds the deadline and cancels past it."""
        upstream = self._found(route.migration.upstream)
        if isinstance(upstream, Fault):
            return upstream
        known, target = call.extensions, ""
        same = upstream.also.get(str(known.get("protocol", "")))
        # The client's codec and its path, where the upstream understands that codec.
        if same is not None and known.get("dialect") == same.dialect.name:
            upstream, target = same, str(known.get("path", ""))
        message = _encoded(upstream, route, call)
        if isinstance(message, Fault):
            return message
        trace = known.get(KEY)
        further = trace.headers() if isinstance(trace, TraceContext) else ()
        content_type = (b"Content-Type", upstream.codec.content_type.encode())
        carried = RequestMetadata("POST", target, (content_type, _AGENT, *further))
        answer = await upstream.connection.send(
            message, carried, repeatable=route.effect is not Effect.WRITE, wanted=wanted
        )
        if isinstance(answer, Fault):
            return replace(answer, name="")
        if call.oneway:
            return Reply(None)
        plain = await _inflated(upstream, answer)
        return plain if isinstance(plain, Fault) else _read(upstream, route, plain, call)

    def speaks(self, upstream: str, codec: str, dialect: str) -> bool:
        """See interfaces.UpstreamBackend."""
        found = self._upstreams.get(upstream)
        return found is not None and found.dialect.name == dialect and codec in found.speaks

    def timeout(self, upstream: str) -> float:
        """See interfaces.UpstreamBackend."""
        found = self._upstreams.get(upstream)
        return found.timeout if found is not None else 0.0

    async def forward(
        self, upstream: str, body: bytes, carried: RequestMetadata, *, repeatable: bool = False, wanted: Wanted = always
    ) -> Answer | Fault:
        """See interfaces.UpstreamBackend."""
        found = self._found(upstream)
        if isinstance(found, Fault):
            return found
        return await found.connection.send(body, carried, repeatable=repeatable, wanted=wanted)

    def send_at_once(
        self,
        upstream: str,
        body: bytes,
        carried: RequestMetadata,
        receiver: interfaces.AnswerReceiver,
        *,
        repeatable: bool,
    ) -> tuple[interfaces.SentMessage, float] | None:
        """See interfaces.UpstreamBackend."""
        found = self._found(upstream)
        if isinstance(found, Fault):
            return None
        sent = found.connection.send_at_once(body, carried, receiver, repeatable=repeatable)
        return None if sent is None else (sent, found.timeout)

    async def relay(self, upstream: str, exchange: interfaces.HttpExchange) -> Answer | Fault:
        """Stream one exchange; see UpstreamConnection."""
        found = self._found(upstream)
        if isinstance(found, Fault):
            return found
        return await found.connection.relay(exchange, found.timeout)

    def review(self) -> None:
        """See interfaces.UpstreamBackend."""
        for connection in self._connections():
            connection.review()

    def status(self) -> tuple[UpstreamStatus, ...]:
        """The state of each upstream, unprobed."""
        return tuple(upstream.connection.status() for upstream in self._upstreams.values())

    async def probed(self, seconds: float) -> tuple[UpstreamStatus, ...]:
        """The state of each upstream after an attempt of at most `seconds` to connect to it.

        One that was reached within PROBE_AGE is not disturbed again: some services log each connection.
        """
        connections = [upstream.connection for upstream in self._upstreams.values()]
        found = await asyncio.gather(*(self._probe(connection, seconds) for connection in connections))
        states = (connection.status() for connection in connections)
        return tuple(replace(state, unreachable=why) for state, why in zip(states, found, strict=True))

    async def _probe(self, connection: interfaces.UpstreamConnection, seconds: float) -> str:
        now = asyncio.get_running_loop().time()
        if now - self._reached.get(id(connection), -PROBE_AGE) < PROBE_AGE:
            return ""
        try:
            async with asyncio.timeout(seconds):
                why = await connection.probe()
        except TimeoutError:
            why = f"no connection within {seconds:g} s"
        if not why:
            self._reached[id(connection)] = now
        return why


_AGENT = (b"User-Agent", b"xcp-gateway")


def _encoded(upstream: Upstream, route: Route, call: Call) -> bytes | Fault:
    """The call in the upstream's codec. A notification is encoded as a request: legacy services answer every call."""
    method = call.method.replace("_", "-") if upstream.dashes else call.method
    arranged = arrange_parameters(call, [parameter.name for parameter in route.parameters], upstream.arguments)
    meant = replace(arranged, method=method, oneway=False)
    try:
        return upstream.codec.encode_call(upstream.dialect.wrap_call(meant))
    except ValueError as error:
        return Fault(FaultCode.INVALID_PARAMS, str(error))


def arrange_parameters(call: Call, names: list[str], arguments: Arguments) -> Call:
    """The call with its parameters by name or by position, as far as their names are known."""
    if arguments == "sent" or len(call.params) + len(call.named) > len(names):
        return call
    rest = [name for name in names if name not in call.named]
    known = {**dict(zip(rest, call.params, strict=False)), **call.named}
    if arguments == "named":
        return replace(call, params=(), named=known)
    given = names[: len(known)]
    if any(name not in known for name in given):
        return call  # positions cannot express a parameter that is left out in the middle
    return replace(call, params=tuple(known[name] for name in given), named={})


async def _inflated(upstream: Upstream, answer: Answer) -> Answer | Fault:
    """Undo the Content-Encoding of an answer; some services compress without being asked."""
    if not encodings.is_encoded(answer):
        return answer
    name = upstream.connection.status().name
    try:
        return replace(answer, body=await asyncio.to_thread(encodings.content, answer, upstream.max_answer))
    except encodings.InflatedTooLargeError as error:
        return Fault(FaultCode.TOO_LARGE, f"the answer of the legacy service '{name}': {error}; the call was executed")
    except encodings.EncodingError as error:
        return _unreadable(upstream, answer, Fault(FaultCode.PARSE_ERROR, str(error)))


def _read(upstream: Upstream, route: Route, answer: Answer, call: Call) -> Outcome:
    outcome = upstream.codec.decode_outcome(answer.body or b"", charset_of(answer.content_type))
    if isinstance(outcome, Fault) and outcome.code in _ABOUT_THE_MESSAGE:
        return _unreadable(upstream, answer, outcome)
    outcome = upstream.dialect.unwrap_outcome(outcome, call)
    if isinstance(outcome, Reply) and route.result is not None and upstream.is_untyped:
        return Reply(coerce_numbers(outcome.value, route.result))
    return outcome


def _unreadable(upstream: Upstream, answer: Answer, fault: Fault) -> Fault:
    """The fault for an answer that is neither a reply nor a fault of its protocol."""
    name = upstream.connection.status().name
    if answer.status is not None and answer.status >= _FIRST_BAD:
        status = f"{answer.status} {answer.reason}".strip()
        text = f"the legacy service '{name}' answered with HTTP status {status}"
        if answer.status in REDIRECTS:
            locations = (value for header, value in answer.headers if header.lower() == b"location")
            place = next(locations, b"").partition(b"?")[0].decode("latin-1")  # a query may hold a session
            where = f", a redirect to {quoted(place)}: `url` of the upstream must be the address that answers calls"
            return Fault(FaultCode.REMOTE, text + where, name=str(answer.status))
        return Fault(FaultCode.REMOTE, text, name="HTTP")
    return Fault(FaultCode.REMOTE, f"the answer of the legacy service '{name}' cannot be read: {fault.message}")
