"""The sample toolstack on its own bus, called by another D-Bus implementation: it is what the IDL says, and honest.

What its services do with VMs, disks, networks and alerts is in test_mappings.py and test_xenapi_operations.py.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from dbus_fast import Variant

from gateway.core.dbus import introspection_xml
from tests.kit.cases import each_case
from tests.kit.programs import ROOT, TIMEOUT
from tests.kit.toolstack import SERVICES, Client, Refusal, Toolstack

pytestmark = pytest.mark.bus

IDL = ROOT / "mappings/idl"
WEB = "vm/_311111111_2daaaa_2d4aaa_2d8aaa_2d000000000001"
SR = "sr/_36f2d1a34_2d77c8_2d4f0b_2d9d3e_2d1c9a5e4b2001"
VDI = f"{SR}/vdi/_30b9e4c1a_2d3f5d_2d4c52_2d8a76_2dd2e1f0a43001"
# Classes without an object: some were removed, some are records inside answers, two have only messages.
NO_OBJECTS = ["Auth", "LVHD", "VMPP", "VIF_metrics", "VBD_metrics"]
NO_OBJECTS += ["Data_source", "Probe_result", "Sr_stat", "Vdi_nbd_server_info"]
GIB = 1024**3
GIB_KIB = 1024**2


@pytest.fixture
async def toolstack() -> AsyncIterator[Toolstack]:
    async with Toolstack() as running:
        yield running


@pytest.fixture
async def client(toolstack: Toolstack) -> AsyncIterator[Client]:
    async with toolstack.client() as connected:
        yield connected


def files(service: str) -> list[Path]:
    """The IDL of a service."""
    return sorted(IDL.glob(f"org.xen.xcp.{service}.*xml"))


async def xapi_vm(client: Client, name: str) -> str:
    """The path of the VM with this name, below the service's object."""
    refs = await client.call("xapi", "vm", "VMManager1.GetByNameLabel", "s", name)
    return "vm/" + str(refs[0]).replace(":", "_3a").replace("-", "_2d")


# What they are


@each_case("service", SERVICES)
async def test_a_service_starts_when_it_is_first_called_and_says_who_it_is(client: Client, service: str) -> None:
    owned = await client.ask_bus("ListNames")
    assert f"org.xen.xcp.{service}" not in owned
    await client.call(service, "", "org.freedesktop.DBus.Peer.Ping")
    who = await client.call(service, "", "org.freedesktop.DBus.Properties.GetAll", "s", "org.xen.xcp.Service1")
    assert who["Name"].value == service
    assert who["InstanceId"].value
    assert who["Since"].signature == "t"
    assert (await client.call(service, "", "org.xen.xcp.Service1.GetDiagnostics")).endswith("\n")


@each_case("service", SERVICES)
async def test_what_a_running_service_has_is_what_its_idl_says(client: Client, service: str) -> None:
    promised = {
        name: each
        for file in files(service)
        for name, each in introspection_xml.parse(file.read_bytes()).interfaces.items()
    }
    if service == "squeezed":  # whose domains are made by others
        reservation = await client.call("squeezed", "", "Memory1.ReserveMemory", "sx", "me", 1)
        await client.call("squeezed", "", "Memory1.TransferReservationToDomain", "ssi", "me", reservation, 7)
    objects = await client.call(service, "", "org.freedesktop.DBus.ObjectManager.GetManagedObjects")
    if service == "xenopsd":
        objects = {path: has for path, has in objects.items() if path.endswith("1")}  # they are all alike
    if service == "xapi":  # one object of each class, and the managers
        await client.call("xapi", await xapi_vm(client, "web"), "VM1.Start", "bb", False, False)  # it has guest metrics
        objects = await client.call(service, "", "org.freedesktop.DBus.ObjectManager.GetManagedObjects")
        objects = {path.rpartition("/")[0]: path for path in objects}
        root = await client.call(service, "", "org.freedesktop.DBus.Introspectable.Introspect")
        managers = [f"/org/xen/xcp/xapi/{child}" for child in introspection_xml.parse(root).children]
        objects = dict.fromkeys((*managers, *objects.values()))
    seen: dict[str, introspection_xml.Interface] = {}
    for path in (f"/org/xen/xcp/{service}", *objects):
        xml = await client.call(service, path, "org.freedesktop.DBus.Introspectable.Introspect")
        for name, interface in introspection_xml.parse(xml).interfaces.items():
            if name.startswith("org.xen.xcp."):
                assert shape(interface) == shape(promised[name])
                seen[name] = interface
    assert promised.keys() - seen.keys() == {f"org.xen.xcp.xapi.{name}1" for name in NO_OBJECTS if service == "xapi"}


def shape(interface: introspection_xml.Interface) -> dict[str, Any]:
    """All that the wire shows of an interface; dbus-next tells no names of out-arguments and of signals' arguments."""
    return {
        **{
            name: ([str(argument) for argument in method.ins], introspection_xml.signature(method.outs))
            for name, method in interface.methods.items()
        },
        **{f"{name} property": (str(held.type), held.access) for name, held in interface.properties.items()},
        **{f"{name} signal": introspection_xml.signature(signal.args) for name, signal in interface.signals.items()},
    }


@each_case("service", SERVICES)
def test_everything_in_an_idl_is_documented_and_stands_on_an_object(service: str) -> None:
    for element in [each for file in files(service) for each in ElementTree.parse(file).getroot().iter()]:
        if element.tag in ("interface", "method", "property", "signal", "arg"):
            notes = {note.get("name"): note.get("value") for note in element.findall("annotation")}
            assert notes.get("org.gtk.GDBus.DocString"), ElementTree.tostring(element)
            if element.tag == "interface":
                assert str(notes["org.xen.xcp.ObjectPath"]).startswith(f"/org/xen/xcp/{service}")


async def domain(client: Client, domid: int, least: int, greatest: int) -> str:
    """A domain of squeezed with this range: the path of its object."""
    reservation, _ = await client.call("squeezed", "", "Memory1.ReserveMemoryRange", "sxx", "me", least, greatest)
    await client.call("squeezed", "", "Memory1.TransferReservationToDomain", "ssi", "me", reservation, domid)
    return "domain/" + "".join(f"_3{digit}" if at == 0 else digit for at, digit in enumerate(str(domid)))


async def test_squeezed_has_an_object_for_each_domain_whose_target_can_be_set(client: Client) -> None:
    path = await domain(client, 42, 1000, 2000)
    properties = "org.freedesktop.DBus.Properties"
    name = "org.xen.xcp.squeezed.Domain1"

    async def target(kib: int) -> Refusal | None:
        args = ("ssv", name, "TargetKib", Variant("x", kib))
        reply = await client.answer("squeezed", path, f"{properties}.Set", *args)
        return Refusal(str(reply.error_name), reply.body) if reply.error_name else None

    rule = f"type='signal',interface='{properties}',member='PropertiesChanged'"
    async with client.signals(rule) as changes:
        assert await client.get("squeezed", path, "Domain1", "TargetKib") == 2000
        assert await target(1500) is None
        changed = await asyncio.wait_for(changes.get(), TIMEOUT)
        while changed.body[0] != name:
            changed = await asyncio.wait_for(changes.get(), TIMEOUT)
        assert changed.body[1] == {"TargetKib": Variant("x", 1500)}
        assert await target(999) == Refusal("org.xen.xcp.Error.InvalidMemoryValue", ["kib", 999])
        variant = Variant("ai", [42])
        setting = ("ssv", "org.xen.xcp.squeezed.Memory1", "UncooperativeDomains", variant)
        await client.call("squeezed", "", f"{properties}.Set", *setting)
        assert await client.get("squeezed", path, "Domain1", "Uncooperative") is True
        assert await target(1600) == Refusal("org.xen.xcp.Error.DomainsRefusedToCooperate", [[42]])
    assert await client.get("squeezed", path, "Domain1", "TargetKib") == 1500


async def test_an_object_that_is_not_there_is_said_to_be_unknown(client: Client) -> None:
    refusal = await client.refusal("xenopsd", "vm/nobody", "VM1.Pause")
    assert refusal.name == "org.freedesktop.DBus.Error.UnknownObject"


BUGGY = """
from dbus_next.service import ServiceInterface, method
from service import ROOT, run

class Bug1(ServiceInterface):
    @method()
    def Now(self) -> "s":
        raise RuntimeError("secret")

    @method()
    async def Later(self) -> "s":
        raise RuntimeError("secret")

async def start(bus):
    bus.export(ROOT + "/perfmon", Bug1("org.xen.xcp.perfmon.Bug1"))

run("perfmon", start)
"""


@pytest.mark.parametrize("member", ["Now", "Later"])
async def test_a_bug_in_a_service_is_told_to_its_log_and_not_to_the_caller(
    client: Client, toolstack: Toolstack, member: str
) -> None:
    environment = {**toolstack.env, "PYTHONPATH": str(ROOT / "docker/toolstack")}
    owned = "type='signal',member='NameOwnerChanged',arg0='org.xen.xcp.perfmon'"
    async with client.signals(owned) as changes:
        buggy = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", BUGGY, "--address", toolstack.address), env=environment, stderr=subprocess.PIPE
        )
        await asyncio.wait_for(changes.get(), TIMEOUT)
    refusal = await client.refusal("perfmon", "", f"Bug1.{member}")
    buggy.terminate()
    _, log = await buggy.communicate()
    assert refusal.body == ["internal error"]
    assert b"secret" in log


# VMs


async def test_a_started_vm_runs_in_a_domain_and_its_memory_is_gone_from_the_host(client: Client) -> None:
    free = await client.get("squeezed", "", "Memory1", "FreeKib")
    vm = await xapi_vm(client, "web")
    rule = f"type='signal',sender='org.xen.xcp.xapi',path='/org/xen/xcp/xapi/{vm}',member='PropertiesChanged'"
    async with client.signals(rule) as changes:
        await client.call("xapi", vm, "VM1.Start", "bb", False, False)
        change = await asyncio.wait_for(changes.get(), TIMEOUT)
        while "PowerState" not in change.body[1]:
            change = await asyncio.wait_for(changes.get(), TIMEOUT)
        assert change.body[:2] == ["org.xen.xcp.xapi.VM1", change.body[1]]
        assert change.body[1]["PowerState"] == Variant("s", "Running")
    assert await client.get("xapi", vm, "VM1", "PowerState") == "Running"
    assert await client.get("xenopsd", WEB, "VM1", "PowerState") == "Running"
    domid = await client.get("xapi", vm, "VM1", "Domid")
    assert await client.get("xenopsd", WEB, "VM1", "Domids") == [domid]
    assert await client.get("squeezed", "", "Memory1", "FreeKib") == free - 2 * GIB_KIB
    host, _ = await client.call("xapi", "host", "HostManager1.GetAll")
    assert await client.get("xapi", vm, "VM1", "ResidentOn") == host


async def test_xapi_sees_what_others_do_to_its_vms(client: Client) -> None:
    vm = await xapi_vm(client, "web")
    await client.call("xenopsd", WEB, "VM1.Start", "b", False)
    assert await client.get("xapi", vm, "VM1", "PowerState") == "Running"
    await client.call("xenopsd", WEB, "VM1.Suspend")
    assert await client.get("xapi", vm, "VM1", "PowerState") == "Suspended"
    assert await client.get("xapi", vm, "VM1", "Domid") == -1


async def test_xapi_and_squeezed_learn_after_a_restart_what_runs(client: Client, toolstack: Toolstack) -> None:
    vm = await xapi_vm(client, "web")
    await client.call("xapi", vm, "VM1.Start", "bb", False, False)
    free = await client.get("squeezed", "", "Memory1", "FreeKib")
    await toolstack.restart("xapi")
    await toolstack.restart("squeezed")
    assert await client.get("xapi", vm, "VM1", "PowerState") == "Running"
    assert await client.get("squeezed", "", "Memory1", "FreeKib") == free


async def test_domains_end_with_xenopsd_and_everybody_knows(client: Client, toolstack: Toolstack) -> None:
    free = await client.get("squeezed", "", "Memory1", "FreeKib")
    vm = await xapi_vm(client, "web")
    await client.call("xapi", vm, "VM1.Start", "bb", False, False)
    await toolstack.kill("xenopsd")
    assert await client.get("xapi", vm, "VM1", "PowerState") == "Halted"
    assert await client.get("squeezed", "", "Memory1", "FreeKib") == free
    await client.call("xapi", vm, "VM1.Start", "bb", False, False)
    assert await client.get("xenopsd", WEB, "VM1", "PowerState") == "Running"


# Memory


async def test_a_running_vm_is_squeezed_when_memory_is_needed_and_grows_back(client: Client) -> None:
    await client.call("xenopsd", WEB, "VM1.Start", "b", False)  # 2 GiB, may shrink to 1 GiB
    [domid] = await client.get("xenopsd", WEB, "VM1", "Domids")
    needed = await client.get("squeezed", "", "Memory1", "FreeKib") + GIB_KIB
    reserve = ("squeezed", "", "Memory1.ReserveMemory", "sx", "test", needed)
    deaf = ("org.xen.xcp.squeezed.Memory1", "UncooperativeDomains")
    put = ("squeezed", "", "org.freedesktop.DBus.Properties.Set", "ssv", *deaf)
    await client.call(*put, Variant("ai", [domid]))
    assert await client.refusal(*reserve) == Refusal("DomainsRefusedToCooperate", [[domid]])
    await client.call(*put, Variant("ai", []))
    reservation = await client.call(*reserve)
    assert await client.get("xenopsd", WEB, "VM1", "Memory") == GIB
    await client.call("squeezed", "", "Memory1.DeleteReservation", "ss", "test", reservation)
    await client.call("squeezed", "", "Memory1.BalanceMemory")
    assert await client.get("xenopsd", WEB, "VM1", "Memory") == 2 * GIB


# The processes


async def test_services_end_with_their_bus() -> None:
    async with Toolstack() as toolstack:
        for service in SERVICES:
            await toolstack.start(service)
        pids = [await toolstack.pid(service) for service in SERVICES]
        assert all(Path(f"/proc/{pid}").exists() for pid in pids)
    assert not [pid for pid in pids if _runs(pid)]


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return " Z " not in Path(f"/proc/{pid}/stat").read_text()


async def test_a_second_instance_of_a_service_ends_at_once(client: Client, toolstack: Toolstack) -> None:
    await toolstack.start("perfmon")
    program = str(ROOT / "docker/toolstack/perfmon.py")
    second = await asyncio.create_subprocess_exec(
        *(sys.executable, program, "--address", toolstack.address), stderr=subprocess.PIPE
    )
    _, said = await asyncio.wait_for(second.communicate(), TIMEOUT)
    assert (second.returncode, said) == (1, b"org.xen.xcp.perfmon runs already\n")


async def test_a_restarted_service_is_another_instance(client: Client, toolstack: Toolstack) -> None:
    before = await client.get("storage", "", "org.xen.xcp.Service1", "InstanceId")
    pid = await toolstack.pid("storage")
    await toolstack.restart("storage")
    assert await toolstack.pid("storage") != pid
    assert await client.get("storage", "", "org.xen.xcp.Service1", "InstanceId") != before
