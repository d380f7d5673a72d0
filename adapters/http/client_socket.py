"""The socket of one client, and the state of its connection: deadlines, slow readers, clients that have left, closing.

There is one deadline at a time (for a head, a body, a client that reads, the next request). Its timer stays when the
deadline moves to a later time, and the deadline is checked again when the timer fires.

A client that ends its direction while its call runs may still read, so the call goes on (half-close). When the
connection is lost as a whole the call is cancelled.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Protocol

from adapters.http.addresses import Ending, ending
from adapters.http.exchange import CONTINUE, Exchange
from adapters.http.quotas import HttpLimits, PeerShare, Quotas
from adapters.http.request import HttpRefusal, HttpRequest, KnownHeads
from adapters.http.request_parser import RequestParser
from adapters.http.response import HttpResponse, ResponseWriter
from adapters.limits import PeerAccount, Quota
from gateway.core.interfaces import PassedMessage
from gateway.core.rpc.model import Answer, Peer

LINGER = 2.0  # seconds during which input after a refusal is dropped, so that the client can read the refusal
PROBE_INTERVAL = 30.0  # seconds until the next probe

NEVER = float("inf")
RESTING = "rest"  # the state between two requests: everything that came is answered
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER (socket(7)): on, for no time


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
    def known_heads(self) -> KnownHeads:
        """The heads that need not be parsed again."""

    @property
    def needs_host(self) -> bool:
        """Whether HTTP/1.1 without a Host header is refused."""

    @property
    def is_stopping(self) -> bool:
        """Whether no further request is taken."""

    @property
    def quotas(self) -> Quotas:
        """The shares of all peers."""

    def add_connection(self, connection: ClientSocket) -> PeerShare | None:
        """Count a new connection; returns the share of its peer, or None when there are too many connections."""

    def remove_connection(self, connection: ClientSocket, share: PeerShare, task: asyncio.Task[None] | None) -> None:
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
        "_is_writing",
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
        self._request: HttpRequest | None = None  # that is served, when it is not streamed
        self._task: asyncio.Task[None] | PassedMessage | None = None  # what serves it
        self._exchange: Exchange | None = None  # of the request that is served, when it is streamed
        self._held = 0  # bytes reserved of the quota
        self._is_eof = False  # the client has ended its direction
        self._is_paused = False  # the socket is not read
        self._is_writing = False  # the kernel has not taken everything that was written
        self._close_next = False  # when it has
        self._ended = False  # all further input is dropped
        # The deadline: its name, loop time and action
        self._state = ""
        self._due = NEVER
        self._action: Callable[[], None] = _nothing
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

    def end_tunnel(self) -> None:
        """End the client's direction of a tunnel, so that the upstream may end the other one."""
        if self._exchange is not None and self._exchange.is_tunnel:
            self._exchange.feed_end()

    # Writing and closing

    def write(self, data: bytes) -> None:
        """See ExchangeOwner."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

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

    def _drop_deadline(self) -> None:
        self._due, self._action = NEVER, _nothing
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._fires_at = None, NEVER

    def _tick(self) -> None:
        self._timer, self._fires_at = None, NEVER
        if self._due == NEVER:
            return
        if self._loop.time() < self._due:
            self._start_timer(self._due)
            return
        self._state, self._due = "", NEVER
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
        if not self._is_writing or self._transport is None:
            return
        now, left = self._loop.time(), self._transport.get_write_buffer_size()
        if now >= self._write_until:
            self.abort(f"did not read its answer within {self._limits.write_timeout:g} s")
            return
        if left < self._unsent:
            self._unsent, self._stalled_since = left, now
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


def _nothing() -> None:
    """The action of no deadline."""
