"""Messages that an upstream answers as they are: reading back its answers, streaming the requests of no endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import perf_counter

from msgspec import structs

from gateway.core.interfaces import Codec, HttpExchange, StreamingEndpoint
from gateway.core.migration.modes import Migration, Mode, Setting, Side
from gateway.core.routing.route import CallFinished, local_route
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
    Reply,
    charset_of,
    http_failure,
)
from gateway.pipeline.dispatcher import UNMAPPED, Dispatcher, withdrawn_or_abandoned

# The HTTP status for each reason why the legacy service gave no answer (RFC 9110 section 15); 502 for the others.
STATUSES: dict[FaultCode, tuple[int, str]] = {
    FaultCode.BUSY: (503, "Service Unavailable"),
    FaultCode.TIMEOUT: (504, "Gateway Timeout"),
    FaultCode.INVALID_REQUEST: (400, "Bad Request"),
}
BAD_GATEWAY = (502, "Bad Gateway")
FIRST_REDIRECT = 300  # an HTTP status from here on is not an answer to a call
FIRST_ERROR = 400  # an HTTP status from here on is a failure
TEXT = "text/plain"


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


class Passthrough(StreamingEndpoint):
    """What no endpoint of a listener takes: other paths, and other verbs than POST.

    Bodies are streamed and not decoded, so an export of any size passes with bounded memory. A client that asks for a
    tunnel (a console, a WebSocket) has one where its listener allows it. Each request is reported when it has ended,
    with its bytes. The outcome of a tunnel that was opened is a reply, however it ends.
    """

    def __init__(self, dispatcher: Dispatcher, upstream: str) -> None:
        self._dispatcher = dispatcher
        self._upstream = upstream
        migration = Migration(Setting(Mode.LEGACY), upstream)
        self._route = local_route(UNMAPPED, _never, service=UNMAPPED, migration=migration)

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
