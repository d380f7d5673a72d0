"""Names of the counters of a method, and their summary for both sides."""

from __future__ import annotations

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


def calls(side: Side) -> str:
    """Calls that a side has run, served or only observed, but for `client_errors`."""
    return f"calls_{side.value}"


def errors(side: Side) -> str:
    """Those of them that ended with a fault."""
    return f"errors_{side.value}"


def client_errors(side: Side) -> str:
    """Calls that ended with a fault that the mapping lists as the client's: they count for neither side."""
    return f"client_errors_{side.value}"


def keys(side: Side) -> str:
    """The histogram of calls, then of errors, by group of keys."""
    return f"{side.value}_keys"


def client_keys(side: Side) -> str:
    """The histogram of `client_errors`, by group of keys."""
    return f"{side.value}_client_keys"


def answered(side: Side) -> str:
    """Calls that a side has served."""
    return f"answered_{side.value}"


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
