"""What no endpoint takes, sent to the listener's old service as it came; decodes nothing."""

from __future__ import annotations

import asyncio

from gateway.core.model import BARE, Answer, Carried, Fault, FaultCode, Peer
from gateway.core.ports import Endpoint, Upstreams

# An HTTP status for each reason why nothing came back (RFC 9110 section 15.6); 502 for the others.
STATUSES: dict[FaultCode, tuple[int, str]] = {
    FaultCode.BUSY: (503, "Service Unavailable"),
    FaultCode.TIMEOUT: (504, "Gateway Timeout"),
}
BAD_GATEWAY = (502, "Bad Gateway")
TEXT = "text/plain"


class Passage(Endpoint):
    """Other paths, and other verbs than POST. Whatever the old service answers goes back byte for byte."""

    def __init__(self, upstreams: Upstreams, upstream: str, seconds: float) -> None:
        self._upstreams = upstreams
        self._upstream = upstream
        self._seconds = seconds

    async def answer(self, body: bytes, peer: Peer, carried: Carried = BARE) -> Answer:  # noqa: ARG002 - old services ask nobody who calls
        """Send one message on; never raises but for cancellation."""
        try:
            async with asyncio.timeout(self._seconds):
                answer = await self._upstreams.forward(self._upstream, body, carried)
        except TimeoutError:
            text = f"no answer from the old service '{self._upstream}' within {self._seconds:g} s"
            answer = Fault(FaultCode.TIMEOUT, f"{text}; it may have been executed")
        return self.refuse(answer) if isinstance(answer, Fault) else answer

    def refuse(self, fault: Fault) -> Answer:
        """In plain words, as nothing is known of who asks."""
        status, reason = STATUSES.get(fault.code, BAD_GATEWAY)
        headers = ((b"Content-Type", TEXT.encode()),)
        return Answer(f"{fault.message}\n".encode(), TEXT, fault, status, reason, headers)
