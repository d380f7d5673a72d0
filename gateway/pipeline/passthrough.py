"""Messages that a legacy service answers as the client wrote them: whole ones of an endpoint, and streamed requests.

A whole message is decoded all the same, to decide that it may pass. Its bytes go to the legacy service unchanged, and
the bytes of the answer to the client. The answer is decoded after it has left, to account for each call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from time import perf_counter
from typing import Protocol

from msgspec import Struct, structs

from gateway.core.interfaces import (
    DEADLINE_PASSED,
    NOT_SENT,
    AnswerTaker,
    Codec,
    Dialect,
    HttpExchange,
    SentMessage,
    StreamingEndpoint,
)
from gateway.core.migration.modes import Migration, Mode, Setting, Side
from gateway.core.routing.call_record import UNKEPT
from gateway.core.routing.policy import CallPlan
from gateway.core.routing.route import CallFinished, Effect, Route, local_route
from gateway.core.rpc import encodings
from gateway.core.rpc.model import (
    HUNG_UP,
    REDIRECTS,
    Answer,
    Call,
    Envelope,
    Fault,
    FaultCode,
    Outcome,
    RefusedCall,
    Reply,
    RequestMetadata,
    charset_of,
    http_failure,
)
from gateway.mapping.table import EndpointTable
from gateway.migration.shadow import Shadow, code_of
from gateway.pipeline.dispatcher import (
    NOT_EXECUTED,
    UNMAPPED,
    Dispatcher,
    Entry,
    PlannedCall,
    View,
    too_late,
    withdrawn_or_abandoned,
)
from gateway.pipeline.sessions import Sessions
from gateway.pipeline.side_override import SideOverride
from gateway.pipeline.waiting import AfterAnswers, Deadline

# The HTTP status for each reason why the legacy service gave no answer (RFC 9110 section 15); 502 for the others.
STATUSES: dict[FaultCode, tuple[int, str]] = {
    FaultCode.BUSY: (503, "Service Unavailable"),
    FaultCode.TIMEOUT: (504, "Gateway Timeout"),
    FaultCode.INVALID_REQUEST: (400, "Bad Request"),
}
BAD_GATEWAY = (502, "Bad Gateway")
PASSED_THROUGH = CallPlan(Side.LEGACY, None, "the method is not mapped: the legacy service answers")
FIRST_REDIRECT = 300  # an HTTP status from here on is not an answer to a call
FIRST_ERROR = 400  # an HTTP status from here on is a failure
TEXT = "text/plain"
_LEGACY, _WRITE = Side.LEGACY, Effect.WRITE  # an attribute of an enum is slow to read


def unmapped_route(
    upstream: str | None, answer: Callable[[Call], Awaitable[Outcome]], effect: Effect = Effect.WRITE
) -> Route:
    """The route of all calls that are not mapped: a legacy service answers them, or else the gateway by `answer`."""
    migration = Migration(Setting(Mode.LEGACY), upstream)
    return local_route(UNMAPPED, answer, service=UNMAPPED, migration=migration, effect=effect)


def read_answers(codec: Codec, envelope: Envelope, answer: Answer, limit: int) -> Sequence[Outcome] | None:
    """The outcome of each call of a message; None when the answer, once inflated, is over `limit` bytes."""
    if answer.status is not None and answer.status >= FIRST_REDIRECT:
        fault = http_failure(answer.status)
        if envelope.batch:  # it answers no call
            fault = structs.replace(fault, code=FaultCode.PARSE_ERROR)
        return [fault] * len(envelope.entries)
    try:
        content = encodings.content(answer, limit)
        return codec.decode_answers(content, envelope, charset_of(answer.content_type))
    except encodings.InflatedTooLargeError:
        return None
    except encodings.EncodingError as error:
        return [Fault(FaultCode.PARSE_ERROR, str(error))] * len(envelope.entries)


# Whole messages


class PassingEndpoint(Protocol):
    """The endpoint whose messages are passed through; see RpcEndpoint. `client` reads the answers."""

    table: EndpointTable
    codec: Codec
    client: Codec
    dialect: Dialect
    dispatcher: Dispatcher

    async def answer_each(self, envelope: Envelope, entries: Sequence[Entry]) -> Answer:
        """Answer the entries call by call: the modes of a message that was not sent may have changed."""

    def view(self, envelope: Envelope, at: int, call: Call, outcome: Outcome) -> Outcome:
        """The outcome of one call of a message as its client reads it."""

    def observe(self, planned: PlannedCall, finished: CallFinished, view: View, code: FaultCode | None) -> None:
        """Have the other side run the call too."""

    touch: Callable[[], object]  # a message has come, or its answer is about to leave

    def internal_error(self) -> Answer:
        """Log the exception that is being handled; returns the answer in its place."""


class MessagePassthrough:
    """Passes whole messages of one endpoint through, in which a legacy service answers every call.

    `unread` stands for an entry that could not be read.
    """

    def __init__(
        self,
        endpoint: PassingEndpoint,
        after: AfterAnswers,
        unread: PlannedCall,
        override: SideOverride | None,
        sessions: Sessions,
        shadow: Shadow | None,
        *,
        read_at_once: int,
        read_most: int,
    ) -> None:
        self.endpoint = endpoint
        self._table = endpoint.table
        self._codec = endpoint.codec
        self._dialect = endpoint.dialect
        self.dispatcher = endpoint.dispatcher
        self._after = after
        self.unread = unread
        self._override = override
        self._sessions = sessions
        self._shadow = shadow
        self._read_at_once, self._read_most = read_at_once, read_most

    # Which messages

    def upstream(self, entries: Sequence[Entry]) -> str | None:
        """The one legacy service that answers every entry and understands the message as it is; None: there is none."""
        first = self._upstream_of(entries[0]) if entries else self._table.passthrough_to  # a multicall of no calls
        if first is None or not self.dispatcher.speaks(first, self._codec.name, self._dialect.name):
            return None
        return first if len(entries) < 2 or all(self._upstream_of(entry) == first for entry in entries) else None

    def _upstream_of(self, entry: Entry) -> str | None:
        """The legacy service to which this entry may be passed through; None: it may not."""
        if isinstance(entry, Fault):
            return self._table.passthrough_to if self._all_legacy() else None
        if isinstance(entry, RefusedCall) or entry.plan.answer is not _LEGACY:
            return None
        if self._override is not None and self._override.was_extracted(entry.call):
            return None
        return entry.route.migration.upstream

    def _all_legacy(self) -> bool:
        """Whether no mode governs a call of this endpoint, so that one in an unreadable message is none either."""
        setting = self.dispatcher.toggles.setting
        return all(setting(route).mode is Mode.LEGACY for route in self._table.routes.values())

    # The end of a message

    def end(self, message: WholeMessage, answer: Answer | Fault, seconds: float) -> Answer:
        """What the client gets, and the account of each call."""
        if not isinstance(answer, Fault):
            if message.is_about_sessions:  # known before the client has its answer, and makes its next call
                self._after.guard(self._account, message, answer, seconds)
            else:
                self._after.do(self._account, message, answer, seconds)
            return answer
        fault = structs.replace(answer, name="")
        for each in message.passed:
            self._finish(each, fault, message.started, seconds)
        outcomes = [
            fault if isinstance(entry, Fault) else self._dialect.wrap_outcome(fault, entry.call)
            for entry in message.entries
        ]
        return Answer(self._codec.encode(message.envelope, outcomes), self._codec.content_type)

    def abandon(self, message: WholeMessage, error: asyncio.CancelledError, seconds: float) -> None:
        """The client has left, or the gateway stops."""
        calls = [(each.route, each.call) for each in message.passed]
        self.dispatcher.abandon(calls, error, seconds, Side.LEGACY)

    def plan_again(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """The same entries by the modes that hold now."""
        return [
            structs.replace(entry, plan=self.dispatcher.plan(entry.route, entry.call, entry.forced))
            if isinstance(entry, PlannedCall) and entry.route is not self.unread.route
            else entry
            for entry in entries
        ]

    # Accounting

    def _account(self, message: WholeMessage, answer: Answer, seconds: float) -> None:
        """Read the outcome of each call from the legacy service's answer: here, or in a thread where it is long."""
        if answer.known_head and answer.body is not None and len(answer.body) <= self._read_at_once:  # the usual case
            read = self.endpoint.client.decode_answers(answer.body, message.envelope, charset_of(answer.content_type))
            self._account_each(message, read, seconds)
            return
        size = len(answer.body or b"")
        if size > self._read_most:
            self._account_each(message, None, seconds)
            return
        outcomes = None
        if size <= self._read_at_once:
            outcomes = read_answers(self.endpoint.client, message.envelope, answer, self._read_at_once)
        if outcomes is not None:
            self._account_each(message, outcomes, seconds)
            return
        loop = asyncio.get_running_loop()
        what = self.endpoint.client, message.envelope, answer, self._read_most
        reading = loop.run_in_executor(None, read_answers, *what)
        reading.add_done_callback(lambda done: self._after.guard(self._account_each, message, done.result(), seconds))

    def _account_each(self, message: WholeMessage, outcomes: Sequence[Outcome] | None, seconds: float) -> None:
        """`outcomes` None: the answer is too long to be read, and so a result: an error takes few words."""
        envelope, entries, started = message.envelope, message.entries, message.started
        if outcomes is None:
            for each in message.passed:
                self._finish(each, UNKEPT, started, seconds)
                if each.plan.candidate is not None and self._shadow is not None:
                    self._shadow.drop(each.route)
            return
        for at, (entry, read) in enumerate(zip(entries, outcomes, strict=True)):
            each = entry if isinstance(entry, PlannedCall) else self.unread
            outcome = self._dialect.unwrap_outcome(read, each.call)
            finished = self._finish(each, outcome, started, seconds)
            if each.plan.candidate is not None:
                view = partial(self.endpoint.view, envelope, at, each.call)
                # In a batch an HTTP error answers the message; alone, it is the answer to this call.
                self.endpoint.observe(each, finished, view, code_of(outcome) if envelope.batch else None)

    def _finish(self, passed: PlannedCall, outcome: Outcome, started: float, seconds: float) -> CallFinished:
        finished = self.dispatcher.finish(
            CallFinished(passed.route, passed.call, outcome, _LEGACY, seconds, started=started)
        )
        if passed.route.login is not None or passed.route.closes is not None:
            self._sessions.learn(finished)
        return finished


class WholeMessage(Struct, eq=False):
    """One message that is passed through: in a task (`answer`), or without one (`send`); see AnsweredMessage."""

    _way: MessagePassthrough
    _upstream: str
    _body: bytes
    _metadata: RequestMetadata
    envelope: Envelope
    entries: Sequence[Entry]
    started: float
    # Without a task
    _client: AnswerTaker | None = None
    _sent: SentMessage | None = None
    _deadline: Deadline | None = None
    _again: Callable[[], Awaitable[Answer | Fault]] | None = None

    @property
    def passed(self) -> list[PlannedCall]:
        """Its calls. An unreadable entry is accounted for as an unmapped call."""
        return [entry if isinstance(entry, PlannedCall) else self._way.unread for entry in self.entries]

    @property
    def is_about_sessions(self) -> bool:
        """Whether one of its calls is a login or a logout."""
        for entry in self.entries:
            if isinstance(entry, PlannedCall) and (entry.route.login is not None or entry.route.closes is not None):
                return True
        return False

    @property
    def _is_repeatable(self) -> bool:
        for entry in self.entries:  # noqa: SIM110 - `all` is slower
            if not isinstance(entry, PlannedCall) or entry.route.effect is _WRITE:
                return False
        return True

    # In a task

    async def answer(self) -> Answer:
        """Pass it through, and return the answer."""
        forward = self._way.dispatcher.forward
        answer = forward(
            self._upstream, self._body, self._metadata, repeatable=self._is_repeatable, wanted=self._is_unmoved
        )
        return await self._answered(answer)

    async def _answered(self, answer: Awaitable[Answer | Fault]) -> Answer:
        try:
            found = await answer
        except asyncio.CancelledError as error:
            self._way.abandon(self, error, self._seconds)
            raise
        if isinstance(found, Fault) and found.code in NOT_EXECUTED and not self._is_unmoved():
            return await self._way.endpoint.answer_each(self.envelope, self._way.plan_again(self.entries))
        return self._way.end(self, found, self._seconds)

    def _is_unmoved(self) -> bool:
        """Whether the modes that hold now send it to the same legacy service."""
        return self._way.upstream(self._way.plan_again(self.entries)) == self._upstream

    @property
    def _seconds(self) -> float:
        return perf_counter() - self.started

    # Without a task

    def send(self, client: AnswerTaker) -> bool:
        """Send it without a task, and have `client` wait for the answer. False: nothing was sent; see `answer`."""
        begun = self._way.dispatcher.forward_at_once(
            self._upstream, self._body, self._metadata, self, repeatable=self._is_repeatable
        )
        if begun is None:
            return False
        self._sent, self._deadline = begun
        self._client = client
        client.wait_for(self)
        return True

    def receive(self, answer: Answer | Fault) -> None:
        """See AnswerReceiver."""
        way = self._way
        assert self._client is not None, "it was sent"
        assert self._deadline is not None, "it was sent"
        way.dispatcher.end_passed(self._deadline)
        self._sent = self._deadline = None  # they refer to this object
        try:
            found = way.end(self, answer, perf_counter() - self.started)
        except Exception:  # noqa: BLE001 - as in RpcEndpoint.answer
            found = way.endpoint.internal_error()
        way.endpoint.touch()
        self._client.take_answer(found)

    def send_again(self, send: Callable[[], Awaitable[Answer | Fault]]) -> None:
        """See AnswerReceiver."""
        assert self._client is not None, "it was sent"
        self._again = send
        self._client.serve(self._answer_again, self._end_unserved)

    async def _answer_again(self) -> Answer:
        again, self._again = self._again, None
        assert again is not None, "it was sent before"
        assert self._sent is not None, "it was sent before"
        assert self._deadline is not None, "it was sent before"
        forward = self._way.dispatcher.forward_again
        return await self._answered(forward(self._upstream, self._sent, self._deadline, again))

    def _end_unserved(self) -> None:
        """The task for sending it again has ended. Where it was cancelled before it began, nobody else ends it."""
        if self._again is not None:
            self.cancel()

    def cancel(self, why: object = None) -> None:
        """See PassedMessage."""
        assert self._sent is not None, "it was sent"
        assert self._deadline is not None, "it was sent"
        if why == DEADLINE_PASSED:
            if self._again is None:  # else its task is about to begin, and sees it
                self.receive(too_late(self._upstream, self._deadline, sent=not self._sent.withdraw()))
            return
        self._way.dispatcher.end_passed(self._deadline)
        error = asyncio.CancelledError(*([NOT_SENT] if self._sent.withdraw() else []))
        self._sent = self._deadline = None
        self._way.abandon(self, error, self._seconds)


# Streamed requests


class Passthrough(StreamingEndpoint):
    """What no endpoint of a listener takes: other paths, and other verbs than POST.

    Bodies are streamed and not decoded, so an export of any size passes with bounded memory. A client that asks for a
    tunnel (a console, a WebSocket) has one where its listener allows it. Each request is reported when it has ended,
    with its bytes. The outcome of a tunnel that was opened is a reply, however it ends.
    """

    def __init__(self, dispatcher: Dispatcher, upstream: str) -> None:
        self._dispatcher = dispatcher
        self._upstream = upstream
        self._route = unmapped_route(upstream, _never, Effect.READ)

    async def stream(self, exchange: HttpExchange) -> Answer | None:
        """Pass one request through, and the response back byte for byte."""
        started = perf_counter()
        protocol = "tunnel" if exchange.is_tunnel else "http"
        metadata = exchange.metadata
        path = metadata.target.partition("?")[0]
        extensions = {"protocol": protocol, "path": path, "agent": metadata.agent, "request_id": metadata.request_id}
        call = Call(UNMAPPED, peer=exchange.peer, extensions=extensions)
        try:
            answer = await self._dispatcher.relay(self._upstream, exchange)
        except asyncio.CancelledError as error:
            ended = Reply() if exchange.is_tunnel and exchange.has_begun else withdrawn_or_abandoned(error)
            self._finish(call, ended, started, exchange)
            raise
        self._finish(call, _outcome(answer), started, exchange)
        if not isinstance(answer, Fault):
            return None
        if exchange.has_begun:
            exchange.abort()
            return None
        if answer.name == HUNG_UP:
            return Answer(None, TEXT, answer, hang_up=True)
        return self.refuse(answer)

    def _finish(self, call: Call, outcome: Outcome, started: float, exchange: HttpExchange) -> None:
        seconds, received, sent = perf_counter() - started, exchange.received, exchange.sent
        finished = CallFinished(self._route, call, outcome, Side.LEGACY, seconds, received=received, sent=sent)
        self._dispatcher.finish(finished)

    def refuse(self, fault: Fault) -> Answer:
        """Plain text, because the client's protocol is not known."""
        status, reason = STATUSES.get(fault.code, BAD_GATEWAY)
        headers = ((b"Content-Type", TEXT.encode()),)
        return Answer(f"{fault.message}\n".encode(), TEXT, fault, status, reason, headers)


async def _never(call: Call) -> Outcome:
    raise AssertionError(f"{call.method}: the legacy service answers every request of this route")


def _outcome(answer: Answer | Fault) -> Outcome:
    if isinstance(answer, Fault):
        return answer
    status = answer.status or 0
    return http_failure(status) if status >= FIRST_ERROR or status in REDIRECTS else Reply()
