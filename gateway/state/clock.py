"""The steady clock of modes that end and of rollouts: seconds since 1970, independent of changes of the wall clock.

It begins with the wall clock and continues with CLOCK_BOOTTIME (suspended time counts). A duration therefore lasts as
long as it was set for. Each process has its own beginning: a `ClockReading` translates moments that another process
wrote. A restart of the host stops CLOCK_BOOTTIME; moments from before it are translated by the wall clock.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

BOOT = Path("/proc/sys/kernel/random/boot_id")  # another one after each start of the host


@cache
def boot() -> str:
    """Which start of the host this is."""
    return BOOT.read_text(encoding="ascii").strip()


def since_boot() -> float:
    """Seconds that the host has been up."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


_began = time.time() - since_boot()


def steady() -> float:
    """The moment now."""
    return _began + since_boot()


def wall(moment: float) -> float:
    """A moment of `steady` as the wall clock will show it, unless that is set again; for people."""
    return moment + round(time.time() - steady(), 1)


@dataclass(frozen=True, slots=True)
class ClockReading:
    """What another process has to know of the clock by which a moment was written down. Text: "BOOT BEGAN AHEAD"."""

    boot: str
    began: float
    ahead: float  # of `steady`, the wall clock's

    @classmethod
    def here(cls) -> ClockReading:
        """This process's."""
        return cls(boot(), _began, round(time.time() - steady(), 1))

    @classmethod
    def read(cls, text: str) -> ClockReading:
        """Raises ValueError."""
        name, began, ahead = text.split(" ")
        return cls(name, float(began), float(ahead))

    def __str__(self) -> str:
        return f"{self.boot} {self.began!r} {self.ahead!r}"

    def translated(self, moment: float) -> float:
        """A moment that was written down by this clock, by the one of this process."""
        if self.boot == boot():
            return moment if self.began == _began else moment - self.began + _began
        return moment + self.ahead - round(time.time() - steady(), 1)
