"""Messages that a legacy service answers as they are: reading back its answers, and the requests of no endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import perf_counter

from gateway.core.interfaces import Codec, Endpoint
from gateway.core.migration.modes import Migration, Mode, Setting, Side
from gateway.core.routing.route import CallFinished, local_route
from gateway.core.rpc import encodings
from gateway.core.rpc.model import (
    HUNG_UP,
    NO_METADATA,
    Answer,
    Call,
    Envelope,
    Fault,
    FaultCode,
    Outcome,
    Peer,
    Reply,
    RequestMetadata,
    charset_of,
)
from gateway.pipeline.dispatcher import UNMAPPED, Dispatcher

# The HTTP status for each reason why the legacy service gave no answer (RFC 9110 section 15.6); 502 for the others.
STATUSES: dict[FaultCode, tuple[int, str]] = {
    FaultCode.BUSY: (503, "Service Unavailable"),
    FaultCode.TIMEOUT: (504, "Gateway Timeout"),
}
BAD_GATEWAY = (502, "Bad Gateway")
FIRST_REDIRECT = 300  # an HTTP status from here on is no answer to a call
FIRST_ERROR = 400  # an HTTP status from here on is a failure
TEXT = "text/plain"


def read_answers(codec: Codec, envelope: Envelope, answer: Answer, limit: int) -> Sequence[Outcome] | None:
    """The outcome of each call of a message; None when the answer, once inflated, is over `limit` bytes."""
    if answer.status is not None and answer.status >= FIRST_REDIRECT:
        code = FaultCode.PARSE_ERROR if envelope.batch else FaultCode.REMOTE  # of a batch it answers no call
        return [Fault(code, f"HTTP {answer.status}", name=str(answer.status))] * len(envelope.entries)
    try:
        content = encodings.content(answer, limit)
        return codec.decode_answers(content, envelope, charset_of(answer.content_type))
    except encodings.InflatedTooLargeError:
        return None
    except encodings.EncodingError as error:
        return [Fault(FaultCode.PARSE_ERROR, str(error))] * len(envelope.entries)


class Passthrough(Endpoint):
    """What no endpoint of a listener takes: other paths, and other verbs than POST. Nothing is decoded."""

    def __init__(self, dispatcher: Dispatcher, upstream: str) -> None:
        self._dispatcher = dispatcher
        self._upstream = upstream
        migration = Migration(Setting(Mode.LEGACY), upstream)
        self._route = local_route(UNMAPPED, _never, service=UNMAPPED, migration=migration)

    async def answer(self, body: bytes, peer: Peer, carried: RequestMetadata = NO_METADATA) -> Answer:
        """Pass one message through, and the answer back byte for byte."""
        started = perf_counter()
        call = Call(UNMAPPED, peer=peer, extensions={"protocol": "http", "agent": carried.agent})
        try:
            answer = await self._dispatcher.forward(self._upstream, body, carried)
        except asyncio.CancelledError as error:
            self._dispatcher.abandon([(self._route, call)], error, perf_counter() - started, Side.LEGACY)
            raise
        seconds = perf_counter() - started
        self._dispatcher.finish(CallFinished(self._route, call, _outcome(answer), Side.LEGACY, seconds))
        if isinstance(answer, Fault) and answer.name == HUNG_UP:
            return Answer(None, TEXT, answer, hang_up=True)
        return self.refuse(answer) if isinstance(answer, Fault) else answer

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
    failed = answer.status is not None and answer.status >= FIRST_ERROR
    return Fault(FaultCode.REMOTE, f"HTTP {answer.status}", name=str(answer.status)) if failed else Reply()
