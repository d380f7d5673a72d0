"""Counts as they are kept -> what both sides did since a step began, and lately. Knows names of counters; no file."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.core.kept import Counts, MethodId
from gateway.core.limits import Sides

MARKS = 12  # in one window

Seen = Mapping[str, Sides]  # by method, "service/method"; all of it only grows


class Here:
    """What this process has counted since it began; told of every batch that is written down."""

    def __init__(self) -> None:
        self.total: dict[MethodId, Counts] = {}

    def add(self, batch: Mapping[MethodId, Counts]) -> None:
        """What came since the last batch."""
        for method, counts in batch.items():
            self.total[method] = self.total.get(method, Counts()) + counts

    def of(self, method: MethodId) -> Counts:
        """All of it."""
        return self.total.get(method, Counts())


def together(seen: Seen, start: Seen) -> Sides:
    """All methods, each since its start; one that was not there at the start is not counted yet."""
    total = Sides()
    for method, counts in seen.items():
        if method in start:
            total += counts.since(start[method])
    return total


@dataclass(slots=True)
class Track:
    """What was seen of one step, from here on and in its last window; in memory only."""

    start: Seen
    window: float  # seconds
    marks: deque[tuple[float, Seen]] = field(default_factory=deque)

    def since_start(self, seen: Seen) -> Sides:
        """All of it."""
        self.start = joined(seen, self.start) or self.start
        return together(seen, self.start)

    def lately(self, seen: Seen, now: float) -> Sides:
        """The last window of it."""
        if not self.marks or now - self.marks[-1][0] >= self.window / MARKS:
            self.marks.append((now, seen))
        while len(self.marks) > 1 and self.marks[1][0] <= now - self.window:
            self.marks.popleft()
        return together(seen, self.marks[0][1])


def joined(seen: Seen, start: Seen) -> Seen | None:
    """The start with those methods that have joined since; None when there are none."""
    return {**seen, **start} if seen.keys() - start.keys() else None
