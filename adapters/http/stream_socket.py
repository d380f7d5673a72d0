"""The socket of one client while its request is streamed: what an `Exchange` asks of its connection, and its watch.

A body that comes faster than the upstream takes it waits here up to BUFFER bytes; then the socket is not read.
"""

from __future__ import annotations

from adapters.http.addresses import Ending, ending
from adapters.http.client_socket import ClientSocket
from adapters.http.exchange import BUFFER, RESERVED, Exchange
from adapters.http.request import HttpRequest
from gateway.core.rpc.model import Answer

READ_AHEAD = 64 * 1024  # bytes behind a request that is being served; past it the socket is not read
RESERVED_FOR_EVENTS = 16 * 1024  # bytes that count as held for a stream of events: mostly it waits


class StreamSocket(ClientSocket):
    """A client's socket that serves an exchange; see ExchangeOwner."""

    __slots__ = ()

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
        if not self._is_writing or left < self._unsent:
            self._stalled_since = now
        self._unsent = left
        may_stall = exchange.is_tunnel or exchange.request.is_events
        if self._is_writing and not may_stall and now - self._stalled_since >= limits.write_timeout:
            self.abort(f"read nothing of its answer for {limits.write_timeout:g} s")
        elif exchange.is_waiting and now - exchange.active_at >= limits.body_timeout:
            self.abort(f"sent nothing of its body for {limits.body_timeout:g} s")
        elif not exchange.is_tunnel or self._is_eof or self._is_paused:
            self._set_deadline(
                "exchange",
                min(self._limits.poll_interval, limits.body_timeout, limits.write_timeout),
                self._watch_exchange,
            )

    @property
    def is_writing(self) -> bool:
        """See ExchangeOwner."""
        return self._is_writing

    def write_eof(self) -> None:
        """See ExchangeOwner."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write_eof()

    def end_http(self) -> None:
        """See ExchangeOwner."""
        self._input.end()

    def resume_reading_body(self) -> None:
        """See ExchangeOwner."""
        exchange = self._exchange
        if exchange is None or not self._is_paused or self._transport is None:
            return
        self._feed_exchange(exchange)
        if exchange.size < BUFFER and len(self._input.unread) <= READ_AHEAD:
            self._is_paused = False
            self._transport.resume_reading()

    def hold(self, size: int) -> bool:
        """See ExchangeOwner."""
        share, exchange = self._share, self._exchange
        if share is None or exchange is None:
            return False
        held = size + (RESERVED_FOR_EVENTS if exchange.request.is_events else RESERVED)
        if held > self._held and not self._owner.quotas.has_room(share, held - self._held):
            return False
        self._reserve(held)
        return True

    def must_close(self, request: HttpRequest) -> bool:
        """See ExchangeOwner."""
        is_last = self._is_eof and self._is_over and not self._input.unread
        return not request.keep_alive or self._owner.is_stopping or is_last

    @property
    def _is_over(self) -> bool:
        """Whether no request was parsed behind the one that is answered now."""
        return not (self._input.ready or self._input.current or self._input.failure)
