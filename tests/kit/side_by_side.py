"""Legacy and new services side by side, a gateway before them, and clients of three protocols that keep calling.

All are real processes. Which side served a call is known from the services: the legacy ones record each call, and so
does the proxy between the gateway and the new ones.
"""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import jsonrpclib
import XenAPI

from demo.xenstore_clients import Squeezed
from gateway.core.dbus.names import unescape_path_element
from gateway.core.migration.modes import BUCKETS
from gateway.core.routing.policy import bucket
from tests.kit.admin import ask
from tests.kit.bus_proxy import BusProxy, bus_proxy
from tests.kit.buses import private_bus
from tests.kit.command import succeed
from tests.kit.gateway import RPC, STORE, TOOLSTACK, Process, configured, ship
from tests.kit.programs import TIMEOUT
from tests.kit.stores import Xenstored, xenstored
from tests.kit.toolstack import Toolstack, Twin, squeezed_over_xenstore, twin

LEAST = 12  # VMs, and so many more that a tenth of all keys is two of them

CONFIG = """\
[upstream.xapi]
url = "{xapi}"
dialect = "xenapi"
speaks = ["jsonrpc"]
[upstream.xenopsd]
url = "{xenopsd}"
codec = "jsonrpc1"
dialect = "xapi_idl"
keepalive = false
arguments = "named"
[upstream.squeezed]
url = "{squeezed}"
store = "{store}"
codec = "xenstore"
[state]
file = "state.db"
"""

Sides = dict[str, set[str]]  # group -> about which keys it was asked


@dataclass
class Clients:
    """Threads that call until `stop`. `faults`: the client, the key and the fault."""

    calls: dict[str, int] = field(default_factory=dict)
    faults: list[tuple[str, str, str]] = field(default_factory=list)
    close: ExitStack = field(default_factory=ExitStack)
    _rounds: dict[str, int] = field(default_factory=dict)
    _threads: list[threading.Thread] = field(default_factory=list)
    _stopping: threading.Event = field(default_factory=threading.Event)

    def start(self, name: str, things: Sequence[str], call: Callable[[str], object]) -> None:
        self.calls[name] = 0
        self._rounds[name] = len(things)
        thread = threading.Thread(target=self._run, args=(name, things, call), name=name)
        self._threads.append(thread)
        thread.start()

    def after(self, rounds: int) -> dict[str, int]:
        """Return the number of calls of each after the present one and `rounds` more rounds."""
        return {name: made + 1 + rounds * self._rounds[name] for name, made in self.calls.items()}

    def stop(self) -> None:
        """Let each finish its call."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(TIMEOUT)
        self.close.close()

    def _run(self, name: str, things: Sequence[str], call: Callable[[str], object]) -> None:
        for thing in cycle(things):
            if self._stopping.wait(0.002):  # seconds between two calls of a client
                return
            try:
                call(thing)
            except Exception as fault:  # noqa: BLE001 - whatever a client is told
                self.faults.append((name, thing, f"{type(fault).__name__} {fault}"))
            self.calls[name] += 1


class Asked(NamedTuple):
    """The number of calls that the services had seen at a moment."""

    old: int
    new: int


BEFORE = Asked(0, 0)


@dataclass
class World:
    """Everything that runs. `vms`, `domains`, `sessions`: the keys of the calls."""

    folder: Path
    process: Process
    new: BusProxy
    old: dict[str, Twin]
    store: Xenstored
    vms: list[str] = field(default_factory=list)
    domains: list[str] = field(default_factory=lambda: [str(uuid.UUID(int=number)) for number in range(1, 13)])
    sessions: list[str] = field(default_factory=lambda: [f"story-{number}" for number in range(1, 13)])
    clients: Clients = field(default_factory=Clients)

    @property
    def url(self) -> str:
        """The address for clients."""
        return self.process.url

    @property
    def keys(self) -> Sides:
        return {"vms": set(self.vms), "domains": set(self.domains), "memory": set(self.sessions)}

    async def command(self, *arguments: str) -> str:
        """Run a command of xcp-gateway, which must succeed; return its output."""
        return await asyncio.to_thread(succeed, *arguments, socket=self.folder / "control")

    async def get(self, path: str) -> Any:
        """Return an answer of the admin API."""
        status, answer = await ask(self.folder / "control", "GET", path)
        assert status == 200, answer
        return answer

    async def rounds(self, number: int = 1) -> None:
        """Wait until every client has called with each of its keys this often, from beginning to end."""
        ends = self.clients.after(number)

        async def done() -> bool:
            return all(self.clients.calls[name] >= end for name, end in ends.items())

        await until(done)

    def asked(self) -> Asked:
        """Return the present moment."""
        return Asked(sum(len(each.called()) for each in self.old.values()), len(self.new.called()))

    def sides(self, since: Asked = BEFORE) -> tuple[Sides, Sides]:
        """Return the calls of the legacy and of the new services since then."""
        calls = sorted((call for each in self.old.values() for call in each.called()), key=lambda call: call["when"])
        return _by_group(map(asked_old, calls[since.old :])), _by_group(map(asked_new, self.new.called()[since.new :]))


About = tuple[str, str] | None  # group and key of a call; None: of no group


def nothing() -> Sides:
    """Return no call of any group."""
    return {"vms": set(), "domains": set(), "memory": set()}


def _by_group(calls: Iterable[About]) -> Sides:
    sides = nothing()
    for about in calls:
        if about is not None:
            sides[about[0]].add(about[1])
    return sides


def asked_old(call: dict[str, Any]) -> About:
    """Return group and key of a call of a legacy service."""
    match call["method"], call["params"]:
        case "VM.get_record" | "VM.get_power_state", [_, vm]:
            return "vms", vm
        case "VM.stat", [{"id": domain}]:
            return "domains", domain
        case "reserve_memory" | "delete_reservation", [_, session, _]:
            return "memory", session
    return None


def asked_new(call: dict[str, Any]) -> About:
    """Return group and key of a call of a new service."""
    service, *rest = call["path"].removeprefix("/org/xen/xcp/").split("/")
    match service, rest, call["member"]:
        case "xapi", ["vm", vm], _:
            return "vms", unescape_path_element(vm)
        case "xenopsd", [], "StatRecord":
            return "domains", call["body"][0]
        case "squeezed", [], "ReserveMemory" | "DeleteReservation":
            return "memory", call["body"][0]
    return None


def share(group: str, keys: Iterable[str], percent: int) -> set[str]:
    """Return the keys that D-Bus serves at this share."""
    return {key for key in keys if bucket(group, key) < percent * BUCKETS // 100}


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait for a state that other processes and threads reach, each at its own pace."""
    async with asyncio.timeout(4 * TIMEOUT):
        while True:
            if await holds():
                return
            await asyncio.sleep(0.02)


@asynccontextmanager
async def two_sides(folder: Path, said: dict[str, str]) -> AsyncIterator[World]:
    """The sample toolstack, legacy services, a gateway and clients. `said`: migration keys for each mapping file."""
    async with Toolstack() as toolstack:
        with ExitStack() as stack:
            store = stack.enter_context(xenstored())
            bus = stack.enter_context(private_bus())
            names = (f"org.xen.xcp.{name}" for name in ("xapi", "xenopsd", "squeezed"))
            new = stack.enter_context(bus_proxy(bus.address, toolstack.address, folder, *names))
            over_xenstore = squeezed_over_xenstore(toolstack.address, Path(store.path), folder, root="/old")
            old = {
                "xapi": stack.enter_context(twin("xapi", toolstack.address, folder)),
                "xenopsd": stack.enter_context(twin("xenopsd", toolstack.address, folder, json=True)),
                "squeezed": stack.enter_context(over_xenstore),
            }
            urls = {name: each.url for name, each in old.items()}
            _write_mappings(folder, said)
            config = TOOLSTACK + RPC + STORE + CONFIG
            process = stack.enter_context(configured(folder, config, bus=bus.address, store=store.path, **urls))
            world = World(folder, process, new, old, store)
            stack.callback(world.clients.stop)
            await asyncio.to_thread(_people, world)
            yield world


def _write_mappings(folder: Path, said: dict[str, str]) -> None:
    """Write the shipped files with these migration keys; all methods begin at the legacy service."""
    ship(folder, *said, defaults="mode: legacy")
    for name, text in said.items():
        file = folder / f"mappings/{name}.yaml"
        shipped = file.read_text()
        changed = shipped.replace("\ndefaults: {", f"\n{text}\ndefaults: {{")
        if "\nlegacy: " not in shipped:
            changed = changed.replace("\ndbus:", "\nlegacy: {upstream: squeezed}\ndbus:")
        file.write_text(changed)


def _people(world: World) -> None:
    """VMs, and clients that ask about them: PyPI's XenAPI and jsonrpclib, and the squeezed client of 2009 with pyxs."""
    session = XenAPI.Session(world.url)
    api = session.xenapi
    json = jsonrpclib.ServerProxy(f"{world.url}/jsonrpc")
    domains = [jsonrpclib.ServerProxy(f"{world.url}/xenopsd/jsonrpc") for _ in range(4)]
    for each in (session, json, *domains):
        world.clients.close.callback(each("close"))
    api.login_with_password("root", "xenroot", "1.0", "story")
    told = session._session
    while len(world.vms) < LEAST or len(share("vms", world.vms, 10)) < 2:
        world.vms.append(api.VM.create({"name_label": f"story {len(world.vms)}", "memory_static_max": "1073741824"}))
    memory = dict.fromkeys(("memory_static_max", "memory_dynamic_max", "memory_dynamic_min"), 2**20)
    for domain in world.domains:
        vm = {"id": domain, "name": domain, "vcpu_max": 1, "vcpus": 1, "platformdata": {}, **memory}
        domains[0].VM.add(debug_info="story", vm=vm)
    clients = world.clients
    clients.start("XML-RPC", world.vms, lambda vm: (api.VM.get_record(vm), api.VM.get_power_state(vm)))
    clients.start("JSON-RPC", world.vms, lambda vm: (json.VM.get_power_state(told, vm), json.VM.get_record(told, vm)))
    for number, each in enumerate(domains):  # where one waits for a slow answer, the others go on
        clients.start(f"xenopsd {number}", world.domains[number :: len(domains)], partial(_stat, each))
    clients.start("xenstore", world.sessions, _reserving(world.store.path))


def _stat(domains: Any, domain: str) -> object:
    return domains.VM.stat(debug_info="story", id=domain)


def _reserving(path: str) -> Callable[[str], object]:
    """Reserve memory and give it back; each session logs in before its first time."""
    known: set[str] = set()

    def reserve(session: str) -> object:
        with Squeezed(path) as squeezed:
            if session not in known:
                known.add(squeezed.call("login", service_name=session)["session_id"])
            made = squeezed.call("reserve-memory", session_id=session, kib="4")
            return squeezed.call("delete-reservation", session_id=session, reservation_id=made["reservation_id"])

    return reserve
