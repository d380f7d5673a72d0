"""What it costs that methods can move: a look-up and a plan, shadow beside legacy, the gateway beside no gateway.

`python -m tests.bench.moving` alone, or tables of `make bench`; with the argument `compared` only the share of calls
that shadow compares. The legacy service is the bridge by hand. One gateway runs in the modes legacy and shadow by short
turns. Callers come at random moments, or one call comes at once after the other, which leaves the gateway no moment of
its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import statistics
import sys
import tempfile
import time
import timeit
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import uvloop
from rich.console import Console
from rich.table import Table

from gateway.cli import client
from gateway.core.migration.modes import BUCKETS, Key, Migration, Mode, Setting
from gateway.core.routing.policy import CallPlan, plan_call
from gateway.core.routing.route import Route
from gateway.core.rpc.model import Call
from gateway.migration.active_overrides import ActiveOverrides
from tests.bench.load import REQUESTS, free_port, rate, started, wait_for_port
from tests.kit.buses import private_bus
from tests.kit.mappings import route

HERE = Path(__file__).parent
RATE = 100.0  # calls a second of all callers together, where they come at random moments
CALLERS = 8
TURN = 0.25  # seconds
SHARES = {50.0: "", 500.0: "50 %", 2000.0: "10 %"}  # calls a second: the goal for the share that is compared
SETTLES = 1.0  # seconds until the last comparisons are counted

CONFIG = """[bus.bench]
address = "{address}"
services = ["org.xen.xcp.*"]
[upstream.old]
url = "http://127.0.0.1:{old}"
codec = "jsonrpc"
speaks = ["xmlrpc"]
[listener.rpc]
bind = ["tcp:127.0.0.1:{port}"]
[mappings]
directories = ["{folder}/mappings"]
[state]
file = "{folder}/state.db"
[admin]
socket = "{folder}/control"
[log]
format = "json"
"""


@dataclass(frozen=True)
class Bench:
    """A gateway in front of a legacy service."""

    folder: Path
    port: int
    old: int

    def mode(self, mode: str) -> None:
        """Who answers from now on."""
        client.ask(self.folder / "control", "POST", "/v1/mode", {"pattern": "echo", "mode": mode})


@contextlib.contextmanager
def bench() -> Iterator[Bench]:
    """Bus, D-Bus service, legacy service, gateway."""
    with tempfile.TemporaryDirectory() as name, private_bus() as bus, contextlib.ExitStack() as stack:
        folder = Path(name)
        made = Bench(folder, free_port(), free_port())
        (folder / "mappings").mkdir()
        text = (HERE / "mapping/bench.yaml").read_text()
        text = text.replace("\ndbus:", "\nlegacy: {upstream: old}\ndbus:")
        (folder / "mappings/bench.yaml").write_text(text.replace("effect: read", "effect: read, mode: legacy"))
        idl = "org.xen.xcp.bench.xml"
        (folder / "mappings" / idl).write_text((HERE / "mapping" / idl).read_text())
        config = folder / "gateway.toml"
        config.write_text(CONFIG.format(address=bus.address, old=made.old, port=made.port, folder=folder))
        stack.enter_context(started(sys.executable, str(HERE / "echo_service.py"), bus.address, ready="ready"))
        stack.enter_context(started(sys.executable, str(HERE / "bridge_by_hand.py"), bus.address, str(made.old)))
        wait_for_port(made.old)
        log = stack.enter_context((folder / "gateway.log").open("wb"))
        command = [sys.executable, "-m", "gateway", "run", "--config", str(config)]
        stack.enter_context(started(*command, stderr=log))
        wait_for_port(made.port)
        yield made


async def latencies(port: int, callers: int, pace: float | None, seconds: float) -> list[float]:
    """Of each call, in seconds. `pace`: calls a second at random moments; None: one after the other."""
    request = REQUESTS["JSON-RPC"].raw
    end = time.perf_counter() + seconds
    taken: list[float] = []

    async def caller() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < end:
            if pace is not None:
                await asyncio.sleep(random.expovariate(pace / callers))
            begun = time.perf_counter()
            writer.write(request)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = int(answer.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
            taken.append(time.perf_counter() - begun)
        writer.close()

    await asyncio.gather(*(caller() for _ in range(callers)))
    return taken


def shadow(table: Table, made: Bench, what: str, callers: int, pace: float | None, turns: int) -> None:
    """A row: all calls of all turns of a mode together."""
    found: dict[str, list[float]] = {"legacy": [], "shadow": []}
    for turn in range(turns):
        for mode in sorted(found, reverse=turn % 2 == 1):
            made.mode(mode)
            found[mode] += uvloop.run(latencies(made.port, callers, pace, TURN))
    cells: list[str] = []
    for part in (0.5, 0.99):
        before, after = (statistics.quantiles(taken, n=100)[round(part * 100) - 1] for taken in found.values())
        cells += [f"{before * 1000:.2f}ms", f"{after * 1000:.2f}ms", f"{after / before:.2f}"]
    table.add_row(what, *cells)


def compared(made: Bench, seconds: float) -> Table:
    """Which share of the calls in the mode shadow is compared, by the calls a second."""
    table = Table("calls/s wanted", "reached", "compared", "goal", title="the share of the calls that is compared")
    made.mode("shadow")
    for pace, goal in SHARES.items():
        before = _counted(made)
        calls = len(uvloop.run(latencies(made.port, 4 * CALLERS, pace, seconds)))
        time.sleep(SETTLES)
        share = _counted(made) - before
        table.add_row(f"{pace:g}", f"{calls / seconds:,.0f}", f"{share / calls:.0%}", goal)
    return table


def _counted(made: Bench) -> int:
    [row] = client.ask(made.folder / "control", "GET", "/v1/methods?pattern=echo")
    return int(row["comparisons"])


def forwarding(table: Table, made: Bench, turns: int, seconds: float) -> None:
    """Rows: the gateway in front of the legacy service, and the legacy service alone."""
    made.mode("legacy")
    for protocol, request in REQUESTS.items():
        for connections in (1, 32):
            pairs = [
                (
                    rate(made.port, request, connections, seconds),
                    rate(made.old, request, connections, seconds),
                )
                for _ in range(turns)
            ]
            through, alone = (statistics.median(side) for side in zip(*pairs, strict=True))
            ratio = statistics.median(one / other for one, other in pairs)
            name = f"{protocol}, {connections} connection{'s' * (connections > 1)}"
            table.add_row(name, f"{through:,.0f}/s", f"{alone:,.0f}/s", f"{ratio:.2f}")


def decisions() -> Table:
    """What is decided for each call, in nanoseconds."""
    key = Key("vm", lambda call: str(call.params[1]))
    call = Call("VM.start", ("OpaqueRef:1", "8a5b2c1e-7f7d-4a53-9f0c-000000000001"))
    table = Table("", "time", title="who answers a call")
    settings = [Setting(mode) for mode in (Mode.LEGACY, Mode.DBUS, Mode.SHADOW)]
    for setting in (*settings, Setting(Mode.CANARY, BUCKETS // 10)):
        moved = route("VM.start", migration=Migration(setting, "old", key, may_shadow=True))
        toggles = ActiveOverrides()
        if setting.mode is Mode.LEGACY:
            table.add_row("the setting that holds", _each(partial(toggles.setting, moved)))
        table.add_row(f"the whole plan, {setting}", _each(partial(_planned, toggles, moved, call)))
    return table


def _planned(toggles: ActiveOverrides, moved: Route, call: Call) -> CallPlan:
    return plan_call(moved, toggles.setting(moved), call)


def _each(work: Callable[[], object]) -> str:
    timer, number = timeit.Timer(work), 100_000
    return f"{min(timer.repeat(5, number)) / number * 1e9:,.0f}ns"


def tables(turns: int, seconds: float) -> Iterator[Table]:
    """All of them."""
    yield decisions()
    with bench() as made:
        columns = ("", "p50 legacy", "shadow", "ratio", "p99 legacy", "shadow", "ratio")
        latency = Table(*columns, title="what shadow costs a caller", min_width=92)
        shadow(latency, made, f"{RATE:g} calls/s at random", CALLERS, RATE, 10 * turns)
        shadow(latency, made, "one after the other", 1, None, 4 * turns)
        yield latency
        yield compared(made, 4 * seconds)
        forwarded = Table(
            "", "through the gateway", "the legacy service alone", "ratio", title="messages as they came", min_width=92
        )
        forwarding(forwarded, made, turns, seconds)
        yield forwarded


def only_compared() -> Iterator[Table]:
    """The share that is compared, and nothing else."""
    with bench() as made:
        yield compared(made, 5)


if __name__ == "__main__":
    for each in only_compared() if sys.argv[1:] == ["compared"] else tables(turns=3, seconds=1):
        Console().print(each)
