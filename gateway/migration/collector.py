"""Statistics of calls and observations: counts and latencies of both sides, pairs that differ, clients.

Everything is gathered in memory and taken as one `CountsBatch` at each flush; a call costs a few additions.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import TypeAlias

import msgspec
from msgspec import Struct, field
from msgspec.structs import astuple

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
from gateway.core.comparison.compare import Verdict, compare
from gateway.core.comparison.equality import Checkpoint
from gateway.core.comparison.noise import compare_with_noise
from gateway.core.migration.modes import Side
from gateway.core.migration.statistics import BOUNDS, KEY_GROUPS, empty_histogram, key_group
from gateway.core.routing.mismatch_record import Run, document
from gateway.core.routing.route import CallFinished, Route
from gateway.core.rpc.model import (
    ABANDONED,
    WITHDRAWN,
    Call,
    Fault,
    Outcome,
    Peer,
    Reply,
    caller,
    is_redirect,
    is_shared,
)
from gateway.migration.shadow import ComparedCall, Observation, ObservedCall

MAX_PAIRS = 10  # differing pairs of one method that are kept between two flushes; the newest
MAX_CLIENTS = 10_000  # clients that are distinguished between two flushes
MAX_KNOWN = 4096  # routes and clients whose counters are found at once


class StatisticsCollector:
    """Receives every call that has ended and every observation. `now`: seconds since 1970."""

    def __init__(self, now: Callable[[], float] = time.time, max_clients: int = MAX_CLIENTS) -> None:
        self._now = now
        self._max_clients = max_clients
        self._methods: dict[tuple[str, str], _Gathered] = {}
        self._clients: dict[_Client, _Times] = {}
        self._known: dict[tuple[int, int, int], _Known] = {}  # by the ids of route, peer and extensions
        self._identities: dict[tuple[object, str, int | None], set[tuple[object, object]]] = {}  # of each peer

    def count(self, finished: CallFinished) -> None:
        """Count a call that has ended, and its client."""
        route, call, outcome, side = finished.route, finished.call, finished.outcome, finished.side
        peer, extensions = call.peer, call.extensions
        if isinstance(outcome, Reply):
            known = self._known.get((id(route), id(peer), id(extensions)))
            # Another object may have had the id of one of them.
            if (
                known is None
                or known.route is not route
                or known.peer is not peer
                or known.extensions is not extensions
            ):
                known = self._recognise(route, call)
            times = known.times
        else:
            known = None
            times = self._times(route, call, failed=True)
            times.redirects += is_redirect(outcome)
        times.count += 1
        times.last = self._now()
        times.received += finished.received
        times.sent += finished.sent
        if side is not None and outcome is not ABANDONED and outcome is not WITHDRAWN:  # neither side caused it
            gathered = None if known is None else known.gathered
            if gathered is None:
                gathered = self._gathered((route.service, route.method))
                if known is not None:
                    known.gathered = gathered
            ran = gathered.dbus if side is Side.DBUS else gathered.legacy
            ran.answered += 1
            ran.run(route, call, outcome, finished.seconds)

    def compare(self, observed: ObservedCall, checkpoint: Checkpoint) -> ComparedCall:
        """Compare both outcomes by the rules of the method; a pair that differs comes with its document."""
        route, control, candidate = observed.route, observed.control, observed.candidate
        rules = route.migration.compare
        if observed.again is None:
            comparison = compare(control.outcome, candidate.outcome, rules, checkpoint)
        else:
            comparison = compare_with_noise(control.outcome, observed.again, candidate.outcome, rules, checkpoint)
        if comparison.verdict.value not in counters.MISMATCHES:
            return ComparedCall(comparison)
        runs = self._run(control), self._run(candidate)
        return ComparedCall(comparison, document(route, observed.call, *runs, comparison, observed.again))

    def _run(self, observation: Observation) -> Run:
        moment = self._now() - (perf_counter() - observation.started)
        return Run(observation.side, observation.outcome, observation.seconds, moment)

    def observed(self, observed: ObservedCall, result: ComparedCall | str) -> None:
        """Count an observation. A text is the reason why the two outcomes were not compared."""
        identity = MethodId.of(observed.route)
        gathered = self._gathered(identity)
        if result != counters.DROPPED:
            run = observed.observed
            gathered.of(run.side).run(observed.route, observed.call, run.outcome, run.seconds)
        if isinstance(result, str):
            gathered.not_compared[result] = gathered.not_compared.get(result, 0) + 1
            return
        gathered.verdicts[result.comparison.verdict] += 1
        if result.document is not None:
            gathered.pairs.append(MismatchRecord(self._now(), identity, result.document))

    def not_compared(self, route: Route, reason: str) -> None:
        """Count a call that was not observed, by its reason."""
        counts = self._gathered(MethodId.of(route)).not_compared
        counts[reason] = counts.get(reason, 0) + 1

    def fell_back(self, route: Route, call: Call, side: Side, fault: Fault, seconds: float) -> None:
        """Count a fault that no client has seen: the side did not execute the call, and the other side was called."""
        self._gathered(MethodId.of(route)).of(side).run(route, call, fault, seconds)

    def take(self) -> CountsBatch:
        """Everything since the last call of this method."""
        methods, self._methods = self._methods, {}
        clients, self._clients = self._clients, {}
        self._identities, self._known = {}, {}
        return CountsBatch(
            {MethodId(*method): gathered.counts() for method, gathered in methods.items()},
            [pair for gathered in methods.values() for pair in gathered.pairs],
            {
                ClientKey(
                    MethodId(service, method), str(protocol or ""), who, str(agent or ""), str(user or ""), domid
                ): ClientRecord(*astuple(times))
                for (service, method, protocol, who, agent, user, domid), times in clients.items()
            },
        )

    def _gathered(self, method: tuple[str, str]) -> _Gathered:
        gathered = self._methods.get(method)
        if gathered is None:
            gathered = self._methods[method] = _Gathered()
        return gathered

    def _recognise(self, route: Route, call: Call) -> _Known:
        """The counters of the client of a call that succeeded, for its next calls of this route."""
        known = _Known(route, call.peer, call.extensions, self._times(route, call, failed=False))
        if is_shared(call.extensions):
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[id(route), id(call.peer), id(call.extensions)] = known
        return known

    def _times(self, route: Route, call: Call, *, failed: bool) -> _Times:
        """The counters of the client of a call."""
        known, peer = call.extensions, call.peer
        user = known.get("user")
        if failed and user and known.get("login"):
            user = None  # people type passwords into this field
        key = (route.service, route.method, known.get("protocol"), caller(peer), known.get("agent"), user, peer.domid)
        times = self._clients.get(key)
        if times is None:
            key = self._distinguished(key)
            times = self._clients.setdefault(key, _Times(0, self._now(), 0.0))
        return times

    def _distinguished(self, key: _Client) -> _Client:
        """The key of a new client; past the limit of its peer, or of all, it is one of OTHERS."""
        service, method, protocol, who, agent, user, domid = key
        if len(self._clients) >= self._max_clients:
            return service, method, protocol, OTHERS, OTHERS, None, None
        identities = self._identities.setdefault((protocol, who, domid), set())
        if len(identities) >= IDENTITIES and (agent, user) not in identities:
            return service, method, protocol, who, OTHERS, None, domid
        identities.add((agent, user))
        return key


# Service, method, protocol, caller, agent, user and domid; a ClientKey is made of them at a flush.
_Client: TypeAlias = tuple[str, str, object, str, object, object, int | None]


class _Times(Struct):
    """How often a client has called, and when; see ClientRecord."""

    count: int
    first: float
    last: float
    received: int = 0
    sent: int = 0
    redirects: int = 0


class _Known(msgspec.Struct, eq=False):
    """The counters of the client of calls that share these three objects."""

    route: Route
    peer: Peer
    extensions: Mapping[str, object]
    times: _Times
    gathered: _Gathered | None = None  # of the method, once a side has answered


class _Ran(Struct):
    """The calls that one side has run."""

    answered: int = 0
    calls: int = 0
    errors: int = 0
    client_errors: int = 0
    latency: list[int] = field(default_factory=empty_histogram)
    keys: list[int] = field(default_factory=list)  # see SideCounts
    clients: list[int] = field(default_factory=list)  # see SideCounts

    def run(self, route: Route, call: Call, outcome: Outcome, seconds: float) -> None:
        """Count one call. A fault that is the client's is neither a call nor an error."""
        migration, failed = route.migration, isinstance(outcome, Fault)
        group = -1
        if migration.key is not None and migration.upstream is not None:
            key, calls = migration.key.take(call), self.calls + self.client_errors
            group = calls % KEY_GROUPS if key is None else key_group(key)  # without a key, calls are independent
        if migration.client_errors and isinstance(outcome, Fault) and outcome.name in migration.client_errors:
            self.client_errors += 1
            if group >= 0:
                self.clients = self.clients or [0] * KEY_GROUPS
                self.clients[group] += 1
            return
        if group >= 0:
            self.keys = self.keys or [0] * KEY_GROUPS * 2
            self.keys[group] += 1
            self.keys[KEY_GROUPS + group] += failed
        self.calls += 1
        self.latency[bisect_left(BOUNDS, seconds)] += 1
        self.errors += failed


class _Gathered(Struct):
    """The statistics of one method."""

    legacy: _Ran = field(default_factory=_Ran)
    dbus: _Ran = field(default_factory=_Ran)
    verdicts: dict[Verdict, int] = field(default_factory=lambda: dict.fromkeys(Verdict, 0))
    not_compared: dict[str, int] = field(default_factory=dict)  # by reason
    pairs: deque[MismatchRecord] = field(default_factory=lambda: deque(maxlen=MAX_PAIRS))

    def of(self, side: Side) -> _Ran:
        """The calls of this side. (A dict keyed by an enum would run Python code at each look-up on 3.11.)"""
        return self.dbus if side is Side.DBUS else self.legacy

    def counts(self) -> Counts:
        """The same by the names of core/admin/counters.py, without those that are zero."""
        named = dict(self.not_compared)
        named |= {verdict.value: count for verdict, count in self.verdicts.items()}
        sides = {side: self.of(side) for side in Side}
        for side, ran in sides.items():
            named |= {counters.answered(side): ran.answered, counters.calls(side): ran.calls}
            named |= {counters.errors(side): ran.errors, counters.client_errors(side): ran.client_errors}
        histograms = {side.value: ran.latency for side, ran in sides.items() if ran.calls}
        histograms |= {counters.keys(side): ran.keys for side, ran in sides.items() if ran.keys}
        histograms |= {counters.client_keys(side): ran.clients for side, ran in sides.items() if ran.clients}
        return Counts({name: count for name, count in named.items() if count}, histograms)
