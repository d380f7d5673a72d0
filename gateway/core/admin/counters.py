"""Names of the counters of a method, and their summary for both sides."""

from __future__ import annotations

from collections.abc import Callable

from gateway.core.admin.records import Counts
from gateway.core.comparison.compare import Verdict
from gateway.core.migration.limits import BothSides, SideCounts
from gateway.core.migration.modes import Side

# Calls that could have been compared and were not, by reason. None of them counts in a decision.
NOT_SAMPLED = "not_sampled"  # not chosen by the sampling of the mapping
DROPPED = "dropped"  # chosen, but the other side was not called: no quota, not at once, or large comparisons of it wait
UNANSWERED = "unanswered"  # one side gave no answer to compare
APART = "apart"  # the two calls were further apart in time than the limit
TOO_LARGE = Verdict.TOO_LARGE.value  # comparing them exceeded the budget
NOT_COMPARED = (NOT_SAMPLED, DROPPED, UNANSWERED, APART, TOO_LARGE)
COMPARED = tuple(verdict.value for verdict in Verdict if verdict is not Verdict.TOO_LARGE)
MISMATCHES = (Verdict.DIFFERENT.value, Verdict.ERROR_DIFFERENT.value)


def _of_side(form: str) -> Callable[[Side], str]:
    return {side: form.format(side.value) for side in Side}.__getitem__


calls = _of_side("calls_{}")  # that a side has run, served or only observed, but for `client_errors`
errors = _of_side("errors_{}")  # those of them that ended with a fault
client_errors = _of_side("client_errors_{}")  # calls that ended with a fault that the mapping lists as the client's
answered = _of_side("answered_{}")  # calls that a side has served
keys = _of_side("{}_keys")  # the histogram of calls, then of errors, by group of keys
client_keys = _of_side("{}_client_keys")  # the histogram of `client_errors`, by group of keys


def sides(counts: Counts) -> BothSides:
    """Summarize the counters of a method."""
    counters = counts.counters
    return BothSides(
        compared=sum(counters.get(name, 0) for name in COMPARED),
        different=sum(counters.get(name, 0) for name in MISMATCHES),
        control=_side(counts, Side.LEGACY),
        candidate=_side(counts, Side.DBUS),
    )


def _side(counts: Counts, side: Side) -> SideCounts:
    run, failed = (counts.counters.get(name(side), 0) for name in (calls, errors))
    names = (side.value, keys(side), client_keys(side))
    latency, by_key, clients = (tuple(counts.histograms.get(name, ())) for name in names)
    return SideCounts(run, failed, latency, by_key, clients)
