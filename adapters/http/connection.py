"""One HTTP/1.x connection: bytes in through llhttp, requests one after the other, bytes out. Knows no endpoint.

Bytes are fed to the parser only while no request is being served, and in pieces. So requests that a client sends ahead
wait as bytes, and when there are too many of them the socket is not read. One task serves a request; a refusal needs
none. One deadline holds at a time (for a head, a body, a client that reads, the next request). Its timer is not touched
when the deadline moves to a later time; it is looked at again when it fires.

A client that ends its side while its call runs may still read: the call goes on. Once the connection is lost as a whole
the call is cancelled.
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

READ_AHEAD = 64 * 1024  # bytes behind a request that is being served; then the socket is left to fill up
LARGE = 64 * 1024  # bytes of an answer that are not copied to stand behind their head
LINGER = 2.0  # seconds for what a refused client still sends to be dropped, so that it lives to read the refusal
POLL_INTERVAL = (
    1.0  # seconds between two looks at a client that cannot be heard: whether it is still there, whether it reads
)
PROBE_AFTER = 2.0  # seconds after which a client that sends no more is sent something, to learn whether it still reads
PROBE_INTERVAL = 30.0  # seconds until the next time

SLOW_HEAD = response.text(408, "no complete request arrived in time", close=True)
INTERNAL_ERROR = response.text(500, "internal error", close=True)
TOO_MANY_CONNECTIONS = response.text(503, "too many connections", close=True, headers="Retry-After: 1\r\n")

_NEVER = float("inf")
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of socket(7): on, no time

_log = logging.getLogger(__name__)


class ConnectionOwner(Protocol):
    """What a connection tells the listener it belongs to, and asks it."""

    @property
    def limits(self) -> HttpLimits:
        """What is allowed."""

    @property
    def writer(self) -> ResponseWriter:
        """How answers are written."""

    @property
    def quota(self) -> Quota:
        """What all listeners share."""

    @property
    def needs_host(self) -> bool:
        """Whether HTTP/1.1 without a Host header is refused."""

    @property
    def is_stopping(self) -> bool:
        """Whether no further request is taken."""

    @property
    def quotas(self) -> Quotas:
        """What each peer may have."""

    def add_connection(self, connection: HttpConnection) -> PeerShare | None:
        """A connection stands; the share that it counts against, or None when there is no place for it."""

    def remove_connection(self, connection: HttpConnection, share: PeerShare, task: asyncio.Task[None] | None) -> None:
        """It is gone; `task` is the call that was cut off with it, which counts until it has ended."""

    def log_eviction(self, whose: str, among: int) -> None:
        """An idle connection of a peer was closed for a newcomer."""

    def log_abort(self, peer: Peer, why: str) -> None:
        """It was cut by us."""

    def admit(self, request: HttpRequest) -> HttpResponse | None:
        """Find the endpoint; the answer where the head alone tells that it is none."""

    def refuse(self, request: HttpRequest, refusal: HttpRefusal) -> HttpResponse:
        """The answer to a request that its endpoint does not see."""

    def to_response(self, answer: Answer) -> HttpResponse:
        """An endpoint's answer as HTTP."""


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
        self._exchange: Exchange | None = None  # the request that is served, when its bodies are streamed
        self._held = 0  # bytes, of the room
        # How the connection stands
        self._is_eof = False  # the client sends no more
        self._is_paused = False  # the socket is not read
        self._is_writing = False  # the client has not taken everything
        self._close_next = False  # once it has
        self._ended = False  # whatever still comes is dropped
        # The one deadline
        self._state = ""
        self._due = _NEVER
        self._action: Callable[[], None] = _nothing
        self._timer: asyncio.TimerHandle | None = None
        self._minor = 1  # HTTP/1.x, of the request that is served
        self._probes_at = _NEVER
        self._write_until = _NEVER
        self._unsent = 0  # bytes, at the last look
        self._stalled_since = 0.0

    # What asyncio tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has come."""
        self._transport = out = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        out.set_write_buffer_limits(high=0)  # drained means: the kernel has every byte
        self.peer = peer_of(transport)
        self._share = self._owner.add_connection(self)
        if self._share is None:
            self._ended = True
            out.write(self._owner.writer.write(TOO_MANY_CONNECTIONS))
            out.close()
            return
        self._set_deadline("head", self._limits.header_timeout, self._head_is_late)

    def connection_lost(self, exc: BaseException | None) -> None:  # noqa: ARG002 (asyncio's signature)
        """It has left, or we have; a call that runs for it is cancelled."""
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
        """Bytes; parsed at once unless a request is being served."""
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
        """The client sends no more; it may still wait for the answer to what it has sent (a half-closed connection)."""
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
        """The kernel has not taken all that was written."""
        self._is_writing = True

    def resume_writing(self) -> None:
        """It has now."""
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

    # What the listener asks

    @property
    def is_idle(self) -> bool:
        """Whether every request that has come is answered."""
        return self._ended or not (
            self._task or self._is_writing or self._input.ready or self._input.current or self._input.failure
        )

    @property
    def account(self) -> PeerAccount | None:
        """Whose bytes it holds."""
        return None if self._share is None else self._share.account

    @property
    def stalled(self) -> float:
        """Seconds since the client has taken something of its answer."""
        return self._loop.time() - self._stalled_since if self._is_writing else 0.0

    def evict(self, whose: str, among: int) -> None:
        """Close it for a newcomer; `whose` are `among` connections."""
        self._owner.log_eviction(whose, among)
        self.force_close()

    def give_up(self) -> None:
        """Cut it, as others need the room that its answer takes."""
        self.abort(f"read nothing of its answer for {self.stalled:.1f} s, and others need the room")
        self._reserve(0)
        self._owner.quota.slow_readers.discard(self)

    def abort(self, why: str) -> None:
        """Close it now, and say why."""
        if self._transport is not None and not self._transport.is_closing():
            self._owner.log_abort(self.peer, why)
        self.force_close()

    def force_close(self) -> None:
        """Close it without waiting for a client that does not read: what the kernel has not taken by now is lost."""
        self._ended = True
        if self._transport is None:
            return
        if self._transport.get_write_buffer_size():
            self._transport.abort()
        else:
            self._transport.close()

    # Requests, one after the other

    def _process_input(self) -> None:
        """Serve what is ready and parse what has come, until something must be waited for."""
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
        except Exception:  # noqa: BLE001 - `_bug` logs it, and ends the connection
            self._internal_error()

    def _wait_for_next(self) -> None:
        """Wait for what is next, in its time: more bytes, the answer, or a client that reads."""
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
        elif self._state != "head":  # at the beginning a head is waited for from the moment of connecting
            self._wait_for_request(limits.keepalive_timeout)

    def _begin_body(self, request: HttpRequest) -> None:
        """It is the turn of a request whose body has not come yet: stream it, refuse it, or wait for it."""
        answer = self._admit(request)
        if answer is not None:
            self._answer(request, answer)
            if self._is_writing:
                self._watch_reader()
        elif request.passthrough is not None:
            self._begin_exchange(request)

    def _advance_body(self, request: HttpRequest) -> None:
        """Look at a body of which a part has come: whether the rest of it is wanted, or will never come."""
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
        """Serve a request by streaming, from what has come of its body."""
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
        """Begin the task that serves a request; `held`: bytes that count for it."""
        self._reserve(held)
        self._minor = request.minor
        self._state, self._due = "", _NEVER
        share.idle.pop(self, None)
        call = self._call(request, body, share, exchange)
        self._task = asyncio.Task(call, loop=self._loop, name="http call")  # a name spares making one

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
                if self._task is not None:  # else the connection is lost, and its listener sees the task end
                    self._task = self._exchange = None
                    self._owner.quotas.end_call(share)
            if self._transport is not None and answer is not None:
                self._answer(request, self._owner.to_response(answer))
            elif exchange is not None:
                self._end_exchange(request, exchange)
        except asyncio.CancelledError:
            self.force_close()  # where the client is still there: it must not wait for ever
            raise
        except Exception:  # noqa: BLE001 - see above
            self._internal_error()
        else:
            self._after_call()

    def _after_call(self) -> None:
        """Go on with what has come meanwhile, or wait."""
        if self._input.unread or self._is_paused or not self._is_over or self._is_eof or self._input.is_last:
            self._process_input()
        elif self._is_writing:
            self._watch_reader()
        elif not self._ended:
            self._wait_for_request(self._limits.keepalive_timeout)

    def _answer(self, request: HttpRequest, answer: HttpResponse) -> None:
        """Write an answer, and wait until the client has taken it."""
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
            self._reserve(len(body))  # a call that is made is answered, however full it is
            self._close_next = close
            return
        if self._held:
            self._reserve(0)
        if close:
            self._close()

    # Bodies that are streamed; see ExchangeOwner

    def _feed_exchange(self, exchange: Exchange) -> None:
        """Give an exchange what has come, and stop reading the socket while it has enough."""
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
        """The client sends no more: the end of a tunnel's direction; of a body, only when it is whole."""
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
        """The response was sent to its end: go on with the next request, or close."""
        if self._transport is None:
            return
        self._reserve(0)
        self._state = ""
        if exchange.closes or request is self._input.current:
            self._close()

    def _watch_exchange(self) -> None:
        """See that a client goes on: that it sends the body it announced, and reads its response. No limit in all."""
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
        """See ExchangeOwner. Over TCP by a reset, which no client takes for the end of a response."""
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
        """Close: at once where no request is half read, else when the client has had time to read the answer."""
        if self._input.has_begun:
            self._linger()
        elif self._transport is not None:
            self._ended = True
            self._transport.close()

    def _fail(self, answer: HttpResponse, why: str) -> None:
        """Say why no further request is served, and close."""
        self.write(self._owner.writer.write(answer))
        if self._transport is not None and not self._transport.is_closing():
            self._owner.log_abort(self.peer, why)
        self._linger()

    def _internal_error(self) -> None:
        _log.exception("error while serving %s", self.peer.address)
        self._fail(INTERNAL_ERROR, "was answered with an internal error")

    def _linger(self) -> None:
        """Read on for a moment: closing a socket with unread data would take the answer back (RFC 9112 section 9.6)."""
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
        """Do something in `seconds`, unless another state comes first; the same state does not begin anew."""
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
        """Wait for the next request."""
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
        """A client is reading its answer: see that it goes on, and ends in time."""
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
        """Is a client still there that cannot be heard? To one that sends no more something is said now and then."""
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
                self.write(CONTINUE)  # a client must expect it (RFC 9110 section 15.2); one that is gone resets
        self._set_deadline("left", POLL_INTERVAL, self._check_client_left)

    def _stop_reading(self) -> None:
        if not self._is_paused and self._transport is not None:
            self._is_paused = True
            self._transport.pause_reading()
            if self._task is not None and self._exchange is None:
                self._set_deadline("left", POLL_INTERVAL, self._check_client_left)


def _nothing() -> None:
    """No deadline holds."""
