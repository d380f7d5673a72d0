"""The worst pause of a client while large outcomes are compared: `python -m tests.bench.comparison_pause`.

Observations run on an event loop that also serves a client in another process: one byte there and back, repeatedly.
The first row is the client alone. The goal is a worst pause of 20 ms, whatever is compared.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import uvloop
from rich.console import Console
from rich.table import Table

from gateway.core.admin.records import MethodId
from gateway.core.comparison.rules import Rules, compile_rule
from gateway.core.migration.modes import Migration, Side
from gateway.core.routing.route import Route
from gateway.core.rpc.model import Call, Outcome, Reply, Value
from gateway.migration.collector import StatisticsCollector
from gateway.migration.shadow import Job, Observation, Shadow
from tests.kit.mappings import route

ALONE = 2.0  # seconds
CLIENT = """
import socket, sys, time
taken = []
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as server:
    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    server.settimeout(60)
    print("ready", flush=True)
    while True:
        begun = time.perf_counter()
        server.sendall(b"x")
        if not server.recv(1):
            break
        taken.append(time.perf_counter() - begun)
        time.sleep(0.0005)
taken.sort()
print(len(taken), taken[len(taken) // 2], taken[int(len(taken) * 0.99)], taken[-1], flush=True)
"""


def structs(number: int, members: int, step: int = 0) -> list[Value]:
    return [{f"m{member}": index + step for member in range(members)} for index in range(number)]


NEAR = ({"path": "$", "order": "any"}, {"path": "$[*].*", "tolerance": 1})
IGNORED = tuple({"path": f"$..m{number}", "ignore": True} for number in range(20))
MANY: list[Value] = [0] * 100_000

# What is compared -> control, candidate and rules.
CASES: dict[str, tuple[Value, Value, Sequence[dict[str, Any]]]] = {
    "0 items and 100,000": ([], MANY, ()),
    "100,000 items and 0": (MANY, [], ()),
    "100,000 items, the last differs": (MANY, [*MANY[1:], 1], ()),
    "100,000 items, all differ, noise": (MANY, [1] * 100_000, ()),
    "64 structs in any order, rules inside": (structs(64, 30), structs(64, 30, 1)[::-1], NEAR),
    "1,000 structs in any order, rules inside": (structs(1000, 30), structs(1000, 30, 5)[::-1], NEAR),
    "10,000 structs, 30 members, 20 rules": (structs(10_000, 30), structs(10_000, 30, 1), IGNORED),
    "a text of 20 MB": ("x" * 20_000_000, "x" * 19_999_999 + "y", ()),
}


async def compare(name: str) -> str:
    """Observe one call; the name of its count."""
    control, candidate, said = CASES[name]
    rules = Rules(tuple(map(compile_rule, said)))
    moved: Route = route("echo", migration=Migration(upstream="old", may_shadow=True, compare=rules))
    collector = StatisticsCollector()

    async def ask(side: Side, _route: Route, _call: Call) -> Outcome:
        return Reply(control if side is Side.LEGACY else candidate)

    shadow = Shadow(ask, collector)
    answered = Observation(Side.LEGACY, Reply(control), 0.001, None, time.perf_counter())
    noise = name.endswith("noise")  # then the control is called twice
    shadow.observe(Job(moved, Call("echo"), answered, lambda outcome: outcome, noise))
    await shadow.drain(120)
    counts = collector.take().evidence[MethodId.of(moved)].counters
    return next(name for name in counts if not name.startswith(("calls_", "errors_")))


async def alone(_name: str) -> str:
    await asyncio.sleep(ALONE)
    return "-"


async def measured(table: Table, name: str, work: Callable[[str], Awaitable[str]]) -> None:
    """A row: the client while this is done."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not stopping.is_set() and (byte := await reader.read(1)):
            writer.write(byte)
        writer.close()

    stopping = asyncio.Event()
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with client(port) as process:
            assert process.stdout is not None
            await asyncio.to_thread(process.stdout.readline)
            await asyncio.sleep(0.2)
            begun = time.perf_counter()
            result = await work(name)
            seconds = time.perf_counter() - begun
            await asyncio.sleep(0.05)
            stopping.set()
            calls, p50, p99, worst = (await asyncio.to_thread(process.stdout.readline)).split()
    table.add_row(
        name, result, f"{seconds:.2f} s", calls, *(f"{float(each) * 1000:.1f} ms" for each in (p50, p99, worst))
    )


@contextmanager
def client(port: int) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, "-c", CLIENT, str(port)], stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait(60)


async def pauses() -> Table:
    """A row for each case."""
    columns = ("compared", "result", "took", "calls of the client", "p50", "p99", "worst pause")
    table = Table(*columns, title="a client while large outcomes are compared")
    await measured(table, "nothing", alone)
    for name in CASES:
        await measured(table, name, compare)
    return table


if __name__ == "__main__":
    Console(width=140).print(uvloop.run(pauses()))
