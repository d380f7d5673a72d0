"""Sends recorded calls to both sides and compares their answers.

A replay does not depend on modes, and its results are not counted: it never moves a method.
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

SKIPPED = "skipped"  # in place of a verdict: no side was called
UNANSWERED = "unanswered"  # in place of a verdict: both sides were called, and one gave no answer to compare

_log = structlog.get_logger("replay")


@dataclass(frozen=True, slots=True)
class ReplayRequest:
    """How calls are replayed. `given`: place of a secret -> the value to use there."""

    given: Mapping[str, str] = field(default_factory=dict)
    writes: bool = False  # also replay calls that may do harm when they run twice
    noise: bool = False  # run the control twice; ignore fields that differ between its two responses


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """The result of one call."""

    service: str
    method: str
    verdict: str  # of compare.Verdict, SKIPPED or UNANSWERED
    why: str = ""  # why it was skipped or not answered
    missing: tuple[str, ...] = ()  # places of redacted values that are not given
    legacy: float | None = None  # seconds
    dbus: float | None = None
    pair: Json = None  # the difference, as core/routing/mismatch_record.py writes it


@dataclass(frozen=True, slots=True)
class _Replayable:
    """A call that can be made. `view`: an outcome as a client of that endpoint reads it."""

    route: Route
    call: Call
    view: Callable[[Outcome], Outcome]


class Replayer:
    """One for the running gateway. `ask` enforces the deadline and raises nothing but cancellation."""

    def __init__(self, endpoints: Endpoints, ask: Ask, compare: Callable[[Observed], Comparison]) -> None:
        self._endpoints = endpoints
        self._ask = ask
        self._compare = compare

    async def run(self, calls: Sequence[ReadRecord], request: ReplayRequest, who: str) -> Sequence[ReplayResult]:
        """Make calls one after another, in their order."""
        return [await self._one(each, request, who) for each in calls]

    async def _one(self, recorded: ReadRecord, request: ReplayRequest, who: str) -> ReplayResult:
        ready = self._prepare(recorded, request)
        if isinstance(ready, ReplayResult):
            return ready
        if not is_harmless(ready.route):
            _log.warning("a call that changes something runs on both sides", method=ready.route.method, who=who)
        observed = await self._observed(ready, noise=request.noise and is_harmless(ready.route))
        comparison = await aside(observed.control.outcome, partial(self._compare, observed))
        return _result(observed, comparison)

    async def _observed(self, ready: _Replayable, *, noise: bool) -> Observed:
        """The legacy service is the control, whatever the mode is."""
        control, candidate = [await self._ran(side, ready) for side in (Side.LEGACY, Side.DBUS)]
        again = await self._ran(Side.LEGACY, ready) if noise and control.is_answer else None
        if again is not None and not again.is_answer:
            control, again = again, None
        return Observed(ready.route, ready.call, control, candidate, again.outcome if again is not None else None)

    async def _ran(self, side: Side, ready: _Replayable) -> Observation:
        return await ran(self._ask, side, ready.route, ready.call, ready.view)

    # Calls that are skipped

    def _prepare(self, recorded: ReadRecord, request: ReplayRequest) -> _Replayable | ReplayResult:
        skipped = partial(ReplayResult, recorded.service, recorded.method, SKIPPED)
        endpoint = self._endpoints.exchanges.get(EndpointKey(recorded.listener, recorded.path))
        if endpoint is None or endpoint.codec.name != recorded.codec:
            return skipped(f"no endpoint {recorded.listener} {recorded.path} speaks {recorded.codec}")
        route, task_prefix = endpoint.table.find(recorded.method)
        if route is None or task_prefix:
            return skipped(f"not mapped at {endpoint.table.key}")
        skipped = partial(ReplayResult, route.service, route.method, SKIPPED)
        if route.migration.upstream is None:
            return skipped("it has no legacy service")
        if not is_harmless(route) and not request.writes:
            return skipped(f"its effect is {route.effect.value}: it would run twice")
        call, missing = substitute_secrets(recorded, route.migration.redact.parameters, request.given)
        if missing:
            return skipped(f"redacted, and not given: {', '.join(missing)}", missing)
        return _as_client_sends(endpoint, route, call) or skipped(f"{endpoint.codec.name} cannot carry this call")


def _as_client_sends(endpoint: RpcEndpoint, route: Route, call: Call) -> _Replayable | None:
    """The call as a client of this endpoint sends it; None if the protocol cannot carry it."""
    codec, dialect = endpoint.codec, endpoint.dialect
    try:
        envelope = codec.decode(codec.encode_call(dialect.wrap_call(call)))
    except ValueError:
        return None
    entry = envelope.entries[0]
    if isinstance(entry, Fault):
        return None
    sent = dialect.unwrap_call(entry)
    made = Call(sent.method, sent.params, sent.named, peer=REPLAYED, extensions=endpoint.origin)
    return _Replayable(route, made, partial(endpoint.as_client_reads, envelope, made))


def _result(observed: Observed, comparison: Comparison) -> ReplayResult:
    route, control, candidate = observed.route, observed.control, observed.candidate
    of = partial(ReplayResult, route.service, route.method, legacy=control.seconds, dbus=candidate.seconds)
    silent = _no_answer(control, candidate)
    if silent:
        return of(UNANSWERED, silent)
    if comparison.verdict not in (Verdict.DIFFERENT, Verdict.ERROR_DIFFERENT):
        return of(comparison.verdict.value)
    first, second = ((each.side, each.outcome, each.seconds) for each in (control, candidate))
    pair = document(route, observed.call, first, second, comparison, observed.again)
    return of(comparison.verdict.value, pair=pair)


def _no_answer(control: Observation, candidate: Observation) -> str:
    """The side that gave nothing to compare, and why. A D-Bus side that is down is a difference, unless BUSY."""
    if not control.is_answer:
        return f"legacy: {_text(control.outcome)}"
    return f"dbus: {_text(candidate.outcome)}" if candidate.code is FaultCode.BUSY else ""


def _text(outcome: Outcome) -> str:
    """A fault as text: its message and arguments, because some dialects put the reason in an argument."""
    if not isinstance(outcome, Fault):
        return ""
    arguments = outcome.data if isinstance(outcome.data, list) else []
    return ": ".join(map(str, [outcome.message, *arguments]))
