"""Recorded calls sent to both sides, and what came of comparing their answers. Knows no file and no socket.

Nothing is counted as evidence and no mode plays a part: what a person replays moves no method.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import structlog

from gateway.core.admin.records import Json
from gateway.core.comparison.compare import Comparison, Verdict
from gateway.core.migration.modes import Side
from gateway.core.routing.call_record import ReadRecord, is_harmless, substitute_secrets
from gateway.core.routing.mismatch_record import document
from gateway.core.routing.route import Route
from gateway.core.rpc.model import Call, Fault, FaultCode, Outcome, Peer
from gateway.mapping.table import EndpointKey
from gateway.migration.shadow import Ask, Observation, Observed, aside, ran
from gateway.pipeline.endpoint import Endpoints, RpcEndpoint

REPLAYED = Peer("replay")

SKIPPED = "skipped"  # in place of a verdict: neither side was asked
UNANSWERED = "unanswered"  # in place of a verdict: both were asked, and one gave no answer to compare

_log = structlog.get_logger("replay")


@dataclass(frozen=True, slots=True)
class ReplayRequest:
    """How calls are replayed. `given`: what stands in place of their secrets, by place."""

    given: Mapping[str, str] = field(default_factory=dict)
    writes: bool = False  # also what may do harm when it runs twice
    noise: bool = False  # the control is asked a second time: what it contradicts itself in is no difference


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """What came of one call."""

    service: str
    method: str
    verdict: str  # of compare.Verdict, SKIPPED or UNANSWERED
    why: str = ""  # it was skipped or not answered
    missing: tuple[str, ...] = ()  # places whose value was redacted and is not given
    legacy: float | None = None  # seconds
    dbus: float | None = None
    pair: Json = None  # what differs, as core/routing/mismatch_record.py writes it


@dataclass(frozen=True, slots=True)
class _Ready:
    """A call that can be made. `view`: an outcome as a client of that endpoint sees it."""

    route: Route
    call: Call
    view: Callable[[Outcome], Outcome]


class Replayer:
    """One for the running gateway. `ask` never raises but for cancellation, and holds the deadline."""

    def __init__(self, endpoints: Endpoints, ask: Ask, compare: Callable[[Observed], Comparison]) -> None:
        self._endpoints = endpoints
        self._ask = ask
        self._compare = compare

    async def run(self, calls: Sequence[ReadRecord], wish: ReplayRequest, who: str) -> Sequence[ReplayResult]:
        """Make calls one after another, in their order."""
        return [await self._one(each, wish, who) for each in calls]

    async def _one(self, recorded: ReadRecord, wish: ReplayRequest, who: str) -> ReplayResult:
        ready = self._ready(recorded, wish)
        if isinstance(ready, ReplayResult):
            return ready
        if not is_harmless(ready.route):
            _log.warning("a call that changes something is run on both sides", method=ready.route.method, who=who)
        observed = await self._observed(ready, noise=wish.noise and is_harmless(ready.route))
        comparison = await aside(observed.control.outcome, partial(self._compare, observed))
        return _result(observed, comparison)

    async def _observed(self, ready: _Ready, *, noise: bool) -> Observed:
        """The legacy service is the control, whatever the mode is."""
        control, candidate = [await self._ran(side, ready) for side in (Side.LEGACY, Side.DBUS)]
        again = await self._ran(Side.LEGACY, ready) if noise and control.is_answer else None
        if again is not None and not again.is_answer:
            control, again = again, None
        return Observed(ready.route, ready.call, control, candidate, again.outcome if again is not None else None)

    async def _ran(self, side: Side, ready: _Ready) -> Observation:
        return await ran(self._ask, side, ready.route, ready.call, ready.view)

    # What is not made, and why

    def _ready(self, recorded: ReadRecord, wish: ReplayRequest) -> _Ready | ReplayResult:
        skipped = partial(ReplayResult, recorded.service, recorded.method, SKIPPED)
        exchange = self._endpoints.exchanges.get(EndpointKey(recorded.listener, recorded.path))
        if exchange is None or exchange.codec.name != recorded.codec:
            return skipped(f"no endpoint {recorded.listener} {recorded.path} speaks {recorded.codec}")
        route, task_prefix = exchange.table.find(recorded.method)
        if route is None or task_prefix:
            return skipped(f"not mapped at {exchange.table.key}")
        skipped = partial(ReplayResult, route.service, route.method, SKIPPED)
        if route.migration.upstream is None:
            return skipped("it has no legacy service")
        if not is_harmless(route) and not wish.writes:
            return skipped(f"its effect is {route.effect.value}: it would run twice")
        call, missing = substitute_secrets(recorded, route.migration.redact.parameters, wish.given)
        if missing:
            return skipped(f"redacted, and not given: {', '.join(missing)}", missing)
        return _as_sent(exchange, route, call) or skipped(f"{exchange.codec.name} cannot carry this call")


def _as_sent(exchange: RpcEndpoint, route: Route, call: Call) -> _Ready | None:
    """The call as a client of this endpoint sends it; None where the protocol cannot carry it."""
    codec, dialect = exchange.codec, exchange.dialect
    try:
        envelope = codec.decode(codec.encode_call(dialect.wrap_call(call)))
    except ValueError:
        return None
    entry = envelope.entries[0]
    if isinstance(entry, Fault):
        return None
    sent = dialect.unwrap_call(entry)
    made = Call(sent.method, sent.params, sent.named, peer=REPLAYED, extensions=exchange.origin)
    return _Ready(route, made, partial(exchange.as_client_reads, envelope, made))


def _result(observed: Observed, comparison: Comparison) -> ReplayResult:
    route, control, candidate = observed.route, observed.control, observed.candidate
    of = partial(ReplayResult, route.service, route.method, legacy=control.seconds, dbus=candidate.seconds)
    silent = _silent(control, candidate)
    if silent:
        return of(UNANSWERED, silent)
    if comparison.verdict not in (Verdict.DIFFERENT, Verdict.ERROR_DIFFERENT):
        return of(comparison.verdict.value)
    first, second = ((each.side, each.outcome, each.seconds) for each in (control, candidate))
    pair = document(route, observed.call, first, second, comparison, observed.again)
    return of(comparison.verdict.value, pair=pair)


def _silent(control: Observation, candidate: Observation) -> str:
    """Who gave nothing to compare, and why. A D-Bus side that is away where the legacy service answers does differ."""
    if not control.is_answer:
        return f"legacy: {_words(control.outcome)}"
    return f"dbus: {_words(candidate.outcome)}" if candidate.code is FaultCode.BUSY else ""


def _words(outcome: Outcome) -> str:
    """A fault in the client's terms; a dialect that has few names says in an argument what was meant."""
    if not isinstance(outcome, Fault):
        return ""
    arguments = outcome.data if isinstance(outcome.data, list) else []
    return ": ".join(map(str, [outcome.message, *arguments]))
