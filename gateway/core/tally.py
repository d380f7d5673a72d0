"""How long calls took, counted in buckets that are the same everywhere: kept, added, compared. Knows no method."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

STEP = 1.25  # each bound is so many times the one before
FIRST = 50e-6  # seconds
BOUNDS = tuple(FIRST * STEP**number for number in range(75))  # upper bounds in seconds, to 12 minutes
BUCKETS = len(BOUNDS) + 1  # the last one is for all that took longer


def empty() -> list[int]:
    """No calls."""
    return [0] * BUCKETS


def place(seconds: float) -> int:
    """The bucket of a call that took so long."""
    return bisect_left(BOUNDS, seconds)


def quantile(buckets: Sequence[int], part: float) -> float:
    """The seconds within which this part of the calls ended, read off inside its bucket; 0 when there were none."""
    wanted = sum(buckets) * part
    before = 0
    for number, count in enumerate(buckets):
        if count and before + count >= wanted:
            lower = FIRST * STEP ** (number - 1)
            return float(min(lower * STEP ** ((wanted - before) / count), BOUNDS[-1]))
        before += count
    return 0.0


def slower(buckets: Sequence[int], seconds: float) -> int:
    """How many calls took longer for certain: those of the buckets that begin there or later."""
    return sum(buckets[place(seconds) + 1 :])
