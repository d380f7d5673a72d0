"""What both sides did, for tests of rollouts."""

from __future__ import annotations

from gateway.core.migration.limits import BothSides, SideCounts
from gateway.core.migration.statistics import bucket_of, empty_histogram


def side(calls: int, *, errors: int = 0, seconds: float | None = None) -> SideCounts:
    """One side; `seconds`: how long each of its calls took."""
    if seconds is None:
        return SideCounts(calls, errors)
    latency = empty_histogram()
    latency[bucket_of(seconds)] = calls
    return SideCounts(calls, errors, tuple(latency))


def counts(
    *,
    compared: int = 0,
    different: int = 0,
    calls: int = 0,
    errors: int = 0,
    seconds: float | None = None,
    control: SideCounts | None = None,
) -> BothSides:
    """The candidate's calls; a control that is content with itself."""
    return BothSides(
        compared,
        different,
        control=SideCounts(100) if control is None else control,
        candidate=side(calls, errors=errors, seconds=seconds),
    )
