"""Every series that Prometheus is told, each once, and the counts behind those of calls. Asks nobody, opens no socket.

A call pays for plain counting; families, labels and text are made when somebody scrapes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, TypeAlias

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, ProcessCollector, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from gateway.core.migration.modes import Side
from gateway.core.rpc.model import ABANDONED, WITHDRAWN, Call, Fault, FaultCode, Outcome, ended
from gateway.ops.log import CallLog

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

# Upper bounds in seconds; a call that takes exactly so long is within.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

# Service, method as mapped, call, outcome, seconds, and who answered (nobody: it was refused).
Note: TypeAlias = Callable[[str, str, Call, Outcome, float, Side | None], None]
Samples: TypeAlias = Iterable[tuple[tuple[str, ...], float]]  # values of the labels, value


@dataclass(frozen=True, slots=True)
class Series:
    """What one name stands for. `labels`: each from the config or the mapping, never a client's text."""

    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()


CALLS = "xcp_gateway_calls_total"
REFUSED = "xcp_gateway_messages_refused_total"
SECONDS = "xcp_gateway_call_seconds"

SERIES: Mapping[str, Series] = {
    "xcp_gateway_build_info": Series("gauge", "1, labelled with what runs.", ("version", "python")),
    "xcp_gateway_mapping_info": Series("gauge", "1, labelled with the revision of the live mapping.", ("revision",)),
    "xcp_gateway_mapping_refused": Series(
        "gauge", "1 while the mapping files are refused, and the revision that was live before answers."
    ),
    CALLS: Series(
        "counter",
        "Calls that have ended; outcome is ok, the fault's code, or unknown or withdrawn where the client left.",
        ("service", "method", "side", "outcome"),
    ),
    SECONDS: Series(
        "histogram", "Seconds from a call's arrival at its route to its outcome.", ("service", "method", "side")
    ),
    REFUSED: Series("counter", "Messages without a call: too many, too large, not readable.", ("outcome",)),
    "xcp_gateway_calls_in_flight": Series("gauge", "Calls that are being answered now."),
    "xcp_gateway_buffered_bytes": Series("gauge", "Request bodies and answers held now."),
    "xcp_gateway_connections_aborted_total": Series("counter", "Clients that were cut off.", ("listener",)),
    "xcp_gateway_log_lines_lost_total": Series("counter", "Log lines that could not be written."),
    "xcp_gateway_comparisons_total": Series(
        "counter", "Calls that both sides have run, by what came of comparing them.", ("service", "method", "verdict")
    ),
    "xcp_gateway_observations_dropped_total": Series(
        "counter",
        "Calls that were to be compared and were not, for want of room or of a quiet moment.",
        ("service", "method"),
    ),
    "xcp_gateway_state_trouble": Series("gauge", "1 while the state file cannot be used."),
    "xcp_gateway_rollouts_breached": Series("gauge", "Rollouts with a breach while a mode that a person set holds."),
    "xcp_gateway_bus_connected": Series("gauge", "1 while the bus is connected.", ("bus",)),
    "xcp_gateway_bus_connections": Series("gauge", "Connections to the bus that are up.", ("bus",)),
    "xcp_gateway_bus_calls_in_flight": Series("gauge", "D-Bus calls that wait for their answer.", ("bus",)),
    "xcp_gateway_late_replies_total": Series("counter", "D-Bus answers that nobody waited for any more.", ("bus",)),
    "xcp_gateway_signals_total": Series("counter", "D-Bus signals that were heard.", ("bus",)),
    "xcp_gateway_signal_overflows_total": Series(
        "counter", "Times that signals came too fast to be heard one by one, and the state was read instead.", ("bus",)
    ),
    "xcp_gateway_store_connected": Series("gauge", "1 while the listener's xenstore is connected.", ("listener",)),
    "xcp_gateway_store_requests_waiting": Series(
        "gauge", "Requests in the listener's xenstore that wait for their answer.", ("listener",)
    ),
    "xcp_gateway_nodes_published_total": Series(
        "counter", "Nodes in the listener's xenstore that were written to show what services tell.", ("listener",)
    ),
    "xcp_gateway_service_available": Series(
        "gauge", "1 when the bus name is owned, or is started on demand.", ("bus", "bus_name")
    ),
    "xcp_gateway_breaker_open": Series(
        "gauge", "1 while calls to the bus name are refused because it kept failing.", ("bus", "bus_name")
    ),
}


class _Tally:
    """The calls of one method."""

    __slots__ = ("buckets", "faults", "left", "ok", "seconds")

    def __init__(self) -> None:
        self.ok = 0
        self.left: dict[str, int] = {}  # whose client did not wait
        self.faults: dict[FaultCode, int] = {}
        self.buckets = [0] * (len(BUCKETS) + 1)  # not cumulative; the last one is what took longer
        self.seconds = 0.0


class Calls:
    """Counts calls by service, method and side. Read from another thread: what may grow meanwhile is copied first."""

    def __init__(self) -> None:
        self._tallies: dict[tuple[str, str, str], _Tally] = {}
        self._refused: Counter[FaultCode] = Counter()

    def counting(self, log: CallLog) -> Note:
        """The function that counts a call and then logs it."""
        tallies = self._tallies

        def note(service: str, method: str, call: Call, outcome: Outcome, seconds: float, side: Side | None) -> None:
            by = side.value if side is not None else ""
            tally = tallies.get((service, method, by))
            if tally is None:
                tally = tallies[service, method, by] = _Tally()
            tally.seconds += seconds
            tally.buckets[bisect_left(BUCKETS, seconds)] += 1
            if outcome is ABANDONED or outcome is WITHDRAWN:
                tally.left[ended(outcome)] = tally.left.get(ended(outcome), 0) + 1
            elif isinstance(outcome, Fault):
                tally.faults[outcome.code] = tally.faults.get(outcome.code, 0) + 1
            else:
                tally.ok += 1
            log(method, call, outcome, seconds, by)

        return note

    def refuse(self, fault: Fault) -> None:
        """Count a message that held no call."""
        self._refused[fault.code] += 1

    def ended(self, service: str, method: str) -> tuple[int, int]:
        """How many calls of a method have ended, and how many of them with a fault."""
        tallies = [tally for key, tally in list(self._tallies.items()) if key[:2] == (service, method)]
        faults = sum(sum(tally.faults.values()) for tally in tallies)
        others = sum(tally.ok + sum(tally.left.values()) for tally in tallies)
        return others + faults, faults

    def outcomes(self) -> Samples:
        """For CALLS."""
        for labels, tally in list(self._tallies.items()):
            if tally.ok:
                yield (*labels, "ok"), tally.ok
            for code, count in list(tally.faults.items()):
                yield (*labels, code.value), count
            for how, count in list(tally.left.items()):
                yield (*labels, how), count

    def refused(self) -> Samples:
        """For REFUSED."""
        return [((code.value,), count) for code, count in list(self._refused.items())]

    def histogram(self) -> HistogramMetricFamily:
        """For SECONDS."""
        series = SERIES[SECONDS]
        family = HistogramMetricFamily(SECONDS, series.help, labels=series.labels)
        for labels, tally in list(self._tallies.items()):
            family.add_metric(labels, _cumulative(tally.buckets), tally.seconds)
        return family


def render(calls: Calls, readings: Mapping[str, Samples]) -> bytes:
    """Everything as text: what was counted, and `readings`, which are taken for this scrape, by name in SERIES."""
    return generate_latest(_Scrape(calls, readings))


class _Scrape(Collector):
    """One look at everything."""

    _process = ProcessCollector(registry=CollectorRegistry())  # process_*: memory, CPU seconds, descriptors

    def __init__(self, calls: Calls, readings: Mapping[str, Samples]) -> None:
        self._samples = {**readings, CALLS: calls.outcomes(), REFUSED: calls.refused()}
        self._histogram = calls.histogram()

    def collect(self) -> Iterator[Metric]:
        """Every family, empty ones too: a series without samples tells that nothing was seen yet."""
        for name, series in SERIES.items():
            yield self._histogram if series.kind == "histogram" else _family(name, series, self._samples[name])
        yield from self._process.collect()


def _family(name: str, series: Series, samples: Samples) -> Metric:
    kind = CounterMetricFamily if series.kind == "counter" else GaugeMetricFamily
    family = kind(name, series.help, labels=series.labels)
    for labels, value in samples:
        family.add_metric(labels, value)
    return family


def _cumulative(buckets: Sequence[int]) -> list[tuple[str, float]]:
    names = (*map(str, BUCKETS), "+Inf")
    return list(zip(names, accumulate(buckets), strict=True))
