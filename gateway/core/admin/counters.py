"""The names of what is counted of a method, and what counts under them say of both sides. Holds no count."""

from __future__ import annotations

from gateway.core.admin.records import Counts
from gateway.core.comparison.compare import Verdict
from gateway.core.migration.limits import BothSides, SideCounts
from gateway.core.migration.modes import Side

DROPPED = "dropped"  # observations for which there was no room
UNANSWERED = "unanswered"  # observations of which the control gave no answer to compare with
COMPARED = tuple(verdict.value for verdict in Verdict)  # "equal", "ignored", "different", "error_different"
MISMATCHES = (Verdict.DIFFERENT.value, Verdict.ERROR_DIFFERENT.value)


def calls(side: Side) -> str:
    """Every call that a side has run, whether a client got its answer or it was only observed."""
    return f"calls_{side.value}"


def errors(side: Side) -> str:
    """Those of them that ended with a fault. A client's own mistakes are among them: they cost both sides the same."""
    return f"errors_{side.value}"


def answered(side: Side) -> str:
    """Those of them whose answer a client got."""
    return f"answered_{side.value}"


def sides(counts: Counts) -> BothSides:
    """What both sides of a method did."""
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
