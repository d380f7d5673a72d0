"""What a second worker brings: calls a second of a gateway with one and with two of them, in turns.

`python -m tests.bench.workers` alone, or a table of `make bench`. The load comes from several client processes, which
need cores too, as do the bus and the service: on a machine with two cores little is left for a second worker. The last
row needs neither bus nor service. Both gateways run at the same time; the one that is not measured rests.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

from rich.console import Console
from rich.table import Table

from gateway.ops.process import cores
from tests.bench.load import REQUESTS, SHORT, free_port, json_rpc, rate, started, wait_for_port
from tests.kit.buses import private_bus

HERE = Path(__file__).parent
CLIENTS = 2  # processes
CONNECTIONS = 16  # of each
WORKERS = (1, 2)
ALONE = replace(json_rpc("nothing", SHORT), expected=b"unknown method 'nothing'")
ROWS = {**REQUESTS, "JSON-RPC, answered by the gateway alone": ALONE}
CONFIG = """workers = {workers}
[bus.bench]
address = "{address}"
services = ["org.xen.xcp.*"]
[listener.rpc]
bind = ["tcp:127.0.0.1:{port}"]
[mappings]
directories = ["mappings"]
[state]
file = "state.db"
[admin]
socket = "{folder}/control"
[log]
format = "json"
"""


@contextlib.contextmanager
def gateways() -> Iterator[dict[int, int]]:
    """Number of workers -> the port of a gateway that has so many."""
    with tempfile.TemporaryDirectory() as name, private_bus() as bus, contextlib.ExitStack() as stack:
        stack.enter_context(started(sys.executable, str(HERE / "echo_service.py"), bus.address, ready="ready"))
        ports = {}
        for workers in WORKERS:
            folder = Path(name) / str(workers)
            (folder / "mappings").mkdir(parents=True)
            for file in ("bench.yaml", "org.xen.xcp.bench.xml"):
                (folder / "mappings" / file).write_text((HERE / "mapping" / file).read_text())
            port = ports[workers] = free_port()
            config = folder / "gateway.toml"
            config.write_text(CONFIG.format(workers=workers, address=bus.address, port=port, folder=folder))
            log = stack.enter_context((folder / "gateway.log").open("w+b"))
            command = [sys.executable, "-m", "gateway", "run", "--config", str(config)]
            stack.enter_context(started(*command, stderr=log))
            wait_for_port(port)
            _wait_for_ready(folder / "gateway.log")
        yield ports


def _wait_for_ready(log: Path, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while b'"event":"ready"' not in log.read_bytes():
        if time.monotonic() > end:
            raise RuntimeError("the gateway is not ready: " + log.read_text()[-2000:])
        time.sleep(0.05)


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
