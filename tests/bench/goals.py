"""The goals for speed, each measured beside what it is compared with; `build/bench.json` has the ratios.

The programs of a row take turns of a few hundred calls, over connections that stay open, and each pair of turns gives a
ratio: a machine that is busy with other things disturbs both alike. CPU time is that of the server process, from the
kernel's accounting. Everything is on in the gateway: type checks, access, deadlines, modes, statistics, metrics, log.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec
import uvloop
from rich.table import Table

from gateway.cli import client
from tests.bench import load
from tests.bench.load import Clients, Request, Seen, cpu_seconds, started, wait_for_port
from tests.kit.buses import private_bus
from tests.kit.gateway import REST
from tests.kit.programs import free_port, resident_bytes

HERE = Path(__file__).parent
JSON, XML = load.TEXT_REQUESTS["JSON-RPC"], load.TEXT_REQUESTS["XML-RPC"]
# The legacy service says so too
AGREED = Request("/RPC2", "text/xml", load.xml_rpc("old", "8a5b2c1e").body, b"8a5b2c1e")
PASSED = Request("/RPC2", "text/xml", load.xml_rpc("old", load.UUID).body, b"8a5b2c1e")
BATCH = 100
MANY = 32  # connections
WARM = 10_000  # calls after which tables and allocator are as they stay
KEPT = 1.5  # seconds until the gateway has seen that a legacy service keeps connections open
GATEWAY, BY_HAND, LIMIT, PROXY, LEGACY = "gateway", "by hand", "limit", "proxy", "legacy"

BUS = {"max_replies_per_connection": 50_000}

CONFIG = (
    """[bus.bench]
address = "{address}"
services = ["org.xen.xcp.*"]
in_flight = 2000
per_destination = 2000
[upstream.old]
url = "http://127.0.0.1:{old}"
codec = "xmlrpc"
[listener.rpc]
bind = ["tcp:127.0.0.1:{port}"]
max_connections = 4096
max_calls = 4096
keepalive_timeout = "1h"
header_timeout = "1h"
[limits]
max_calls = 4096
[state]
file = "{folder}/state.db"
"""
    + REST
)


class Figure(msgspec.Struct):
    """One goal. `ratios`: of each pair of turns; the median counts."""

    what: str
    goal: float  # at most; `at_least`: at least
    ratios: list[float]
    at_least: bool = False
    unit: str = ""  # empty: a ratio

    @property
    def median(self) -> float:
        return statistics.median(self.ratios)

    @property
    def spread(self) -> tuple[float, float]:
        if len(self.ratios) < 2:
            return self.median, self.median
        low, _, high = statistics.quantiles(self.ratios, n=4)
        return low, high

    @property
    def is_met(self) -> bool:
        """Whether the goal is reached."""
        return self.median >= self.goal if self.at_least else self.median <= self.goal


@dataclass
class Bench:
    """Everything that runs: the bus, its service, the bridges by hand, a legacy service, a bare proxy, the gateway."""

    folder: Path
    address: str  # of the bus
    ports: dict[str, int]
    pids: dict[str, int]
    rounds: int
    calls: int  # of a turn
    figures: dict[str, Figure] = field(default_factory=dict)
    rows: list[tuple[str, ...]] = field(default_factory=list)  # absolute figures, for people

    def turns(
        self, names: Sequence[str], requests: Sequence[Request], connections: Sequence[int], *calls: int
    ) -> list[list[tuple[float, Seen]]]:
        """Let servers answer in turns: for each, CPU seconds of a call and what the clients saw, turn by turn.

        `connections`, `calls` of a turn: for all or for each.
        """

        async def run() -> list[list[tuple[float, Seen]]]:
            clients = [
                await Clients(each).connect(self.ports[who], connections[at % len(connections)])
                for at, (who, each) in enumerate(zip(names, requests, strict=True))
            ]
            found: list[list[tuple[float, Seen]]] = [[] for _ in names]
            for round_ in range(self.rounds + 1):
                order = range(len(names)) if round_ % 2 else reversed(range(len(names)))
                for at in order:
                    before = cpu_seconds(self.pids[names[at]])
                    seen = await clients[at].calls(calls[at % len(calls)])
                    cpu = (cpu_seconds(self.pids[names[at]]) - before) / seen.calls
                    if round_:  # the first warms up
                        found[at].append((cpu, seen))
            for each in clients:
                each.close()
            return found

        return uvloop.run(run())

    def mode(self, mode: str) -> None:
        """The side that answers the method `old` from now on."""
        client.ask(self.folder / "control", "POST", "/v1/mode", {"pattern": "old", "mode": mode})


@contextlib.contextmanager
def bench(rounds: int, calls: int) -> Iterator[Bench]:
    """Start all programs."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        address = stack.enter_context(private_bus(limits=BUS)).address
        stack.enter_context(started(sys.executable, str(HERE / "echo_service.py"), address, ready="ready"))
        ports = {who: free_port() for who in (GATEWAY, BY_HAND, LIMIT, LEGACY, PROXY)}
        config = write_config(folder, address, ports)
        log = stack.enter_context((folder / "gateway.log").open("wb"))
        limit = [sys.executable, str(HERE / "bridge_limit.py")]
        commands = {
            BY_HAND: [sys.executable, str(HERE / "bridge_by_hand.py"), address, str(ports[BY_HAND])],
            LIMIT: [*limit, "bridge", str(ports[LIMIT]), address],
            LEGACY: [*limit, "legacy", str(ports[LEGACY])],
            PROXY: [*limit, "proxy", str(ports[PROXY]), str(ports[LEGACY])],
            GATEWAY: [sys.executable, "-m", "gateway", "run", "--config", str(config)],
        }
        pids = {who: stack.enter_context(started(*each, stderr=log)).pid for who, each in commands.items()}
        for port in ports.values():
            wait_for_port(port)
        yield Bench(folder, address, ports, pids, rounds, calls)


def write_config(folder: Path, address: str, ports: Mapping[str, int], more: int = 0) -> Path:
    """Write config and mapping; `more` methods besides."""
    (folder / "mappings").mkdir(exist_ok=True)
    text = (HERE / "mapping/bench.yaml").read_text()
    text = text.replace("\ndbus:", "\nlegacy: {upstream: old}\ndbus:")
    text = text.replace("effect: read}", "effect: read, mode: dbus}")
    text += "  old: {member: Say, params: [text], mode: legacy}\n"
    text += "".join(f"  more.method{at}: {{member: Say, params: [text]}}\n" for at in range(more))
    (folder / "mappings/bench.yaml").write_text(text)
    idl = "org.xen.xcp.bench.xml"
    (folder / "mappings" / idl).write_text((HERE / "mapping" / idl).read_text())
    config = folder / "gateway.toml"
    config.write_text(CONFIG.format(address=address, old=ports[LEGACY], port=ports[GATEWAY], folder=folder))
    return config


# The figures


def _ratios(ours: Sequence[tuple[float, Seen]], others: Sequence[tuple[float, Seen]]) -> list[float]:
    return [mine / other for (mine, _), (other, _) in zip(ours, others, strict=True)]


def _microseconds(turns: Sequence[tuple[float, Seen]]) -> str:
    return f"{statistics.median(cpu for cpu, _ in turns) * 1e6:,.0f} us"


def calls(made: Bench) -> None:
    """JSON-RPC and XML-RPC, one connection and many: CPU and rate beside both bridges."""
    goals = {
        "json_32_cpu_beside_limit": 1.5,
        "json_32_cpu_beside_by_hand": 0.75,
        "json_1_cpu_beside_limit": 1.3,
        "xml_32_cpu_beside_by_hand": 0.6,
    }
    faster = {"json": 1.5, "xml": 1.6}
    for protocol, request, others in (("json", JSON, (LIMIT, BY_HAND)), ("xml", XML, (BY_HAND,))):
        for connections in (MANY, 1):
            names = (GATEWAY, *others)
            found = dict(zip(names, made.turns(names, [request] * len(names), [connections], made.calls), strict=True))
            rates = {who: statistics.median(seen.rate for _, seen in found[who]) for who in names}
            made.rows.append(
                (
                    f"{protocol}, {connections} connection{'s' * (connections > 1)}",
                    *(f"{who}: {_microseconds(found[who])}, {rates[who]:,.0f}/s" for who in names),
                )
            )
            for who in others:
                key = f"{protocol}_{connections}_cpu_beside_{who.replace(' ', '_')}"
                if key in goals:
                    what = f"CPU of a call beside {who}: {protocol}, {connections} connections"
                    made.figures[key] = Figure(what, goals[key], _ratios(found[GATEWAY], found[who]))
            if connections == MANY:
                ratios = [
                    mine.rate / other.rate for (_, mine), (_, other) in zip(found[GATEWAY], found[BY_HAND], strict=True)
                ]
                key = f"{protocol}_{MANY}_rate_beside_by_hand"
                what = f"calls a second beside by hand: {protocol}, {MANY} connections"
                made.figures[key] = Figure(what, faster[protocol], ratios, at_least=True)


def tail(made: Bench, seconds: float) -> None:
    """The 99th percentile at half of the rate that the bridge by hand reaches, calls at random moments."""

    async def run() -> list[float]:
        clients = {who: await Clients(JSON).connect(made.ports[who], MANY) for who in (GATEWAY, BY_HAND)}
        highest = statistics.median([(await clients[BY_HAND].calls(made.calls)).rate for _ in range(5)])
        ratios = []
        for round_ in range(made.rounds):
            order = [GATEWAY, BY_HAND] if round_ % 2 else [BY_HAND, GATEWAY]
            seen = {who: await clients[who].at_random(highest / 2, seconds) for who in order}
            ratios.append(seen[GATEWAY].quantile(0.99) / seen[BY_HAND].quantile(0.99))
        for each in clients.values():
            each.close()
        return ratios

    what = "p99 at half of the highest rate of by hand, beside by hand: json"
    made.figures["json_p99_at_half_rate_beside_by_hand"] = Figure(what, 1.0, uvloop.run(run()))


def batches(made: Bench) -> None:
    """A call in a batch of a hundred beside a single call, over one connection."""
    alone, together = made.turns([GATEWAY] * 2, [JSON, load.batch("say", BATCH, load.UUID)], [1], made.calls, 4)
    ratios = [cpu / BATCH / single for (single, _), (cpu, _) in zip(alone, together, strict=True)]
    what = f"CPU of a call in a batch of {BATCH}, beside a single call"
    made.figures["batch_call_cpu_beside_single"] = Figure(what, 0.5, ratios)


def passthrough(made: Bench) -> None:
    """A method in mode legacy: the bytes as they came, beside a proxy that only parses HTTP.

    The turns begin when the gateway has seen that the legacy service keeps connections open, which it does not say.
    Until then, for a second, each message has a connection of its own.
    """
    made.mode("legacy")
    load.rate(made.ports[GATEWAY], PASSED, MANY, KEPT)
    ours, bare = made.turns((GATEWAY, PROXY), [PASSED] * 2, [MANY], made.calls)
    made.rows.append(("passthrough", f"gateway: {_microseconds(ours)}", f"bare proxy: {_microseconds(bare)}"))
    what = "CPU that passthrough adds to a call, beside a bare httptools proxy"
    made.figures["passthrough_cpu_beside_proxy"] = Figure(what, 1.2, _ratios(ours, bare))


def shadow(made: Bench, pace: float, seconds: float) -> None:
    """Latency of a client in mode shadow, beside mode legacy: calls at random moments, to which both sides agree."""

    async def run() -> dict[str, list[Seen]]:
        clients = await Clients(AGREED).connect(made.ports[GATEWAY], 8)
        seen: dict[str, list[Seen]] = {"legacy": [], "shadow": []}
        for round_ in range(made.rounds):
            for mode in sorted(seen, reverse=round_ % 2 == 1):
                await asyncio.to_thread(made.mode, mode)
                seen[mode].append(await clients.at_random(pace, seconds))
        clients.close()
        return seen

    seen = uvloop.run(run())
    made.mode("legacy")
    for part, name in ((0.5, "p50"), (0.99, "p99")):
        ratios = [
            mine.quantile(part) / before.quantile(part)
            for mine, before in zip(seen["shadow"], seen["legacy"], strict=True)
        ]
        what = f"{name} in mode shadow beside mode legacy, {pace:g} calls a second at random"
        made.figures[f"shadow_{name}_beside_legacy"] = Figure(what, 1.05, ratios)


LARGE = """
import sys, time, tracemalloc, xmlrpc.client
from adapters.codecs.xmlrpc import Codec
from gateway.core.rpc.model import Call, Envelope, Reply
value = {f"OpaqueRef:{at}": {f"field{number}": f"value {at} {number}" for number in range(20)} for at in range(10_000)}
codec, envelope = Codec(), Envelope((Call("m"),))
outcome = (Reply(value),)
def cpu(work):
    begun = time.process_time()
    work()
    return time.process_time() - begun
for _ in range(int(sys.argv[1])):
    ours = cpu(lambda: codec.encode(envelope, outcome))
    print(ours / cpu(lambda: xmlrpc.client.dumps((value,), methodresponse=True)))
tracemalloc.start()
size = len(codec.encode(envelope, outcome))
print(tracemalloc.get_traced_memory()[1] / size)
"""


def large_answer(made: Bench) -> None:
    """An answer of 10,000 records of 20 fields: the XML writer alone, beside xmlrpc.client; and who waits meanwhile."""
    command = [sys.executable, "-c", LARGE, str(min(made.rounds, 5))]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=HERE.parents[1]).stdout.split()
    *ratios, memory = map(float, shown)
    what = "CPU of writing 10,000 records of 20 fields as XML, beside xmlrpc.client.dumps"
    made.figures["large_answer_cpu_beside_dumps"] = Figure(what, 0.5, ratios)
    what = "memory of writing it, beside its bytes"
    made.figures["large_answer_memory_beside_bytes"] = Figure(what, 3, [memory])

    async def run() -> float:
        large = await Clients(load.Request("/RPC2", "text/xml", load.xml_rpc("records").body, b"field19")).connect(
            made.ports[GATEWAY], 1
        )
        # A call that the gateway answers itself: one to the same service would wait for the service.
        own = load.Request("/jsonrpc", "application/json", load.json_rpc("system.listMethods").body, b"listMethods")
        others = await Clients(own).connect(made.ports[GATEWAY], 1)
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(large.calls(1))
            worst = 0.0
            while not waiting.done():
                worst = max(worst, (await others.calls(1)).latencies[-1])
        large.close()
        others.close()
        return worst

    what = "the longest wait of another call while such an answer is made"
    made.figures["large_answer_pause_ms"] = Figure(what, 20, [uvloop.run(run()) * 1e3 for _ in range(3)], unit="ms")


def memory(made: Bench, calls: int) -> None:
    """Resident memory after the start of a gateway of its own, and what it grows by."""
    with _another(made, 0) as (port, pid):
        made.figures["memory_at_start_mb"] = Figure("memory at start", 60, [resident_bytes(pid) / 1e6], unit="MB")

        async def run() -> float:
            clients = await Clients(JSON).connect(port, MANY)
            await clients.calls(WARM)
            before = resident_bytes(pid)
            await clients.calls(calls)
            grown = resident_bytes(pid) - before
            clients.close()
            return grown / 1e6 * (1e6 / calls)

        what = f"growth of memory per million calls, from {WARM:,} on ({calls:,} calls)"
        made.figures["memory_growth_mb_per_million_calls"] = Figure(what, 1, [uvloop.run(run())], unit="MB")


def starts(made: Bench, times: int) -> None:
    """Start to the first answer, and `--help`; wall time, so a busy machine shows."""
    first: list[float] = []
    for _ in range(times):
        begun = time.perf_counter()
        with _another(made, 0) as (port, _):
            load.rate(port, JSON, 1, 0)
            first.append(time.perf_counter() - begun)
    helped: list[float] = []
    for _ in range(times):
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-m", "gateway", "--help"], stdout=subprocess.DEVNULL, check=True)
        helped.append(time.perf_counter() - begun)
    made.figures["start_to_first_answer_s"] = Figure("start to first answer", 0.7, first, unit="s")
    made.figures["help_s"] = Figure("xcp-gateway --help", 0.25, helped, unit="s")


def growth(made: Bench, methods: Sequence[int], connections: Sequence[int]) -> None:
    """CPU of a call with more mapped methods, and with more connections, beside the fewest."""
    with contextlib.ExitStack() as stack:
        for number in methods:
            made.ports[str(number)], made.pids[str(number)] = stack.enter_context(_another(made, number))
        names = [str(number) for number in methods]
        few, *more = made.turns(names, [JSON] * len(names), [MANY], made.calls)
        for number, many in zip(methods[1:], more, strict=True):
            what = f"CPU of a call, {number:,} methods beside {methods[0]}"
            made.figures[f"cpu_{number}_methods_beside_{methods[0]}"] = Figure(what, 1.1, _ratios(many, few))
    base = connections[0]
    for number in connections[1:]:
        few, many = made.turns([GATEWAY] * 2, [JSON] * 2, [base, number], 2 * max(connections))
        what = f"CPU of a call, {number:,} connections beside {base}"
        made.figures[f"cpu_{number}_connections_beside_{base}"] = Figure(what, 1.1, _ratios(many, few))


@contextlib.contextmanager
def _another(made: Bench, methods: int) -> Iterator[tuple[int, int]]:
    """Run a gateway with this many methods more; yields port and process id."""
    with tempfile.TemporaryDirectory() as name:
        port = free_port()
        config = write_config(Path(name), made.address, {**made.ports, GATEWAY: port}, methods)
        with started(sys.executable, "-m", "gateway", "run", "--config", str(config)) as process:
            wait_for_port(port)
            yield port, process.pid


def measured(*, quick: bool, after_each: Callable[[Bench], object]) -> Bench:
    """Measure all goals; quick: in about two minutes on an idle machine. `after_each` may save what is known so far."""
    with bench(rounds=7 if quick else 25, calls=320) as made:
        seconds, times = (0.5, 3) if quick else (2, 9)
        for measure in (
            partial(calls, made),
            partial(tail, made, seconds),
            partial(batches, made),
            partial(passthrough, made),
            partial(shadow, made, 200, seconds),
            partial(large_answer, made),
            partial(starts, made, times),
            partial(memory, made, 300_000 if quick else 1_000_000),
            partial(
                growth, made, (10, 1_000) if quick else (10, 1_000, 10_000), (100, 1_000) if quick else (1, 100, 1_000)
            ),
        ):
            measure()
            after_each(made)
        return made


def table(made: Bench) -> Table:
    """The goals, and what was measured."""
    shown = Table("goal", "at", "measured", "quartiles", "", title="goals for speed")
    for figure in made.figures.values():
        low, high = figure.spread
        shown.add_row(
            figure.what,
            f"{'>=' if figure.at_least else '<='} {figure.goal:g} {figure.unit}",
            f"{figure.median:.2f}",
            f"{low:.2f} to {high:.2f}",
            "met" if figure.is_met else "missed",
        )
    return shown


def details(made: Bench) -> Table:
    """Absolute figures of this machine."""
    shown = Table("CPU of a call, calls a second", "", "", "")
    for row in made.rows:
        shown.add_row(*row)
    return shown


def save(made: Bench, path: Path) -> None:
    """Write the figures as JSON, by the keys of the table of goals."""
    written = {}
    for key, each in made.figures.items():
        told = {name: getattr(each, name) for name in ("spread", "goal", "at_least", "what")}
        written[key] = {**told, "value": each.median, "met": each.is_met, "unit": each.unit or "ratio"}
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(written), indent=1) + b"\n")
