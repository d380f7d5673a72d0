"""What a second worker brings: calls a second of a gateway with one and with two of them, in turns.

`python -m tests.bench.workers` alone, or a table of `make bench`. The load comes from several client processes, which
need cores too, as do the bus and the service: on a machine with two cores little is left for a second worker. The last
row needs neither bus nor service. Both gateways run at the same time; the one that is not measured rests.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

from rich.console import Console
from rich.table import Table

from gateway.ops.process import cores
from tests.bench.load import BUS, ECHO, REQUESTS, RPC, SHORT, bench_mapping, gateway, json_rpc, rate, started
from tests.kit.buses import private_bus

CLIENTS = 2  # processes
CONNECTIONS = 16  # of each
WORKERS = (1, 2)
ALONE = replace(json_rpc("nothing", SHORT), expected=b"unknown method 'nothing'")
ROWS = {**REQUESTS, "JSON-RPC, answered by the gateway alone": ALONE}
CONFIG = f'workers = {{workers}}\n{BUS}{RPC}[state]\nfile = "state.db"\n'


@contextlib.contextmanager
def gateways() -> Iterator[dict[int, int]]:
    """Number of workers -> the port of a gateway that has so many."""
    with tempfile.TemporaryDirectory() as name, private_bus() as bus, contextlib.ExitStack() as stack:
        stack.enter_context(started(*ECHO, bus.address, ready="ready"))
        made = {
            workers: gateway(Path(name) / str(workers), CONFIG, bench_mapping(), workers=workers, address=bus.address)
            for workers in WORKERS
        }
        yield {workers: stack.enter_context(each)[0] for workers, each in made.items()}


def table(turns: int = 3, seconds: float = 1.0) -> Table:
    """The medians of the turns, and the ratio of the turns that were made one after the other."""
    title = f"{CLIENTS} client processes with {CONNECTIONS} connections each; {cores()} cores for all"
    made = Table("calls a second", *(f"{count} worker{'s' * (count > 1)}" for count in WORKERS), "ratio", title=title)
    context = get_context("spawn")
    with gateways() as ports, concurrent.futures.ProcessPoolExecutor(CLIENTS, context) as clients:
        for name, request in ROWS.items():
            found: dict[int, list[float]] = {workers: [] for workers in WORKERS}
            for turn in range(turns):
                for workers in sorted(WORKERS, reverse=turn % 2 == 1):
                    asked = [
                        clients.submit(rate, ports[workers], request, CONNECTIONS, seconds) for _ in range(CLIENTS)
                    ]
                    found[workers].append(sum(each.result() for each in asked))
            ratio = statistics.median(two / one for one, two in zip(found[1], found[2], strict=True))
            medians = (f"{statistics.median(found[workers]):,.0f}" for workers in WORKERS)
            made.add_row(name, *medians, f"{ratio:.2f}")
    return made


if __name__ == "__main__":
    Console(width=120).print(table(5))
