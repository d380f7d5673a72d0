"""`make bench`: the goals for speed, then dbus-fast alone, modes, xenstore and state; medians of one run."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path

import uvloop
from dbus_fast import BusType, Message, Variant
from dbus_fast.aio import MessageBus
from rich.console import Console

from tests.bench import (
    event_delays,
    goals,
    large_records,
    moving,
    state_changes,
    workers,
    xenstore_requests,
    xenstore_writes,
)
from tests.bench.load import VALUES, started
from tests.kit.buses import private_bus

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


async def alone(address: str, in_flight: int, seconds: float) -> float:
    """Measure calls per second of dbus-fast alone."""
    bus = await MessageBus(bus_type=BusType.SESSION, bus_address=address).connect()
    body = [{"uuid": Variant("s", VALUES["uuid"]), "memory": Variant("x", 4096),
             "running": Variant("b", True), "share": Variant("d", 0.25)}]  # fmt: skip
    end = time.perf_counter() + seconds
    done = 0

    async def caller() -> None:
        nonlocal done
        while time.perf_counter() < end:
            await bus.call(Message("org.xen.xcp.bench", "/", "org.xen.xcp.bench.Echo1", "Echo",
                                   signature="a{sv}", body=body))  # fmt: skip
            done += 1

    started_at = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(in_flight)))
    bus.disconnect()
    return done / (time.perf_counter() - started_at)


def main() -> None:
    """Print the tables and write build/bench.json. --quick: the goals alone, in short turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the goals alone, under two minutes on an idle machine")
    parser.add_argument("--turns", type=int, default=3, help="turns of each pair of the other tables")
    parser.add_argument("--seconds", type=float, default=1, help="seconds of each turn of the other tables")
    options = parser.parse_args()
    place = ROOT / "build/bench.json"
    made = goals.measured(quick=options.quick, after_each=lambda so_far: goals.save(so_far, place))
    console = Console(width=140)
    console.print(goals.details(made))
    console.print(goals.table(made))
    if options.quick:
        return
    with private_bus() as bus, started(sys.executable, str(HERE / "echo_service.py"), bus.address, ready="ready"):
        for in_flight in (1, 64):
            calls_per_second = uvloop.run(alone(bus.address, in_flight, options.seconds))
            console.print(f"dbus-fast alone, {in_flight} in flight: {calls_per_second:,.0f} calls a second")
    for each in moving.tables(options.turns, options.seconds):
        console.print(each)
    console.print(xenstore_writes.table(options.turns, options.seconds))
    console.print(xenstore_requests.table(options.turns, min(options.seconds, 0.75)))
    console.print(state_changes.table())
    console.print(large_records.table())
    console.print(event_delays.table())
    console.print(workers.table(options.turns, options.seconds))


if __name__ == "__main__":
    main()
