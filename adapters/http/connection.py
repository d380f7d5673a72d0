"""One HTTP/1.x connection of a listener: requests are served one at a time, in their order (RFC 9112 section 9.3).

Input is parsed only while no request is served. Requests that a client sends ahead wait as bytes; past READ_AHEAD the
socket is not read. One task serves a request; a refusal needs none. A body is read whole for an RPC endpoint, and
streamed through an `Exchange` for a passthrough.

There is one deadline at a time (for a head, a body, a client that reads, the next request). Its timer stays when the
deadline moves to a later time, and the deadline is checked again when the timer fires.

A client that ends its direction while its call runs may still read, so the call goes on (half-close). When the
connection is lost as a whole the call is cancelled.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Callable
from typing import Protocol, cast

from adapters.http import response
from adapters.http.addresses import Ending, ending, peer_of
from adapters.http.exchange import BUFFER, CONTINUE, RESERVED, Exchange
from adapters.http.quotas import HttpLimits, PeerShare, Quotas
from adapters.http.request import BROKEN_BODY, BUSY, HttpRefusal, HttpRequest, too_large, too_slow
from adapters.http.request_parser import RequestParser
from adapters.http.response import HttpResponse, ResponseWriter
from adapters.limits import PeerAccount, Quota
from gateway.core.rpc.model import Answer, Peer

READ_AHEAD = 64 * 1024  # bytes behind a request that is being served; past it the socket is not read
LARGE = 64 * 1024  # bytes of a response that are written without being copied behind their head
LINGER = 2.0  # seconds during which input after a refusal is dropped, so that the client can read the refusal
POLL_INTERVAL = (
    1.0  # seconds between two checks of a client that sends nothing: whether it is connected, whether it reads
)
PROBE_AFTER = 2.0  # seconds until a half-closed client is sent 100 (Continue), to learn whether it still reads
PROBE_INTERVAL = 30.0  # seconds until the next probe

SLOW_HEAD = response.text(408, "no complete request arrived in time", close=True)
INTERNAL_ERROR = response.text(500, "internal error", close=True)
TOO_MANY_CONNECTIONS = response.text(503, "too many connections", close=True, headers="Retry-After: 1\r\n")

_NEVER = float("inf")
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER (socket(7)): on, for no time

_log = logging.getLogger(__name__)


class ConnectionOwner(Protocol):
    """The listener of a connection."""

    @property
    def limits(self) -> HttpLimits:
        """The limits of one connection."""

    @property
    def writer(self) -> ResponseWriter:
        """Writes heads of responses."""

    @property
    def quota(self) -> Quota:
        """The quota that all listeners share."""

    @property
    def needs_host(self) -> bool:
        """Whether HTTP/1.1 without a Host header is refused."""

    @property
    def is_stopping(self) -> bool:
        """Whether no further request is taken."""

    @property
    def quotas(self) -> Quotas:
        """The shares of all peers."""

    def add_connection(self, connection: HttpConnection) -> PeerShare | None:
        """Count a new connection; returns the share of its peer, or None when there are too many connections."""

    def remove_connection(self, connection: HttpConnection, share: PeerShare, task: asyncio.Task[None] | None) -> None:
        """Stop counting a connection; `task` is its cancelled call, which is counted until it has ended."""

    def log_eviction(self, whose: str, among: int) -> None:
        """Log that an idle connection was closed for a new one; see QuotaMember.evict."""

    def log_abort(self, peer: Peer, why: str) -> None:
        """Log that the gateway closed the connection of a peer, and why."""

    def admit(self, request: HttpRequest) -> HttpResponse | None:
        """Set the endpoint of a request; returns a response where the head alone is refused."""

    def refuse(self, request: HttpRequest, refusal: HttpRefusal) -> HttpResponse:
        """The response to a request that its endpoint does not get."""

    def to_response(self, answer: Answer) -> HttpResponse:
        """The response that carries an endpoint's answer."""


class HttpConnection(asyncio.Protocol):
    """One client's connection."""

    __slots__ = (
        "_action",
        "_close_next",
        "_due",
        "_ended",
        "_exchange",
        "_held",
        "_input",
        "_is_eof",
        "_is_paused",
        "_is_writing",
        "_limits",
        "_loop",
        "_minor",
        "_owner",
        "_probes_at",
        "_share",
        "_stalled_since",
        "_state",
        "_task",
        "_timer",
        "_transport",
        "_unsent",
        "_write_until",
        "peer",
    )

    def __init__(self, owner: ConnectionOwner, loop: asyncio.AbstractEventLoop) -> None:
        self._owner = owner
        self._limits = owner.limits
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._input = RequestParser(owner.limits, needs_host=owner.needs_host)
        self._share: PeerShare | None = None
        self.peer = Peer()
        self._task: asyncio.Task[None] | None = None
        self._exchange: Exchange | None = None  # of the request that is served, when it is streamed
        self._held = 0  # bytes reserved of the quota
        self._is_eof = False  # the client has ended its direction
        self._is_paused = False  # the socket is not read
        self._is_writing = False  # the kernel has not taken everything that was written
        self._close_next = False  # when it has
        self._ended = False  # all further input is dropped
        # The deadline: its name, loop time and action
        self._state = ""
        self._due = _NEVER
        self._action: Callable[[], None] = _nothing
        self._timer: asyncio.TimerHandle | None = None
        self._minor = 1  # HTTP/1.x, of the request that is served
        self._probes_at = _NEVER
        self._write_until = _NEVER
        self._unsent = 0  # bytes in the write buffer at the last check
        self._stalled_since = 0.0

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection and wait for a request."""
        self._transport = out = cast("asyncio.Transport", transport)  # uvloop's class does not inherit from it
        out.set_write_buffer_limits(high=0)  # resume_writing: the kernel has every byte
        self.peer = peer_of(transport)
        self._share = self._owner.add_connection(self)
        if self._share is None:
            self._ended = True
            out.write(self._owner.writer.write(TOO_MANY_CONNECTIONS))
            out.close()
            return
        self._set_deadline("head", self._limits.header_timeout, self._head_is_late)

    def connection_lost(self, exc: BaseException | None) -> None:  # noqa: ARG002 (asyncio's signature)
        """Cancel the call that is running, and give back all that is reserved."""
        self._ended = True
        self._transport = None
        self._input.close()
        self._due, self._action = _NEVER, _nothing
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._reserve(0)
        if self._share is not None:
            self._owner.quota.slow_readers.discard(self)
            task, self._task = self._task, None
            if task is not None:
                task.cancel()
            self._owner.remove_connection(self, self._share, task)

    def data_received(self, data: bytes) -> None:
        """Parse input at once, unless a request is being served."""
        if self._ended:
            return
        self._input.unread = self._input.unread + data if self._input.unread else data
        if self._exchange is not None:
            self._feed_exchange(self._exchange)
        elif self._task is None and not self._is_writing:
            self._process_input()
        elif len(self._input.unread) > READ_AHEAD:
            self._stop_reading()

    def eof_received(self) -> bool:
        """The client has ended its direction; it may still wait for a response (half-close)."""
        self._is_eof = True
        if self._ended or self._transport is None:
            return False
        if self._exchange is not None:
            self._end_input(self._exchange)
        if self._task is None and not self._is_writing:
            self._process_input()
        else:
            self._check_client_left()
        return self._transport is not None and not self._transport.is_closing()

    def pause_writing(self) -> None:
        """The kernel has not taken everything that was written."""
        self._is_writing = True

    def resume_writing(self) -> None:
        """The kernel has taken everything that was written."""
        self._is_writing = False
        self._owner.quota.slow_readers.discard(self)
        if self._exchange is not None:
            self._exchange.written()
        if self._ended or self._task is not None:
            return
        self._reserve(0)
        self._state = ""
        if self._close_next:
            self._close()
        else:
            self._process_input()

    # For the listener and its quotas

    @property
    def is_idle(self) -> bool:
        """Whether each request that has arrived is answered."""
        return self._ended or not (
            self._task or self._is_writing or self._input.ready or self._input.current or self._input.failure
        )

    @property
    def account(self) -> PeerAccount | None:
        """The account of the peer."""
        return None if self._share is None else self._share.account

    @property
    def stalled(self) -> float:
        """Seconds since the client last read a part of its response."""
        return self._loop.time() - self._stalled_since if self._is_writing else 0.0

    def evict(self, whose: str, among: int) -> None:
        """See QuotaMember."""
        self._owner.log_eviction(whose, among)
        self.force_close()

    def give_up(self) -> None:
        """See SlowReader."""
        self.abort(f"read nothing of its answer for {self.stalled:.1f} s, and others need the room")
        self._reserve(0)
        self._owner.quota.slow_readers.discard(self)

    def abort(self, why: str) -> None:
        """Close the connection now, and log why."""
        if self._transport is not None and not self._transport.is_closing():
            self._owner.log_abort(self.peer, why)
        self.force_close()

    def force_close(self) -> None:
        """Close the connection now; bytes that the kernel has not taken are lost. A response in its middle is reset."""
        self._ended = True
        if self._transport is None:
            return
        if self._exchange is not None and self._exchange.has_begun and not self._exchange.is_tunnel:
            self.reset()
        elif self._transport.get_write_buffer_size():
            self._transport.abort()
        else:
            self._transport.close()

    # Requests

    def _process_input(self) -> None:
        """Serve requests that are ready and parse input, until there is something to wait for."""
        try:
            while not (self._ended or self._task is not None or self._is_writing):
                if self._input.ready:
                    self._begin(self._input.ready.popleft())
                elif self._input.failure is not None:
                    self._fail(*self._input.failure)
                elif self._input.current is not None and not self._input.current.is_admitted:
                    self._begin_body(self._input.current)
                elif self._input.unread and not self._input.is_last:
                    self._input.parse()
                else:
                    break
            if not self._ended and (self._task is None or self._input.unread or self._is_eof or self._is_paused):
                self._wait_for_next()
        except Exception:  # noqa: BLE001 - `_internal_error` logs it, and ends the connection
            self._internal_error()

    def _wait_for_next(self) -> None:
        """Set the deadline for the next event: more input, or a client that reads."""
        if self._is_writing or self._task is not None:
            self._leave_idle()
            if len(self._input.unread) > READ_AHEAD:
                self._stop_reading()
            if self._is_writing and self._task is None:
                self._watch_reader()
            elif (self._is_paused or self._is_eof) and self._exchange is None:
                self._set_deadline("left", POLL_INTERVAL, self._check_client_left)
            return
        if self._is_paused and self._transport is not None:
            self._is_paused = False
            self._transport.resume_reading()
        limits = self._limits
        if self._input.current is not None:
            self._leave_idle()
            self._set_deadline("body", limits.body_timeout, self._body_is_late)
            self._advance_body(self._input.current)
        elif self._is_eof or self._input.is_last:
            self._close()
        elif self._input.has_begun:
            self._set_deadline("head", limits.header_timeout, self._head_is_late)
        elif self._state != "head":  # the first head has its time from connecting
            self._wait_for_request(limits.keepalive_timeout)

    def _begin_body(self, request: HttpRequest) -> None:
        """Admit a request whose body has not arrived whole: stream the body, refuse it, or wait for it."""
        answer = self._admit(request)
        if answer is not None:
            self._answer(request, answer)
            if self._is_writing:
                self._watch_reader()
        elif request.passthrough is not None:
            self._begin_exchange(request)

    def _advance_body(self, request: HttpRequest) -> None:
        """Refuse a body that is arriving, where it is too large or can never be whole; else ask for the rest."""
        assert self._share is not None
        answer = None
        if self._is_eof or self._input.is_broken:
            answer = self._owner.refuse(request, BROKEN_BODY)
        if answer is None and request.size > self._limits.body:
            answer = self._owner.refuse(request, too_large(self._limits.body))
        size = max(request.size, request.length or 0)
        if answer is None and not self._owner.quotas.fits(self._share, size - self._held):
            answer = self._owner.refuse(request, BUSY)
        if answer is not None:
            self._answer(request, answer)
            if self._is_writing:
                self._watch_reader()
            return
        self._reserve(request.size)
        if request.expects_continue:
            request.has_continued = True
            self.write(CONTINUE)

    def _admit(self, request: HttpRequest) -> HttpResponse | None:
        request.is_admitted = True
        return self._owner.admit(request)

    def _begin(self, request: HttpRequest) -> None:
        """Serve a whole request."""
        answer = None if request.is_admitted else self._admit(request)
        if answer is None and request.passthrough is not None:
            self._begin_exchange(request)
            return
        if answer is None:
            body, share = request.body(self._limits.body), self._share
            assert share is not None
            if isinstance(body, HttpRefusal):
                answer = self._owner.refuse(request, body)
            elif not self._owner.quotas.begin_call(share, len(body) - self._held):
                answer = self._owner.refuse(request, BUSY)
            else:
                self._run(request, body, share, len(body))
                return
        self._answer(request, answer)

    def _begin_exchange(self, request: HttpRequest) -> None:
        """Serve a request by streaming, from the part of its body that has arrived."""
        share = self._share
        assert share is not None
        if not self._owner.quotas.begin_call(share, RESERVED - self._held):
            self._answer(request, self._owner.refuse(request, BUSY))
            return
        exchange = Exchange(
            self, request, self.peer, is_whole=self._input.current is not request and not request.is_tunnel
        )
        self._run(request, b"", share, RESERVED, exchange)
        self._exchange = exchange
        self._feed_exchange(exchange)
        self._watch_exchange()

    def _run(
        self, request: HttpRequest, body: bytes, share: PeerShare, held: int, exchange: Exchange | None = None
    ) -> None:
        """Start the task that serves a request; `held`: bytes to reserve for it."""
        self._reserve(held)
        self._minor = request.minor
        self._state, self._due = "", _NEVER
        share.idle.pop(self, None)
        call = self._call(request, body, share, exchange)
        self._task = asyncio.Task(call, loop=self._loop, name="http call")  # with a name, asyncio makes none

    async def _call(self, request: HttpRequest, body: bytes, share: PeerShare, exchange: Exchange | None) -> None:
        answer: Answer | None
        try:
            try:
                if exchange is None:
                    assert request.endpoint is not None
                    answer = await request.endpoint.answer(body, self.peer, request.metadata())
                else:
                    answer = await self._stream(request, exchange)
            finally:
                if self._task is not None:  # else the connection is lost, and the listener waits for the task
                    self._task = self._exchange = None
                    self._owner.quotas.end_call(share)
            if self._transport is not None and answer is not None:
                self._answer(request, self._owner.to_response(answer))
            elif exchange is not None:
                self._end_exchange(request, exchange)
        except asyncio.CancelledError:
            self.force_close()  # a client that is still connected must not wait for ever
            raise
        except Exception:  # noqa: BLE001 - see above
            self._internal_error()
        else:
            self._after_call()

    def _after_call(self) -> None:
        """Go on with the input that has arrived meanwhile, or wait."""
        if self._input.unread or self._is_paused or not self._is_over or self._is_eof or self._input.is_last:
            self._process_input()
        elif self._is_writing:
            self._watch_reader()
        elif not self._ended:
            self._wait_for_request(self._limits.keepalive_timeout)

    def _answer(self, request: HttpRequest, answer: HttpResponse) -> None:
        """Write a response; go on when the kernel has taken it."""
        if answer.hang_up:
            self._reserve(0)
            self.force_close()
            return
        close = answer.close or request is self._input.current or request.is_tunnel or self.must_close(request)
        if request.cors:
            answer = answer._replace(headers=answer.headers + request.cors)
        if close != answer.close:
            answer = answer._replace(close=close)
        head, body = self._owner.writer.head_and_body(answer, minor=request.minor, bodiless=request.method == "HEAD")
        self._state = ""
        transport = self._transport
        if transport is not None and not transport.is_closing():
            if len(body) > LARGE:
                transport.write(head)
                transport.write(body)
            else:
                transport.write(head + body)
        if self._is_writing:
            self._reserve(len(body))  # the call was executed, so it is answered even when the quota is full
            self._close_next = close
            return
        if self._held:
            self._reserve(0)
        if close:
            self._close()

    # Streamed bodies and tunnels; see ExchangeOwner

    def _feed_exchange(self, exchange: Exchange) -> None:
        """Pass input to an exchange; stop reading the socket while BUFFER bytes wait there."""
        if exchange.is_tunnel and self._input.unread:
            data, self._input.unread = self._input.unread, b""
            exchange.feed(data)
        while (
            self._input.unread
            and self._input.current is exchange.request
            and self._input.failure is None
            and exchange.size < BUFFER
        ):
            self._input.parse()
        if self._input.current is exchange.request and (self._input.is_broken or self._input.failure is not None):
            exchange.fail()
        if exchange.size >= BUFFER or len(self._input.unread) > READ_AHEAD:
            self._stop_reading()

    def _end_input(self, exchange: Exchange) -> None:
        """Pass the end of the client's direction to an exchange."""
        if exchange.is_tunnel:
            exchange.feed_end()
        elif self._input.current is exchange.request:
            exchange.fail()

    async def _stream(self, request: HttpRequest, exchange: Exchange) -> Answer | None:
        assert request.passthrough is not None
        quotas = self._owner.quotas
        quotas.tunnels += request.is_tunnel
        try:
            return await request.passthrough.stream(exchange)
        finally:
            quotas.tunnels -= request.is_tunnel

    def _end_exchange(self, request: HttpRequest, exchange: Exchange) -> None:
        """Go on after a whole response: with the next request, or by closing."""
        if self._transport is None:
            return
        self._reserve(0)
        self._state = ""
        if exchange.closes or request is self._input.current:
            self._close()

    def _watch_exchange(self) -> None:
        """Abort a client that sends nothing of its body, or reads nothing of its response, for too long."""
        exchange, transport = self._exchange, self._transport
        if exchange is None or transport is None or transport.is_closing():
            return
        now, left, limits = self._loop.time(), transport.get_write_buffer_size(), self._limits
        if (self._is_eof or self._is_paused) and ending(transport) is Ending.ALL:
            transport.abort()
            return
        if not self._is_writing or left < self._unsent:
            self._stalled_since = now
        self._unsent = left
        if self._is_writing and not exchange.is_tunnel and now - self._stalled_since >= limits.write_timeout:
            self.abort(f"read nothing of its answer for {limits.write_timeout:g} s")
        elif exchange.is_waiting and now - exchange.active_at >= limits.body_timeout:
            self.abort(f"sent nothing of its body for {limits.body_timeout:g} s")
        else:
            self._set_deadline(
                "exchange", min(POLL_INTERVAL, limits.body_timeout, limits.write_timeout), self._watch_exchange
            )

    @property
    def is_writing(self) -> bool:
        """See ExchangeOwner."""
        return self._is_writing

    def write_eof(self) -> None:
        """See ExchangeOwner."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write_eof()

    def resume_reading_body(self) -> None:
        """See ExchangeOwner."""
        exchange = self._exchange
        if exchange is None or not self._is_paused or self._transport is None:
            return
        self._feed_exchange(exchange)
        if exchange.size < BUFFER and len(self._input.unread) <= READ_AHEAD:
            self._is_paused = False
            self._transport.resume_reading()

    def must_close(self, request: HttpRequest) -> bool:
        """See ExchangeOwner."""
        is_last = self._is_eof and self._is_over and not self._input.unread
        return not request.keep_alive or self._owner.is_stopping or is_last

    @property
    def _is_over(self) -> bool:
        """Whether no request was parsed behind the one that is answered now."""
        return not (self._input.ready or self._input.current or self._input.failure)

    def reset(self) -> None:
        """See ExchangeOwner. Over TCP it is a reset."""
        transport = self._transport
        if transport is None:
            return
        raw = transport.get_extra_info("socket")
        if raw is not None and raw.family != socket.AF_UNIX:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._ended = True
        transport.abort()

    def write(self, data: bytes) -> None:
        """See ExchangeOwner."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def _close(self) -> None:
        """Close: now, or after LINGER seconds where a request has arrived in part."""
        if self._input.has_begun:
            self._linger()
        elif self._transport is not None:
            self._ended = True
            self._transport.close()

    def _fail(self, answer: HttpResponse, why: str) -> None:
        """Send the last response and close; `why` is for the log."""
        self.write(self._owner.writer.write(answer))
        if self._transport is not None and not self._transport.is_closing():
            self._owner.log_abort(self.peer, why)
        self._linger()

    def _internal_error(self) -> None:
        _log.exception("error while serving %s", self.peer.address)
        self._fail(INTERNAL_ERROR, "was answered with an internal error")

    def _linger(self) -> None:
        """Drop input for LINGER seconds, then close: a close with unread input resets (RFC 9112 section 9.6)."""
        self._ended = True
        self._input.drop()
        self._reserve(0)
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if self._is_eof:
            transport.close()
            return
        if self._is_paused:
            self._is_paused = False
            transport.resume_reading()
        transport.write_eof()
        self._state = ""
        self._set_deadline("linger", LINGER, self.force_close)
        if self._share is not None and self in self._share.connections:
            self._share.idle[self] = None

    def _reserve(self, size: int) -> None:
        if size != self._held and self._share is not None:
            self._owner.quota.reserve(size - self._held, self._share.account)
            self._held = size

    # Deadlines

    def _set_deadline(self, state: str, seconds: float, action: Callable[[], None]) -> None:
        """Run `action` in `seconds` unless the state changes first. A state that is set again keeps its deadline."""
        if state == self._state:
            return
        self._state, self._action = state, action
        self._due = self._loop.time() + seconds
        if self._timer is not None and self._timer.when() > self._due:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = self._loop.call_at(self._due, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if self._due == _NEVER:
            return
        if self._loop.time() < self._due:
            self._timer = self._loop.call_at(self._due, self._tick)
            return
        self._state, self._due = "", _NEVER
        self._action()

    def _wait_for_request(self, seconds: float) -> None:
        """Be idle until the next request."""
        if self._state != "rest":
            assert self._share is not None
            self._share.idle[self] = None
            self._set_deadline("rest", seconds, self.force_close)

    def _leave_idle(self) -> None:
        if self._share is not None:
            self._share.idle.pop(self, None)

    def _head_is_late(self) -> None:
        self._fail(SLOW_HEAD, f"sent no complete request within {self._limits.header_timeout:g} s")

    def _body_is_late(self) -> None:
        request = self._input.current
        assert request is not None
        answer = self._owner.refuse(request, too_slow(self._limits.body_timeout))
        self._answer(request, answer)
        if self._is_writing:
            self._watch_reader()

    def _watch_reader(self) -> None:
        """Watch a client that is reading its response: see `_check_reader`."""
        if self._state == "write" or self._transport is None:
            return
        now, seconds = self._loop.time(), self._limits.write_timeout
        self._write_until, self._stalled_since = now + seconds, now
        self._unsent = self._transport.get_write_buffer_size()
        self._owner.quota.slow_readers.add(self)
        self._set_deadline("write", min(POLL_INTERVAL, seconds), self._check_reader)

    def _check_reader(self) -> None:
        if not self._is_writing or self._transport is None:
            return
        now, left = self._loop.time(), self._transport.get_write_buffer_size()
        if now >= self._write_until:
            self.abort(f"did not read its answer within {self._limits.write_timeout:g} s")
            return
        if left < self._unsent:
            self._unsent, self._stalled_since = left, now
        self._set_deadline("write", min(POLL_INTERVAL, self._write_until - now), self._check_reader)

    def _check_client_left(self) -> None:
        """Abort a client that has left; probe a half-closed one now and then."""
        transport = self._transport
        if transport is None or transport.is_closing() or self._exchange is not None:
            return
        how = ending(transport)
        if how is Ending.ALL:
            transport.abort()
            return
        if self._task is None:
            return
        now = self._loop.time()
        if how is Ending.ITS_SIDE and self._probes_at == _NEVER:
            self._probes_at = now + PROBE_AFTER
        if now >= self._probes_at:
            self._probes_at = now + PROBE_INTERVAL
            if self._minor == 1:
                self.write(CONTINUE)  # clients ignore it (RFC 9110 section 15.2); the host of a closed one resets
        self._set_deadline("left", POLL_INTERVAL, self._check_client_left)

    def _stop_reading(self) -> None:
        if not self._is_paused and self._transport is not None:
            self._is_paused = True
            self._transport.pause_reading()
            if self._task is not None and self._exchange is None:
                self._set_deadline("left", POLL_INTERVAL, self._check_client_left)


def _nothing() -> None:
    """The action of no deadline."""
