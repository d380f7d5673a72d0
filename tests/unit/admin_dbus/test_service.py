"""The service on D-Bus: its name, objects, values."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from dbus_fast import Variant
from msgspec.structs import fields

from adapters.admin_dbus import objects
from adapters.admin_dbus.calls import INVALID, Callers, DBusError, explained, mode_request, plain
from adapters.admin_dbus.objects import ROOT
from gateway.admin.peer_credentials import user_name
from gateway.core.admin import views
from gateway.core.admin.records import Counts, MethodId
from gateway.core.admin.views import Explanation, explanation
from gateway.core.dbus import introspection_xml
from gateway.core.migration.modes import Mode, Setting
from gateway.core.routing.policy import plan_call
from gateway.core.rpc.model import Call
from tests.kit.admin import STATE, dbus_admin, dbus_admin_client, mode_options
from tests.kit.buses import ANONYMOUS, PrivateBus, private_bus
from tests.kit.cases import each_case, present

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


def test_every_property_has_a_value_of_its_type_though_nothing_was_counted() -> None:
    row = views.row(STATE, STATE.migration.setting, None, "the mapping", Counts())
    values = {name: variant.value for name, variant in objects.of_row(row).items()}
    assert (values["Mode"], values["Until"], values["LegacyP99"], values["EqualShare"]) == ("legacy", 0, 0.0, 0.0)
    types = {"s": str, "d": float, "t": int, "b": bool}
    for name, known in objects.METHOD_PROPERTIES.items():
        assert type(values[name]) is types[known.type], name


# Values


@each_case(
    ("given", "says"),
    [
        (
            mode_options(procent=("d", 1.0)),
            "unknown option 'procent'; expected one of percent, control, observe, noise, seconds, guarded",
        ),
        (mode_options(observe=("s", "yes")), "option 'observe': unexpected type 's'"),
        (mode_options(seconds=("b", True)), "option 'seconds': unexpected type 'b'"),
    ],
)
def test_an_option_that_makes_no_sense_is_told(given: dict[str, Variant], says: str) -> None:
    assert mode_request("VM.*", "canary", given, "") == DBusError(INVALID, says)


@each_case("setting", [Setting(Mode.OFF), Setting(Mode.LEGACY), Setting(Mode.CANARY, 50_000)])
@each_case("value", [None, "vm-1"])
def test_an_explanation_has_no_null(setting: Setting, value: str | None) -> None:
    told = explained(explanation(STATE, setting, "the mapping", plan_call(STATE, setting, Call("x")), value))
    assert told.keys() == {field.name for field in fields(Explanation)}
    assert all(variant.value is not None for variant in told.values())
    assert told["value"].value == (value or "")


def test_variants_are_taken_apart() -> None:
    nested = Variant(
        "a{sv}", {"a": Variant("av", [Variant("i", 1), Variant("s", "x")]), "b": Variant("(ib)", [1, True])}
    )
    assert plain(nested) == {"a": [1, "x"], "b": [1, True]}
    assert plain(Variant("a{ii}", {1: 2})) == {"1": 2}
