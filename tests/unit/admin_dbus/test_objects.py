"""The gateway's objects against their IDL, which was written first."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from adapters.admin_dbus import objects
from adapters.admin_dbus.objects import ROOT
from gateway.core.admin import views
from gateway.core.admin.records import Counts, MethodId
from gateway.mapping import introspection_xml
from tests.kit.admin import STATE

IDL = Path(__file__).parents[3] / "mappings/idl/org.xen.xcp.gateway.xml"
EMITS = "org.freedesktop.DBus.Property.EmitsChangedSignal"
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


def test_which_changes_are_told_is_what_the_idl_says() -> None:
    root = ElementTree.parse(IDL).getroot()
    (method,) = (each for each in root.iter("interface") if each.get("name") == objects.METHOD)
    told = {
        str(each.get("name")): next((note.get("value") for note in each if note.get("name") == EMITS), "true")
        for each in method.iter("property")
    }
    assert told == {name: known.emits for name, known in objects.METHOD_PROPERTIES.items()}


def test_everything_in_the_idl_is_documented_and_stands_on_an_object() -> None:
    for element in ElementTree.parse(IDL).getroot().iter():
        if element.tag in ("interface", "method", "property", "signal", "arg"):
            notes = {note.get("name"): note.get("value") for note in element.findall("annotation")}
            assert notes.get("org.gtk.GDBus.DocString"), ElementTree.tostring(element)
            if element.tag == "interface":
                assert str(notes["org.xen.xcp.ObjectPath"]).startswith(ROOT)


def test_a_method_is_one_element_of_its_path() -> None:
    assert START == "/org/xen/xcp/gateway/method/xenopsd_2fVM_2estart"


@pytest.mark.parametrize(
    ("path", "child"),
    [
        ("/", "org"),
        ("/org", "xen"),
        ("/org/xen/xcp", "gateway"),
        (ROOT, "method"),
        (f"{ROOT}/method", "xenopsd_2fVM_2estart"),
    ],
)
def test_a_path_leads_to_the_objects_below_it(path: str, child: str) -> None:
    assert objects.exists(path, [START])
    assert introspection_xml.parse(objects.introspection(path, [START])).children == (child,)


@pytest.mark.parametrize("path", ["/org/xen/xcp/gatewa", f"{ROOT}/method/x", f"{START}/x", "/com", ""])
def test_nothing_else_exists(path: str) -> None:
    assert not objects.exists(path, [START])
    assert objects.interfaces_at(path, [START]) == ()


def test_without_methods_there_is_nothing_to_lead_to() -> None:
    assert objects.exists(ROOT, [])
    assert not objects.exists(f"{ROOT}/method", [])


def test_every_property_has_a_value_of_its_type_though_nothing_was_counted() -> None:
    row = views.row(STATE, STATE.migration.setting, None, "the mapping", Counts())
    values = {name: variant.value for name, variant in objects.of_row(row).items()}
    assert (values["Mode"], values["Until"], values["LegacyP99"], values["EqualShare"]) == ("legacy", 0, 0.0, 0.0)
    types = {"s": str, "d": float, "t": int, "b": bool}
    for name, known in objects.METHOD_PROPERTIES.items():
        assert type(values[name]) is types[known.type], name
