"""HTTP/1.1 requests to one upstream over a pool of connections.

Failure semantics. If no connection was made or no byte of the request was sent, the call was not executed
(UNAVAILABLE). After that, whatever went wrong, whether it was executed is unknown (NO_REPLY): a reset does not tell
what the upstream had read. A request of which a byte was sent is sent again only when the caller allows it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from functools import partial

from msgspec import Struct

from adapters.http.client.connection import LOST, ClientConnection, TooLargeError, connect, reason
from adapters.http.client.relay import PIECE, TunnelConnection, relay, tunnel
from adapters.http.client.request import RequestHeads, UpstreamAddress, write_head
from adapters.http.client.response import KnownResponses, NotHttpError, ResponseHead
from adapters.limits import ConcurrencyLimiter, Quota
from gateway.core import interfaces
from gateway.core.admin.status import UpstreamStatus
from gateway.core.interfaces import (
    NOT_SENT,
    AnswerReceiver,
    BrokenBodyError,
    HttpExchange,
    SentMessage,
    Wanted,
    always,
)
from gateway.core.rpc.model import HUNG_UP, Answer, Fault, FaultCode, RequestMetadata

__all__ = ["ConnectionPoolLimits", "HttpUpstreamConnection", "UpstreamStatus"]


class ConnectionPoolLimits(Struct, frozen=True):
    """The limits of one upstream."""

    connections: int = 64
    waiting: int = 128  # calls that wait for a connection; more are BUSY
    keepalive: bool | None = True  # False: a connection for each request; None: reuse once one was seen to stay open
    idle: float = 4.0  # seconds until an unused connection is closed; upstreams wait longer
    connect_timeout: float = 5.0  # seconds
    answer: int = 32 * 1024**2  # bytes; streamed responses have no limit
    probe_interval: float = 1.0  # seconds after which an open connection counts as kept; others close at once
    half_closed_timeout: float = 60.0  # seconds without a byte after one peer of a tunnel has ended its direction


DEFAULT_LIMITS = ConnectionPoolLimits()


class HttpUpstreamConnection(interfaces.UpstreamConnection):
    """The connections to one upstream. `host`: replaces the client's Host header."""

    def __init__(
        self,
        name: str,
        site: UpstreamAddress,
        limits: ConnectionPoolLimits = DEFAULT_LIMITS,
        *,
        host: str = "",
        quota: Quota | None = None,
    ) -> None:
        self.name = name
        self._address = site
        self._limits = limits
        self._host = host.encode("ascii")
        self._heads = RequestHeads(site, self._host, close=limits.keepalive is False)
        self._known = KnownResponses()
        self._quota = quota or Quota()
        self._limiter = ConcurrencyLimiter(limits.connections, limits.waiting)
        # Streamed requests last as long as their clients like: they get half of it, so that calls go on beside them.
        self._streams = ConcurrencyLimiter(-(-limits.connections // 2), limits.waiting // 2)
        self._idle: list[ClientConnection] = []  # last in, first out: the first has been idle longest
        self._is_sweeping = False  # a timer runs that closes idle connections
        self._keeps_alive = bool(limits.keepalive)  # else a request could cross the close of a connection, and be lost
        self._probe: ClientConnection | None = None  # an idle connection that may show it
        self._open: set[ClientConnection] = set()
        self._in_flight = 0
        self._retired = False
        self._stopped = False
        self._last_error = ""

    async def start(self) -> None:
        """Do nothing: connections are made on demand."""

    async def stop(self) -> None:
        """Close every connection; calls in flight fail."""
        self._stopped = True
        closed = [connection.closed for connection in self._open]
        for connection in tuple(self._open):
            connection.reset()
        await asyncio.gather(*closed)

    def retire(self) -> None:
        """Close each connection when its call has ended."""
        self._retired = True
        self._close_idle()

    @property
    def is_idle(self) -> bool:
        """Whether no call is in flight."""
        return not self._in_flight

    def status(self) -> UpstreamStatus:
        """Its state for `status`."""
        waiting = self._limiter.waiting + self._streams.waiting
        return UpstreamStatus(self.name, self._address.url, self._in_flight, waiting, len(self._idle), self._last_error)

    async def probe(self) -> str:
        """Connect and close again, unless a connection is open; see UpstreamConnection."""
        if self._open:
            return ""
        try:
            made = await connect(ClientConnection, self._address, self._limits.connect_timeout)
        except OSError as error:
            return reason(error)
        made.reset()
        await asyncio.wait([made.closed])
        return ""

    async def send(
        self, body: bytes, carried: RequestMetadata, *, repeatable: bool = False, wanted: Wanted = always
    ) -> Answer | Fault:
        """Send one request and return its answer; see UpstreamConnection."""
        if (refusal := self._refusal()) is not None:
            return refusal
        self._in_flight += 1
        try:
            if not self._limiter.take() and not await self._limiter.acquire(wanted):
                text = f"the mode changed while the call waited for {self._label}; nothing was executed"
                return Fault(FaultCode.BUSY, text)
            try:
                request = self._heads.of(carried, len(body)) + body
                return await self._send_once(request, bodiless=carried.verb == "HEAD", repeatable=repeatable)
            finally:
                self._limiter.release()
        finally:
            self._in_flight -= 1

    # Requests that no task waits for

    def send_at_once(
        self, body: bytes, carried: RequestMetadata, receiver: AnswerReceiver, *, repeatable: bool
    ) -> SentMessage | None:
        """Send over a connection that is idle, with a slot that is free; see UpstreamConnection."""
        if self._probe is not None:
            self._check_probe()
        if not self._idle or self._stopped or carried.verb == "HEAD" or not self._limiter.take():
            return None
        request = self._heads.of(carried, len(body)) + body
        connection = self._idle.pop()
        if not connection.start(request, bodiless=False):
            self._drop(connection)
            self._distrust()
            self._limiter.release()
            return None
        self._in_flight += 1
        sent = connection.sent = SentRequest(self, connection, request, receiver, repeatable)
        return sent

    def takes_whole(self, size: int) -> bool:
        """Whether `finish` may be called for a response of so many bytes."""
        if not self._keeps_alive or not self._is_sweeping or self._retired or self._stopped:
            return False
        return size <= self._limits.answer and self._quota.fits(size)

    def finish(self, sent: SentRequest, head: ResponseHead, body: bytes) -> None:
        """The same as `progress` where a whole response has come at once, with a head that is known."""
        connection = sent.connection
        connection.sent = None
        if connection.is_reusable:
            connection.idle_since = connection.clock()
            self._idle.append(connection)
        else:
            self._drop(connection)
        self._end_sent()
        sent.receiver.receive(
            Answer(body, head.content_type, None, head.status, head.reason, head.end_to_end, known_head=head.forwarded)
        )

    def progress(self, sent: SentRequest) -> None:
        """More of the response has come, or the connection has ended."""
        connection, kept = sent.connection, False
        answer: Answer | Fault | None
        try:
            answer = connection.answer_now(self._limits.answer, self._quota)
            if answer is None:
                return
            kept = self._return_to_pool(connection)
        except (*LOST, TooLargeError) as error:
            answer = self._failure(error)
            self._distrust()
        connection.sent = None
        connection.release(self._quota)
        if not kept:
            self._drop(connection)
        if sent.repeatable and isinstance(answer, Fault) and answer.code is FaultCode.NO_REPLY:
            sent.has_failed = True
            sent.receiver.send_again(partial(self._send_again, sent.request))
            return
        self._end_sent()
        sent.receiver.receive(answer)

    async def _send_again(self, request: bytes) -> Answer | Fault:
        try:
            connection = await self._write_on_new(request, bodiless=False)
            return connection if isinstance(connection, Fault) else await self._answer(connection)
        finally:
            self._end_sent()

    def withdraw(self, sent: SentRequest) -> bool:
        """See SentMessage."""
        connection = sent.connection
        self._end_sent()
        if sent.has_failed:
            return False
        connection.sent = None
        connection.release(self._quota)
        self._drop(connection)
        return connection.was_unwritten

    def _end_sent(self) -> None:
        self._limiter.release()
        self._in_flight -= 1

    async def relay(self, exchange: HttpExchange, idle_timeout: float) -> Answer | Fault:
        """Stream one exchange; see UpstreamConnection. Tunnels are limited by the listener, not here."""
        if exchange.is_tunnel:
            if self._stopped:
                return self._not_sent("is not asked any more")
            self._in_flight += 1
            try:
                return await self._tunnel(exchange, idle_timeout)
            finally:
                self._in_flight -= 1
        if (refusal := self._refusal()) is not None:
            return refusal
        if self._streams.is_full:
            return Fault(FaultCode.BUSY, f"{self._label} has too many streamed requests; nothing was executed")
        self._in_flight += 1
        try:
            await self._streams.acquire(always)
            try:
                await self._limiter.acquire(always)
                try:
                    return await self._relay(exchange, idle_timeout)
                finally:
                    self._limiter.release()
            finally:
                self._streams.release()
        finally:
            self._in_flight -= 1

    def _refusal(self) -> Fault | None:
        if self._stopped:
            return self._not_sent("is not asked any more")
        if self._limiter.is_full:
            text = f"{self._label} has {self._in_flight} calls in flight; nothing was executed"
            return Fault(FaultCode.BUSY, text)
        return None

    def review(self) -> None:
        """See interfaces.UpstreamConnection."""
        self._limiter.review()

    async def _relay(self, exchange: HttpExchange, idle_timeout: float) -> Answer | Fault:
        head = write_head(self._address, exchange, host=self._host, close=self._limits.keepalive is False)
        bodiless = exchange.metadata.verb == "HEAD"
        connection: ClientConnection | Fault | None = self._write_on_idle(head, bodiless=bodiless, buffer=PIECE)
        if connection is None:
            connection = await self._write_on_new(head, bodiless=bodiless, buffer=PIECE)
        if isinstance(connection, Fault):
            return connection
        answer = await self._used(connection, relay(connection, exchange, idle_timeout), idle_timeout)
        if isinstance(answer, Fault):
            self._distrust()
        return answer

    async def _tunnel(self, exchange: HttpExchange, idle_timeout: float) -> Answer | Fault:
        try:
            connection = await connect(TunnelConnection, self._address, self._limits.connect_timeout)
        except OSError as error:
            return self._not_sent(f"cannot be reached: {reason(error)}")
        connection.is_connect = exchange.metadata.verb == "CONNECT"
        self._open.add(connection)
        try:
            if not connection.start(write_head(self._address, exchange, host=self._host), bodiless=False, buffer=PIECE):
                return self._not_sent("closed the connection at once")
            return await tunnel(connection, exchange, idle_timeout, self._limits.half_closed_timeout)
        except LOST as error:
            return self._failure(error, idle_timeout)
        finally:
            self._drop(connection)

    async def _send_once(self, request: bytes, *, bodiless: bool, repeatable: bool) -> Answer | Fault:
        connection: ClientConnection | Fault | None = self._write_on_idle(request, bodiless=bodiless)
        is_second = False
        try:
            if isinstance(connection, ClientConnection):
                answer = await self._answer(connection)
                if not isinstance(answer, Fault):
                    return answer
                self._distrust()
                if not (repeatable and answer.code is FaultCode.NO_REPLY):
                    return answer
                connection, is_second = None, True
            connection = await self._write_on_new(request, bodiless=bodiless)
            return connection if isinstance(connection, Fault) else await self._answer(connection)
        except asyncio.CancelledError as error:
            if not is_second and (not isinstance(connection, ClientConnection) or connection.was_unwritten):
                error.args = (*error.args, NOT_SENT)
            raise

    def _write_on_idle(self, request: bytes, *, bodiless: bool, buffer: int | None = None) -> ClientConnection | None:
        """Send a request over an idle connection. Over one that was closed meanwhile, nothing was sent."""
        self._check_probe()
        while self._idle:
            connection = self._idle.pop()
            if connection.start(request, bodiless=bodiless, buffer=buffer):
                return connection
            self._drop(connection)
            self._distrust()
        return None

    async def _write_on_new(
        self, request: bytes, *, bodiless: bool, buffer: int | None = None
    ) -> ClientConnection | Fault:
        try:
            seconds = self._limits.connect_timeout
            connection = await connect(
                ClientConnection, self._address, seconds, known=self._known, on_lost=self._forget
            )
        except OSError as error:
            return self._not_sent(f"cannot be reached: {reason(error)}")
        self._open.add(connection)
        if connection.start(request, bodiless=bodiless, buffer=buffer):
            return connection
        self._drop(connection)
        return self._not_sent("closed the connection at once")

    async def _answer(self, connection: ClientConnection) -> Answer | Fault:
        return await self._used(connection, connection.answer(self._limits.answer, self._quota))

    async def _used(
        self, connection: ClientConnection, reading: Awaitable[Answer], idle_timeout: float = 0.0
    ) -> Answer | Fault:
        """Read what comes over a connection, which is kept for the next request if it can be."""
        kept = False
        try:
            answer = await reading
            kept = self._return_to_pool(connection)
            return answer
        except (*LOST, TooLargeError, BrokenBodyError) as error:
            return self._failure(error, idle_timeout)
        finally:
            if not kept:
                self._drop(connection)

    def _return_to_pool(self, connection: ClientConnection) -> bool:
        if self._limits.keepalive is False or self._retired or self._stopped or not connection.is_reusable:
            return False
        self._keeps_alive = self._keeps_alive or connection.promises_keep_alive
        connection.idle_since = asyncio.get_running_loop().time()
        if not self._is_sweeping:
            self._sweep_later(self._limits.idle)
        if self._keeps_alive:
            self._idle.append(connection)
        elif self._probe is None:
            self._probe = connection
        else:
            return False
        return True

    def _forget(self, connection: ClientConnection) -> None:
        """A connection has ended. One that was idle was closed by the upstream."""
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
            self._distrust()

    def _sweep_later(self, seconds: float) -> None:
        if not self._is_sweeping:
            self._is_sweeping = True
            asyncio.get_running_loop().call_later(seconds, self._close_unused)

    def _close_unused(self) -> None:
        """Close what was idle for too long."""
        self._is_sweeping = False
        oldest = asyncio.get_running_loop().time() - self._limits.idle
        left = float("inf")
        for connection in self._unused():
            if connection.idle_since > oldest:
                left = min(left, connection.idle_since - oldest)
                continue
            if connection in self._idle:
                self._idle.remove(connection)
            self._drop(connection)
        if left < float("inf"):
            self._sweep_later(left)

    # Whether the upstream keeps connections open: from the config, from its headers, or learnt by a probe

    def _check_probe(self) -> None:
        connection = self._probe
        if connection is None:
            return
        if connection.transport is None:
            self._probe = None
            self._drop(connection)
        elif asyncio.get_running_loop().time() - connection.idle_since >= self._limits.probe_interval:
            self._probe = None
            self._keeps_alive = True
            self._idle.append(connection)

    def _distrust(self) -> None:
        """The upstream has closed a connection: make no use of the idle ones until it is seen to keep one."""
        if self._limits.keepalive is None:
            self._keeps_alive = False
            self._close_idle()

    def _close_idle(self) -> None:
        for connection in self._unused():
            self._drop(connection)
        self._idle.clear()
        self._probe = None

    def _unused(self) -> list[ClientConnection]:
        return [*self._idle, *([] if self._probe is None else [self._probe])]

    def _drop(self, connection: ClientConnection) -> None:
        connection.abort()
        self._open.discard(connection)

    @property
    def _label(self) -> str:
        return f"the legacy service '{self.name}'"

    def _not_sent(self, why: str) -> Fault:
        self._last_error = why
        return Fault(FaultCode.UNAVAILABLE, f"{self._label} {why}; nothing was executed")

    def _failure(self, error: Exception, idle_timeout: float = 0.0) -> Fault:
        """What is known of a request that was sent, and has no whole answer. `idle_timeout`: of a streamed one."""
        if isinstance(error, BrokenBodyError):
            return Fault(FaultCode.INVALID_REQUEST, f"the body is broken: {error}; {self._label} got a part of it")
        if isinstance(error, TooLargeError):
            self._last_error = f"an answer {error}"
            return Fault(FaultCode.TOO_LARGE, f"the answer of {self._label} {error}; the call was executed")
        if isinstance(error, TimeoutError) and idle_timeout:
            text = f"no byte from or to {self._label} within {idle_timeout:g} s; it may have been executed"
            return Fault(FaultCode.TIMEOUT, text)
        garbled = isinstance(error, NotHttpError)
        why = "answered with something other than HTTP" if garbled else "closed the connection before it had answered"
        self._last_error = why
        text = f"{self._label} {why}; whether the call was executed is unknown"
        return Fault(FaultCode.NO_REPLY, text, name="" if garbled else HUNG_UP)


class SentRequest(Struct, eq=False):
    """A request that was sent over an idle connection, and that no task waits for. It has a slot of its upstream."""

    upstream: HttpUpstreamConnection
    connection: ClientConnection
    request: bytes
    receiver: AnswerReceiver
    repeatable: bool
    has_failed: bool = False  # and waits to be sent again

    def withdraw(self) -> bool:
        """See SentMessage."""
        return self.upstream.withdraw(self)
