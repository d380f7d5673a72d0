"""The steady clock of modes that end and of rollouts: seconds since 1970, independent of changes of the wall clock.

It begins with the wall clock and continues with CLOCK_BOOTTIME (suspended time counts). A duration therefore lasts as
long as it was set for. Each process has its own beginning: a `ClockReading` translates moments that another process
wrote. A restart of the host stops CLOCK_BOOTTIME; moments from before it are translated by the wall clock.
"""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path

from msgspec import Struct

BOOT = Path("/proc/sys/kernel/random/boot_id")  # changes with each start of the host


@cache
def boot() -> str:
    """Return the id of this start of the host."""
    return BOOT.read_text(encoding="utf-8").strip()


def since_boot() -> float:
    """Return the seconds since the host started."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


_began = time.time() - since_boot()


def steady() -> float:
    """Return the steady time now."""
    return _began + since_boot()


def wall(moment: float) -> float:
    """Convert a steady time to wall clock time, for display."""
    return moment + round(time.time() - steady(), 1)


class ClockReading(Struct, frozen=True):
    """The clock by which a stored time was measured, for other processes. Text: "BOOT BEGAN AHEAD"."""

    boot: str
    began: float
    ahead: float  # seconds of the wall clock ahead of `steady`

    @classmethod
    def here(cls) -> ClockReading:
        """Return the reading of this process."""
        return cls(boot(), _began, round(time.time() - steady(), 1))

    @classmethod
    def read(cls, text: str) -> ClockReading:
        """Decode the text; raises ValueError."""
        name, began, ahead = text.split(" ")
        return cls(name, float(began), float(ahead))

    def __str__(self) -> str:
        return f"{self.boot} {self.began!r} {self.ahead!r}"

    def translated(self, moment: float) -> float:
        """A moment that was written down by this clock, by the one of this process."""
        if self.boot == boot():
            return moment if self.began == _began else moment - self.began + _began
        return moment + self.ahead - round(time.time() - steady(), 1)
