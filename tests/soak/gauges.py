"""The resources that the gateway holds, as counted by the kernel and by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from gateway.server import THREADS
from tests.kit.programs import resident_bytes
from tests.soak.world import World

EVERY = 0.25  # seconds between two looks at the memory
RELEASE_TIMEOUT = 30.0  # seconds until held resources must be released

Reading: TypeAlias = Mapping[str, int]  # what is held at one moment, and the replies that came too late

# What may be held after a run, beside what was held before it.
FITS: Mapping[str, Callable[[int, int], bool]] = {
    **dict.fromkeys(("in_flight", "buffered", "on_buses", "unanswered"), lambda _was, now: now == 0),
    **dict.fromkeys(("descriptors", "tasks"), lambda was, now: now <= was),
    "threads": lambda was, now: now <= was + THREADS,  # of the pool, which start when they are needed, and stay
    "connections": lambda was, now: now == was,  # to buses
}


def held_beside(before: Reading, after: Reading) -> list[str]:
    return [name for name, fits in FITS.items() if not fits(before[name], after[name])]


async def read(world: World) -> Reading:
    """Look once."""
    _, status = await world.control("GET", "/v1/status")
    buses: list[Mapping[str, Any]] = status["buses"]
    proc = Path(f"/proc/{world.gateway.pid}")
    return {
        "descriptors": len([*(proc / "fd").iterdir()]),
        "threads": len([*(proc / "task").iterdir()]),
        **{name: status[name] for name in ("tasks", "in_flight", "buffered")},
        "on_buses": sum(bus["in_flight"] for bus in buses),  # calls that wait for a bus
        # `unanswered`: calls without an answer of the bus, waited for or not
        **{name: sum(bus[name] for bus in buses) for name in ("unanswered", "connections", "late_replies")},
    }


async def read_until_let_go(world: World, before: Reading) -> Reading:
    """Measure until all is released, or until the timeout."""
    loop = asyncio.get_running_loop()
    end = loop.time() + RELEASE_TIMEOUT
    while True:
        reading = await read(world)
        if not held_beside(before, reading) or loop.time() > end:
            return reading
        await asyncio.sleep(EVERY)


async def watch_memory(pid: int, samples: list[int]) -> None:
    """Note the resident memory of a process in KiB, until cancelled."""
    while True:
        samples.append(resident_bytes(pid) // 1024)
        await asyncio.sleep(EVERY)


def memory_after(samples: Sequence[int], part: float) -> int:
    """Return the least of the twelfth of the run that ends at this share of it: large answers come and go."""
    end = max(1, round(len(samples) * part))
    return min(samples[max(0, end - max(1, len(samples) // 12)) : end])
