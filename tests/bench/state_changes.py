"""What the state file costs: a decision, seeing another process's, and writing down what was observed.

`python -m tests.bench.state_changes` alone, or the last table of `make bench`. A decision waits for the disk.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from gateway.core.admin.records import Counts, CountsBatch, MethodId
from gateway.core.migration.statistics import BUCKETS
from gateway.state.store import StateStore
from tests.kit.migrations import mode

METHODS = 163  # of the shipped mappings
TIMES = 50

OBSERVED = CountsBatch(
    {
        MethodId("service", f"method {number}"): Counts({"equal": 1, "calls_dbus": 1}, {"dbus": [1] * BUCKETS})
        for number in range(METHODS)
    }
)


async def measure(path: Path) -> dict[str, list[float]]:
    """Seconds, by what took them. Two states are two processes to the file: each has its thread and its connection."""
    changed = asyncio.Event()
    taken: dict[str, list[float]] = {"a decision": [], "seen by another": [], f"a flush of {METHODS} methods": []}
    async with StateStore(path) as one, StateStore(path, changed.set):
        for number in range(TIMES):
            changed.clear()
            started = time.perf_counter()
            await one.decide(mode(f"VM.{number}"))
            decided = time.perf_counter()
            await changed.wait()
            taken["a decision"].append(decided - started)
            taken["seen by another"].append(time.perf_counter() - decided)
            started = time.perf_counter()
            await one.flush(OBSERVED)
            taken[f"a flush of {METHODS} methods"].append(time.perf_counter() - started)
    return taken


def table() -> Table:
    """A row for each."""
    shown = Table("", "median", "longest", title="the state file")
    with tempfile.TemporaryDirectory() as folder:
        for what, seconds in asyncio.run(measure(Path(folder) / "state.db")).items():
            shown.add_row(what, f"{statistics.median(seconds) * 1000:.1f}ms", f"{max(seconds) * 1000:.1f}ms")
    return shown


if __name__ == "__main__":
    Console().print(table())
