"""The names of what is counted of a method, for whoever counts and whoever reads. Holds no count."""

from __future__ import annotations

from gateway.core.compare import Verdict
from gateway.core.migration import Side

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
