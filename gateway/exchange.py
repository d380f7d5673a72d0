"""The path of a message: bytes -> codec -> dialect -> dispatcher -> dialect -> codec -> bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import structlog

from gateway.builtin import Builtins
from gateway.core.model import Answer, Call, Envelope, Fault, FaultCode, Outcome, Peer
from gateway.core.ports import Codec, Dialect, Endpoint
from gateway.dispatch import Dispatcher
from gateway.mapping.table import EndpointKey, EndpointTable

_log = structlog.get_logger("gateway")


class Exchange(Endpoint):
    """What stands behind one path of one listener. `concurrency`: entries of a batch at a time; 1 keeps their order."""

    def __init__(
        self, table: EndpointTable, codec: Codec, dialect: Dialect, dispatcher: Dispatcher, *, concurrency: int = 1
    ) -> None:
        self.table = table
        self.codec = codec
        self.dialect = dialect
        self.dispatcher = dispatcher
        self.builtins = Builtins(table, codec.name)
        self._concurrency = concurrency

    async def answer(self, body: bytes, peer: Peer) -> Answer:
        """Answer one message; never raises but for cancellation."""
        try:
            envelope = self.codec.decode(body)
            outcomes = await self._outcomes(envelope, peer)
            return Answer(self.codec.encode(envelope, outcomes), self.codec.content_type, _whole_fault(envelope))
        except Exception:  # noqa: BLE001 - a codec that raises is a bug; the client still gets a fault of its protocol
            _log.exception("a bug answered this message", endpoint=str(self.table.key))
            return self.refuse(Fault(FaultCode.INTERNAL, "internal error"))

    def refuse(self, fault: Fault) -> Answer:
        """Say in the client's protocol why a message was not read."""
        envelope = Envelope((fault,))
        return Answer(self.codec.encode(envelope, (fault,)), self.codec.content_type, fault)

    async def _outcomes(self, envelope: Envelope, peer: Peer) -> Sequence[Outcome]:
        if len(envelope.entries) == 1:
            return (await self._entry(envelope.entries[0], peer),)
        if self._concurrency == 1:
            return [await self._entry(entry, peer) for entry in envelope.entries]
        room = asyncio.Semaphore(self._concurrency)

        async def within(entry: Call | Fault) -> Outcome:
            async with room:
                return await self._entry(entry, peer)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(within(entry)) for entry in envelope.entries]
        return [task.result() for task in tasks]

    async def _entry(self, entry: Call | Fault, peer: Peer) -> Outcome:
        """Framing faults skip the dialect: a convention dresses application outcomes."""
        if isinstance(entry, Fault):
            return entry
        meant = self.dialect.unwrap_call(entry)
        call = Call(meant.method, meant.params, meant.named, meant.oneway, peer, meant.extensions)
        return self.dialect.wrap_outcome(await self.call(call), call)

    async def call(self, call: Call) -> Outcome:
        """Answer one call, free of bytes and dialect: by its route, else as a built-in method."""
        route = self.table.routes.get(call.method)
        if route is not None:
            return await self.dispatcher.answer(route, call)
        outcome = self.builtins.answer(call)
        if outcome is not None:
            return outcome
        return self.dispatcher.refuse(call, Fault(FaultCode.UNKNOWN_METHOD, f"unknown method '{call.method}'"))


class Endpoints:
    """Every exchange of one revision of the mapping, found by listener and path. Swapped whole on reload."""

    def __init__(self, exchanges: Mapping[EndpointKey, Exchange], revision: str) -> None:
        self.exchanges = exchanges
        self.revision = revision
        # Longest path first: the old servers match the longest prefix, and "/" takes what nobody else claims.
        self._by_length = sorted(exchanges.items(), key=lambda item: -len(item[0].path))

    def resolve(self, listener: str, path: str) -> Exchange | None:
        """The exchange with the longest path that `path` starts with."""
        exact = self.exchanges.get(EndpointKey(listener, path))
        if exact is not None:
            return exact
        for key, exchange in self._by_length:
            if key.listener == listener and path.startswith(key.path):
                return exchange
        return None


def _whole_fault(envelope: Envelope) -> Fault | None:
    """The fault of a message that held no call at all."""
    entry = envelope.entries[0] if len(envelope.entries) == 1 and not envelope.batch else None
    return entry if isinstance(entry, Fault) else None
