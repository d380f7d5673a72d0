"""Endpoints that stand for everything behind a transport."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from adapters.codecs.xenstore import Codec
from gateway.core.interfaces import BrokenBodyError, Endpoint, HttpExchange, StreamingEndpoint
from gateway.core.rpc.model import (
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
)

CONTENT_TYPE = "text/x-toy"


class Echo(Endpoint, StreamingEndpoint):
    """Answers with the body of the request, and records it; refuses with the code and message of the fault."""

    def __init__(self) -> None:
        self.seen: list[tuple[bytes, Peer]] = []
        self.carried: list[RequestMetadata] = []

    async def answer(self, body: bytes, peer: Peer, carried: RequestMetadata = NO_METADATA) -> Answer:
        self.seen.append((body, peer))
        self.carried.append(carried)
        return Answer(body, CONTENT_TYPE)

    async def stream(self, exchange: HttpExchange) -> Answer | None:
        """The same for a body that comes in pieces; an answer with a status is streamed."""
        body = b""
        try:
            while piece := await exchange.read():
                body += piece
        except BrokenBodyError as error:
            return self.refuse(Fault(FaultCode.INVALID_REQUEST, f"the body is broken: {error}"))
        answer = await self.answer(body, exchange.peer, exchange.metadata)
        if answer.status is None:
            return answer
        await exchange.respond(answer)
        if answer.body and exchange.metadata.verb != "HEAD":
            await exchange.write(answer.body)
        await exchange.finish()
        return None

    def refuse(self, fault: Fault) -> Answer:
        return Answer(f"{fault.code.value}: {fault.message}".encode(), CONTENT_TYPE, fault)


class Waiting(Echo):
    """An Echo that answers only when the test allows it, and counts the calls that began and ended."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = asyncio.Semaphore(0)
        self.release = asyncio.Event()
        self.finished = asyncio.Semaphore(0)
        self.cancelled = asyncio.Semaphore(0)

    async def answer(self, body: bytes, peer: Peer, carried: RequestMetadata = NO_METADATA) -> Answer:
        self.begun.release()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.release()
            raise
        self.finished.release()
        return await super().answer(body, peer)


class Fixed(Echo):
    """Answers every request with the same answer."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self._answer = answer

    async def answer(self, body: bytes, peer: Peer, carried: RequestMetadata = NO_METADATA) -> Answer:
        return self._answer


class Broken(Echo):
    """Raises, against the contract of an endpoint."""

    async def answer(self, body: bytes, peer: Peer, carried: RequestMetadata = NO_METADATA) -> Answer:
        raise RuntimeError("a secret of ours")


# An endpoint of the codec `xenstore`


def _echo(call: Call) -> Outcome:
    return Reply(dict(call.named) if call.named else [*call.params])


class AnsweringEndpoint(Endpoint):
    """Answers by a function and records the calls; waits while `open` is cleared, and releases `begun` at each call."""

    def __init__(self, outcome: Callable[[Call], Outcome] = _echo) -> None:
        self._outcome = outcome
        self._codec = Codec()
        self.calls: list[Call] = []
        self.begun = asyncio.Semaphore(0)
        self.open = asyncio.Event()
        self.open.set()

    async def answer(self, body: bytes, peer: Peer, carried: RequestMetadata = NO_METADATA) -> Answer:
        envelope = self._codec.decode(body)
        (entry,) = envelope.entries
        if isinstance(entry, Fault):
            return self.refuse(entry)
        call = Call(entry.method, entry.params, entry.named, peer=peer)
        self.calls.append(call)
        self.begun.release()
        await self.open.wait()
        return Answer(self._codec.encode(envelope, [self._outcome(call)]), "x")

    def refuse(self, fault: Fault) -> Answer:
        return Answer(self._codec.encode(Envelope((fault,)), [fault]), "x", fault)
