"""`make bench`: the goals for speed, then comparisons, xenstore, large answers, events and workers."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from tests.bench import event_delays, goals, large_records, moving, workers, xenstore_requests

PLACE = Path(__file__).parents[2] / "build/bench.json"


def main() -> None:
    """Print the tables and write build/bench.json. --quick: the goals alone, in short turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the goals alone, under two minutes on an idle machine")
    parser.add_argument("--turns", type=int, default=3, help="turns of each pair of the other tables")
    parser.add_argument("--seconds", type=float, default=1, help="seconds of each turn of the other tables")
    options = parser.parse_args()
    made = goals.measured(quick=options.quick, after_each=lambda so_far: goals.save(so_far, PLACE))
    console = Console(width=140)
    console.print(goals.details(made))
    console.print(goals.table(made))
    if options.quick:
        return
    console.print(moving.table(4 * options.seconds))
    console.print(xenstore_requests.table(options.turns, min(options.seconds, 0.75)))
    console.print(large_records.table())
    console.print(event_delays.table())
    console.print(workers.table(options.turns, options.seconds))


if __name__ == "__main__":
    main()
