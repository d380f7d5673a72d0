"""Keeps a message that repeats from filling the log."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable

MOST_KEYS = 1024  # that are kept; with more the oldest line is forgotten, and may be written again early


class LogLimiter:
    """Lets one line through in `interval` seconds for each key, and counts what it holds back."""

    def __init__(self, interval: float, now: Callable[[], float] = time.monotonic) -> None:
        self._interval = interval
        self._now = now
        self._lines: dict[Hashable, tuple[float, int]] = {}  # when the last line was written, and the number since

    def occurred(self, key: Hashable = None) -> int:
        """How often it has happened since its last line, this time included; 0: no line is due."""
        now = self._now()
        known = self._lines.get(key)
        if known is not None and now - known[0] < self._interval:
            self._lines[key] = known[0], known[1] + 1
            return 0
        if known is None and len(self._lines) >= MOST_KEYS:
            del self._lines[next(iter(self._lines))]
        self._lines.pop(key, None)  # the key moves to the end
        self._lines[key] = now, 0
        return 1 if known is None else known[1] + 1
