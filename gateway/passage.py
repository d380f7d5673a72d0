"""What no endpoint takes, sent to the listener's old service as it came; decodes nothing."""

from __future__ import annotations

import asyncio
from time import perf_counter

from gateway.core.migration import Side
from gateway.core.model import BARE, HUNG_UP, Answer, Call, Carried, Fault, FaultCode, Outcome, Peer, Reply
from gateway.core.ports import Endpoint
from gateway.core.route import unmapped
from gateway.dispatch import UNMAPPED, Dispatcher

# An HTTP status for each reason why nothing came back (RFC 9110 section 15.6); 502 for the others.
STATUSES: dict[FaultCode, tuple[int, str]] = {
    FaultCode.BUSY: (503, "Service Unavailable"),
    FaultCode.TIMEOUT: (504, "Gateway Timeout"),
}
BAD_GATEWAY = (502, "Bad Gateway")
BAD = 400  # the least status that tells of a failure
TEXT = "text/plain"
_ROUTE = unmapped(UNMAPPED)


class Passage(Endpoint):
    """Other paths, and other verbs than POST. Whatever the old service answers goes back byte for byte."""

    def __init__(self, dispatcher: Dispatcher, upstream: str) -> None:
        self._dispatcher = dispatcher
        self._upstream = upstream

    async def answer(self, body: bytes, peer: Peer, carried: Carried = BARE) -> Answer:
        """Send one message on; never raises but for cancellation."""
        started = perf_counter()
        known = {"protocol": "http", "agent": carried.agent}
        call = Call(UNMAPPED, peer=peer, extensions=known)
        try:
            answer = await self._dispatcher.forward(self._upstream, body, carried)
        except asyncio.CancelledError as error:
            self._dispatcher.left([(_ROUTE, call)], error, perf_counter() - started, Side.LEGACY)
            raise
        self._dispatcher.note(UNMAPPED, UNMAPPED, call, _came_to(answer), perf_counter() - started, Side.LEGACY)
        if isinstance(answer, Fault) and answer.name == HUNG_UP:
            return Answer(None, TEXT, answer, hang_up=True)
        return self.refuse(answer) if isinstance(answer, Fault) else answer

    def refuse(self, fault: Fault) -> Answer:
        """In plain words, as nothing is known of who asks."""
        status, reason = STATUSES.get(fault.code, BAD_GATEWAY)
        headers = ((b"Content-Type", TEXT.encode()),)
        return Answer(f"{fault.message}\n".encode(), TEXT, fault, status, reason, headers)


def _came_to(answer: Answer | Fault) -> Outcome:
    if isinstance(answer, Fault):
        return answer
    failed = answer.status is not None and answer.status >= BAD
    return Fault(FaultCode.REMOTE, f"HTTP {answer.status}", name=str(answer.status)) if failed else Reply()
