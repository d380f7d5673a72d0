"""Requests that no endpoint takes, streamed to the listener's upstream: other paths, and other verbs than POST.

Nothing of a body is read or held whole, so an export of any size passes with bounded memory. A client that asks for a
tunnel (a console, a WebSocket) has one where its listener allows it. Each request is counted when it has ended.
"""

from __future__ import annotations

import asyncio
from time import perf_counter

from gateway.core.interfaces import HttpExchange, StreamingEndpoint
from gateway.core.migration.modes import Side
from gateway.core.routing.route import unmapped_route
from gateway.core.rpc.model import HUNG_UP, Answer, Call, Fault, FaultCode, Outcome, Reply
from gateway.pipeline.dispatcher import UNMAPPED, Dispatcher

# The status of a response for each reason why the upstream gave none (RFC 9110 section 15); 502 for the others.
STATUSES: dict[FaultCode, tuple[int, str]] = {
    FaultCode.BUSY: (503, "Service Unavailable"),
    FaultCode.TIMEOUT: (504, "Gateway Timeout"),
    FaultCode.INVALID_REQUEST: (400, "Bad Request"),
}
BAD_GATEWAY = (502, "Bad Gateway")
BAD = 400  # the least status that tells of a failure
TEXT = "text/plain"
_ROUTE = unmapped_route(UNMAPPED)


class Passthrough(StreamingEndpoint):
    """Streams requests to one upstream and its responses back, byte for byte."""

    def __init__(self, dispatcher: Dispatcher, upstream: str) -> None:
        self._dispatcher = dispatcher
        self._upstream = upstream

    async def stream(self, exchange: HttpExchange) -> Answer | None:
        """See StreamingEndpoint."""
        started = perf_counter()
        protocol = "tunnel" if exchange.is_tunnel else "http"
        call = Call(UNMAPPED, peer=exchange.peer, extensions={"protocol": protocol, "agent": exchange.metadata.agent})
        try:
            answer = await self._dispatcher.relay(self._upstream, exchange)
        except asyncio.CancelledError as error:
            self._dispatcher.left([(_ROUTE, call)], error, perf_counter() - started, Side.LEGACY)
            raise
        self._dispatcher.note(UNMAPPED, UNMAPPED, call, _outcome(answer), perf_counter() - started, Side.LEGACY)
        if not isinstance(answer, Fault):
            return None
        if exchange.has_begun:
            exchange.abort()
            return None
        if answer.name == HUNG_UP:
            return Answer(None, TEXT, answer, hang_up=True)
        return self.refuse(answer)

    def refuse(self, fault: Fault) -> Answer:
        """See StreamingEndpoint."""
        status, reason = STATUSES.get(fault.code, BAD_GATEWAY)
        headers = ((b"Content-Type", TEXT.encode()),)
        return Answer(f"{fault.message}\n".encode(), TEXT, fault, status, reason, headers)


def _outcome(answer: Answer | Fault) -> Outcome:
    if isinstance(answer, Fault):
        return answer
    failed = answer.status is not None and answer.status >= BAD
    return Fault(FaultCode.REMOTE, f"HTTP {answer.status}", name=str(answer.status)) if failed else Reply()
