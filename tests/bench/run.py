"""`make bench`: our gateway beside a bridge by hand, dbus-fast and xenstored alone; ratios within a run, medians."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import uvloop
from dbus_fast import BusType, Message, Variant
from dbus_fast.aio import MessageBus
from rich.console import Console
from rich.table import Table

from tests.bench import moving, state_changes, xenstore_requests, xenstore_writes
from tests.bench.load import REQUESTS, VALUES, free_port, started, wait_for_port, wrk

HERE = Path(__file__).parent

BUS = """<busconfig><type>custom</type><listen>unix:path={path}</listen>
<policy context="default"><allow send_destination="*"/><allow eavesdrop="true"/><allow own="*"/></policy>
<limit name="max_replies_per_connection">50000</limit></busconfig>"""

CONFIG = """[bus.bench]
address = "{address}"
services = ["org.xen.xcp.*"]
[listener.rpc]
bind = ["tcp:127.0.0.1:{port}"]
[mappings]
directories = ["{mappings}"]
[admin]
socket = "{control}"
[log]
format = "json"
level = "{level}"
"""


def compare(table: Table, ours: int, by_hand: int, turns: int, seconds: float) -> None:
    """A row for each protocol and number of connections; the two take turns, A B A B."""
    for protocol in REQUESTS:
        for connections in (1, 32):
            rows: list[tuple[tuple[float, str], tuple[float, str]]] = [
                (wrk(ours, protocol, connections, seconds), wrk(by_hand, protocol, connections, seconds))
                for _ in range(turns)
            ]
            ratio = statistics.median(mine[0] / other[0] for mine, other in rows)
            mine, other = (sorted(side)[turns // 2] for side in zip(*rows, strict=True))
            table.add_row(
                f"{protocol}, {connections} connection{'s' * (connections > 1)}", f"{mine[0]:,.0f}/s", mine[1],
                f"{other[0]:,.0f}/s", other[1], f"{ratio:.2f}",
            )  # fmt: skip


async def alone(address: str, in_flight: int, seconds: float) -> float:
    """Calls per second of dbus-fast with nothing in front of it."""
    bus = await MessageBus(bus_type=BusType.SESSION, bus_address=address).connect()
    body = [{"uuid": Variant("s", VALUES["uuid"]), "memory": Variant("x", 4096),
             "running": Variant("b", True), "share": Variant("d", 0.25)}]  # fmt: skip
    end = time.perf_counter() + seconds
    done = 0

    async def caller() -> None:
        nonlocal done
        while time.perf_counter() < end:
            await bus.call(Message("org.xen.xcp.bench", "/", "org.xen.xcp.bench.Echo1", "Echo",
                                   signature="a{sv}", body=body))  # fmt: skip
            done += 1

    started_at = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(in_flight)))
    bus.disconnect()
    return done / (time.perf_counter() - started_at)


def main() -> None:
    """Print the rows; --quick for a look, the defaults for figures to quote."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=3, help="turns of each pair (the median is shown)")
    parser.add_argument("--seconds", type=float, default=3, help="seconds of each turn")
    parser.add_argument("--log", default="info", help="log level of the gateway; info is one line a call")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("make bench needs wrk: apt-get install wrk")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        directory = Path(folder)
        address = f"unix:path={directory}/bus"
        (directory / "bus.conf").write_text(BUS.format(path=directory / "bus"))
        daemon = ["dbus-daemon", f"--config-file={directory}/bus.conf", "--nofork", "--print-address=1"]
        stack.enter_context(started(*daemon, ready="unix:"))
        stack.enter_context(started(sys.executable, str(HERE / "echo_service.py"), address, ready="ready"))
        ours, by_hand = free_port(), free_port()
        config = directory / "gateway.toml"
        config.write_text(CONFIG.format(
            address=address, port=ours, mappings=HERE / "mapping", control=directory / "control", level=options.log,
        ))  # fmt: skip
        log = stack.enter_context((directory / "gateway.log").open("wb"))
        command = [sys.executable, "-m", "gateway", "run", "--config", str(config)]
        stack.enter_context(started(*command, stderr=log))
        stack.enter_context(started(sys.executable, str(HERE / "bridge_by_hand.py"), address, str(by_hand)))
        for port in (ours, by_hand):
            wait_for_port(port)
        table = Table("", "xcp-gateway", "p99", "bridge by hand", "p99", "ratio", title="a{sv} echo of four values")
        compare(table, ours, by_hand, options.turns, options.seconds)
        for in_flight in (1, 64):
            rate = uvloop.run(alone(address, in_flight, options.seconds))
            table.add_row(f"dbus-fast alone, {in_flight} in flight", "", "", f"{rate:,.0f}/s", "", "")
        Console().print(table)
    for each in moving.tables(options.turns, min(options.seconds, 1)):
        Console().print(each)
    Console().print(xenstore_writes.table(options.turns, min(options.seconds, 1)))
    Console().print(xenstore_requests.table(options.turns, min(options.seconds, 0.75)))
    Console().print(state_changes.table())


if __name__ == "__main__":
    main()
