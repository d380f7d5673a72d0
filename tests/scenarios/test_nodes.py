"""What services tell by signals stands in a real xenstore, and what is written there reaches them: each change once.

A real gateway stands between the sample toolstack and xenstored; Debian's xenstore-watch, -write and -chmod are the
other side. Any of the three is killed in between.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from shutil import copytree

import pytest
from dbus_fast import Message, Variant

from adapters.xenstore.client.client import XenstoreClient
from gateway.core.routing.publication import Content, RelatedNode
from tests.kit.gateway import REST, Process, gateway_process
from tests.kit.programs import ROOT, TIMEOUT
from tests.kit.stores import BOTH, C_STORE, Xenstored, connected, until, xenstored
from tests.kit.toolstack import Client, Toolstack

pytestmark = pytest.mark.bus

CONFIG = (
    """\
[bus.toolstack]
address = "{bus}"
services = ["org.xen.xcp.*"]
[listener.store]
bind = ["xenstore:{store}"]
"""
    + REST
)
MAPPINGS = ("domain-memory-xenstore.yaml", "guest-agent-xenstore.yaml")
PROPERTIES = "org.freedesktop.DBus.Properties"
DOMAIN1 = "org.xen.xcp.squeezed.Domain1"
GUEST = "/local/domain/5"
TARGET = f"{GUEST}/memory/target"
RETARGETED = "type='signal',interface='org.xen.xcp.squeezed.Memory1',member='TargetChanged'"


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[Xenstored]:
    with xenstored(name=getattr(request, "param", C_STORE)) as server:
        yield server


@pytest.fixture
async def toolstack() -> AsyncIterator[Toolstack]:
    async with Toolstack() as running:
        yield running


@pytest.fixture
async def client(toolstack: Toolstack) -> AsyncIterator[Client]:
    async with toolstack.client() as connected_:
        yield connected_


@pytest.fixture
async def store(server: Xenstored) -> AsyncIterator[XenstoreClient]:
    async with connected(server.path) as store:
        yield store


@pytest.fixture
def config(server: Xenstored, toolstack: Toolstack, tmp_path: Path) -> Path:
    copytree(ROOT / "mappings/idl", tmp_path / "mappings/idl")
    for name in MAPPINGS:
        (tmp_path / "mappings" / name).write_text((ROOT / "mappings" / name).read_text())
    config = tmp_path / "gateway.toml"
    config.write_text(CONFIG.format(bus=toolstack.address, store=server.path, folder=tmp_path))
    return config


@pytest.fixture
def gateway(config: Path) -> Iterator[Process]:
    with gateway_process(config) as process:
        yield process


async def new_domain(client: Client, domid: int = 5, least: int = 1000, greatest: int = 2000) -> None:
    """Memory for a domain, as xenopsd asks for it."""
    reservation, _ = await client.call("squeezed", "", "Memory1.ReserveMemoryRange", "sxx", "me", least, greatest)
    await client.call("squeezed", "", "Memory1.TransferReservationToDomain", "ssi", "me", reservation, domid)


async def retarget(client: Client, kib: int) -> None:
    args = ("ssv", DOMAIN1, "TargetKib", Variant("x", kib))
    await client.call("squeezed", "domain/_35", f"{PROPERTIES}.Set", *args)


async def tool(server: Xenstored, name: str, *arguments: str) -> str:
    """One of Debian's tools; the loop goes on meanwhile."""
    return await asyncio.to_thread(server.tool, name, *arguments)


async def line(watcher: subprocess.Popen[str]) -> str:
    """The next path that `xenstore-watch` tells."""
    assert watcher.stdout is not None
    return (await asyncio.wait_for(asyncio.to_thread(watcher.stdout.readline), TIMEOUT)).strip()


async def heard(signals: asyncio.Queue[Message]) -> int:
    """Return the KiB of the next target."""
    return int((await asyncio.wait_for(signals.get(), TIMEOUT)).body[1])


@pytest.mark.parametrize("server", BOTH, indirect=True)
async def test_a_watcher_sees_what_a_service_tells_also_after_store_or_service_were_away(
    gateway: Process, server: Xenstored, client: Client, store: XenstoreClient, toolstack: Toolstack
) -> None:
    await tool(server, "write", f"{GUEST}/name", "web")
    await new_domain(client)
    await until(store, TARGET, b"2000")
    assert await store.read(f"{GUEST}/memory/dynamic-min") == b"1000"
    assert await store.read(f"{GUEST}/memory/uncooperative") is None
    with server.watching(TARGET) as watcher:
        assert await line(watcher) == TARGET
        await retarget(client, 1500)
        assert await line(watcher) == TARGET
    assert (await tool(server, "read", TARGET)).strip() == "1500"
    assert "(n0,r5)" in await tool(server, "ls", "-p", f"{GUEST}/memory")
    server.kill()
    await retarget(client, 1400)
    server.start()
    await tool(server, "write", f"{GUEST}/name", "web")
    async with connected(server.path) as again:
        await until(again, TARGET, b"1400")
        assert await again.read(f"{GUEST}/memory/dynamic-max") == b"2000"
        await toolstack.restart("squeezed")
        assert await again.read(TARGET) == b"1400"
        await new_domain(client, greatest=3000)
        await until(again, TARGET, b"3000")
        deaf = ("ssv", "org.xen.xcp.squeezed.Memory1", "UncooperativeDomains", Variant("ai", [5]))
        await client.call("squeezed", "", f"{PROPERTIES}.Set", *deaf)
        await until(again, f"{GUEST}/memory/uncooperative", b"")


async def test_what_is_written_reaches_the_service_once_and_what_it_refuses_is_put_right(
    gateway: Process, server: Xenstored, client: Client, store: XenstoreClient
) -> None:
    await tool(server, "write", f"{GUEST}/name", "web")
    await new_domain(client)
    await until(store, TARGET, b"2000")
    async with client.signals(RETARGETED) as signals:
        for value in ("1500", "1600", "1500"):
            await tool(server, "write", TARGET, value)
            assert await heard(signals) == int(value)
            await tool(server, "write", TARGET, value)
        await tool(server, "write", TARGET, "7")
        await until(store, TARGET, b"1500")
        await tool(server, "write", TARGET, "nonsense")
        await until(store, TARGET, b"1500")
        await tool(server, "write", TARGET, "1700")
        assert await heard(signals) == 1700
        assert signals.empty()
    assert await store.read(TARGET) == b"1700"


# What agents in guests write below /local/domain/DOMID, one node after the other; the trigger is last.
XE_DAEMON = {  # xe-guest-utilities: flat nodes; `updated` is a moment
    "attr/PVAddons/MajorVersion": "7",
    "attr/PVAddons/MinorVersion": "30",
    "attr/PVAddons/Installed": "1",
    "control/feature-balloon": "1",
    "control/feature-poweroff": "1",
    "control/feature-suspend": "1",
    "attr/eth0/ip": "10.0.0.5",
    "attr/eth0/ipv6/0/addr": "fe80::1",
    "data/os_distro": "debian",
    "data/os_majorver": "12",
    "data/os_minorver": "",
    "data/os_name": "Debian GNU/Linux 12 (bookworm)",
    "data/os_uname": "6.1.0-13-amd64",
    "data/volumes/0/name": "/dev/xvda1(Physical)",
    "data/volumes/0/extents/0": "xvda",
    "data/meminfo_total": "2048000",
    "data/meminfo_free": "1024000",
    "data/updated": "Sat Nov 28 10:00:00 2026",
}
XEN_GUEST_AGENT = {  # xen-guest-agent: a node with a value may have nodes below it, and an address is a name
    "data/xen-guest-agent": "0.1.0",
    "data/os/name": "FreeBSD",
    "data/os/class": "unix",
    "data/os/unix/kernel-version": "14.0-RELEASE",
    "data/net/xn0": "00:16:3e:aa:bb:cc",
    "data/net/xn0/ipv4/10_0_0_5": "",
    "data/net/xn0/ipv6/fe80__1": "",
    "attr/vif/0/ipv4/0": "10.0.0.5",
    "control/feature-balloon": "1",
    "data/updated": "1",
}


@pytest.mark.parametrize("written", [XE_DAEMON, XEN_GUEST_AGENT], ids=["xe-guest-utilities", "xen-guest-agent"])
async def test_what_real_guest_agents_write_is_told_whole_and_once_and_what_another_guest_writes_is_not(
    gateway: Process, server: Xenstored, client: Client, store: XenstoreClient, written: dict[str, str]
) -> None:
    path = "vm/_311111111_2daaaa_2d4aaa_2d8aaa_2d000000000001"
    await client.call("xenopsd", path, "VM1.Start", "b", False)
    (domid,) = await client.get("xenopsd", path, "VM1", "Domids")
    home = f"/local/domain/{domid}"
    for folder in ("data", "attr", "control"):  # as xenopsd makes them for the guest
        await tool(server, "write", f"{home}/{folder}", "")
        await tool(server, "chmod", f"{home}/{folder}", f"n{domid}")

    async def write_all() -> None:
        for name, value in written.items():
            await store.write(f"{home}/{name}", value.encode())

    rule = f"type='signal',interface='{PROPERTIES}',member='PropertiesChanged',path='/org/xen/xcp/xenopsd/{path}'"
    wanted = {name.removeprefix("data/"): value for name, value in written.items() if name.startswith("data/")}
    del wanted["updated"]
    async with client.signals(rule) as changes, asyncio.timeout(TIMEOUT):
        await write_all()
        assert (await changes.get()).body[1] == {"GuestAgent": Variant("a{ss}", wanted)}
        await write_all()  # a minute later: the same
        await store.write(f"{home}/data/more", b"news")
        await store.write(f"{home}/data/updated", b"again")
        assert (await changes.get()).body[1] == {"GuestAgent": Variant("a{ss}", {**wanted, "more": "news"})}
        await tool(server, "chmod", f"{home}/data/updated", "n4242")
        await store.write(f"{home}/data/more", b"forged")
        await store.write(f"{home}/data/updated", b"2")
        forged = {name: value.encode() for name, value in {**wanted, "more": "forged"}.items()}
        looked_at = Content(b"2", {RelatedNode(".", tree=True): forged}).digest.encode()
        await until(store, f"/tool/xcp-gateway/processed{home}/data/updated", looked_at)
        assert changes.empty()
    assert (await client.get("xenopsd", path, "VM1", "GuestAgent"))["more"] == "news"


async def test_a_reload_begins_and_ends_what_is_published(
    config: Path, gateway: Process, client: Client, store: XenstoreClient
) -> None:
    await store.mkdir(GUEST)
    await new_domain(client)
    await until(store, TARGET, b"2000")
    mapping = config.parent / "mappings" / MAPPINGS[0]
    text = mapping.read_text()
    mapping.write_text(text.replace("      dynamic-min: DynamicMinKib\n", "      least: DynamicMinKib\n"))
    gateway.signal(signal.SIGHUP)
    await until(store, f"{GUEST}/memory/least", b"1000")
    await retarget(client, 1500)
    await until(store, TARGET, b"1500")
    await store.remove(f"{GUEST}/memory/dynamic-min")
    mapping.write_text(text)
    gateway.signal(signal.SIGHUP)
    await until(store, f"{GUEST}/memory/dynamic-min", b"1000")
