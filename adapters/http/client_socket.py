"""The socket of one client, and the state of its connection: deadlines, slow readers, clients that have left, closing.

There is one deadline at a time (for a head, a body, a client that reads, the next request). Its timer stays when the
deadline moves to a later time, and the deadline is checked again when the timer fires.

A client that ends its direction while its call runs may still read, so the call goes on (half-close). When the
connection is lost as a whole the call is cancelled.

While a request is streamed, a body that comes faster than the upstream takes it waits here up to BUFFER bytes; then the
socket is not read.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from adapters.http.addresses import Ending, ending
from adapters.http.exchange import BUFFER, CONTINUE, RESERVED, Exchange
from adapters.http.quotas import PeerShare
from adapters.http.request import HttpRequest
from adapters.http.request_parser import RequestParser
from adapters.http.response import HttpResponse
from adapters.limits import PeerAccount
from gateway.core.interfaces import PassedMessage
from gateway.core.rpc.model import Answer, Peer

if TYPE_CHECKING:  # the listener makes the connections
    from adapters.http.server import HttpServer

READ_AHEAD = 64 * 1024  # bytes behind a request that is being served; past it the socket is not read
RESERVED_FOR_EVENTS = 16 * 1024  # bytes that count as held for a stream of events: mostly it waits
LINGER = 2.0  # seconds during which input after a refusal is dropped, so that the client can read the refusal
PROBE_INTERVAL = 30.0  # seconds until the next probe

NEVER = float("inf")
RESTING = "rest"  # the state between two requests: everything that came is answered
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER (socket(7)): on, for no time


class ClientSocket(asyncio.Protocol):
    """The socket of one connection, for `HttpConnection`, which serves the requests."""

    __slots__ = (
        "_action",
        "_close_next",
        "_due",
        "_ended",
        "_exchange",
        "_fires_at",
        "_held",
        "_input",
        "_is_eof",
        "_is_paused",
        "_limits",
        "_loop",
        "_minor",
        "_owner",
        "_probes_at",
        "_request",
        "_share",
        "_stalled_since",
        "_state",
        "_task",
        "_timer",
        "_transport",
        "_unsent",
        "_write_until",
        "is_writing",
        "peer",
    )

    def __init__(self, owner: HttpServer, loop: asyncio.AbstractEventLoop) -> None:
        self._owner = owner
        self._limits = owner.limits
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._input = RequestParser(owner.limits, needs_host=owner.needs_host)
        self._share: PeerShare | None = None
        self.peer = Peer()
        self._request: HttpRequest | None = None  # that is served, when it is not streamed
        self._task: asyncio.Task[None] | PassedMessage | None = None  # what serves it
        self._exchange: Exchange | None = None  # of the request that is served, when it is streamed
        self._held = 0  # bytes reserved of the quota
        self._is_eof = False  # the client has ended its direction
        self._is_paused = False  # the socket is not read
        self.is_writing = False  # the kernel has not taken everything that was written
        self._close_next = False  # when it has
        self._ended = False  # all further input is dropped
        # The deadline: its name, loop time and action
        self._state = ""
        self._due = NEVER
        self._action: Callable[[], None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._fires_at = NEVER  # the timer
        self._minor = 1  # HTTP/1.x, of the request that is served
        self._probes_at = NEVER
        self._write_until = NEVER
        self._unsent = 0  # bytes in the write buffer at the last check
        self._stalled_since = 0.0

    # For the listener and its quotas

    @property
    def is_idle(self) -> bool:
        """Whether each request that has arrived is answered."""
        return self._ended or not (
            self._task or self.is_writing or self._input.ready or self._input.current or self._input.failure
        )

    @property
    def account(self) -> PeerAccount | None:
        """The account of the peer."""
        return None if self._share is None else self._share.account

    @property
    def stalled(self) -> float:
        """Seconds since the client was last seen to read a part of its response. It looks again: a poll may be due."""
        return self._loop.time() - self._last_read() if self.is_writing else 0.0

    def _last_read(self) -> float:
        """Look how much is unsent; returns when a look last found less than the look before it."""
        if self._transport is not None and (left := self._transport.get_write_buffer_size()) < self._unsent:
            self._unsent, self._stalled_since = left, self._loop.time()
        return self._stalled_since

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

    def end_tunnel(self) -> None:
        """End the client's direction of a tunnel, so that the upstream may end the other one."""
        if self._exchange is not None and self._exchange.is_tunnel:
            self._exchange.feed_end()

    # Writing and closing

    def write(self, data: bytes) -> None:
        """Write to the client."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def reset(self) -> None:
        """End the connection in a way that no client takes for the end of a response. Over TCP it is a reset."""
        transport = self._transport
        if transport is None:
            return
        raw = transport.get_extra_info("socket")
        if raw is not None and raw.family != socket.AF_UNIX:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._ended = True
        transport.abort()

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
        self._due = due = self._loop.time() + seconds
        if self._fires_at > due:
            if self._timer is not None:
                self._timer.cancel()
            self._start_timer(due)

    def _start_timer(self, due: float) -> None:
        self._fires_at, self._timer = due, self._loop.call_at(due, self._tick)

    def _tick(self) -> None:
        self._timer, self._fires_at = None, NEVER
        if self._due == NEVER:
            return
        if self._loop.time() < self._due:
            self._start_timer(self._due)
            return
        self._state, self._due = "", NEVER
        if self._action is not None:
            self._action()

    def _wait_for_request(self) -> None:
        """Be idle until the next request."""
        if self._state != RESTING:
            assert self._share is not None
            self._share.idle[self] = None
            self._state, self._action = RESTING, self.force_close  # as in `_set_deadline`
            self._due = due = self._loop.time() + self._limits.keepalive_timeout
            if self._fires_at > due:
                if self._timer is not None:
                    self._timer.cancel()
                self._start_timer(due)

    def _leave_idle(self) -> None:
        if self._share is not None:
            self._share.idle.pop(self, None)

    # Clients that read slowly, or have left

    def _watch_reader(self) -> None:
        """Watch a client that is reading its response: see `_check_reader`."""
        if self._state == "write" or self._transport is None:
            return
        now, seconds = self._loop.time(), self._limits.write_timeout
        self._write_until, self._stalled_since = now + seconds, now
        self._unsent = self._transport.get_write_buffer_size()
        self._owner.quota.slow_readers.add(self)
        self._set_deadline("write", min(self._limits.poll_interval, seconds), self._check_reader)

    def _check_reader(self) -> None:
        if not self.is_writing or self._transport is None:
            return
        now = self._loop.time()
        if now >= self._write_until:
            self.abort(f"did not read its answer within {self._limits.write_timeout:g} s")
            return
        self._last_read()
        self._set_deadline("write", min(self._limits.poll_interval, self._write_until - now), self._check_reader)

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
        if how is Ending.ITS_SIDE and self._probes_at == NEVER:
            self._probes_at = now + self._limits.probe_after
        if now >= self._probes_at:
            self._probes_at = now + PROBE_INTERVAL
            if self._minor == 1:
                self.write(CONTINUE)  # clients ignore it (RFC 9110 section 15.2); the host of a closed one resets
        self._set_deadline("left", self._limits.poll_interval, self._check_client_left)

    def _stop_reading(self) -> None:
        if not self._is_paused and self._transport is not None:
            self._is_paused = True
            self._transport.pause_reading()
            if self._task is not None and self._exchange is None:
                self._set_deadline("left", self._limits.poll_interval, self._check_client_left)

    # While a request is streamed

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
        if self._input.current is exchange.request and (self._input.broken or self._input.failure is not None):
            exchange.fail(self._input.broken or "found chunk framing without a body byte")
        if exchange.size >= BUFFER or len(self._input.unread) > READ_AHEAD:
            self._stop_reading()
            self._watch_exchange()

    def _end_input(self, exchange: Exchange) -> None:
        """Pass the end of the client's direction to an exchange."""
        if exchange.is_tunnel:
            exchange.feed_end()
        elif self._input.current is exchange.request:
            exchange.fail(exchange.request.ended_early)

    async def _stream(self, request: HttpRequest, exchange: Exchange) -> Answer | None:
        assert request.passthrough is not None
        quotas, counts = self._owner.quotas, request.is_tunnel and not request.is_events
        quotas.tunnels += counts
        try:
            return await request.passthrough.stream(exchange)
        finally:
            quotas.tunnels -= counts

    def _end_exchange(self, request: HttpRequest, exchange: Exchange) -> None:
        """Go on after a whole response: with the next request, or by closing."""
        if self._transport is None:
            return
        self._reserve(0)
        self._state = ""
        if exchange.closes or request is self._input.current:
            self._close()

    def _watch_exchange(self) -> None:
        """Abort a client that sends nothing of its body, or reads nothing of its response, for too long.

        The client of a tunnel may stall. While its socket is read, its end is heard, so there is nothing to watch.
        """
        exchange, transport = self._exchange, self._transport
        if exchange is None or transport is None or transport.is_closing():
            return
        now, left, limits = self._loop.time(), transport.get_write_buffer_size(), self._limits
        if (self._is_eof or self._is_paused) and ending(transport) is Ending.ALL:
            transport.abort()
            return
        if not self.is_writing or left < self._unsent:
            self._stalled_since = now
        self._unsent = left
        may_stall = exchange.is_tunnel or exchange.request.is_events
        if self.is_writing and not may_stall and now - self._stalled_since >= limits.write_timeout:
            self.abort(f"read nothing of its answer for {limits.write_timeout:g} s")
        elif exchange.is_waiting and now - exchange.active_at >= limits.body_timeout:
            self.abort(f"sent nothing of its body for {limits.body_timeout:g} s")
        elif not exchange.is_tunnel or self._is_eof or self._is_paused:
            seconds = min(limits.poll_interval, limits.body_timeout, limits.write_timeout)
            self._set_deadline("exchange", seconds, self._watch_exchange)

    # What an exchange asks of its connection

    def write_eof(self) -> None:
        """End this direction."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write_eof()

    def end_http(self) -> None:
        """Nothing of HTTP follows: the exchange is a tunnel from now on."""
        self._input.end()

    def resume_reading_body(self) -> None:
        """There is room for more of the request body."""
        exchange = self._exchange
        if exchange is None or not self._is_paused or self._transport is None:
            return
        self._feed_exchange(exchange)
        if exchange.size < BUFFER and len(self._input.unread) <= READ_AHEAD:
            self._is_paused = False
            self._transport.resume_reading()

    def hold(self, size: int) -> bool:
        """Count so many bytes as held beside those of the exchange; false: they do not fit."""
        share, exchange = self._share, self._exchange
        if share is None or exchange is None:
            return False
        held = size + (RESERVED_FOR_EVENTS if exchange.request.is_events else RESERVED)
        if held > self._held and not self._owner.quotas.has_room(share, held - self._held):
            return False
        self._reserve(held)
        return True

    def must_close(self, request: HttpRequest) -> bool:
        """Whether the connection ends with the response to this request."""
        if not request.keep_alive or self._owner.is_stopping:
            return True
        more = self._input.ready or self._input.current or self._input.failure or self._input.unread
        return self._is_eof and not more
