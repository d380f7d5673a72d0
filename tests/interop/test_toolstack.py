"""The sample toolstack on its own bus, called by another D-Bus implementation: it is what the IDL says, and honest.

What its services do with VMs, disks, networks and alerts is in test_mappings.py and test_xenapi_messages.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from gateway.core.dbus import introspection_xml
from tests.kit.cases import each_case
from tests.kit.programs import ROOT
from tests.kit.toolstack import SERVICES, Client, Toolstack

pytestmark = pytest.mark.bus

IDL = ROOT / "mappings/idl"
# Classes without an object: some were removed, some are records inside answers, two have only messages.
NO_OBJECTS = ["Auth", "LVHD", "VMPP", "VIF_metrics", "VBD_metrics"]
NO_OBJECTS += ["Data_source", "Probe_result", "Sr_stat", "Vdi_nbd_server_info"]


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with Toolstack() as running, running.client() as connected:
        yield connected


def files(service: str) -> list[Path]:
    return sorted(IDL.glob(f"org.xen.xcp.{service}.*xml"))


async def xapi_vm(client: Client, name: str) -> str:
    """The path of the VM with this name, below the service's object."""
    refs = await client.call("xapi", "vm", "VMManager1.GetByNameLabel", "s", name)
    return "vm/" + str(refs[0]).replace(":", "_3a").replace("-", "_2d")


@each_case("service", SERVICES)
async def test_what_a_running_service_has_is_what_its_idl_says(client: Client, service: str) -> None:
    who = await client.call(service, "", "org.freedesktop.DBus.Properties.GetAll", "s", "org.xen.xcp.Service1")
    assert (who["Name"].value, who["Since"].signature, bool(who["InstanceId"].value)) == (service, "t", True)
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
