"""Messages that a legacy service answers as the client wrote them: whole ones of an endpoint, and streamed requests.

A whole message is decoded all the same, to decide that it may pass. Its bytes go to the legacy service unchanged, and
the bytes of the answer to the client. The answer is decoded after it has left, to account for each call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING

from msgspec import Struct, structs

from gateway.core.interfaces import (
    DEADLINE_PASSED,
    NOT_SENT,
    AnswerTaker,
    Codec,
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
from gateway.migration.shadow import code_of
from gateway.pipeline.dispatcher import (
    NOT_EXECUTED,
    UNMAPPED,
    Dispatcher,
    Entry,
    PlannedCall,
    too_late,
    withdrawn_or_abandoned,
)
from gateway.pipeline.waiting import Deadline

if TYPE_CHECKING:  # it imports this module
    from gateway.pipeline.endpoint import RpcEndpoint

# The HTTP status for each reason why the legacy service gave no answer (RFC 9110 section 15); 502 for the others.
STATUSES: dict[FaultCode, tuple[int, str]] = {
    FaultCode.BUSY: (503, "Service Unavailable"),
    FaultCode.TIMEOUT: (504, "Gateway Timeout"),
    FaultCode.INVALID_REQUEST: (400, "Bad Request"),
}
BAD_GATEWAY = (502, "Bad Gateway")
PASSED_THROUGH = CallPlan(Side.LEGACY, None, "the method is not mapped: the legacy service answers")
READ_AT_ONCE = 128 * 1024  # bytes of a request, or of a legacy service's answer; a longer one is read in a thread
READ_MOST = 32 * 1024**2  # bytes; a longer answer is not read
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


def passes_to(endpoint: RpcEndpoint, entries: Sequence[Entry]) -> str | None:
    """The one legacy service that answers every entry and understands the message as it is; None: there is none."""
    first = _upstream_of(endpoint, entries[0]) if entries else endpoint.table.passthrough_to  # a multicall of no calls
    if first is None or not endpoint.dispatcher.speaks(first, endpoint.codec.name, endpoint.dialect.name):
        return None
    return first if len(entries) < 2 or all(_upstream_of(endpoint, each) == first for each in entries) else None


def _upstream_of(endpoint: RpcEndpoint, entry: Entry) -> str | None:
    """The legacy service to which this entry may be passed through; None: it may not."""
    if isinstance(entry, Fault):  # it may hold a call that a mode governs
        setting, table = endpoint.dispatcher.toggles.setting, endpoint.table
        all_legacy = all(setting(route).mode is Mode.LEGACY for route in table.routes.values())
        return table.passthrough_to if all_legacy else None
    if isinstance(entry, RefusedCall) or entry.plan.answer is not _LEGACY:
        return None
    if endpoint.override is not None and endpoint.override.was_extracted(entry.call):
        return None
    return entry.route.migration.upstream


class WholeMessage(Struct, eq=False):
    """One message that a legacy service answers: in a task (`answer`), or without one (`send`); see AnsweredMessage."""

    endpoint: RpcEndpoint
    _upstream: str
    _body: bytes
    _metadata: RequestMetadata
    _envelope: Envelope
    _entries: Sequence[Entry]
    _started: float
    # Without a task
    _client: AnswerTaker | None = None
    _sent: tuple[SentMessage, Deadline] | None = None
    _again: Callable[[], Awaitable[Answer | Fault]] | None = None

    @property
    def _is_repeatable(self) -> bool:
        for entry in self._entries:  # noqa: SIM110 - `all` is slower
            if not isinstance(entry, PlannedCall) or entry.route.effect is _WRITE:
                return False
        return True

    # In a task

    async def answer(self) -> Answer:
        """Pass it through, and return the answer."""
        forward = self.endpoint.dispatcher.forward
        repeatable = self._is_repeatable
        return await self._answered(
            forward(self._upstream, self._body, self._metadata, repeatable=repeatable, wanted=self._is_unmoved)
        )

    async def _answered(self, answer: Awaitable[Answer | Fault]) -> Answer:
        try:
            found = await answer
        except asyncio.CancelledError as error:
            self._abandon(error)
            raise
        if isinstance(found, Fault) and found.code in NOT_EXECUTED and not self._is_unmoved():
            return await self.endpoint.answer_each(self._envelope, self._planned_again())
        return self._end(found)

    def _is_unmoved(self) -> bool:
        """Whether the modes that hold now send it to the same legacy service."""
        return passes_to(self.endpoint, self._planned_again()) == self._upstream

    def _planned_again(self) -> Sequence[Entry]:
        """Its entries by the modes that hold now."""
        plan, unmapped = self.endpoint.dispatcher.plan, self.endpoint.unread.route
        return [
            structs.replace(entry, plan=plan(entry.route, entry.call, entry.forced))
            if isinstance(entry, PlannedCall) and entry.route is not unmapped
            else entry
            for entry in self._entries
        ]

    # Without a task

    def send(self, client: AnswerTaker) -> bool:
        """Send it without a task, and have `client` wait for the answer. False: nothing was sent; see `answer`."""
        begun = self.endpoint.dispatcher.forward_at_once(
            self._upstream, self._body, self._metadata, self, repeatable=self._is_repeatable
        )
        if begun is None:
            return False
        self._sent, self._client = begun, client
        client.wait_for(self)
        return True

    def receive(self, answer: Answer | Fault) -> None:
        """See AnswerReceiver."""
        endpoint = self.endpoint
        assert self._client is not None, "it was sent"
        assert self._sent is not None, "it was sent"
        endpoint.dispatcher.end_passed(self._sent[1])
        self._sent = None  # both refer to this object
        try:
            found = self._end(answer)
        except Exception:  # noqa: BLE001 - as in RpcEndpoint.answer
            found = endpoint.internal_error()
        endpoint.touch()
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
        forward = self.endpoint.dispatcher.forward_again
        return await self._answered(forward(self._upstream, *self._sent, again))

    def _end_unserved(self) -> None:
        """The task for sending it again has ended. Where it was cancelled before it began, nobody else ends it."""
        if self._again is not None:
            self.cancel()

    def cancel(self, why: object = None) -> None:
        """See PassedMessage."""
        assert self._sent is not None, "it was sent"
        sent, deadline = self._sent
        if why == DEADLINE_PASSED:
            if self._again is None:  # else its task is about to begin, and sees it
                self.receive(too_late(self._upstream, deadline, sent=not sent.withdraw()))
            return
        self.endpoint.dispatcher.end_passed(deadline)
        error = asyncio.CancelledError(*([NOT_SENT] if sent.withdraw() else []))
        self._sent = None
        self._abandon(error)

    # The end, and the account of each call

    @property
    def _passed(self) -> list[PlannedCall]:
        """Its calls. An unreadable entry is accounted for as an unmapped call."""
        return [entry if isinstance(entry, PlannedCall) else self.endpoint.unread for entry in self._entries]

    def _abandon(self, error: asyncio.CancelledError) -> None:
        """The client has left, or the gateway stops."""
        calls = [(each.route, each.call) for each in self._passed]
        self.endpoint.dispatcher.abandon(calls, error, perf_counter() - self._started, _LEGACY)

    def _end(self, answer: Answer | Fault) -> Answer:
        """What the client gets. The calls are accounted for once it has left."""
        endpoint, seconds = self.endpoint, perf_counter() - self._started
        if isinstance(answer, Fault):
            fault = structs.replace(answer, name="")
            for each in self._passed:
                self._finish(each, fault, seconds)
            outcomes = [
                fault if isinstance(entry, Fault) else endpoint.dialect.wrap_outcome(fault, entry.call)
                for entry in self._entries
            ]
            return Answer(endpoint.codec.encode(self._envelope, outcomes), endpoint.codec.content_type)
        for entry in self._entries:
            if isinstance(entry, PlannedCall) and (entry.route.login is not None or entry.route.closes is not None):
                endpoint.after.guard(self._account, answer, seconds)  # known before the client makes its next call
                return answer
        endpoint.after.do(self._account, answer, seconds)
        return answer

    def _account(self, answer: Answer, seconds: float) -> None:
        """Read the outcome of each call from the legacy service's answer: here, or in a thread where it is long."""
        endpoint, size = self.endpoint, len(answer.body or b"")
        if answer.known_head and answer.body is not None and size <= READ_AT_ONCE:  # the usual case
            read = endpoint.client.decode_answers(answer.body, self._envelope, charset_of(answer.content_type))
            self._account_each(read, seconds)
            return
        if size > READ_MOST:
            self._account_each(None, seconds)
            return
        outcomes = None
        if size <= READ_AT_ONCE:
            outcomes = read_answers(endpoint.client, self._envelope, answer, READ_AT_ONCE)
        if outcomes is not None:
            self._account_each(outcomes, seconds)
            return
        what = endpoint.client, self._envelope, answer, READ_MOST
        reading = asyncio.get_running_loop().run_in_executor(None, read_answers, *what)
        reading.add_done_callback(lambda done: endpoint.after.guard(self._account_each, done.result(), seconds))

    def _account_each(self, outcomes: Sequence[Outcome] | None, seconds: float) -> None:
        """`outcomes` None: the answer is too long to be read, and so a result: an error takes few words."""
        endpoint, envelope = self.endpoint, self._envelope
        if outcomes is None:
            for each in self._passed:
                self._finish(each, UNKEPT, seconds)
                if each.plan.candidate is not None and endpoint.shadow is not None:
                    endpoint.shadow.drop(each.route)
            return
        for at, (entry, read) in enumerate(zip(self._entries, outcomes, strict=True)):
            each = entry if isinstance(entry, PlannedCall) else endpoint.unread
            outcome = endpoint.dialect.unwrap_outcome(read, each.call)
            finished = self._finish(each, outcome, seconds)
            if each.plan.candidate is not None:
                view = partial(endpoint.view, envelope, at, each.call)
                # In a batch an HTTP error answers the message; alone, it is the answer to this call.
                endpoint.observe(each, finished, view, code_of(outcome) if envelope.batch else None)

    def _finish(self, passed: PlannedCall, outcome: Outcome, seconds: float) -> CallFinished:
        route, endpoint = passed.route, self.endpoint
        finished = CallFinished(route, passed.call, outcome, _LEGACY, seconds, started=self._started)
        endpoint.dispatcher.finish(finished)
        if route.login is not None or route.closes is not None:
            endpoint.sessions.learn(finished)
        return finished


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
        if isinstance(answer, Answer):
            status = answer.status or 0
            is_success = status < FIRST_ERROR and status not in REDIRECTS
            self._finish(call, Reply() if is_success else http_failure(status), started, exchange)
            return None
        self._finish(call, answer, started, exchange)
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
        return in_plain_words(fault, fault.message, STATUSES.get(fault.code, BAD_GATEWAY))


def in_plain_words(fault: Fault, text: str, status: tuple[int, str]) -> Answer:
    """An answer of HTTP for a client whose protocol has no word for a fault."""
    return Answer(f"{text}\n".encode(), TEXT, fault, *status, ((b"Content-Type", TEXT.encode()),))


async def _never(call: Call) -> Outcome:
    raise AssertionError(f"{call.method}: the legacy service answers every request of this route")
