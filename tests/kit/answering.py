"""An endpoint that speaks the codec `xenstore` and answers by a function; remembers what it was asked, and by whom."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from adapters.codecs.xenstore import Codec
from gateway.core.interfaces import Endpoint
from gateway.core.rpc.model import NO_METADATA, Answer, Call, Envelope, Fault, Outcome, Peer, Reply, RequestMetadata


def _echo(call: Call) -> Outcome:
    return Reply(dict(call.named) if call.named else [*call.params])


class Answering(Endpoint):
    """Answers at once unless `open` is cleared; `begun` is told of each call."""

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
