"""The service on D-Bus: its name, objects, values."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from adapters.admin_dbus import objects
from adapters.admin_dbus.objects import ROOT
from adapters.admin_dbus.service import Callers
from gateway.admin.peer_credentials import user_name
from gateway.core.admin.records import MethodId
from gateway.core.dbus import introspection_xml
from tests.kit.admin import dbus_admin, dbus_admin_client
from tests.kit.buses import ANONYMOUS, PrivateBus, private_bus
from tests.kit.cases import present

pytestmark = pytest.mark.bus


@pytest.fixture
def bus() -> Iterator[PrivateBus]:
    with private_bus() as bus:
        yield bus


async def test_it_comes_back_with_the_bus(bus: PrivateBus) -> None:
    async with dbus_admin(bus.address) as made:
        await made.service.here.wait()
        bus.kill()
        await made.service.away.wait()
        bus.start()
        await made.service.here.wait()
        async with dbus_admin_client(bus.address) as anybody:
            await anybody.until_there()
            await anybody.call(ROOT, "org.freedesktop.DBus.Peer.Ping")


async def test_a_bus_that_is_not_there_keeps_nobody_from_starting_or_stopping() -> None:
    async with dbus_admin("unix:path=/nowhere/bus") as made:
        assert not made.service.connected
        await made.service.away.wait()
        assert "No such file" in made.service.last_error


async def test_it_owns_its_name_and_a_second_gateway_stands_in_line_and_takes_over(bus: PrivateBus) -> None:
    async with dbus_admin_client(bus.address) as anybody:
        async with dbus_admin(bus.address) as second:
            await second.service.here.wait()
            assert second.service.status() == {"address": bus.address, "connected": True, "last_error": ""}
            first_owner = await anybody.owner()
            async with dbus_admin(bus.address) as third:
                await third.service.here.wait()
                assert await anybody.owner() == first_owner
                await second.service.stop()
                await anybody.until_owner(lambda owner: owner not in (None, first_owner))
                await anybody.call(ROOT, "org.freedesktop.DBus.Peer.Ping")
        await anybody.until_owner(lambda owner: owner is None)


# Calls


async def test_a_caller_is_who_its_process_is_and_nobody_without_credentials_or_when_it_has_left(
    bus: PrivateBus,
) -> None:
    async with dbus_admin_client(bus.address) as one, dbus_admin_client(bus.address) as other:
        callers = Callers(one.bus, user_name)
        caller = present(await callers.of(str(other.bus.unique_name)))
        assert (caller.uid, caller.name) == (os.geteuid(), user_name(os.geteuid()))
        assert os.getegid() in caller.gids
        assert await callers.of(str(other.bus.unique_name)) is caller
        assert await callers.of(":1.4711") is None
    with private_bus(listen="tcp:host=127.0.0.1,port=0", auth=ANONYMOUS) as anonymous:
        async with dbus_admin_client(anonymous.address) as one, dbus_admin_client(anonymous.address) as other:
            assert await Callers(one.bus, user_name).of(str(other.bus.unique_name)) is None


# Objects


IDL = Path(__file__).parents[3] / "mappings/idl/org.xen.xcp.gateway.xml"
START = objects.path_of(MethodId("xenopsd", "VM.start"))


def shape(interface: introspection_xml.Interface) -> dict[str, Any]:
    """All that the wire shows of an interface."""
    methods = {
        name: ([str(each) for each in method.ins], [str(each) for each in method.outs])
        for name, method in interface.methods.items()
    }
    properties = {f"{name} property": (str(each.type), each.access) for name, each in interface.properties.items()}
    signals = {f"{name} signal": [str(each) for each in signal.args] for name, signal in interface.signals.items()}
    return {**methods, **properties, **signals}


def test_what_is_introspected_is_what_the_idl_says() -> None:
    promised = introspection_xml.parse(IDL.read_bytes()).interfaces
    seen = {
        name: interface
        for path in (ROOT, START)
        for name, interface in introspection_xml.parse(objects.introspection(path, [START])).interfaces.items()
        if name.startswith("org.xen.")
    }
    assert {name: shape(each) for name, each in seen.items()} == {name: shape(each) for name, each in promised.items()}


def test_the_idl_documents_everything_and_says_which_changes_are_told() -> None:
    emits = "org.freedesktop.DBus.Property.EmitsChangedSignal"
    told = {}
    for element in ElementTree.parse(IDL).getroot().iter():
        if element.tag in ("interface", "method", "property", "signal", "arg"):
            notes = {note.get("name"): note.get("value") for note in element.findall("annotation")}
            assert notes.get("org.gtk.GDBus.DocString"), ElementTree.tostring(element)
            if element.tag == "interface":
                interface = element.get("name")
                assert str(notes["org.xen.xcp.ObjectPath"]).startswith(ROOT)
            if element.tag == "property" and interface == objects.METHOD:
                told[str(element.get("name"))] = notes.get(emits, "true")
    assert told == {name: known.emits for name, known in objects.METHOD_PROPERTIES.items()}
