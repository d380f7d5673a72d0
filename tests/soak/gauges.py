"""The resources that the gateway holds, as counted by the kernel and by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.server import THREADS
from tests.kit.programs import resident_bytes
from tests.soak.world import World

EVERY = 0.25  # seconds between two looks at the memory
RELEASE_TIMEOUT = 30.0  # seconds until held resources must be released


@dataclass(frozen=True, slots=True)
class Reading:
    """The resources held at one moment."""

    descriptors: int
    threads: int
    tasks: int
    in_flight: int
    buffered: int
    on_buses: int  # calls that wait for a bus
    unanswered: int  # calls without an answer of the bus, waited for or not
    connections: int  # to buses
    late_replies: int

    def held_beside(self, before: Reading) -> list[str]:
        return [name for name, fits in FITS.items() if not fits(getattr(before, name), getattr(self, name))]


def _none(_was: int, now: int) -> bool:
    return now == 0


def _no_more(was: int, now: int) -> bool:
    return now <= was


FITS: Mapping[str, Callable[[int, int], bool]] = {
    **dict.fromkeys(("in_flight", "buffered", "on_buses", "unanswered"), _none),
    **dict.fromkeys(("descriptors", "tasks"), _no_more),
    "threads": lambda was, now: now <= was + THREADS,  # of the pool, which start when they are needed, and stay
    "connections": lambda was, now: now == was,
}


async def read(world: World) -> Reading:
    """Look once."""
    _, status = await world.control("GET", "/v1/status")
    buses: list[Mapping[str, Any]] = status["buses"]
    proc = Path(f"/proc/{world.gateway.pid}")
    return Reading(
        descriptors=_entries(proc / "fd"),
        threads=_entries(proc / "task"),
        tasks=status["tasks"],
        in_flight=status["in_flight"],
        buffered=status["buffered"],
        on_buses=sum(bus["in_flight"] for bus in buses),
        unanswered=sum(bus["unanswered"] for bus in buses),
        connections=sum(bus["connections"] for bus in buses),
        late_replies=sum(bus["late_replies"] for bus in buses),
    )


async def read_until_let_go(world: World, before: Reading) -> Reading:
    """Measure until all is released, or until the timeout."""
    loop = asyncio.get_running_loop()
    end = loop.time() + RELEASE_TIMEOUT
    while True:
        reading = await read(world)
        if not reading.held_beside(before) or loop.time() > end:
            return reading
        await asyncio.sleep(EVERY)


def _entries(folder: Path) -> int:
    return sum(1 for _ in folder.iterdir())


@dataclass
class Memory:
    """The resident memory of a process over time, in KiB."""

    pid: int
    samples: list[int] = field(default_factory=list)

    async def watch(self) -> None:
        """Look until cancelled."""
        while True:
            self.samples.append(resident_bytes(self.pid) // 1024)
            await asyncio.sleep(EVERY)

    def after(self, part: float) -> int:
        """Return the least of the twelfth of the run that ends at this share of it: large answers come and go."""
        end = max(1, round(len(self.samples) * part))
        return min(self.samples[max(0, end - max(1, len(self.samples) // 12)) : end])
