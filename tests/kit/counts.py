"""What both sides did, for tests of rollouts."""

from __future__ import annotations

from gateway.core.limits import OneSide, Sides
from gateway.core.tally import empty, place


def side(calls: int, *, errors: int = 0, seconds: float | None = None) -> OneSide:
    """One side; `seconds`: how long each of its calls took."""
    if seconds is None:
        return OneSide(calls, errors)
    latency = empty()
    latency[place(seconds)] = calls
    return OneSide(calls, errors, tuple(latency))


def counts(
    *,
    compared: int = 0,
    different: int = 0,
    calls: int = 0,
    errors: int = 0,
    seconds: float | None = None,
    control: OneSide | None = None,
) -> Sides:
    """The candidate's calls; a control that is content with itself."""
    return Sides(
        compared,
        different,
        control=OneSide(100) if control is None else control,
        candidate=side(calls, errors=errors, seconds=seconds),
    )
