"""The sample toolstack for tests: a bus, services started on demand, a client; and its legacy services as processes."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, NamedTuple, Self

from dbus_fast import Message, MessageType
from dbus_fast.aio import MessageBus

from tests.kit.programs import ROOT, TIMEOUT, json_lines, speaking

SERVICES = ("xapi", "xenopsd", "storage", "squeezed", "networkd", "perfmon")
BUS = "org.freedesktop.DBus"
BUS_PATH = "/org/freedesktop/DBus"


def load(path: Path) -> ModuleType:
    """Import a program by its path."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


render = load(ROOT / "docker/bus/render.py")


class Refusal(NamedTuple):
    """A D-Bus error."""

    name: str
    body: list[Any]


class Client:
    """One connection to the bus."""

    def __init__(self, bus: MessageBus) -> None:
        self.bus = bus

    async def answer(self, service: str, path: str, member: str, signature: str = "", *args: Any) -> Message:
        """Call `Interface1.Member` of a service and return the reply message.

        Short forms, with "xapi": "vm/x" is /org/xen/xcp/xapi/vm/x, "VM1.Start" is org.xen.xcp.xapi.VM1.Start.
        """
        interface, _, name = member.rpartition(".")
        call = Message(
            destination=service if "." in service else f"org.xen.xcp.{service}",
            path=path if path.startswith("/") else f"/org/xen/xcp/{service}/{path}".rstrip("/"),
            interface=interface if "." in interface else f"org.xen.xcp.{service}.{interface}",
            member=name,
            signature=signature,
            body=list(args),
        )
        reply = await asyncio.wait_for(self.bus.call(call), TIMEOUT)
        assert reply is not None
        return reply

    async def call(self, service: str, path: str, member: str, signature: str = "", *args: Any) -> Any:
        """Make a call that must succeed; return None, one out-argument, or a list of them."""
        reply = await self.answer(service, path, member, signature, *args)
        assert reply.message_type is MessageType.METHOD_RETURN, (reply.error_name, reply.body)
        return reply.body[0] if len(reply.body) == 1 else reply.body or None

    async def refusal(self, service: str, path: str, member: str, signature: str = "", *args: Any) -> Refusal:
        """Make a call that must fail; return the error."""
        reply = await self.answer(service, path, member, signature, *args)
        assert reply.message_type is MessageType.ERROR, reply.body
        return Refusal(str(reply.error_name).removeprefix("org.xen.xcp.Error."), reply.body)

    async def get(self, service: str, path: str, interface: str, name: str) -> Any:
        full = f"org.xen.xcp.{service}.{interface}" if "." not in interface else interface
        variant = await self.call(service, path, "org.freedesktop.DBus.Properties.Get", "ss", full, name)
        return variant.value

    async def ask_bus(self, member: str, signature: str = "", *args: Any) -> Any:
        """The result of a call to the bus itself."""
        return await self.call(BUS, BUS_PATH, f"{BUS}.{member}", signature, *args)

    @asynccontextmanager
    async def signals(self, rule: str) -> AsyncIterator[asyncio.Queue[Message]]:
        """The signals that match, from now on."""
        queue: asyncio.Queue[Message] = asyncio.Queue()
        member = rule.partition("member='")[2].partition("'")[0]

        def receive(message: Message) -> None:
            if message.message_type is MessageType.SIGNAL and message.member == member:
                queue.put_nowait(message)

        self.bus.add_message_handler(receive)
        await self.ask_bus("AddMatch", "s", rule)
        yield queue
        self.bus.remove_message_handler(receive)


class Toolstack:
    """`async with Toolstack() as toolstack:` the bus listens at `address`; the services start when they are called.

    Options are those of render.Bus: the users, the interpreter.
    """

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._directory = Path()
        self._daemon: subprocess.Popen[str] | None = None
        self.address = ""

    async def __aenter__(self) -> Self:
        self._directory = Path(tempfile.mkdtemp(prefix="toolstack-"))
        self._directory.chmod(0o755)  # the policy of the bus decides who may connect
        self._start_bus()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._stop_bus()
        finally:
            shutil.rmtree(self._directory)

    def _start_bus(self) -> None:
        bus = render.render(render.Bus(self._directory, **self._options))
        if bus.switch_user:
            shutil.chown(self._directory, bus.toolstack_user)  # this user creates the socket
        # A session of its own identifies all processes below it.
        with (self._directory / "log").open("w") as log:
            self._daemon = subprocess.Popen(
                [*bus.command, "--nosyslog"], stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
            )
        assert self._daemon.stdout is not None
        with self._daemon.stdout as said:
            self.address = said.readline().strip()
        if not self.address:
            self._daemon.wait(TIMEOUT)
            raise AssertionError(self.log)

    async def _stop_bus(self) -> None:
        assert self._daemon is not None
        members = _session(self._daemon.pid)
        self._daemon.terminate()
        self._daemon.wait(TIMEOUT)
        try:
            for pid in members:
                await _ended(pid)
        finally:
            for pid in _session(self._daemon.pid):
                os.kill(pid, signal.SIGKILL)

    async def restart_bus(self) -> None:
        """End the bus and all services, and start it again at the same address; services lose their state."""
        await self._stop_bus()
        self._start_bus()

    @property
    def env(self) -> Mapping[str, str]:
        """An environment in which dbus-send, busctl and the like find the bus as the session bus."""
        return {**os.environ, "DBUS_SESSION_BUS_ADDRESS": self.address}

    @property
    def log(self) -> str:
        """Return what the bus and the services printed."""
        return (self._directory / "log").read_text()

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """A connection to the bus."""
        bus = await MessageBus(bus_address=self.address).connect()
        try:
            yield Client(bus)
        finally:
            bus.disconnect()
            await bus.wait_for_disconnect()  # type: ignore[no-untyped-call] # of the library

    async def pid(self, service: str) -> int:
        """Return the process id of a service."""
        async with self.client() as client:
            return int(await client.ask_bus("GetConnectionUnixProcessID", "s", f"org.xen.xcp.{service}"))

    async def kill(self, service: str) -> None:
        """Kill a service and wait until the bus has noticed."""
        name = f"org.xen.xcp.{service}"
        rule = f"type='signal',sender='{BUS}',member='NameOwnerChanged',arg0='{name}'"
        async with self.client() as client, client.signals(rule) as changes:
            os.kill(await client.ask_bus("GetConnectionUnixProcessID", "s", name), signal.SIGKILL)
            change = await asyncio.wait_for(changes.get(), TIMEOUT)
            assert change.body[2] == "", change.body

    async def start(self, service: str) -> None:
        """Start a service now, and wait until it owns its name."""
        async with self.client() as client:
            await client.ask_bus("StartServiceByName", "su", f"org.xen.xcp.{service}", 0)

    async def restart(self, service: str) -> None:
        """Kill a service and start a new instance, without state."""
        await self.kill(service)
        await self.start(service)


def _session(leader: int) -> list[int]:
    """The processes of a session, without its leader; those that ended and were not waited for do not count."""
    members = []
    for entry in Path("/proc").iterdir():
        with suppress(ValueError, OSError):
            pid = int(entry.name)
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            if pid != leader and os.getsid(pid) == leader and state != "Z":
                members.append(pid)
    return members


async def _ended(pid: int) -> None:
    """Wait until a process has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, ended.set)
    try:
        await asyncio.wait_for(ended.wait(), TIMEOUT)
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


# Legacy services

PROGRAM = ROOT / "docker/toolstack/legacy_twin.py"


@dataclass(frozen=True)
class Twin:
    """One legacy service. `url`: for the config of a gateway."""

    process: subprocess.Popen[str]
    url: str
    file: Path
    calls: Path

    def called(self) -> list[dict[str, Any]]:
        """Return every call so far: time, method, parameters."""
        return json_lines(self.calls)

    def switch(self, **rules: Any) -> None:
        """Set its faults from the next call on: method or pattern -> fault; none: no faults."""
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps(rules))
        new.replace(self.file)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(TIMEOUT)


@contextmanager
def twin(
    service: str, bus: str, directory: Path, *, tcp: bool = False, port: int = 0, json: bool = False
) -> Iterator[Twin]:
    """Run one beside the D-Bus services on this bus until the block ends; `port` 0 is any free one."""
    listen = f"tcp:127.0.0.1:{port}" if tcp else f"unix:{directory / f'old-{service}'}"
    with _twin(service, bus, directory / f"old-{service}", "--listen", listen, *(["--json"] if json else [])) as made:
        yield made


@contextmanager
def squeezed_over_xenstore(bus: str, store: Path, directory: Path, root: str = "/squeezed") -> Iterator[Twin]:
    """Run squeezed as of 2009, which has no socket and serves a xenstore."""
    with _twin("squeezed", bus, directory / "old-store", "--store", str(store), "--root", root) as made:
        yield made


@contextmanager
def _twin(service: str, bus: str, files: Path, *options: str) -> Iterator[Twin]:
    file, calls = files.with_suffix(".json"), files.with_suffix(".calls")
    command = [sys.executable, str(PROGRAM), service, "--address", bus, "--switches", str(file), "--calls", str(calls)]
    with speaking(*command, *options) as (process, listening):
        yield Twin(process, listening.replace("tcp:", "http://").replace("unix:", "http+unix://"), file, calls)
