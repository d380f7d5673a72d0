"""Replay of recorded calls: each goes to the legacy side, then to D-Bus, and the two outcomes are compared.

Nothing is counted in the statistics, and modes do not matter: a replay moves no method.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from msgspec import Struct, field

from gateway.core.admin.counters import UNANSWERED
from gateway.core.admin.records import Json
from gateway.core.comparison.compare import TOO_LARGE, Verdict
from gateway.core.comparison.equality import Checkpoint
from gateway.core.logger import Logger
from gateway.core.migration.modes import Side
from gateway.core.routing.call_record import ReadRecord, is_harmless, substitute_secrets
from gateway.core.routing.route import Route
from gateway.core.rpc.model import Call, Envelope, Fault, FaultCode, Outcome, Peer
from gateway.mapping.table import EndpointKey
from gateway.migration.shadow import CallSide, ComparedCall, ObservedCall, View, Worker, run_call
from gateway.pipeline.endpoint import Endpoints

REPLAYED = Peer("replay")

SKIPPED = "skipped"  # in place of a verdict: neither side was called

_log = Logger("replay")


class ReplayRequest(Struct, frozen=True):
    """How calls are replayed. `given`: the values of redacted places."""

    given: Mapping[str, str] = field(default_factory=dict)
    writes: bool = False  # also calls that may do harm when they run twice
    noise: bool = False  # the legacy side is called twice, and what it varies in is not a difference


class ReplayResult(Struct, frozen=True):
    """The result of one call."""

    service: str
    method: str
    verdict: str  # a value of compare.Verdict, SKIPPED or UNANSWERED
    why: str = ""  # why it was skipped, not answered or not compared
    missing: tuple[str, ...] = ()  # places that are redacted and whose value is not given
    legacy: float | None = None  # seconds
    dbus: float | None = None
    pair: Json = None  # the document of a pair that differs, see core/routing/mismatch_record.py


class _Replayable(Struct, frozen=True):
    """A call that can be made. `view`: an outcome as a client of its endpoint reads it."""

    route: Route
    call: Call
    view: View


class Replayer:
    """One for the running gateway. `call_side` holds the deadline and raises nothing but CancelledError."""

    def __init__(
        self,
        endpoints: Endpoints,
        call_side: CallSide,
        compare: Callable[[ObservedCall, Checkpoint], ComparedCall],
        worker: Worker,
    ) -> None:
        self._endpoints = endpoints
        self._call_side = call_side
        self._compare = compare
        self._worker = worker

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
        result = partial(
            ReplayResult,
            ready.route.service,
            ready.route.method,
            legacy=observed.control.seconds,
            dbus=observed.candidate.seconds,
        )
        # A side without an answer. Where D-Bus is away while the legacy side answers, they differ.
        if not observed.control.is_answer:
            return result(UNANSWERED, f"legacy: {_text(observed.control.outcome)}")
        if observed.candidate.code is FaultCode.BUSY:
            return result(UNANSWERED, f"dbus: {_text(observed.candidate.outcome)}")
        compared = await self._worker.run(observed.cost, partial(self._compare, observed))
        verdict = compared.comparison.verdict
        why = TOO_LARGE if verdict is Verdict.TOO_LARGE else ""
        return result(verdict.value, why, pair=compared.document)

    async def _observed(self, ready: _Replayable, *, noise: bool) -> ObservedCall:
        run = partial(run_call, self._call_side)
        asked = ready.route, ready.call, ready.view, self._worker
        control, candidate = await run(Side.LEGACY, *asked), await run(Side.DBUS, *asked)
        again = await run(Side.LEGACY, *asked) if noise and control.is_answer else None
        if again is not None and not again.is_answer:
            control, again = again, None
        return ObservedCall(ready.route, ready.call, control, candidate, again.outcome if again is not None else None)

    def _prepare(self, recorded: ReadRecord, request: ReplayRequest) -> _Replayable | ReplayResult:
        """The call, or the reason why it is skipped."""
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
        codec, dialect = endpoint.codec, endpoint.dialect
        try:
            envelope = codec.decode(codec.encode_call(dialect.wrap_call(call)))
        except ValueError:
            envelope = Envelope(())
        entry = envelope.entries[0] if envelope.entries else None
        if not isinstance(entry, Call):
            return skipped(f"{codec.name} cannot carry this call")
        sent = dialect.unwrap_call(entry)
        made = Call(sent.method, sent.params, sent.named, peer=REPLAYED, extensions=endpoint.origin)
        return _Replayable(route, made, partial(endpoint.view, envelope, 0, made))


def _text(outcome: Outcome) -> str:
    """A fault as text: its message and arguments, because some dialects put the reason in an argument."""
    if not isinstance(outcome, Fault):
        return ""
    arguments = outcome.data if isinstance(outcome.data, list) else []
    return ": ".join(map(str, [outcome.message, *arguments]))
