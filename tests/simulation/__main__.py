"""`make statistics`: the table of docs/evidence.md, RUNS=2000 plans a row on all cores, with SEED=17."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ProcessPoolExecutor

from tests.simulation.plans import ROWS, outcome, simulate_number

CHUNK = 20  # plans that a process simulates at a time


def _show(line: object) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """Print a row as soon as it is known; 1 when a goal of docs/evidence.md is missed."""
    runs, seed = int(os.environ.get("RUNS", "2000")), int(os.environ.get("SEED", "17"))
    _show(f"{runs} plans a row, seed {seed}\n\n| both sides | rolled back | stuck | median time | goal |")
    _show("|---|---|---|---|---|")
    missed = 0
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for row in ROWS:
            ends = pool.map(simulate_number, *zip(*((row, seed, n) for n in range(runs)), strict=True), chunksize=CHUNK)
            found = outcome(row, list(ends))
            _show(found)
            missed += not found.good
    return missed > 0


if __name__ == "__main__":
    sys.exit(main())
