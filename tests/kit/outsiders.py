"""D-Bus services that no one here wrote, on a private bus: real ones from Debian, and the templates of python-dbusmock.

`scripts/outsiders` unpacks them. A real service runs as root in a mount and network namespace of its own, where its
files lie over those of the machine, and what it writes is lost: it changes neither the machine nor its network.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from dbus_fast import Message, MessageType
from dbus_fast.aio import MessageBus

from gateway.core.dbus import introspection_xml
from gateway.core.dbus.introspection_xml import IdlProperty, Interface
from gateway.core.dbus.signature import parse_one
from tests.kit.buses import private_bus
from tests.kit.cases import present

UNPACKED = Path(__file__).parents[2] / ".venv" / "outsiders"
PYTHON = "/usr/bin/python3"  # Debian's, which has the modules `dbus` and `gi`
TIMEOUT = 60.0  # seconds until a service has its name
MOST = 400  # objects of a service that are looked at

_ENTER = f"""\
root={UNPACKED}/root
mount -t overlay outsiders -o lowerdir="$root/usr:/usr" /usr
mount -t overlay outsiders -o lowerdir="$root/etc:/etc" /etc
mount -t tmpfs outsiders /run
mount -t tmpfs outsiders /var/lib
exec "$@"
"""


@dataclass(frozen=True, slots=True)
class Outsider:
    """A service. `mock`: a template of python-dbusmock; else `command` runs the real one.

    `activated`: it ends when nobody has called it for a while, and the bus starts it for the next call.
    """

    bus_name: str
    command: Sequence[str] = ()
    mock: str = ""
    below: str = "/"  # where its objects are
    activated: bool = False


REAL: Mapping[str, Outsider] = {
    "libvirt": Outsider("org.libvirt", ["/usr/sbin/libvirt-dbus", "--session"], below="/org/libvirt/Test"),
    "hostnamed": Outsider("org.freedesktop.hostname1", ["/lib/systemd/systemd-hostnamed"], activated=True),
    "timedated": Outsider("org.freedesktop.timedate1", ["/lib/systemd/systemd-timedated"], activated=True),
    "upowerd": Outsider("org.freedesktop.UPower", ["/usr/libexec/upowerd"]),
    "accounts": Outsider("org.freedesktop.Accounts", ["/usr/libexec/accounts-daemon"]),
    "udisks": Outsider("org.freedesktop.UDisks2", ["/usr/libexec/udisks2/udisksd"]),
    "avahi": Outsider(
        "org.freedesktop.Avahi", ["/usr/sbin/avahi-daemon", "--no-drop-root", "--no-chroot", "--no-rlimits"]
    ),
    "firewalld": Outsider("org.fedoraproject.FirewallD1", ["/usr/sbin/firewalld", "--nofork", "--nopid"]),
    "colord": Outsider("org.freedesktop.ColorManager", ["/usr/libexec/colord"]),
}
MOCKED: Mapping[str, Outsider] = {
    "bluez5": Outsider("org.bluez", mock="bluez5"),
    "networkmanager": Outsider("org.freedesktop.NetworkManager", mock="networkmanager"),
    "upower": Outsider("org.freedesktop.UPower", mock="upower"),
    "modemmanager": Outsider("org.freedesktop.ModemManager1", mock="modemmanager"),
    "logind": Outsider("org.freedesktop.login1", mock="logind"),
}
OUTSIDERS = {**REAL, **MOCKED}


@cache
def why_not(name: str) -> str:
    """Why this outsider cannot run here; empty when it can."""
    outsider = OUTSIDERS[name]
    if not (UNPACKED / "root/usr").is_dir():
        return "the packages are not here: run scripts/outsiders"
    if outsider.mock:
        found = (UNPACKED / f"python/dbusmock/templates/{outsider.mock}.py").exists()
        return "" if found and _runs([PYTHON, "-c", "import dbus, gi"]) else "there is no python-dbusmock for it here"
    if not _runs(_entered(["test", "-x", outsider.command[0]])):
        return f"{outsider.command[0]} is not here, or this user may not make a namespace for it"
    return ""


def _runs(command: Sequence[str]) -> bool:
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode == 0


def _entered(command: Sequence[str]) -> list[str]:
    return ["unshare", "--mount", "--net", "sh", "-ec", _ENTER, "sh", *command]


@dataclass(slots=True)
class Running:
    """A service that runs, and a way to ask it without the gateway."""

    name: str
    bus_name: str
    address: str
    interfaces: dict[str, Interface] = field(default_factory=dict)  # with what all their objects have
    paths: dict[str, list[str]] = field(default_factory=dict)  # interface -> its objects
    made: list[str] = field(default_factory=list)  # objects that a test has made

    def direct(self, path: str, member: str, signature: str = "", *args: object) -> Any:
        """Call `interface.Member` and return one out-argument, a list of several, or the error as a Message."""

        async def ask() -> Message:
            async with self._connected() as call:
                return await call(path, member, signature, *args)

        reply = asyncio.run(ask())
        if reply.message_type is MessageType.ERROR:
            return reply
        return reply.body[0] if len(reply.body) == 1 else reply.body

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Callable[..., Awaitable[Message]]]:
        """A connection to the bus, as a function that calls the service."""
        bus = await MessageBus(bus_address=self.address).connect()

        async def call(path: str, member: str, signature: str = "", *args: object) -> Message:
            interface, _, name = member.rpartition(".")
            message = Message(self.bus_name, path, interface, name, signature=signature, body=list(args))
            return present(await asyncio.wait_for(bus.call(message), TIMEOUT))

        try:
            yield call
        finally:
            bus.disconnect()
            await bus.wait_for_disconnect()  # type: ignore[no-untyped-call]  # theirs

    def make(self, path: str, member: str, signature: str = "", *args: object) -> None:
        """Have the service make an object, whose path it returns. Not every service lists it then."""
        made = self.direct(path, member, signature, *args)
        assert not isinstance(made, Message), made.body
        self.made.append(str(made if isinstance(made, str) else made[0]))

    def look(self) -> None:
        """Look at the interfaces and objects that the service has now."""
        asyncio.run(self._look())

    async def _look(self) -> None:
        seen: set[str] = set()
        waiting = deque([OUTSIDERS[self.name].below, *self.made])
        async with self._connected() as call:
            while waiting and len(seen) < MOST:
                path = waiting.popleft()
                reply = await call(path, "org.freedesktop.DBus.Introspectable.Introspect")
                if path not in seen and reply.message_type is MessageType.METHOD_RETURN:
                    node = introspection_xml.parse(str(reply.body[0]))
                    waiting.extend(node.below(path))
                    for interface in node.interfaces.values():
                        await self._add(call, path, interface)
                seen.add(path)

    async def _add(self, call: Callable[..., Awaitable[Message]], path: str, interface: Interface) -> None:
        """Add an object. A mock does not list the properties of an interface: their values tell the types."""
        known = self.interfaces.setdefault(interface.name, interface)
        known.methods.update(interface.methods)
        known.properties.update(interface.properties)
        self.paths.setdefault(interface.name, []).append(path)
        if OUTSIDERS[self.name].mock and not interface.name.startswith("org.freedesktop.DBus."):
            reply = await call(path, "org.freedesktop.DBus.Properties.GetAll", "s", interface.name)
            if reply.message_type is MessageType.METHOD_RETURN:
                types = {name: parse_one(value.signature) for name, value in reply.body[0].items()}
                known.properties.update({name: IdlProperty(name, kind, "read") for name, kind in types.items()})


# The bus tells its address to a program that it starts. The number of each process is noted, to end it with the test.
_START = """\
#!/bin/sh
echo $$ >>{folder}/started
export DBUS_SYSTEM_BUS_ADDRESS="$DBUS_STARTER_ADDRESS" LC_ALL=C.UTF-8
exec {command}
"""
_SERVICE = "[D-BUS Service]\nName={name}\nExec={folder}/start\n"


@contextmanager
def outsider(name: str) -> Iterator[Running]:
    """Run this service on a bus of its own; skips the test, with the reason, where it cannot run."""
    reason = why_not(name)
    if reason:
        pytest.skip(f"{name}: {reason}")
    chosen = OUTSIDERS[name]
    run = _activated if chosen.activated else _run
    with run(chosen) as (address, process):
        running = Running(name, chosen.bus_name, address)
        _wait_for_name(running, process)
        yield running


@contextmanager
def _run(chosen: Outsider) -> Iterator[tuple[str, subprocess.Popen[bytes] | None]]:
    """Run a service for the whole test; yields the address of its bus, and its process."""
    with private_bus() as bus:
        told = dict.fromkeys(("DBUS_SYSTEM_BUS_ADDRESS", "DBUS_SESSION_BUS_ADDRESS"), bus.address)
        environment = {**os.environ, **told, "LC_ALL": "C.UTF-8"}
        command = _entered(chosen.command)
        if chosen.mock:
            environment["PYTHONPATH"] = str(UNPACKED / "python")
            command = [PYTHON, "-m", "dbusmock", "--system", "--template", chosen.mock]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield bus.address, process
        finally:
            process.kill()
            process.wait()


@contextmanager
def _activated(chosen: Outsider) -> Iterator[tuple[str, subprocess.Popen[bytes] | None]]:
    """A bus that starts the service whenever it is called."""
    with tempfile.TemporaryDirectory(prefix="activated-") as directory:
        folder = Path(directory)
        start = folder / "start"
        start.write_text(_START.format(folder=folder, command=shlex.join(_entered(chosen.command))))
        start.chmod(0o755)
        (folder / "outsider.service").write_text(_SERVICE.format(name=chosen.bus_name, folder=folder))
        with private_bus(activation=folder) as bus:
            try:
                yield bus.address, None
            finally:
                _end((folder / "started").read_text().split() if (folder / "started").exists() else ())


def _end(started: Iterable[str]) -> None:
    """Kill the processes that the bus has started and that have not ended by themselves."""
    for pid in started:
        with suppress(OSError):  # it has ended, or is a zombie
            if str(UNPACKED) in Path(f"/proc/{pid}/mounts").read_text():
                os.kill(int(pid), signal.SIGKILL)


def _wait_for_name(running: Running, process: subprocess.Popen[bytes] | None) -> None:
    """Ping the service until it answers."""
    until = time.monotonic() + TIMEOUT
    while True:
        answer = running.direct("/", "org.freedesktop.DBus.Peer.Ping")
        if not isinstance(answer, Message) or answer.error_name == "org.freedesktop.DBus.Error.UnknownMethod":
            return
        ended = None if process is None else process.poll()
        assert ended is None, f"{running.name} ended with {ended}"
        assert time.monotonic() < until, f"{running.name} has not taken {running.bus_name}: {answer.body}"
        time.sleep(0.05)


# What a service has only when it is told to

MOCK = "org.freedesktop.DBus.Mock"
NM, UPOWER, COLOR = (f"/org/freedesktop/{name}" for name in ("NetworkManager", "UPower", "ColorManager"))
OBJECTS: Mapping[str, list[tuple[Any, ...]]] = {
    "bluez5": [
        ("/", "org.bluez.Mock.AddAdapter", "ss", "hci0", "my-computer"),
        ("/", "org.bluez.Mock.AddDevice", "sss", "hci0", "11:22:33:44:55:66", "phone"),
    ],
    "networkmanager": [
        (NM, f"{MOCK}.AddEthernetDevice", "ssi", "mock_eth0", "eth0", 100),
        (NM, f"{MOCK}.AddWiFiDevice", "ssi", "mock_wlan0", "wlan0", 100),
    ],
    "upower": [
        (UPOWER, f"{MOCK}.AddAC", "ss", "mock_AC", "Mock AC"),
        (UPOWER, f"{MOCK}.AddChargingBattery", "ssdx", "mock_BAT", "Mock", 30.0, 1200),
    ],
    "modemmanager": [("/org/freedesktop/ModemManager1", f"{MOCK}.AddSimpleModem")],
    "logind": [("/org/freedesktop/login1", f"{MOCK}.AddSession", "ssusb", "c1", "seat0", 500, "joe", True)],
    "colord": [(COLOR, "org.freedesktop.ColorManager.CreateDevice", "ssa{ss}", "first", "normal", {"Kind": "printer"})],
}


@contextmanager
def prepared(name: str) -> Iterator[Running]:
    """Run a service that has objects, and look at them."""
    with outsider(name) as service:
        for made in OBJECTS.get(name, ()):
            service.make(*made)
        service.look()
        yield service
