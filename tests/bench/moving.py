"""Which share of the calls shadow compares, by the calls a second: `python -m tests.bench.moving compared`.

Also a table of `make bench`. Calls come at random moments, and both sides agree.
"""

from __future__ import annotations

import time

import uvloop
from rich.console import Console
from rich.table import Table

from gateway.cli import client
from tests.bench.goals import AGREED, GATEWAY, Bench, bench
from tests.bench.load import Clients, Seen

CALLERS = 32
SHARES = {50.0: "", 500.0: "50 %", 2000.0: "10 %"}  # calls a second: the goal for the share that is compared
SETTLES = 1.0  # seconds until the last comparisons are counted


async def _calls(port: int, pace: float, seconds: float) -> Seen:
    clients = await Clients(AGREED).connect(port, CALLERS)
    seen = await clients.at_random(pace, seconds)
    clients.close()
    return seen


def _counted(made: Bench) -> int:
    [row] = client.ask(made.folder / "control", "GET", "/v1/methods?pattern=old")
    return int(row["comparisons"])


def table(seconds: float = 5) -> Table:
    """A row for each pace."""
    shown = Table("calls/s wanted", "reached", "compared", "goal", title="the share of the calls that is compared")
    with bench(rounds=1, calls=CALLERS) as made:
        made.mode("shadow")
        for pace, goal in SHARES.items():
            before = _counted(made)
            seen = uvloop.run(_calls(made.ports[GATEWAY], pace, seconds))
            time.sleep(SETTLES)
            share = (_counted(made) - before) / seen.calls
            shown.add_row(f"{pace:g}", f"{seen.rate:,.0f}", f"{share:.0%}", goal)
    return shown


if __name__ == "__main__":
    Console().print(table())
