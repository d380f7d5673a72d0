"""The path of a message: bytes -> codec -> dialect -> dispatcher -> dialect -> codec -> bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

import structlog

from gateway.builtin import Builtins
from gateway.core.model import BARE, Answer, Call, Carried, Envelope, Fault, FaultCode, Outcome, Peer
from gateway.core.names import shown
from gateway.core.ports import Codec, Dialect, Endpoint
from gateway.dispatch import Dispatcher
from gateway.mapping.table import EndpointKey, EndpointTable

_log = structlog.get_logger("gateway")


def _ignore(_: Fault) -> None:
    """Tell nobody."""


class Exchange(Endpoint):
    """What stands behind one path of one listener. `concurrency`: entries of a batch at a time; 1 keeps their order."""

    def __init__(
        self,
        table: EndpointTable,
        codec: Codec,
        dialect: Dialect,
        dispatcher: Dispatcher,
        *,
        concurrency: int = 1,
        client: Codec | None = None,  # reads our own answers, for `call`
        on_refused: Callable[[Fault], object] = _ignore,  # told of each message that held no call, or was not read
    ) -> None:
        self.table = table
        self.codec = codec
        self.client = client or codec
        self.dialect = dialect
        self.dispatcher = dispatcher
        self.builtins = Builtins(table, codec.name)
        self._concurrency = concurrency
        self._on_refused = on_refused

    async def answer(self, body: bytes, peer: Peer, carried: Carried = BARE) -> Answer:  # noqa: ARG002
        """Answer one message; never raises but for cancellation."""
        try:
            envelope = self.codec.decode(body)
            entries = envelope.entries
            alone = len(entries) == 1
            outcomes = (await self._entry(entries[0], peer),) if alone else await self._batch(entries, peer)
            fault = _whole_fault(envelope)
            if fault is not None:
                self._on_refused(fault)
            return Answer(self.codec.encode(envelope, outcomes), self.codec.content_type, fault)
        except Exception:  # noqa: BLE001 - a codec that raises is a bug; the client still gets a fault of its protocol
            _log.exception("a bug answered this message", endpoint=str(self.table.key))
            return self.refuse(Fault(FaultCode.INTERNAL, "internal error"))

    def refuse(self, fault: Fault) -> Answer:
        """Say in the client's protocol why a message was not read."""
        self._on_refused(fault)
        envelope = Envelope((fault,))
        return Answer(self.codec.encode(envelope, (fault,)), self.codec.content_type, fault)

    async def _batch(self, entries: Sequence[Call | Fault], peer: Peer) -> Sequence[Outcome]:
        """Answer the entries in their order, which old clients rely on, or some at a time where the config says so."""
        if self._concurrency == 1:
            return [await self._entry(entry, peer) for entry in entries]
        room = asyncio.Semaphore(self._concurrency)

        async def within(entry: Call | Fault) -> Outcome:
            async with room:
                return await self._entry(entry, peer)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(within(entry)) for entry in entries]
        return [task.result() for task in tasks]

    async def _entry(self, entry: Call | Fault, peer: Peer) -> Outcome:
        """Framing faults skip the dialect: a convention dresses application outcomes."""
        if isinstance(entry, Fault):
            return entry
        meant = self.dialect.unwrap_call(entry)
        call = Call(meant.method, meant.params, meant.named, meant.oneway, peer, meant.extensions)
        route = self.table.routes.get(call.method)
        outcome = self.own(call) if route is None else await self.dispatcher.answer(route, call)
        return self.dialect.wrap_outcome(outcome, call)

    def own(self, call: Call) -> Outcome:
        """Answer a call that has no route: a built-in method, or one that nobody knows."""
        outcome = self.builtins.answer(call)
        if outcome is not None:
            return outcome
        return self.dispatcher.refuse(call, Fault(FaultCode.UNKNOWN_METHOD, f"unknown method {shown(call.method)}"))


class Endpoints:
    """Every exchange of one revision of the mapping, found by listener and path. Swapped whole on reload."""

    def __init__(self, exchanges: Mapping[EndpointKey, Exchange]) -> None:
        self.exchanges = exchanges
        self._paths: dict[str, dict[str, Exchange]] = {}
        # Longest path first: the old servers match the longest prefix, and "/" takes what nobody else claims.
        for key, exchange in sorted(exchanges.items(), key=lambda item: -len(item[0].path)):
            self._paths.setdefault(key.listener, {})[key.path] = exchange

    def resolve(self, listener: str, path: str) -> Exchange | None:
        """The exchange with the longest path that `path` starts with."""
        paths = self._paths.get(listener, {})
        exact = paths.get(path)
        if exact is not None:
            return exact
        return next((exchange for prefix, exchange in paths.items() if path.startswith(prefix)), None)


def _whole_fault(envelope: Envelope) -> Fault | None:
    """The fault of a message that held no call at all."""
    entry = envelope.entries[0] if len(envelope.entries) == 1 and not envelope.batch else None
    return entry if isinstance(entry, Fault) else None
