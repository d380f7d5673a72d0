"""How long calls took, counted in buckets that are the same everywhere: kept, added, compared. Knows no method."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import zip_longest

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


def merged(*histograms: Sequence[int]) -> list[int]:
    """Those of several processes together; a shorter one has zeros after its end."""
    return [sum(counts) for counts in zip_longest(*histograms, fillvalue=0)]


def added(*counters: Mapping[str, int]) -> dict[str, int]:
    """Counters added up name by name."""
    total: dict[str, int] = {}
    for counter in counters:
        for name, count in counter.items():
            total[name] = total.get(name, 0) + count
    return total


class Tally:
    """Counters and a histogram for each side, filled by one process and emptied into a store."""

    __slots__ = ("counts", "durations")

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.durations: dict[str, list[int]] = {}

    def count(self, *names: str) -> None:
        """One more of each."""
        for name in names:
            self.counts[name] = self.counts.get(name, 0) + 1

    def took(self, side: str, seconds: float) -> None:
        """A call that this side answered in so many seconds."""
        histogram = self.durations.get(side)
        if histogram is None:
            histogram = self.durations[side] = empty()
        histogram[place(seconds)] += 1

    def take(self) -> tuple[dict[str, int], dict[str, list[int]]]:
        """What was counted since the last time, to be added to what is stored."""
        taken = self.counts, self.durations
        self.counts, self.durations = {}, {}
        return taken

    def put_back(self, counts: Mapping[str, int], durations: Mapping[str, Sequence[int]]) -> None:
        """What was taken and could not be stored."""
        self.counts = added(self.counts, counts)
        for side, histogram in durations.items():
            self.durations[side] = merged(self.durations.get(side, ()), histogram)
