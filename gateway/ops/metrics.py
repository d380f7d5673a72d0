"""The Prometheus metrics: the table of all series, and the counters of calls.

A call only increments counters. Families, labels and text are made for a scrape (exposition.py).
"""

from __future__ import annotations

import operator
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, TypeAlias

from msgspec import Struct

from gateway.core.migration.modes import Side
from gateway.core.routing.route import CallFinished
from gateway.core.rpc.model import ABANDONED, WITHDRAWN, Fault, FaultCode, Reply, ended, is_redirect

# Upper bounds in seconds, inclusive.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

Samples: TypeAlias = Iterable[tuple[tuple[str, ...], float]]  # values of the labels, value


class Series(Struct, frozen=True):
    """One series. A label value comes from the config or the mapping, never from a client.

    `over`: what a gauge of several workers is. Counters and histograms are added.
    """

    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    over: Literal["sum", "max", "min"] = "sum"


CALLS = "xcp_gateway_calls_total"
REFUSED = "xcp_gateway_messages_refused_total"
SECONDS = "xcp_gateway_call_seconds"

SERIES: Mapping[str, Series] = {
    "xcp_gateway_build_info": Series(
        "gauge", "1, labelled with the versions of the gateway and of Python.", ("version", "python"), over="max"
    ),
    "xcp_gateway_mapping_info": Series(
        "gauge", "1, labelled with the revision of the live mapping.", ("revision",), over="max"
    ),
    "xcp_gateway_mapping_refused": Series(
        "gauge", "1 while the mapping files have problems and an earlier revision stays live.", over="max"
    ),
    CALLS: Series(
        "counter",
        "Finished calls; outcome is ok, redirect, the fault code, or unknown or withdrawn if the client left.",
        ("service", "method", "side", "outcome"),
    ),
    SECONDS: Series(
        "histogram", "Seconds from the arrival of a call at its route to its outcome.", ("service", "method", "side")
    ),
    REFUSED: Series(
        "counter", "Messages that were rejected before a call was read: too many, too large, unreadable.", ("outcome",)
    ),
    "xcp_gateway_calls_in_flight": Series("gauge", "Calls in flight."),
    "xcp_gateway_tunnels_open": Series("gauge", "Open tunnels (CONNECT, Upgrade) to an upstream."),
    "xcp_gateway_tunnels_total": Series("counter", "Tunnels that an upstream has accepted.", ("listener",)),
    "xcp_gateway_streamed_bytes_total": Series(
        "counter",
        "Bytes of bodies (http) and tunnels (tunnel), received from clients or sent to them.",
        ("listener", "protocol", "direction"),
    ),
    "xcp_gateway_buffered_bytes": Series("gauge", "Bytes of request bodies and responses in memory."),
    "xcp_gateway_connections_aborted_total": Series(
        "counter", "Connections of clients that the gateway aborted.", ("listener",)
    ),
    "xcp_gateway_log_lines_lost_total": Series("counter", "Log lines that could not be written."),
    "xcp_gateway_spans_lost_total": Series("counter", "Spans of traces that no collector has taken."),
    "xcp_gateway_comparisons_total": Series(
        "counter", "Calls that both sides have run, by the verdict of the comparison.", ("service", "method", "verdict")
    ),
    "xcp_gateway_not_compared_total": Series(
        "counter", "Calls that could have been compared and were not, by reason.", ("service", "method", "reason")
    ),
    "xcp_gateway_workers": Series("gauge", "Worker processes that serve.", over="max"),
    "xcp_gateway_worker_restarts_total": Series("counter", "Worker processes that were started again."),
    "xcp_gateway_state_trouble": Series("gauge", "1 while the state file cannot be used.", over="max"),
    "xcp_gateway_rollouts_breached": Series(
        "gauge", "Rollouts with a breach while a mode that a person set holds.", over="max"
    ),
    "xcp_gateway_rollouts": Series("gauge", "Rollouts by state, ended ones too.", ("state",), over="max"),
    "xcp_gateway_rollback_in_force": Series("gauge", "1 while a rollback of everything holds.", over="max"),
    "xcp_gateway_bus_connected": Series("gauge", "1 while the bus is connected.", ("bus",), over="min"),
    "xcp_gateway_bus_connections": Series("gauge", "Connections to the bus that are up.", ("bus",)),
    "xcp_gateway_bus_calls_in_flight": Series("gauge", "D-Bus calls that wait for their reply.", ("bus",)),
    "xcp_gateway_late_replies_total": Series(
        "counter", "D-Bus replies that arrived after the call had ended.", ("bus",)
    ),
    "xcp_gateway_signals_total": Series("counter", "D-Bus signals received.", ("bus",)),
    "xcp_gateway_signal_overflows_total": Series(
        "counter", "Times that signals arrived too fast, and the state was read instead.", ("bus",)
    ),
    "xcp_gateway_upstream_reachable": Series(
        "gauge",
        "1 if the legacy service has accepted a connection within 30 s; a scrape tries.",
        ("upstream",),
        over="min",
    ),
    "xcp_gateway_upstream_calls_in_flight": Series(
        "gauge", "Calls of the legacy service that are in flight or wait for a connection.", ("upstream",)
    ),
    "xcp_gateway_upstream_calls_waiting": Series(
        "gauge", "Calls of the legacy service that wait for a connection.", ("upstream",)
    ),
    "xcp_gateway_upstream_connections_idle": Series("gauge", "Idle connections to the legacy service.", ("upstream",)),
    "xcp_gateway_store_connected": Series(
        "gauge", "1 while the listener's xenstore is connected.", ("listener",), over="max"
    ),
    "xcp_gateway_store_requests_waiting": Series(
        "gauge", "Requests in the listener's xenstore that wait for their response.", ("listener",)
    ),
    "xcp_gateway_nodes_published_total": Series(
        "counter", "Nodes in the listener's xenstore that were written to publish state of services.", ("listener",)
    ),
    "xcp_gateway_service_available": Series(
        "gauge", "1 if the bus name is owned or can be started on demand.", ("bus", "bus_name"), over="min"
    ),
    "xcp_gateway_breaker_open": Series(
        "gauge", "1 while the circuit breaker of the bus name rejects calls.", ("bus", "bus_name"), over="max"
    ),
}


class _Tally:
    """Counters of one method and side."""

    __slots__ = ("buckets", "faults", "left", "ok", "seconds")

    def __init__(self) -> None:
        self.ok = 0
        self.left: dict[str, int] = {}  # calls whose client left, and redirects, by outcome
        self.faults: dict[FaultCode, int] = {}
        self.buckets = [0] * (len(BUCKETS) + 1)  # not cumulative; the last one is unbounded
        self.seconds = 0.0


class Calls:
    """Counts calls by service, method and side. A scrape in another thread copies a table before it iterates."""

    def __init__(self) -> None:
        self._tallies: dict[tuple[str, str, str], _Tally] = {}
        self._refused: Counter[FaultCode] = Counter()

    def count(self, finished: CallFinished) -> None:
        """Count a call that has ended."""
        route, outcome, seconds = finished.route, finished.outcome, finished.seconds
        side = finished.side
        named = "dbus" if side is Side.DBUS else "" if side is None else "legacy"  # .value runs Python code on 3.11
        key = (route.service, route.method, named)
        tally = self._tallies.get(key)
        if tally is None:
            tally = self._tallies[key] = _Tally()
        tally.seconds += seconds
        tally.buckets[bisect_left(BUCKETS, seconds)] += 1
        if isinstance(outcome, Reply):
            tally.ok += 1
        elif outcome is ABANDONED or outcome is WITHDRAWN or is_redirect(outcome):
            tally.left[ended(outcome)] = tally.left.get(ended(outcome), 0) + 1
        else:
            tally.faults[outcome.code] = tally.faults.get(outcome.code, 0) + 1

    def refuse(self, fault: Fault) -> None:
        """Count a message that was rejected before a call was read."""
        self._refused[fault.code] += 1

    def ended(self, *method: str) -> tuple[int, int]:
        """Return the number of finished calls of a method (service and name) or of all, and of those with a fault."""
        tallies = [tally for key, tally in list(self._tallies.items()) if key[: len(method)] == method]
        faults = sum(sum(tally.faults.values()) for tally in tallies)
        return faults + sum(tally.ok + sum(tally.left.values()) for tally in tallies), faults

    def outcomes(self) -> Samples:
        """Samples of CALLS."""
        for labels, tally in list(self._tallies.items()):
            if tally.ok:
                yield (*labels, "ok"), tally.ok
            for code, count in list(tally.faults.items()):
                yield (*labels, code.value), count
            for how, count in list(tally.left.items()):
                yield (*labels, how), count

    def refused(self) -> Samples:
        """Samples of REFUSED."""
        return [((code.value,), count) for code, count in list(self._refused.items())]

    def seconds(self) -> dict[tuple[str, ...], Spread]:
        """Samples of SECONDS."""
        return {labels: (list(tally.buckets), tally.seconds) for labels, tally in list(self._tallies.items())}


# Calls by bucket of BUCKETS, not cumulative, and the sum of their seconds.
Spread: TypeAlias = tuple[list[int], float]
ProcessSamples: TypeAlias = Mapping[str, tuple[str, str, float]]  # kind, help and value, by name


class Snapshot(Struct, frozen=True):
    """All samples of one process, or of several together: by series, then by the values of the labels."""

    samples: Mapping[str, Mapping[tuple[str, ...], float]]
    seconds: Mapping[tuple[str, ...], Spread]
    process: ProcessSamples  # process_*: memory, CPU, descriptors

    def counters(self) -> Snapshot:
        """What stays when its process has ended."""
        kept = {name: values for name, values in self.samples.items() if SERIES[name].kind == "counter"}
        process = {name: each for name, each in self.process.items() if each[0] == "counter"}
        return Snapshot(kept, self.seconds, process)


_LEAST = frozenset({"process_start_time_seconds", "process_max_fds"})  # of several processes; the others are added


def snapshot(calls: Calls, readings: Mapping[str, Samples], process: ProcessSamples) -> Snapshot:
    """The samples of this process now. `readings`: samples taken for this scrape, by name in SERIES."""
    samples = {**readings, CALLS: calls.outcomes(), REFUSED: calls.refused()}
    samples = {name: samples[name] for name, series in SERIES.items() if series.kind != "histogram"}
    return Snapshot({name: dict(values) for name, values in samples.items()}, calls.seconds(), process)


def merged(snapshots: Sequence[Snapshot]) -> Snapshot:
    """The samples of several processes as those of one: counters are added, gauges by `over` of their series."""
    samples: dict[str, dict[tuple[str, ...], float]] = {}
    seconds: dict[tuple[str, ...], Spread] = {}
    process: dict[str, tuple[str, str, float]] = {}
    for each in snapshots:
        for name, values in each.samples.items():
            together = samples.setdefault(name, {})
            for labels, value in values.items():
                known = together.get(labels)
                together[labels] = value if known is None else _OVER[SERIES[name].over](known, value)
        for labels, (buckets, total) in each.seconds.items():
            before, sum_before = seconds.get(labels, ([0] * len(buckets), 0.0))
            seconds[labels] = [a + b for a, b in zip(before, buckets, strict=True)], sum_before + total
        for name, (kind, text, value) in each.process.items():
            add = min if name in _LEAST else operator.add
            process[name] = (kind, text, add(process[name][2], value) if name in process else value)
    return Snapshot(samples, seconds, process)


_OVER: Mapping[str, Callable[[float, float], float]] = {"sum": operator.add, "max": max, "min": min}
