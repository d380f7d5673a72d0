"""What calls and observations come to: counts of both sides, latencies, pairs that differ, who called. Writes nothing.

Everything is gathered between two flushes and handed over as one `Batch`; a call pays for plain counting.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from gateway.core.admin import counters
from gateway.core.admin.records import (
    IDENTITIES,
    OTHERS,
    ClientKey,
    ClientRecord,
    Counts,
    CountsBatch,
    MethodId,
    MismatchRecord,
)
from gateway.core.comparison.compare import Comparison, Verdict, blame, compare
from gateway.core.migration.modes import Side
from gateway.core.migration.statistics import BOUNDS, empty_histogram
from gateway.core.routing.mismatch_record import document
from gateway.core.routing.route import CallFinished, Route
from gateway.core.rpc.model import ABANDONED, WITHDRAWN, Call, Fault, FaultCode, Outcome, caller
from gateway.migration.shadow import Observed

PAIRS = 10  # differing pairs of one method that are kept between two flushes; the newest
CLIENTS = 10_000  # callers that are told apart between two flushes


class StatisticsCollector:
    """Told of every call that has ended and of every observation; `take` gives what came since it was last taken."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._methods: dict[tuple[str, str], _Gathered] = {}
        self._clients: dict[_Client, _Times] = {}
        self._crowds: dict[tuple[object, str, int | None], set[tuple[object, object]]] = {}  # identities of a peer

    def count(self, finished: CallFinished) -> None:
        """Count a call that has ended, and who made it."""
        route, outcome, side = finished.route, finished.outcome, finished.side
        if side is not None and outcome is not ABANDONED and outcome is not WITHDRAWN:  # no side's doing
            ran = self._gathered((route.service, route.method)).of(side)
            ran.answered += 1
            ran.run(outcome, finished.seconds)
        self._called(route.service, route.method, finished.call, failed=isinstance(outcome, Fault))

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
        if candidate.code is FaultCode.BUSY:
            gathered.dropped += 1
            return
        gathered.of(candidate.side).run(candidate.outcome, candidate.seconds)
        if not control.is_answer:
            gathered.unanswered += 1
            return
        gathered.verdicts[comparison.verdict] += 1
        if comparison.verdict in (Verdict.DIFFERENT, Verdict.ERROR_DIFFERENT):
            first, second = ((each.side, each.outcome, each.seconds) for each in (control, candidate))
            pair = document(route, observed.call, first, second, comparison, observed.again)
            gathered.pairs.append(MismatchRecord(self._now(), identity, pair))

    def fell_back(self, route: Route, side: Side, fault: Fault, seconds: float) -> None:
        """A side did not execute a call, which then went to the other: no client has seen its fault."""
        self._gathered(MethodId.of(route)).of(side).run(fault, seconds)

    def dropped(self, route: Route) -> None:
        """There was no room to observe a call."""
        self._gathered(MethodId.of(route)).dropped += 1

    def take(self) -> CountsBatch:
        """What came since this was last called."""
        methods, self._methods = self._methods, {}
        clients, self._clients = self._clients, {}
        self._crowds = {}
        return CountsBatch(
            {MethodId(*method): gathered.counts() for method, gathered in methods.items()},
            [pair for gathered in methods.values() for pair in gathered.pairs],
            {_client(key): ClientRecord(times.count, times.first, times.last) for key, times in clients.items()},
        )

    def _gathered(self, method: tuple[str, str]) -> _Gathered:
        gathered = self._methods.get(method)
        if gathered is None:
            gathered = self._methods[method] = _Gathered()
        return gathered

    def _called(self, service: str, method: str, call: Call, *, failed: bool) -> None:
        known, peer = call.extensions, call.peer
        user = known.get("user")
        if failed and user and known.get("login"):
            user = None  # people type passwords there
        key = (service, method, known.get("protocol"), caller(peer), known.get("agent"), user, peer.domid)
        times = self._clients.get(key)
        if times is None:
            key = self._told_apart(key)
            times = self._clients.setdefault(key, _Times(0, self._now(), 0.0))
        times.count += 1
        times.last = self._now()

    def _told_apart(self, key: _Client) -> _Client:
        """A new client as it is counted: one of too many of its peer, or of too many in all, is one of the others."""
        service, method, protocol, who, agent, user, domid = key
        if len(self._clients) >= CLIENTS:
            return service, method, protocol, OTHERS, OTHERS, None, None
        crowd = self._crowds.setdefault((protocol, who, domid), set())
        if len(crowd) >= IDENTITIES and (agent, user) not in crowd:
            return service, method, protocol, who, OTHERS, None, domid
        crowd.add((agent, user))
        return key


# Service, method, protocol, caller, agent, user and domid, as they come: a ClientKey is made when they are taken.
_Client: TypeAlias = tuple[str, str, object, str, object, object, int | None]


def _client(key: _Client) -> ClientKey:
    service, method, protocol, who, agent, user, domid = key
    return ClientKey(MethodId(service, method), str(protocol or ""), who, str(agent or ""), str(user or ""), domid)


@dataclass(slots=True)
class _Times:
    """How often a client has called, and when; see Seen."""

    count: int
    first: float
    last: float


@dataclass(slots=True)
class _Ran:
    """What one side has run."""

    answered: int = 0
    calls: int = 0
    errors: int = 0
    latency: list[int] = field(default_factory=empty_histogram)

    def run(self, outcome: Outcome, seconds: float) -> None:
        """One call more."""
        self.calls += 1
        self.latency[bisect_left(BOUNDS, seconds)] += 1
        if isinstance(outcome, Fault):
            self.errors += 1


@dataclass(slots=True)
class _Gathered:
    """What came of the calls of one method."""

    legacy: _Ran = field(default_factory=_Ran)
    dbus: _Ran = field(default_factory=_Ran)
    verdicts: dict[Verdict, int] = field(default_factory=lambda: dict.fromkeys(Verdict, 0))
    dropped: int = 0
    unanswered: int = 0
    pairs: deque[MismatchRecord] = field(default_factory=lambda: deque(maxlen=PAIRS))

    def of(self, side: Side) -> _Ran:
        """What this side has run. (Looking a side up in a dict costs a call of Python code on 3.11.)"""
        return self.dbus if side is Side.DBUS else self.legacy

    def counts(self) -> Counts:
        """The same by the names under which it is kept; what is zero is left out."""
        named = {counters.DROPPED: self.dropped, counters.UNANSWERED: self.unanswered}
        named |= {verdict.value: count for verdict, count in self.verdicts.items()}
        sides = {side: self.of(side) for side in Side}
        for side, ran in sides.items():
            named |= {counters.answered(side): ran.answered, counters.calls(side): ran.calls}
            named[counters.errors(side)] = ran.errors
        latency = {side.value: ran.latency for side, ran in sides.items() if ran.calls}
        return Counts({name: count for name, count in named.items() if count}, latency)
