"""One HTTP/1.x connection of a listener: requests are served one at a time, in their order (RFC 9112 section 9.3).

Input is parsed only while no request is served. Requests that a client sends ahead wait as bytes; past READ_AHEAD the
socket is not read. One task serves a request; a refusal needs none, nor does a message that its endpoint passes through
at once. A body is read whole for an RPC endpoint, and streamed through an `Exchange` for a passthrough. What concerns
the socket alone is in `client_socket.py`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import cast

from msgspec.structs import replace

from adapters.http import response
from adapters.http.addresses import peer_of
from adapters.http.client_socket import NEVER, READ_AHEAD, RESERVED_FOR_EVENTS, RESTING, ClientSocket
from adapters.http.exchange import CONTINUE, RESERVED, Exchange
from adapters.http.quotas import PeerShare
from adapters.http.request import BUSY, HttpRefusal, HttpRequest, broken_body, too_large, too_slow
from adapters.http.response import HttpResponse
from gateway.core.interfaces import AnswerLater, AnswerTaker, PassedMessage
from gateway.core.rpc.model import Answer, PeerConnection

SLOW_HEAD = response.text(408, "no complete request arrived in time", close=True)
INTERNAL_ERROR = response.text(500, "internal error", close=True)
TOO_MANY_CONNECTIONS = response.text(503, "too many connections", close=True, headers="Retry-After: 1\r\n")

_log = logging.getLogger(__name__)


class HttpConnection(ClientSocket, AnswerTaker):
    """One client's connection."""

    __slots__ = ()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection and wait for a request."""
        self._transport = out = cast("asyncio.Transport", transport)  # uvloop's class does not inherit from it
        out.set_write_buffer_limits(high=0)  # resume_writing: the kernel has every byte
        owned = PeerConnection()
        owned.on_wait, owned.has_capacity = self._begin_wait, self._has_capacity
        self.peer = replace(peer_of(transport), connection=owned)
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
        if self.peer.connection is not None:
            self.peer.connection.close()
        self._transport = None
        self._input.close()
        self._due, self._fires_at, self._action = NEVER, NEVER, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._reserve(0)
        if self._share is not None:
            self._owner.quota.slow_readers.discard(self)
            serving, self._task = self._task, None
            if serving is not None:
                serving.cancel()
            if serving is not None and not isinstance(serving, asyncio.Task):
                self._owner.quotas.end_call(self._share)  # without a task it has ended now
                serving = None
            self._owner.remove_connection(self, self._share, serving)

    def data_received(self, data: bytes) -> None:
        """Parse input at once, unless a request is being served."""
        if self._ended:
            return
        if self._state == RESTING and not self._input.unread:
            request, share = self._owner.known_heads.find(data), self._share
            if request is not None and share is not None and self._owner.quotas.begin_call(share, request.size):
                self._held += request.size
                self._receive(request, data[len(data) - request.size :], share)
                return
        self._input.unread = self._input.unread + data if self._input.unread else data
        if self._exchange is not None:
            self._feed_exchange(self._exchange)
        elif self._task is None and not self.is_writing:
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
            self._watch_exchange()
        if self._task is None and not self.is_writing:
            self._process_input()
        else:
            self._check_client_left()
        return self._transport is not None and not self._transport.is_closing()

    def pause_writing(self) -> None:
        """The kernel has not taken everything that was written."""
        self.is_writing = True

    def resume_writing(self) -> None:
        """The kernel has taken everything that was written."""
        self.is_writing = False
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

    # Requests

    def _process_input(self) -> None:
        """Serve requests that are ready and parse input, until there is something to wait for."""
        try:
            while not (self._ended or self._task is not None or self.is_writing):
                if self._input.ready:
                    self._begin(self._input.ready.pop(0))
                elif self._input.failure is not None:
                    self._fail(*self._input.failure)
                elif (request := self._input.current) is not None and not request.is_admitted:
                    answer = self._owner.admit(request)  # its body has not arrived whole
                    if answer is not None:
                        self._answer(request, answer)
                    elif request.passthrough is not None:
                        self._begin_exchange(request)
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
        if self.is_writing or self._task is not None:
            self._leave_idle()
            if len(self._input.unread) > READ_AHEAD:
                self._stop_reading()
            if self.is_writing and self._task is None:
                self._watch_reader()
            elif (self._is_paused or self._is_eof) and self._exchange is None:
                self._set_deadline("left", self._limits.poll_interval, self._check_client_left)
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
            self._wait_for_request()

    def _advance_body(self, request: HttpRequest) -> None:
        """Refuse a body that is arriving, where it is too large or can never be whole; else ask for the rest."""
        assert self._share is not None
        refusal = None
        if self._is_eof or self._input.broken:
            refusal = broken_body(self._input.broken or request.ended_early)
        elif request.size > self._limits.body:
            refusal = too_large(self._limits.body)
        elif not self._owner.quotas.fits(self._share, max(request.size, request.length or 0) - self._held):
            refusal = BUSY
        if refusal is not None:
            self._answer(request, self._owner.refuse(request, refusal))
            return
        self._reserve(request.size)
        if request.expects_continue:
            request.has_continued = True
            self.write(CONTINUE)

    def _begin(self, request: HttpRequest) -> None:
        """Serve a whole request."""
        answer = None if request.is_admitted else self._owner.admit(request)
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
                if request.head:
                    self._owner.known_heads.add(request)
                self._held = len(body)
                self._receive(request, body, share)
                return
        self._answer(request, answer)

    def _begin_exchange(self, request: HttpRequest) -> None:
        """Serve a request by streaming, from the part of its body that has arrived."""
        share = self._share
        assert share is not None
        reserved = RESERVED_FOR_EVENTS if request.is_events else RESERVED
        if not self._owner.quotas.begin_call(share, reserved - self._held):
            self._answer(request, self._owner.refuse(request, BUSY))
            return
        totals = self._owner.quotas.streamed["tunnel" if request.is_tunnel else "http"]
        is_whole = self._input.current is not request and not request.is_tunnel
        exchange = Exchange(self, request, totals, is_whole=is_whole)
        self._held = reserved
        self._minor = request.minor
        self._leave_idle()
        self._state, self._due = "", NEVER
        self._run(request, share, partial(self._stream, request, exchange), exchange)
        self._exchange = exchange
        self._feed_exchange(exchange)
        self._watch_exchange()

    def _receive(self, request: HttpRequest, body: bytes, share: PeerShare) -> None:
        """Have its endpoint serve a request, which is counted with its bytes."""
        self._request, self._minor = request, request.minor
        self._state, self._due = "", NEVER
        share.idle.pop(self, None)
        assert request.endpoint is not None
        answer = request.endpoint.receive(body, self.peer, request.metadata(), self)
        if answer is not None:
            self._request = None
            self._run(request, share, answer)

    def _run(
        self,
        request: HttpRequest,
        share: PeerShare,
        answer: Callable[[], Awaitable[Answer | None]],
        exchange: Exchange | None = None,
    ) -> asyncio.Task[None]:
        """Start the task that serves a request."""
        call = self._call(request, share, answer, exchange)
        self._task = task = asyncio.Task(call, loop=self._loop, name="http call")  # with a name, asyncio makes none
        return task

    async def _call(
        self,
        request: HttpRequest,
        share: PeerShare,
        find_answer: Callable[[], Awaitable[Answer | None]],
        exchange: Exchange | None,
    ) -> None:
        try:
            try:
                answer = await find_answer()
            finally:
                if self._task is not None:  # else the connection is lost, and the listener waits for the task
                    self._task = self._exchange = None
                    self._owner.quotas.end_call(share)
            if answer is not None:
                self._answer_call(request, answer)
            elif exchange is not None:
                self._end_exchange(request, exchange)
        except asyncio.CancelledError:
            self.force_close()  # a client that is still connected must not wait for ever
            raise
        except Exception:  # noqa: BLE001 - `_internal_error` logs it, and ends the connection
            self._internal_error()
        else:
            self._after_call()

    def _answer_call(self, request: HttpRequest, answer: Answer) -> None:
        transport = self._transport
        if transport is None:
            return
        stays = request.head and not self._is_eof and not self._owner.is_stopping
        if not (stays and response.is_plain(answer)):
            self._answer(request, self._owner.to_response(answer))
            return
        assert answer.body is not None  # the usual case: a plain answer to a plain head
        self._state = ""
        if not transport.is_closing():
            transport.write(self._owner.writer.write_plain(answer))
        if self.is_writing:
            self._reserve(len(answer.body))
            self._close_next = False
        elif self._held and self._share is not None:
            self._owner.quotas.release(self._share, self._held)
            self._held = 0

    # A message that is passed through without a task; see AnswerTaker

    def wait_for(self, passed: PassedMessage) -> None:
        """See AnswerTaker."""
        self._task = passed

    def serve(self, answer: AnswerLater, unserved: Callable[[], object]) -> None:
        """See AnswerTaker."""
        request, share = self._request, self._share
        assert request is not None
        assert share is not None
        self._run(request, share, answer).add_done_callback(lambda _: unserved())

    def take_answer(self, answer: Answer) -> None:
        """See AnswerTaker."""
        request, share = self._request, self._share
        assert request is not None
        assert share is not None
        self._task = self._request = None
        transport, body, owner = self._transport, answer.body, self._owner
        owner.quotas.end_call(share)
        try:
            if (
                answer.known_head  # the usual case: as in `_answer_call`
                and request.head
                and body is not None
                and len(body) <= response.LARGE
                and transport is not None
                and not (self._is_eof or owner.is_stopping or transport.is_closing())
            ):
                self._state = ""
                transport.write(answer.known_head + body)
                if self.is_writing:
                    self._reserve(len(body))
                    self._close_next = False
                else:
                    owner.quotas.release(share, self._held)
                    self._held = 0
            else:
                self._answer_call(request, answer)
        except Exception:  # noqa: BLE001 - as in `_call`
            self._internal_error()
        else:
            self._after_call()

    def _begin_wait(self) -> Callable[[], object] | None:
        """Free the slot of the call until the returned function is called; see PeerConnection."""
        share, quotas = self._share, self._owner.quotas
        if share is None or not quotas.begin_wait(share):
            return None
        self._input.rest()
        return partial(quotas.end_wait, share)

    def _has_capacity(self) -> bool:
        return self._share is not None and self._owner.quotas.fits(self._share, 0)

    def _after_call(self) -> None:
        """Go on with the input that has arrived meanwhile, or wait."""
        ahead = self._input
        if (
            ahead.unread
            or ahead.ready
            or ahead.current
            or ahead.failure
            or ahead.is_last
            or self._is_eof
            or self._is_paused
        ):
            self._process_input()
        elif self.is_writing:
            self._watch_reader()
        elif not self._ended:
            self._wait_for_request()

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
            if len(body) > response.LARGE:
                transport.write(head)
                transport.write(body)
            else:
                transport.write(head + body)
        if self.is_writing:
            self._reserve(len(body))  # the call was executed, so it is answered even when the quota is full
            self._close_next = close
            self._watch_reader()
            return
        if self._held:
            self._reserve(0)
        if close:
            self._close()

    def _internal_error(self) -> None:
        _log.exception("error while serving %s", self.peer.address)
        self._fail(INTERNAL_ERROR, "was answered with an internal error")

    # Deadlines

    def _head_is_late(self) -> None:
        self._fail(SLOW_HEAD, f"sent no complete request within {self._limits.header_timeout:g} s")

    def _body_is_late(self) -> None:
        request = self._input.current
        assert request is not None
        self._answer(request, self._owner.refuse(request, too_slow(self._limits.body_timeout)))
