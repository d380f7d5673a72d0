"""Endpoints with nothing behind them, for tests of transports."""

from __future__ import annotations

import asyncio

from gateway.core.interfaces import BrokenBodyError, Endpoint, HttpExchange, StreamingEndpoint
from gateway.core.rpc.model import NO_METADATA, Answer, Fault, FaultCode, Peer, RequestMetadata

CONTENT_TYPE = "text/x-toy"


class Echo(Endpoint, StreamingEndpoint):
    """Answers with what it was asked, and remembers it; refuses with the fault's code and message."""

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
        except BrokenBodyError:
            return self.refuse(Fault(FaultCode.INVALID_REQUEST, "the body is broken"))
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
    """The same, but a call is answered only when the test says so; tells how many it has begun and ended."""

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
    """Gives the same answer to everything."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self._answer = answer

    async def answer(self, body: bytes, peer: Peer, carried: RequestMetadata = NO_METADATA) -> Answer:
        return self._answer


class Broken(Echo):
    """Breaks the contract of an endpoint: it raises."""

    async def answer(self, body: bytes, peer: Peer, carried: RequestMetadata = NO_METADATA) -> Answer:
        raise RuntimeError("a secret of ours")
