"""`make statistics`: the table of docs/evidence.md, RUNS=2000 plans a row on all cores (JOBS=), with SEED=17.

ROW=: only the rows whose names contain this. PAUSE=60: seconds between two looks where nothing has changed; the product
looks every 0.2 s.
"""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from tests.simulation.plans import PAUSE, ROWS, outcome, simulate_number

CHUNK = 20  # plans that a process simulates at a time


def _show(line: object) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """Print a row as soon as it is known; 1 when a goal of docs/evidence.md is missed."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    runs, seed = int(os.environ.get("RUNS", "2000")), int(os.environ.get("SEED", "17"))
    _show(f"{runs} plans a row, seed {seed}\n\n| both sides | rolled back | stuck | median time | goal |")
    _show("|---|---|---|---|---|")
    plan = partial(simulate_number, pause=float(os.environ.get("PAUSE", PAUSE)))
    rows = [row for row in ROWS if os.environ.get("ROW", "") in row.name]
    missed = 0
    with ProcessPoolExecutor(int(os.environ.get("JOBS", "0")) or os.cpu_count()) as pool:
        for row in rows:
            ends = pool.map(plan, *zip(*((row, seed, n) for n in range(runs)), strict=True), chunksize=CHUNK)
            found = outcome(row, list(ends))
            _show(found)
            missed += not found.good
    return missed > 0


if __name__ == "__main__":
    sys.exit(main())
