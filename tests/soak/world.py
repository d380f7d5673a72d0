"""Everything around the clients, as real processes: buses, services, a legacy service, stores, a gateway."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from tests.kit.admin import ask
from tests.kit.buses import SYSTEM_LIMITS, PrivateBus, private_bus
from tests.kit.gateway import REST
from tests.kit.programs import ROOT
from tests.kit.stores import C_STORE, OXENSTORED, Xenstored, starting, xenstored
from tests.soak import healthy, service

CALM = "calm"  # the service that is never killed or stopped; its bus is
BUSES: Mapping[str, tuple[str, ...]] = {"one": (CALM, "alpha"), "two": ("beta", "gamma")}
HOMES: Mapping[str, str] = {name: bus for bus, services in BUSES.items() for name in services}
MOVED = "alpha"  # the service with a legacy service beside it; its clients do not know
STORES: Mapping[str, str] = {"store": C_STORE, "guests": OXENSTORED}  # by listener
TREE = "/soak"  # the path of the services in xenstore
NARROW = "two"  # the bus with quotas so small that BUSY occurs
QUIET = "quiet"  # the bus without harm: for the service of the healthy client, and those of the nuisances
LARGE = "large"  # the service of large answers; it has a process of its own, as it sends nothing else meanwhile
HUNG = "hung"  # a service that hangs; a nuisance decides when
# As on the shipped bus: with equal ones it drops small answers to a gateway that has 128 MiB of large ones unread.
LIMITS = {**SYSTEM_LIMITS, "max_incoming_bytes": 128 * 1024**2, "max_outgoing_bytes": 1024**3}
START_TIMEOUT = 60.0  # seconds
BACK_TIMEOUT = 45.0  # seconds until a service must be reached again after the harm
MOST_SLACK = 6  # of a time that a test waits for before it fails
SETTLE = 1.0  # seconds after that in which faults are still expected

CONFIG = """\
[bus.one]
address = "{one}"
services = ["org.example.one.*"]
[bus.two]
address = "{two}"
services = ["org.example.two.*"]
per_destination = 6
[bus.quiet]
address = "{quiet}"
services = ["org.example.quiet.*"]
[limits]
max_buffered = "64MiB"
[listener.rpc]
bind = ["tcp:127.0.0.1:0", "unix:{folder}/rpc"]
[upstream.old]
url = "http+unix://{folder}/old"
speaks = ["jsonrpc"]
arguments = "positional"
timeout = "3s"
[listener.shared]
bind = ["tcp:127.0.0.1:0"]
[listener.store]
bind = ["xenstore:{store}"]
[listener.guests]
bind = ["xenstore:{guests}"]
[listener.hostile]
bind = ["unix:{folder}/hostile"]
max_body = "64KiB"
max_depth = 20
max_elements = 1000
max_batch = 5
header_timeout = "2s"
body_timeout = "2s"
write_timeout = "2s"
keepalive_timeout = "5s"
"""
CONFIG += REST

HEAD = """\
mapping: 1
service: {file}
{legacy}dbus:
  bus_name: org.example.{bus}.{name}
  object_path: {service.OBJECT_PATH}
  interface: {service.INTERFACE}
  idl: soak.xml
"""
SOCKETS = """\
expose:
  - {{listener: rpc, path: /RPC2, codec: xmlrpc, dialect: plain}}
  - {{listener: rpc, path: /idl, codec: xmlrpc, dialect: xapi_idl}}
  - {{listener: rpc, path: /jsonrpc, codec: jsonrpc, dialect: plain}}
  - {{listener: hostile, path: /RPC2, codec: xmlrpc, dialect: plain}}
  - {{listener: hostile, path: /jsonrpc, codec: jsonrpc, dialect: plain}}
defaults: {{timeout: {timeout}, effect: read}}
"""
STORE = """\
expose:
  - {{listener: store, codec: xenstore, style: tree, path: {TREE}/{name}}}
defaults: {{timeout: {timeout}, effect: read, coerce: legacy}}
"""
METHODS = """\
methods:
  {name}.read: {{member: Read, params: [text], key: text}}
  {name}.record: {{member: Record, params: [record], key: peer}}
  {name}.refuse: {{member: Refuse, params: [text], key: text}}
  {name}.write: {{member: Write, params: [token, pause], effect: write, key: token}}
"""
BESIDE: Mapping[str, str] = {  # services without harm, and their mapping files
    healthy.NAME: """\
expose:
  - {{listener: shared, path: /jsonrpc, codec: jsonrpc, dialect: plain}}
  - {{listener: shared, path: /RPC2, codec: xmlrpc, dialect: plain}}
  - {{listener: guests, codec: xenstore, style: tree, path: /guests}}
defaults: {{timeout: {timeout}, effect: read, coerce: legacy}}
methods:
  healthy.read: {{member: Read, params: [text], result: {{same: same}}}}
  healthy.write: {{member: Write, params: [token, pause], result: {{done: done}}, effect: write}}
""",
    LARGE: """\
expose:
  - {{listener: shared, path: /jsonrpc, codec: jsonrpc, dialect: plain}}
defaults: {{timeout: {timeout}, effect: read}}
methods:
  large.text: {{member: Large, params: [size]}}
""",
    HUNG: """\
expose:
  - {{listener: shared, path: /jsonrpc, codec: jsonrpc, dialect: plain}}
defaults: {{timeout: 20s, effect: read}}
methods:
  hung.read: {{member: Read, params: [text]}}
""",
}
MORE = "  {name}.more{number}: {{member: Read, params: [text]}}\n"  # what a good reload adds
BROKEN = "  {name}.broken: {{member: Nonsense}}\n"


class Process:
    """One process that a run kills, stops and starts."""

    def __init__(self, log: Path, *arguments: str) -> None:
        self._command = [sys.executable, "-W", "ignore", "-m", *arguments]
        self._log = log
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, cwd=ROOT)
        self.signal, self.status, self.pid = self._process.send_signal, self._process.poll, self._process.pid

    def kill(self) -> None:
        """Kill it; may be called twice."""
        self._process.kill()
        self._process.wait()

    def wait(self, seconds: float) -> int | None:
        """Its exit status, once it has ended in time."""
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(seconds)
        return None


class World:
    """All of it, running. `slack`: how many times longer everything may take."""

    def __init__(
        self, folder: Path, buses: Mapping[str, PrivateBus], stores: Mapping[str, Xenstored], slack: float
    ) -> None:
        self.folder = folder
        self.slack = slack
        self.buses = buses
        self.store, self.guests = stores["store"], stores["guests"]
        self.log = folder / "gateway.log"
        self.history = folder / "history"  # of harm
        (folder / "mappings").mkdir()
        (folder / "mappings/soak.xml").write_text(service.IDL)
        for name in HOMES:
            self.write_mapping(name)
            self._write(name, f"{name}-store", STORE + METHODS)
        for name, text in BESIDE.items():
            self._write(name, name, text)
        places = {name: bus.address for name, bus in buses.items()}
        places |= {name: str(store.path) for name, store in stores.items()}
        (folder / "gateway.toml").write_text(CONFIG.format(folder=folder, **places))
        self.services = {
            name: self._start(name, "service", buses[bus].address, f"org.example.{bus}.{name}", f"{name}.journal")
            for name, bus in {**HOMES, **dict.fromkeys(BESIDE, QUIET)}.items()
        }
        self.old = self._start("old", "old", str(folder / "old"), f"{MOVED}.old-journal")
        self.gateway = Process(self.log, "gateway", "run", "--config", str(folder / "gateway.toml"))
        self.reports = {kind: folder / f"{kind}.healthy" for kind in ("http", "guests")}
        self.tcp = ""
        self.shared = ""  # the listener of the healthy client, and of those that trouble it
        self.hostile = f"unix:{folder}/hostile"  # the listener with small limits

    def _start(self, name: str, module: str, *arguments: str) -> Process:
        *others, journal = arguments
        return Process(self.folder / f"{name}.log", f"tests.soak.{module}", *others, str(self.folder / journal))

    def kill(self) -> None:
        """End every process."""
        for each in (self.gateway, self.old, *self.services.values()):
            each.kill()

    @asynccontextmanager
    async def healthy_clients(self) -> AsyncIterator[None]:
        """One over HTTP and one in a store: they call when the block begins, until it ends."""
        where = {"http": self.shared, "guests": f"{self.guests.path}:/guests"}
        log = self.folder / "healthy.log"
        running = [
            Process(log, "tests.soak.healthy", kind, where[kind], str(report), str(self.slack))
            for kind, report in self.reports.items()
        ]
        try:
            async with asyncio.timeout(START_TIMEOUT):
                while not all(report.exists() and report.stat().st_size for report in self.reports.values()):
                    assert all(process.status() is None for process in running), log.read_text()
                    await asyncio.sleep(0.05)
            yield
        finally:
            for process in running:
                process.signal(signal.SIGTERM)
            for process in running:
                assert await asyncio.to_thread(process.wait, START_TIMEOUT * self.slack) == 0, log.read_text()

    def journals(self, name: str) -> list[Path]:
        """Return the journals of a service, and of its legacy service."""
        return [*self.folder.glob(f"{name}.*journal")]

    def write_mapping(self, name: str, more: str = "") -> None:
        """The mapping file of a service, and a line or two more."""
        self._write(name, name, SOCKETS + METHODS, more)

    def _write(self, name: str, file: str, rest: str, more: str = "") -> None:
        text = (HEAD + rest).format(
            name=name,
            file=file,
            legacy="legacy: {upstream: old}\n" if name == MOVED else "",
            bus=HOMES.get(name, QUIET),
            service=service,
            timeout="20s" if name == CALM else "3s" if name in HOMES else f"{20 * self.slack:g}s",
            TREE=TREE,
        )
        (self.folder / f"mappings/{file}.yaml").write_text(text + more)

    async def control(self, verb: str, path: str, document: object = None) -> tuple[int, Any]:
        """Ask the gateway's operator socket."""
        return await ask(
            self.folder / "control", verb, path, None if document is None else json.dumps(document).encode()
        )

    async def answers(self, name: str) -> bool:
        """Whether a service is reached now, through the gateway."""
        document = {"method": f"{name}.read", "params": ["probe"], "listener": "rpc", "path": "/jsonrpc"}
        _, answer = await self.control("POST", "/v1/call", document)
        return bool(answer.get("value") == f"{name}:probe")

    async def back(self, *names: str) -> str:
        """Wait until these services are reached, and a moment more; what is wrong when one is not."""

        async def all_answer() -> bool:
            return all([await self.answers(name) for name in names])

        return await self._until(all_answer, f"{', '.join(names)}: not reached")

    async def _until(self, holds: Callable[[], Awaitable[bool]], problem: str) -> str:
        end = time.monotonic() + BACK_TIMEOUT * min(self.slack, MOST_SLACK)
        while not await holds():
            if time.monotonic() > end:
                return f"{problem} within {BACK_TIMEOUT:g} s, with nothing in the way"
            await asyncio.sleep(0.1)
        await asyncio.sleep(SETTLE)
        return ""

    async def _listening(self) -> list[str]:
        """Its addresses on TCP; none as long as it has bound its sockets at most."""
        with suppress(OSError):  # aiohttp's, of a socket that is not there or takes nobody in yet
            _, status = await self.control("GET", "/v1/status")
            return [address for address in status["listening"] if address.startswith("tcp:")]
        return []

    async def old_is_back(self) -> str:
        """Wait until the legacy service takes connections; what is wrong when it does not."""

        async def listens() -> bool:
            return bool(starting.listens(self.folder / "old"))

        return await self._until(listens, "the legacy service did not come back")

    async def store_is_back(self) -> str:
        """Wait until the gateway has found the store again; what is wrong when it does not."""

        async def found() -> bool:
            _, status = await self.control("GET", "/v1/status")
            return all(store["connected"] for store in status["stores"])

        return await self._until(found, "the store was not found again")

    async def ready(self) -> None:
        """Wait until the gateway answers, and every service through it."""
        async with asyncio.timeout(START_TIMEOUT):
            while not self.tcp:
                assert self.gateway.status() is None, self.log.read_text()
                await asyncio.sleep(0.05)
                if found := await self._listening():
                    self.tcp, self.shared = found
        problem = await self.back(*HOMES) or await self.old_is_back() or await self.store_is_back()
        assert not problem, problem


@asynccontextmanager
async def world(folder: Path, slack: float) -> AsyncIterator[World]:
    """Start everything; it is ready when the block begins, and gone after it."""
    with ExitStack() as stack:
        buses = {name: stack.enter_context(private_bus(limits=LIMITS)) for name in (*BUSES, QUIET)}
        stores = {name: stack.enter_context(xenstored(name=store)) for name, store in STORES.items()}
        running = World(folder, buses, stores, slack)
        stack.callback(running.kill)
        await running.ready()
        yield running
