"""What calls and observations come to: counts of both sides, latencies, pairs that differ, who called. Writes nothing.

Everything is gathered between two flushes and handed over as one `Batch`; a call pays for plain counting.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from gateway.core import counting
from gateway.core.compare import Comparison, Verdict, blame, compare
from gateway.core.kept import Batch, ClientKey, Counts, MethodId, Pair, Seen
from gateway.core.migration import Side
from gateway.core.mismatch import document
from gateway.core.model import Call, Fault, FaultCode, Outcome
from gateway.core.peers import caller
from gateway.core.route import Route
from gateway.core.tally import BOUNDS, empty
from gateway.metrics import Note
from gateway.shadow import Observed

PAIRS = 10  # differing pairs of one method that are kept between two flushes; the newest
CLIENTS = 10_000  # callers that are told apart between two flushes

# Faults of a control that is away: no answer of the candidate can differ from them.
NO_ANSWER = frozenset({FaultCode.UNAVAILABLE, FaultCode.BUSY, FaultCode.TIMEOUT, FaultCode.NO_REPLY})


class Evidence:
    """Told of every call that has ended and of every observation; `take` gives what came since it was last taken."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._methods: dict[MethodId, _Gathered] = {}
        self._clients: dict[ClientKey, _Times] = {}

    def noting(self, note: Note) -> Note:
        """The function that counts a call and then tells the next."""

        def both(service: str, method: str, call: Call, outcome: Outcome, seconds: float, side: Side | None) -> None:
            identity = MethodId(service, method)
            if side is not None:
                gathered = self._gathered(identity)
                gathered.answered[side] += 1
                gathered.ran(side, outcome, seconds)
            self._called(identity, call)
            note(service, method, call, outcome, seconds, side)

        return both

    def compare(self, observed: Observed) -> Comparison:
        """Hold both outcomes against each other by the rules of the method."""
        rules = observed.route.migration.compare
        control, candidate = observed.control.outcome, observed.candidate.outcome
        if observed.again is None:
            return compare(control, candidate, rules)
        return blame(control, observed.again, candidate, rules)

    def observed(self, observed: Observed, comparison: Comparison) -> None:
        """Remember what came of a call that both sides have run."""
        route, control, candidate = observed.route, observed.control, observed.candidate
        identity = MethodId.of(route)
        gathered = self._gathered(identity)
        if _code(candidate.outcome) is FaultCode.BUSY:
            gathered.dropped += 1
            return
        gathered.ran(candidate.side, candidate.outcome, candidate.seconds)
        if _code(control.outcome) in NO_ANSWER:
            gathered.unanswered += 1
            return
        gathered.verdicts[comparison.verdict] += 1
        if comparison.verdict in (Verdict.DIFFERENT, Verdict.ERROR_DIFFERENT):
            first, second = ((each.side, each.outcome, each.seconds) for each in (control, candidate))
            pair = document(route, observed.call, first, second, comparison, observed.again)
            gathered.pairs.append(Pair(self._now(), identity, pair))

    def fell_back(self, route: Route, side: Side, fault: Fault, seconds: float) -> None:
        """A side did not execute a call, which then went to the other: no client has seen its fault."""
        self._gathered(MethodId.of(route)).ran(side, fault, seconds)

    def dropped(self, route: Route) -> None:
        """There was no room to observe a call."""
        self._gathered(MethodId.of(route)).dropped += 1

    def take(self) -> Batch:
        """What came since this was last called."""
        methods, self._methods = self._methods, {}
        clients, self._clients = self._clients, {}
        return Batch(
            {identity: gathered.counts() for identity, gathered in methods.items()},
            [pair for gathered in methods.values() for pair in gathered.pairs],
            {key: Seen(times.count, times.first, times.last) for key, times in clients.items()},
        )

    def _gathered(self, identity: MethodId) -> _Gathered:
        gathered = self._methods.get(identity)
        if gathered is None:
            gathered = self._methods[identity] = _Gathered()
        return gathered

    def _called(self, method: MethodId, call: Call) -> None:
        known = call.extensions
        protocol, agent, user = known.get("protocol", ""), known.get("agent", ""), known.get("user", "")
        key = ClientKey(method, str(protocol), caller(call.peer), str(agent), str(user), call.peer.domid)
        times = self._clients.get(key)
        if times is not None:
            times.count += 1
            times.last = self._now()
        elif len(self._clients) < CLIENTS:
            now = self._now()
            self._clients[key] = _Times(1, now, now)


def _code(outcome: Outcome) -> FaultCode | None:
    return outcome.code if isinstance(outcome, Fault) else None


@dataclass(slots=True)
class _Times:
    """How often a client has called, and when; see Seen."""

    count: int
    first: float
    last: float


def _sides() -> dict[Side, int]:
    return dict.fromkeys(Side, 0)


@dataclass(slots=True)
class _Gathered:
    """What came of the calls of one method."""

    answered: dict[Side, int] = field(default_factory=_sides)
    calls: dict[Side, int] = field(default_factory=_sides)
    errors: dict[Side, int] = field(default_factory=_sides)
    latency: dict[Side, list[int]] = field(default_factory=lambda: {side: empty() for side in Side})
    verdicts: dict[Verdict, int] = field(default_factory=lambda: dict.fromkeys(Verdict, 0))
    dropped: int = 0
    unanswered: int = 0
    pairs: deque[Pair] = field(default_factory=lambda: deque(maxlen=PAIRS))

    def ran(self, side: Side, outcome: Outcome, seconds: float) -> None:
        """A side has run a call."""
        self.calls[side] += 1
        self.latency[side][bisect_left(BOUNDS, seconds)] += 1
        self.errors[side] += isinstance(outcome, Fault)

    def counts(self) -> Counts:
        """The same by the names under which it is kept; what is zero is left out."""
        named = {counting.DROPPED: self.dropped, counting.UNANSWERED: self.unanswered}
        named |= {verdict.value: count for verdict, count in self.verdicts.items()}
        for name, by_side in ((counting.answered, self.answered), (counting.calls, self.calls)):
            named |= {name(side): count for side, count in by_side.items()}
        named |= {counting.errors(side): count for side, count in self.errors.items()}
        latency = {side.value: buckets for side, buckets in self.latency.items() if self.calls[side]}
        return Counts({name: count for name, count in named.items() if count}, latency)
