"""What the parts of a passed call cost in a whole process: `python -m tests.bench.passed_parts`.

A gateway, its clients and a legacy service run in one process, and the time of some functions is taken around each
call. Of 8,000 calls the tenth percentile counts: then nothing else disturbed it. Functions within each other are
measured in runs of their own, because taking the time of the inner one adds to the outer one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import perf_counter
from types import ModuleType
from typing import Any

import uvloop
from rich.console import Console
from rich.table import Table

from adapters.http.client.connection import ClientConnection
from adapters.http.connection import HttpConnection
from gateway.ops import log
from gateway.pipeline import endpoint
from gateway.pipeline.dispatcher import Dispatcher
from gateway.pipeline.endpoint import RpcEndpoint
from gateway.pipeline.passthrough import WholeMessage
from gateway.pipeline.waiting import Deadlines
from gateway.server import Gateway
from tests.bench import load
from tests.bench.bridge_limit import Legacy
from tests.bench.goals import GATEWAY, KEPT, LEGACY, MANY, write_config

CALLS = 8_000
REQUEST = load.Request("/RPC2", "text/xml", load.xml_rpc("old", load.UUID).body, b"8a5b2c1e")

Part = tuple[str, type | ModuleType, str]
RUNS: Sequence[Sequence[Part]] = (
    (
        ("a message comes: all of it, with the write to the legacy service", HttpConnection, "data_received"),
        ("its answer comes: all of it, with the write to the client", ClientConnection, "data_received"),
        ("after the answer: all of it", WholeMessage, "_account"),
    ),
    (
        ("a message comes: the endpoint", RpcEndpoint, "receive"),
        ("its answer comes: the connection of the client", HttpConnection, "take_answer"),
        ("after the answer: statistics, metrics, log line", Dispatcher, "finish"),
    ),
    (
        ("a message comes: read it, within limits of size, depth and number", RpcEndpoint, "_decode"),
        ("a message comes: its route, access and mode", RpcEndpoint, "_plan_entries"),
        ("a message comes: whether it may pass as it is", endpoint, "passes_to"),
        ("a message comes: send it, with slot and deadline", Dispatcher, "forward_at_once"),
    ),
    (
        ("a message comes: is the connection still open? write, in two system calls", ClientConnection, "start"),
        ("a message comes: its deadline", Deadlines, "start_for"),
    ),
)


@contextlib.contextmanager
def timed(parts: Sequence[Part]) -> Iterator[dict[str, list[float]]]:
    """Take the time of these functions until the block ends."""
    taken: dict[str, list[float]] = {}
    before = [(owner, name, getattr(owner, name)) for _, owner, name in parts]
    for what, owner, name in parts:
        taken[what] = []
        setattr(owner, name, _around(getattr(owner, name), taken[what]))
    try:
        yield taken
    finally:
        for owner, name, function in before:
            setattr(owner, name, function)


def _around(function: Callable[..., Any], taken: list[float]) -> Callable[..., Any]:
    def run(*arguments: Any, **named: Any) -> Any:
        begun = perf_counter()
        try:
            return function(*arguments, **named)
        finally:
            taken.append(perf_counter() - begun)

    return run


async def run(parts: Sequence[Part], folder: Path) -> dict[str, float]:
    """Seconds of each part."""
    ports = {LEGACY: load.free_port(), GATEWAY: load.free_port()}
    server = await asyncio.get_running_loop().create_server(Legacy, "127.0.0.1", ports[LEGACY])
    config = write_config(folder, "unix:path=/nonexistent", ports)
    with timed(parts) as taken:
        async with server, Gateway(config):
            clients = await load.Clients(REQUEST).connect(ports[GATEWAY], MANY)
            await clients.calls(MANY)
            await asyncio.sleep(KEPT)
            await clients.calls(CALLS // 4)
            for each in taken.values():
                each.clear()
            await clients.calls(CALLS)
            clients.close()
    return {what: sorted(each)[len(each) // 10] for what, each in taken.items()}


def main() -> None:
    """Print the table."""
    shown = Table("part of a passed call", "us")
    out, sys.stderr = Console(file=sys.stdout, width=100), open(os.devnull, "w")  # noqa: PTH123, SIM115 - the gateway's log
    log.configure("json", "info")
    for parts in RUNS:
        with tempfile.TemporaryDirectory() as folder:
            for what, seconds in uvloop.run(run(parts, Path(folder))).items():
                shown.add_row(what, f"{seconds * 1e6:.1f}")
    out.print(shown)


if __name__ == "__main__":
    main()
