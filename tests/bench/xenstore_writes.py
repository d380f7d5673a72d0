"""Writes per second to a bare xenstored: our client beside pyxs's own, in turns.

`python -m tests.bench.xenstore_writes` alone, or the second table of `make bench`. The store is one thread.
"""

from __future__ import annotations

import asyncio
import statistics
import threading
import time

import pyxs
import uvloop
from rich.console import Console
from rich.table import Table

from adapters.xenstore.client.client import XenstoreClient
from tests.kit.stores import xenstored

VALUE = b"sixteen bytes..."


async def ours(path: str, in_flight: int, seconds: float) -> float:
    """Tasks on one connection."""
    async with XenstoreClient(path) as store:
        await store.until_connected()
        end = time.perf_counter() + seconds

        async def writer(number: int) -> int:
            done = 0
            while time.perf_counter() < end:
                await store.write(f"/bench/{number}", VALUE)
                done += 1
            return done

        started = time.perf_counter()
        done = await asyncio.gather(*map(writer, range(in_flight)))
        return sum(done) / (time.perf_counter() - started)


def theirs(path: str, in_flight: int, seconds: float) -> float:
    """Threads on one connection: that is how pyxs has more than one request in flight."""
    counts = [0] * in_flight
    with pyxs.Client(unix_socket_path=path) as client:
        end = time.perf_counter() + seconds

        def writer(number: int) -> None:
            own = pyxs.Client(router=client.router)
            while time.perf_counter() < end:
                own.write(b"/bench/%d" % number, VALUE)
                counts[number] += 1

        threads = [threading.Thread(target=writer, args=(number,)) for number in range(in_flight)]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(counts) / (time.perf_counter() - started)


def table(turns: int, seconds: float) -> Table:
    """A row for each number of requests in flight; medians of turns, the ratio within each turn."""
    shown = Table("", "our client", "pyxs's Client", "ratio", title="writes to a bare xenstored")
    with xenstored() as store:
        for in_flight in (1, 64):
            pairs = [
                (uvloop.run(ours(store.path, in_flight, seconds)), theirs(store.path, in_flight, seconds))
                for _ in range(turns)
            ]
            mine, other = (statistics.median(side) for side in zip(*pairs, strict=True))
            ratio = statistics.median(a / b for a, b in pairs)
            shown.add_row(f"{in_flight} in flight", f"{mine:,.0f}/s", f"{other:,.0f}/s", f"{ratio:.1f}")
    return shown


if __name__ == "__main__":
    Console().print(table(turns=3, seconds=1))
