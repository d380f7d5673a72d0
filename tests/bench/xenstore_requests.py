"""Requests per second of the tree style, through a real gateway to a D-Bus service, beside the bare store.

`python -m tests.bench.xenstore_requests` alone, or the third table of `make bench`. The store itself counts what a
request costs it (its trace); the bare store then does as many operations of each kind, for clients that neither
wait nor get in each other's way. The latency is from a client's commit to the event of its watch.
"""

from __future__ import annotations

import asyncio
import re
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, contextmanager
from itertools import count
from pathlib import Path

import uvloop
from rich.console import Console
from rich.table import Table

from adapters.xenstore.client.client import Permissions, Transaction, XenstoreClient
from adapters.xenstore.client.operations import StoreOperations
from tests.bench.load import BUS, ECHO, bench_mapping, gateway, started
from tests.kit.buses import private_bus
from tests.kit.gateway import STORE
from tests.kit.stores import connected, xenstored

METHODS = ("read", "write")  # a write is claimed before it is executed, and so costs the store more
ARGUMENTS = {"session_id": b"bench", "kib": b"262144"}
COUNTED = 50  # requests that the store counts
IN_FLIGHT = (1, 64)
ASIDE = "/aside"  # where the bare store works

MAPPING = """\
mapping: 1
service: bench
dbus: {bus_name: org.xen.xcp.bench, object_path: /org/xen/xcp/bench, interface: org.xen.xcp.bench.Echo1, idl: bench.xml}
expose:
  - {listener: store, codec: xenstore, style: tree, path: /bench}
defaults: {timeout: 30s}
methods:
  read: {member: Echo, params: [{name: values, extra: true}], effect: read}
  write: {member: Echo, params: [{name: values, extra: true}], effect: write}
"""


@contextmanager
def served(*options: str, mapping: str = MAPPING) -> Iterator[str]:
    """Store, bus, echo service and gateway; the store's socket. `options` are xenstored's own."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        store = stack.enter_context(xenstored(*options))
        bus = stack.enter_context(private_bus(limits={"max_replies_per_connection": 50_000}))
        stack.enter_context(started(*ECHO, bus.address, ready="ready"))
        files = {"bench.xml": bench_mapping()["org.xen.xcp.bench.xml"], "bench.yaml": mapping}
        stack.enter_context(gateway(folder, BUS + STORE, files, address=bus.address, store=store.path))
        yield store.path


class Client:
    """One old client with a socket of its own, as squeezed's were; its watch stands before it commits."""

    def __init__(self, store: XenstoreClient, name: str, domid: int = 0) -> None:
        self._store = store
        self._keys = (f"{name}-{number}" for number in count())
        self._owner = Permissions(domid, "n")

    async def call(self, method: str) -> float:
        """Ask and wait; seconds from the commit to the event."""
        key = next(self._keys)
        request, response = (f"/bench/rpc/{kind}/{method}/{key}" for kind in ("request", "response"))
        watch = self._store.watch(response)
        await anext(watch)  # it fires once when it is there

        async def write(nodes: Transaction) -> None:
            await nodes.mkdir(request)
            if self._owner.owner:
                await nodes.set_permissions(request, self._owner)
            await asyncio.gather(*(nodes.write(f"{request}/{name}", value) for name, value in ARGUMENTS.items()))

        await self._store.transaction(write)
        committed = time.perf_counter()
        await anext(watch)
        took = time.perf_counter() - committed
        names = await self._store.list(response)
        values = await asyncio.gather(*(self._store.read(f"{response}/{name}") for name in names or ()))
        assert dict(zip(names or (), values, strict=True)) == ARGUMENTS
        await self._store.remove(request)
        await self._store.remove(response)
        watch.close()
        return took


async def through(
    path: str, method: str, in_flight: int, seconds: float, *, most: int = sys.maxsize
) -> tuple[float, list[float]]:
    """Requests per second of as many clients as there are to be in flight, and the latencies."""
    took: list[float] = []
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(connected(path)) for _ in range(in_flight)]
        begun = time.perf_counter()

        async def keep_calling(client: Client) -> None:
            while time.perf_counter() < begun + seconds and len(took) < most:
                took.append(await client.call(method))

        await asyncio.gather(*(keep_calling(Client(store, f"c{at}")) for at, store in enumerate(stores)))
        return len(took) / (time.perf_counter() - begun), took


def operations() -> Mapping[str, Mapping[str, int]]:
    """What one request to each method costs the store, from both sides: operations by kind."""
    with tempfile.TemporaryDirectory() as directory:
        trace = Path(directory) / "trace"
        with served("--trace-file", str(trace)) as path:
            return {method: _cost(trace, path, method) for method in METHODS}


def _cost(trace: Path, path: str, method: str) -> Mapping[str, int]:
    before = _asked(trace)
    uvloop.run(through(path, method, 1, 60, most=COUNTED))
    asked = _asked(trace) - before
    return {kind: round(times / COUNTED) for kind, times in asked.items() if round(times / COUNTED)}


def _asked(trace: Path) -> Counter[str]:
    return Counter(re.findall(r"^IN \S+ \S+ \S+ (\w+)", trace.read_text("latin-1"), re.MULTILINE))


Do = Callable[[StoreOperations, str], Awaitable[object]]
READING: Mapping[str, Do] = {
    "READ": lambda nodes, path: nodes.read(path),
    "DIRECTORY": lambda nodes, path: nodes.list(path),
    "GET_PERMS": lambda nodes, path: nodes.permissions(path),
}
CHANGING: Mapping[str, Do] = {
    "MKDIR": lambda nodes, path: nodes.mkdir(path),
    "WRITE": lambda nodes, path: nodes.write(path, ARGUMENTS["kib"]),
    "SET_PERMS": lambda nodes, path: nodes.set_permissions(path, Permissions(0, "n")),
    "RM": lambda nodes, path: nodes.remove(f"{path}/none"),
}
AROUND = {"TRANSACTION_START", "TRANSACTION_END", "WATCH", "UNWATCH"}


async def aside(path: str, costs: Mapping[str, int], in_flight: int, seconds: float) -> float:
    """Times per second that the bare store does what a request costs, for clients on nodes of their own."""
    assert costs.keys() <= {*READING, *CHANGING, *AROUND}, costs
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(connected(path)) for _ in range(in_flight)]
        begun = time.perf_counter()

        async def keep_asking(number: int, store: XenstoreClient) -> int:
            done = 0
            while time.perf_counter() < begun + seconds:
                await _one(store, f"{ASIDE}/{number}", costs)
                done += 1
            return done

        done = await asyncio.gather(*(keep_asking(number, store) for number, store in enumerate(stores)))
        return sum(done) / (time.perf_counter() - begun)


async def _one(store: XenstoreClient, path: str, costs: Mapping[str, int]) -> None:
    """All that changes something in one transaction; all that may be sent at once is."""

    async def change(nodes: Transaction) -> None:
        await asyncio.gather(*(do(nodes, path) for kind, do in CHANGING.items() for _ in range(costs.get(kind, 0))))

    watches = [store.watch(path) for _ in range(costs["WATCH"])]
    await asyncio.gather(*map(anext, watches))
    await store.transaction(change)
    for _ in range(costs["TRANSACTION_START"] - 1):
        await store.transaction(_nothing)
    await asyncio.gather(*(do(store, path) for kind, do in READING.items() for _ in range(costs.get(kind, 0))))
    for watch in watches:
        watch.close()


async def _nothing(_: StoreOperations) -> None:
    """A transaction that is only begun and ended."""


def table(turns: int, seconds: float) -> Table:
    """A row for each kind of method and number of clients; medians of turns, the ratio within each turn."""
    costs = operations()
    said = ", ".join(f"a {method} is {sum(costs[method].values())} operations" for method in METHODS)
    shown = Table(
        "", "xcp-gateway", "p50", "p99", "bare store", "ratio", title="requests through a xenstore", caption=said
    )
    with served() as path:
        for method in METHODS:
            for in_flight in IN_FLIGHT:
                shown.add_row(*_row(path, method, costs[method], in_flight, turns, seconds))
    return shown


def _row(path: str, method: str, costs: Mapping[str, int], in_flight: int, turns: int, seconds: float) -> list[str]:
    rates, others, took = [], [], []
    for _ in range(turns):
        rate, latencies = uvloop.run(through(path, method, in_flight, seconds))
        took += latencies
        rates.append(rate)
        others.append(uvloop.run(aside(path, costs, in_flight, seconds / 3)))
    took.sort()
    ratio = statistics.median(rate / other for rate, other in zip(rates, others, strict=True))
    rate, other = statistics.median(rates), statistics.median(others)
    quick, slow = (f"{took[len(took) * part // 100] * 1000:.1f}ms" for part in (50, 99))
    return [f"{method}, {in_flight} in flight", f"{rate:,.0f}/s", quick, slow, f"{other:,.0f}/s", f"{ratio:.2f}"]


if __name__ == "__main__":
    Console().print(table(turns=3, seconds=0.75))
