"""What a domain that floods a store costs domain 0 and another domain, through a real gateway and xenstored.

`python -m tests.bench.xenstore_fairness [SECONDS]`. Each flood is a process of its own that changes nodes of domain 7,
which may not call, about 4,000 times a second. Meanwhile domain 0 and domain 5 ask one request after the other; the
latency is from the commit of a request to the event of its answer. The goal: p50 at most twice of that without a
flood, and no call over 100 ms. The store itself is one thread that serves all connections in turn, so that the row
`elsewhere` (the same changes where nobody watches) tells what the store alone costs.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import count, cycle

import uvloop
from rich.console import Console
from rich.table import Table

from adapters.xenstore.client.client import Permissions
from tests.bench.load import started
from tests.bench.xenstore_requests import Client, served
from tests.kit.stores import connected

RATE = 4000  # changes a second
BATCH = 40  # of them at once
SECONDS = 5.0  # for each row
ASKERS = (0, 5)
FLOODER = 7

MAPPING = """\
mapping: 1
service: bench
dbus: {bus_name: org.xen.xcp.bench, object_path: /org/xen/xcp/bench, interface: org.xen.xcp.bench.Echo1, idl: bench.xml}
expose:
  - {listener: store, codec: xenstore, style: tree, path: /bench, allowed_domains: [5], methods: [read]}
  - {listener: store, codec: xenstore, style: chunked, path: /chunked, allowed_domains: [5], methods: [run]}
defaults: {timeout: 30s}
methods:
  read: {member: Echo, params: [{name: values, extra: true}], effect: read}
  run: {member: Echo, params: [{name: values, extra: true}], result: void, effect: read}
"""


def _requests(requests: int, nodes: int, root: str = "/bench/rpc/request/read") -> list[list[str]]:
    return [[f"{root}/flood-{at}", *(f"{root}/flood-{at}/n{n}" for n in range(nodes))] for at in range(requests)]


FLOODS: dict[str, list[list[str]]] = {
    "none": [],
    "elsewhere": _requests(1000, 0, "/elsewhere"),
    "1,000 requests": _requests(1000, 0),
    "20 wide requests": _requests(20, 900),
    "20 queries, never submitted": [
        [f"/chunked/query/{at}", *(f"/chunked/query/{at}/data{n:02d}" for n in range(99))] for at in range(20)
    ],
}


async def flood(path: str, name: str) -> None:
    """Make the nodes, as domain 7's; say so; change them for ever."""
    async with connected(path) as store:
        for nodes in FLOODS[name]:
            await store.write(nodes[0], b"")
            await store.set_permissions(nodes[0], Permissions(FLOODER, "n"))
            await asyncio.gather(*(store.write(node, b"x") for node in nodes[1:]))
        sys.stdout.write("flooding\n")
        sys.stdout.flush()
        each = cycle([node for nodes in FLOODS[name] for node in (nodes[1:] or nodes)])
        began = time.perf_counter()
        for done in count(BATCH, BATCH):
            await asyncio.gather(*(store.write(next(each), b"y") for _ in range(BATCH)))
            await asyncio.sleep(max(0.0, began + done / RATE - time.perf_counter()))


async def _measure(path: str, domid: int, seconds: float) -> list[float]:
    async with connected(path) as store:
        client, end, took = Client(store, f"of-{domid}", domid), time.perf_counter() + seconds, list[float]()
        while time.perf_counter() < end:
            took.append(await client.call("read"))
            await asyncio.sleep(0.002)  # so that it is latency that is measured, and not a queue of its own
        return took


def _row(took: Sequence[float]) -> list[str]:
    return [
        f"{1000 * each:.1f} ms" for each in (statistics.median(took), statistics.quantiles(took, n=100)[98], max(took))
    ]


async def _rows(table: Table, seconds: float) -> None:
    with served(mapping=MAPPING) as path:
        await _measure(path, 0, 1.0)  # warm
        for name, nodes in FLOODS.items():
            command = (sys.executable, "-m", "tests.bench.xenstore_fairness", "flood", path, name)
            with started(*command, ready="flooding") if nodes else nullcontext():
                await asyncio.sleep(1.0)  # let it be at its rate
                found = await asyncio.gather(*(_measure(path, domid, seconds) for domid in ASKERS))
            for domid, took in zip(ASKERS, found, strict=True):
                table.add_row(name, str(domid), str(len(took)), *_row(took))


def main() -> None:
    """Print one table."""
    if sys.argv[1:2] == ["flood"]:
        uvloop.run(flood(sys.argv[2], sys.argv[3]))
        return
    table = Table("flood of domain 7", "asks", "calls", "p50", "p99", "max")
    uvloop.run(_rows(table, float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS))
    Console().print(table)


if __name__ == "__main__":
    main()
