"""Names of the counters of a method, and their summary for both sides."""

from __future__ import annotations

from gateway.core.admin.records import Counts
from gateway.core.comparison.compare import Verdict
from gateway.core.migration.limits import BothSides, SideCounts
from gateway.core.migration.modes import Side

DROPPED = "dropped"  # observations that were dropped because of load
UNANSWERED = "unanswered"  # observations whose control had no outcome to compare
COMPARED = tuple(verdict.value for verdict in Verdict)  # "equal", "ignored", "different", "error_different"
MISMATCHES = (Verdict.DIFFERENT.value, Verdict.ERROR_DIFFERENT.value)


def calls(side: Side) -> str:
    """Calls that a side has run, served or only observed."""
    return f"calls_{side.value}"


def errors(side: Side) -> str:
    """Calls that ended with a fault, also for mistakes of the client, which affect both sides equally."""
    return f"errors_{side.value}"


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
    return SideCounts(run, failed, tuple(counts.histograms.get(side.value, ())))
