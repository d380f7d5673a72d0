"""Introspection XML and the targets of method entries."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.mapping import introspection_xml
from gateway.mapping.load import MAX_SIZE
from tests.kit.mappings import HEAD, IDL, build_methods


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


def test_child_objects_are_named() -> None:
    node = introspection_xml.parse(
        "<node><node name='a'><interface name='org.example.A'/></node><node name='b'/></node>"
    )
    assert node.children == ("a", "b")
    assert node.interfaces == {}


def test_unknown_elements_are_ignored() -> None:
    text = f"<node xmlns:x='urn:x'><x:docs><method name='no'/></x:docs>{_inside('<odd/>').removeprefix('<node>')}"
    assert list(introspection_xml.parse(text).interfaces) == ["org.example.A"]


@pytest.mark.parametrize(
    ("xml", "line", "message"),
    [
        ("<node>\n<a></node>", 2, "invalid XML: mismatched tag"),
        ("", 1, "invalid XML: no element found"),
        ("<html/>", 1, "expected the root element 'node', got 'html'"),
        (
            "<!DOCTYPE node [<!ENTITY a 'b'>]>\n<node/>",
            1,
            "unsupported DOCTYPE; expected that of D-Bus, without an internal subset",
        ),
        ("<!DOCTYPE html>\n<node/>", 1, "unsupported DOCTYPE"),
        ("<node>&x;</node>", 1, "invalid XML: undefined entity"),
        (_inside("<method name='a-b'/>"), 3, "method: expected a member such as GetAll, got 'a-b'"),
        (_inside("<method/>"), 3, "method: expected a member"),
        (_inside("<method name='A'/>\n<method name='A'/>"), 4, "duplicate method 'A'"),
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
            "'A': duplicate argument 'b'",
        ),
        (
            _inside("<method name='A'>\n" + "<arg type='(uuuu)'/>\n" * 43 + "</method>"),
            46,
            "'A': the signature of the arguments is longer than 255 characters",
        ),
        (
            _inside("<property name='A' type='s' access='rw'/>"),
            3,
            "property 'A': expected access read, write or readwrite, got 'rw'",
        ),
        ("<node><interface name='A'/></node>", 1, "interface: expected an interface such as org.example.Service1"),
    ],
)
def test_invalid_idl_is_rejected_with_its_line(xml: str, line: int, message: str) -> None:
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


def test_a_target_must_be_complete(tmp_path: Path) -> None:
    head = HEAD.replace("  bus_name: org.example\n", "  # nothing here\n")
    problem = "x.yaml:13:3: methods.m: 'bus_name' is missing: add it here or to `dbus`"
    assert build_methods(tmp_path, "m: {member: Stat}", head).problems == [problem]


def test_a_problem_of_all_methods_is_reported_once(tmp_path: Path) -> None:
    head = HEAD.replace("interface: org.example.VM1", "interface: org.example.VM7")
    problem = "x.yaml:7:14: dbus.interface: unknown interface 'org.example.VM7' of example.xml"
    methods = "m: {member: Stat}\nn: {member: Stat}"
    assert build_methods(tmp_path, methods, head).problems == [f"{problem} (did you mean 'org.example.VM1'?)"]


@pytest.mark.parametrize(
    ("name", "why"),
    [("fifo", "not a regular file"), ("/dev/zero", "not a regular file"), ("big", f"larger than {MAX_SIZE} bytes")],
)
def test_an_idl_is_a_regular_file_of_bounded_size(tmp_path: Path, name: str, why: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    with (tmp_path / "big").open("wb") as big:
        big.truncate(MAX_SIZE + 1)
    (problem,) = build_methods(tmp_path, f"m: {{member: Check, idl: {name}}}").problems
    assert problem.endswith(f": {why}")


def test_a_file_outside_the_mapping_directory_is_not_quoted(tmp_path: Path) -> None:
    private, mappings = tmp_path / "private", tmp_path / "mappings"
    private.mkdir()
    mappings.mkdir()
    (private / "shadow").write_text("<node><interface name='hunter22'/></node>")
    (private / "keys").write_text("hunter22: {hunter23: 1}")
    (mappings / "link.yaml").symlink_to(private / "keys")
    problems = build_methods(mappings, "m: {member: Check, idl: ../private/shadow}").problems
    assert "hunter2" not in "".join(problems)
    assert {problem.partition(": ")[2] for problem in problems} == {"not a valid mapping file", "not introspection XML"}


def test_a_problem_in_the_idl_is_reported_once_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "bad.xml").write_text("<node>\n  <interface name='x'/>\n</node>")
    head = HEAD.replace("example.xml", "bad.xml")
    problem = "bad.xml:2:3: interface: expected an interface such as org.example.Service1, got 'x'"
    assert build_methods(tmp_path, "m: {member: Stat}\nn: {member: Stat}", head).problems == [problem]


def test_a_method_may_have_its_own_target(tmp_path: Path) -> None:
    entry = "{member: Check, interface: org.example.Session1, bus_name: org.other, object_path: /o, params: [session]}"
    target = build_methods(tmp_path, f"m: {entry}").route("m").bus_target
    assert str(target) == "org.other /o org.example.Session1.Check"
    assert (target.signature, target.reply_signature) == ("s", "")
