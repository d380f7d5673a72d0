"""The resources that the gateway holds, as counted by the kernel and by itself."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.server import THREADS
from tests.soak.world import World

EVERY = 0.25  # seconds between two looks at the memory
RELEASE_TIMEOUT = 30.0  # seconds until held resources must be released
KIB = 1024


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

    def has_let_go(self, before: Reading) -> bool:
        """Whether nothing is held that was not held before."""
        held = self.in_flight, self.buffered, self.on_buses, self.unanswered
        pool = before.threads + THREADS  # they start when they are needed, and stay
        grown = self.descriptors > before.descriptors, self.threads > pool, self.tasks > before.tasks
        return not any(held) and not any(grown) and self.connections == before.connections


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
        if reading.has_let_go(before) or loop.time() > end:
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
            self.samples.append(self._resident())
            await asyncio.sleep(EVERY)

    def _resident(self) -> int:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGESIZE") // KIB

    def after(self, part: float) -> int:
        """Return the least of the twelfth of the run that ends at this share of it: large answers come and go."""
        end = max(1, round(len(self.samples) * part))
        return min(self.samples[max(0, end - max(1, len(self.samples) // 12)) : end])
