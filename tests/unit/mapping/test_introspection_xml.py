from __future__ import annotations

import pytest

from gateway.mapping import introspection_xml
from tests.kit.mappings import IDL


def _inside(text: str) -> str:
    return f"<node>\n<interface name='org.example.A'>\n{text}\n</interface>\n</node>"


def test_methods_have_arguments_in_their_order() -> None:
    start = introspection_xml.parse(IDL).interfaces["org.example.VM1"].methods["Start"]
    assert [str(argument) for argument in start.ins] == ["paused b", "force b"]
    stat = introspection_xml.parse(IDL).interfaces["org.example.VM1"].methods["Stat"]
    assert (introspection_xml.signature(stat.ins), introspection_xml.signature(stat.outs)) == ("", "st")


def test_annotations_document_everything() -> None:
    vm = introspection_xml.parse(IDL).interfaces["org.example.VM1"]
    assert vm.documentation == "A virtual machine."
    assert vm.methods["Start"].documentation == "Starts the VM."
    assert vm.methods["Start"].ins[0].documentation == "Not yet."


def test_the_short_documentation_serves_where_there_is_no_other() -> None:
    text = _inside("<method name='A'><annotation name='org.freedesktop.DBus.Documentation' value='Text.'/></method>")
    assert introspection_xml.parse(text).interfaces["org.example.A"].methods["A"].documentation == "Text."


def test_properties_and_signals_are_read() -> None:
    text = _inside(
        "<property name='P' type='as' access='read'/><signal name='S'><arg type='s'/><arg type='u'/></signal>"
    )
    found = introspection_xml.parse(text).interfaces["org.example.A"]
    assert (str(found.properties["P"].type), found.properties["P"].access) == ("as", "read")
    assert [str(argument) for argument in found.signals["S"].args] == ["arg0 s", "arg1 u"]


def test_objects_below_are_named_and_their_interfaces_are_not_ours() -> None:
    node = introspection_xml.parse(
        "<node><node name='a'><interface name='org.example.A'/></node><node name='b'/></node>"
    )
    assert node.children == ("a", "b")
    assert node.interfaces == {}


def test_unknown_elements_are_passed_over() -> None:
    text = f"<node xmlns:x='urn:x'><x:docs><method name='no'/></x:docs>{_inside('<odd/>').removeprefix('<node>')}"
    assert list(introspection_xml.parse(text).interfaces) == ["org.example.A"]


@pytest.mark.parametrize(
    ("xml", "line", "message"),
    [
        ("<node>\n<a></node>", 2, "is no XML: mismatched tag"),
        ("", 1, "is no XML: no element found"),
        ("<html/>", 1, "expected the element 'node', got 'html'"),
        (
            "<!DOCTYPE node [<!ENTITY a 'b'>]>\n<node/>",
            1,
            "only the standard D-Bus DOCTYPE is accepted, without declarations of its own",
        ),
        ("<!DOCTYPE html>\n<node/>", 1, "only the standard D-Bus DOCTYPE"),
        ("<node>&x;</node>", 1, "is no XML: undefined entity"),
        (_inside("<method name='a-b'/>"), 3, "method: expected a member such as GetAll, got 'a-b'"),
        (_inside("<method/>"), 3, "method: expected a member"),
        (_inside("<method name='A'/>\n<method name='A'/>"), 4, "method 'A' is there twice"),
        (_inside("<method name='A'>\n<arg type='k'/></method>"), 4, "'arg0': unknown type 'k' in signature 'k' at 0"),
        (_inside("<method name='A'><arg type='ss' name='b'/></method>"), 3, "'b': expected one complete type"),
        (_inside("<method name='A'><arg name='b'/></method>"), 3, "'b': expected one complete type"),
        (
            _inside("<method name='A'><arg name='b' type='s' direction='inout'/></method>"),
            3,
            "'A': expected direction in or out, got 'inout'",
        ),
        (
            _inside("<method name='A'><arg name='b' type='s'/><arg name='b' type='s'/></method>"),
            3,
            "'A' has two arguments 'b'",
        ),
        (
            _inside("<method name='A'>\n" + "<arg type='(uuuu)'/>\n" * 43 + "</method>"),
            46,
            "'A': the signature of its arguments is over 255 characters long",
        ),
        (
            _inside("<property name='A' type='s' access='rw'/>"),
            3,
            "property 'A': expected access read, write or readwrite, got 'rw'",
        ),
        ("<node><interface name='A'/></node>", 1, "interface: expected an interface such as org.example.Service1"),
    ],
)
def test_what_is_no_idl_is_refused_with_its_line(xml: str, line: int, message: str) -> None:
    with pytest.raises(introspection_xml.IdlError) as caught:
        introspection_xml.parse(xml)
    assert caught.value.line == line
    assert str(caught.value).startswith(message)


def test_arguments_may_have_a_signature_of_255_characters_each_way() -> None:
    both = "".join(f"<arg type='(yyy)' direction='{way}'/>" * 51 for way in ("in", "out"))
    method = (
        introspection_xml.parse(_inside(f"<method name='A'>{both}</method>")).interfaces["org.example.A"].methods["A"]
    )
    assert (len(method.ins), len(method.outs)) == (51, 51)
