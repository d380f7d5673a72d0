"""`make bench`: our gateway beside a bridge by hand, dbus-fast and xenstored alone; ratios within a run, medians."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import xmlrpc.client
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import msgspec
import uvloop
from dbus_fast import BusType, Message, Variant
from dbus_fast.aio import MessageBus
from rich.console import Console
from rich.table import Table

from tests.bench import state_changes, xenstore_writes

HERE = Path(__file__).parent
VALUES = {"uuid": "8a5b2c1e-7f7d-4a53-9f0c-000000000001", "memory": 4_294_967_296, "running": True, "share": 0.25}

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
[control]
socket = "{control}"
[log]
format = "json"
level = "{level}"
"""

REQUESTS = {
    "JSON-RPC": ("/jsonrpc", "application/json", msgspec.json.encode(
        {"jsonrpc": "2.0", "method": "echo", "params": [{**VALUES, "memory": 4096}], "id": 1}
    ).decode()),
    "XML-RPC": ("/RPC2", "text/xml", xmlrpc.client.dumps(({**VALUES, "memory": 4096},), "echo")),
}  # fmt: skip


@contextlib.contextmanager
def started(*command: str, ready: str | None = None, stderr: IO[bytes] | int = subprocess.DEVNULL) -> Iterator[None]:
    """Run a program for the time of the block; `ready` is the first line to wait for on its standard output."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
    assert process.stdout is not None
    try:
        if ready is not None and ready not in process.stdout.readline():
            raise RuntimeError(f"{command[0]} did not start")
        yield
    finally:
        process.terminate()
        process.communicate(timeout=20)


def wait_for_port(port: int, seconds: float = 20) -> None:
    """Wait until something accepts on a port."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"nothing listens on port {port}")


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def wrk(port: int, protocol: str, connections: int, seconds: float) -> tuple[float, str]:
    """Calls per second and the 99th percentile that wrk saw; every answer must be 200 and hold the echoed text."""
    path, content_type, body = REQUESTS[protocol]
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(
            f'wrk.method="POST"; wrk.headers["Content-Type"]="{content_type}"\nwrk.body=[==[{body}]==]\n'
            f'local bad=0\nfunction response(status,_,b) if status~=200 or not b:find("{VALUES["uuid"]}",1,true) '
            "then os.exit(1) end end\n"
        )
        script.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency", "-s", script.name]
        shown = subprocess.run([*command, f"http://127.0.0.1:{port}{path}"], capture_output=True, text=True, check=True)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", shown.stdout)
    tail = re.search(r"^\s+99%\s+(\S+)", shown.stdout, re.MULTILINE)
    if rate is None or tail is None or "Non-2xx" in shown.stdout:
        raise RuntimeError(shown.stdout + shown.stderr)
    return float(rate[1]), tail[1]


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
    Console().print(xenstore_writes.table(options.turns, min(options.seconds, 1)))
    Console().print(state_changes.table())


if __name__ == "__main__":
    main()
