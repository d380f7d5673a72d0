"""Introspection XML and the targets of method entries."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.core.dbus import introspection_xml
from gateway.mapping.load import MAX_SIZE
from tests.kit.cases import each_case
from tests.kit.mappings import HEAD, IDL, Built, build_methods


def _inside(text: str) -> str:
    return f"<node>\n<interface name='org.example.A'>\n{text}\n</interface>\n</node>"


def _interface(text: str) -> introspection_xml.Interface:
    return introspection_xml.parse(_inside(text)).interfaces["org.example.A"]


def _built(directory: Path, xml: str, methods: str, interface: str = "org.example.A", head: str = HEAD) -> Built:
    """Methods of an interface of another IDL."""
    (directory / "odd.xml").write_text(xml)
    return build_methods(
        directory, methods, head.replace("org.example.VM1", interface).replace("example.xml", "odd.xml")
    )


def test_an_interface_has_its_members_with_what_documents_them() -> None:
    vm = introspection_xml.parse(IDL).interfaces["org.example.VM1"]
    start, stat = vm.methods["Start"], vm.methods["Stat"]
    assert [str(argument) for argument in start.ins] == ["paused b", "force b"]
    assert (introspection_xml.signature(stat.ins), introspection_xml.signature(stat.outs)) == ("", "st")
    assert vm.documentation == "A virtual machine."
    assert (start.documentation, start.ins[0].documentation) == ("Starts the VM.", "Not yet.")
    short = "<method name='A'><annotation name='org.freedesktop.DBus.Documentation' value='Text.'/></method>"
    assert _interface(short).methods["A"].documentation == "Text."
    found = _interface(
        "<property name='P' type='as' access='read'/><signal name='S'><arg type='s'/><arg type='u'/></signal>"
    )
    assert (str(found.properties["P"].type), found.properties["P"].access) == ("as", "read")
    assert [str(argument) for argument in found.signals["S"].args] == ["arg0 s", "arg1 u"]
    both = "".join(f"<arg type='(yyy)' direction='{way}'/>" * 51 for way in ("in", "out"))  # 255 characters each way
    long = _interface(f"<method name='A'>{both}</method>").methods["A"]
    assert (len(long.ins), len(long.outs)) == (51, 51)


def test_child_objects_are_named_and_unknown_elements_ignored() -> None:
    node = introspection_xml.parse(
        "<node><node name='a'><interface name='org.example.A'/></node><node name='b'/></node>"
    )
    assert (node.children, node.interfaces) == (("a", "b"), {})
    text = f"<node xmlns:x='urn:x'><x:docs><method name='no'/></x:docs>{_inside('<odd/>').removeprefix('<node>')}"
    assert list(introspection_xml.parse(text).interfaces) == ["org.example.A"]


ENTITIES = "".join(f"<!ENTITY a{n} ''>" for n in range(257))


@each_case(
    ("xml", "line", "message"),
    [
        ("<node>\n<a></node>", 2, "invalid XML: mismatched tag"),
        ("", 1, "invalid XML: no element found"),
        ("<html/>", 1, "expected the root element 'node', got 'html'"),
        ("<node>&x;</node>", 1, "invalid XML: undefined entity"),
        ('<?xml version="1.0" encoding="gbk"?><node/>', 1, "invalid XML: multi-byte encodings are not supported"),
        ('<?xml version="1.0" encoding="nope"?><node/>', 1, "invalid XML: unknown encoding: nope"),
        (f"<!DOCTYPE node [\n<!ENTITY a '{'b' * 1025}'>]>\n<node/>", 2, "entity 'a': expected a text of at most 1024"),
        ("<!DOCTYPE node [<!ENTITY a 'b'>\n<!ENTITY c '&a;&a;'>]>\n<node/>", 2, "entity 'c': expected a text"),
        (f"<!DOCTYPE node [{ENTITIES}]>\n<node/>", 1, "the DOCTYPE declares more than 256 entities"),
    ],
)
def test_invalid_idl_is_rejected_with_its_line(xml: str, line: int, message: str) -> None:
    with pytest.raises(introspection_xml.IdlError) as caught:
        introspection_xml.parse(xml)
    assert (caught.value.line, str(caught.value)[: len(message)]) == (line, message)


TWICE = "<method name='A'>" + "\n<arg name='b' type='s'/>" * 2 + "</method>"
LONG = "<method name='A'>\n" + "<arg type='(uuuu)'/>\n" * 43 + "</method>"
ODD = [
    ("<method name='A'/>\n<method name='A'/>", "member: A", 5, "duplicate method 'A'"),
    ("<method name='A'>\n<arg type='k'/></method>", "member: A", 5, "'arg0': unknown type 'k' in signature 'k' at 0"),
    ("<method name='A'><arg type='ss' name='b'/></method>", "member: A", 4, "'b': expected one complete type"),
    ("<method name='A'><arg name='b'/></method>", "member: A", 4, "'b': expected one complete type"),
    ("<method name='A'><arg type='s' direction='inout'/></method>", "member: A", 4, "expected direction in or out"),
    (TWICE, "member: A", 6, "duplicate argument 'b'"),
    (LONG, "member: A", 47, "the signature of the arguments is longer than 255 characters"),
    ("<property name='A' type='s' access='rw'/>", "property: A", 4, "expected access read, write or readwrite"),
    ("<property name='A' access='read'/>", "property: A", 4, "expected one complete type"),
    ("<property name='A' type='s' access='read'/>" * 2, "property: A", 4, "duplicate property 'A'"),
]


@each_case(("xml", "use", "line", "message"), ODD)
def test_only_the_use_of_an_odd_member_is_a_problem(
    tmp_path: Path, xml: str, use: str, line: int, message: str
) -> None:
    xml = _inside(f"<method name='Good'/>\n{xml}\n<property name='P' type='s' access='read'/>")
    assert _built(tmp_path, xml, "a: {member: Good}\nb: {property: P}\nc: {all_properties: true}").problems == []
    (problem,) = _built(tmp_path, xml, f"a: {{{use}}}").problems
    assert "' of org.example.A cannot be used: " in problem
    assert message in problem
    assert f"(odd.xml:{line}:" in problem


A = "<interface name='org.example.A'><method name='M'/></interface>"


@each_case(
    "xml",
    [
        f"<!DOCTYPE node [<!ENTITY a '.A'>]><node>{A.replace('.A', '&a;')}</node>",
        f"<!DOCTYPE spec SYSTEM 'http://nowhere.invalid/spec.dtd'>\n<node>{A}</node>",
        f"<node name='/'><node name='x'>{A}</node></node>",
        f"<node><node><node>{A}</node></node></node>",
        A,
        (
            "<node xmlns:tp='urn:tp'><tp:copyright>x</tp:copyright><interface name='org.example.A' tp:havoc='yes'>"
            "<tp:enum name='E'><tp:enumvalue/></tp:enum><method name='M'><tp:docstring>x<p>y</p></tp:docstring>"
            "<tp:possible-errors><tp:error name='e'/></tp:possible-errors></method></interface></node>"
        ),
        (
            "<?xml version='1.0' encoding='ISO-8859-1'?><node><interface name='org.example.A'><!-- --><method name='M'>"
            "<doc:doc xmlns:doc='urn:d'><doc:description><doc:para>Text</doc:para></doc:description></doc:doc></method>"
            "</interface></node>"
        ),
        (
            "<node><interface name='odd-name'/><interface/><interface name='org.example.A'><method name='M'/><method/>"
            "<method name='a-b'/><signal name='a b'/><property name='' type='s' access='read'/></interface></node>"
        ),
    ],
)
def test_a_file_as_projects_write_it_is_read(tmp_path: Path, xml: str) -> None:
    assert _built(tmp_path, xml, "a: {member: M}").problems == []


@each_case("name", ["scan-type", "Rx Mode", "9P", "a.b"])
def test_the_name_of_a_property_is_any_text(tmp_path: Path, name: str) -> None:
    xml = _inside(f"<property name='{name}' type='s' access='readwrite'/>")
    built = _built(tmp_path, xml, f"a: {{property: '{name}'}}\nb: {{set_property: '{name}', params: [value]}}")
    assert built.bind("a").body == ["org.example.A", name]


def test_a_duplicate_interface_is_a_problem_where_it_is_used(tmp_path: Path) -> None:
    empty = "<interface name='org.example.A'/>"
    xml = f"<node>{empty}\n{empty}{A.replace('.A', '.B')}</node>"
    assert _built(tmp_path, xml, "a: {member: M}", "org.example.B").problems == []
    problem = "interface 'org.example.A' cannot be used: duplicate interface 'org.example.A' (odd.xml:2:1)"
    assert _built(tmp_path, xml, "a: {member: M}").problems == [f"x.yaml:7:14: dbus.interface: {problem}"]


def test_annotations_of_the_specification_count(tmp_path: Path) -> None:
    """A deprecated member is a note; a method without a reply is done once it is written."""
    deprecated = "<annotation name='org.freedesktop.DBus.Deprecated' value='true'/>"
    silent = "<annotation name='org.freedesktop.DBus.Method.NoReply' value='true'/>"
    xml = _inside(
        f"<method name='M'>{deprecated}</method><property name='P' type='s' access='read'>{deprecated}</property>"
        f"<method name='N'>{silent}</method>"
    )
    built = _built(tmp_path, xml, "a: {member: M}\nb: {property: P}\nc: {member: N}")
    why = "is deprecated: a later version of the service may not have it"
    assert [note.replace(f"{tmp_path}/", "") for note in built.table.notes] == [
        f"x.yaml:13:15: methods.a.member: org.example.A.M {why}",
        f"x.yaml:14:17: methods.b.property: org.example.A.P {why}",
    ]
    assert [built.route(name).bus_target.no_reply for name in "ac"] == [False, True]


def test_a_property_that_is_never_signalled_is_a_note_where_it_is_published(tmp_path: Path) -> None:
    mark = "<annotation name='org.freedesktop.DBus.Property.EmitsChangedSignal' value='{}'/>"
    text = f"<property name='P' type='s' access='read'>{mark.format('true')}</property>{mark.format('false')}"
    text += "<property name='Q' type='s' access='read'/><method name='M'/>"
    publish = "publish:\n- {listener: store, node: /a, properties: {p: P, q: Q}}\nmethods:\n"
    built = _built(tmp_path, _inside(text), "a: {member: M}", head=HEAD.replace("methods:\n", publish))
    assert built.problems == []
    (note,) = built.table.notes
    assert "publish[0]: org.example.A.Q is not signalled (EmitsChangedSignal is false)" in note


def test_a_problem_of_all_methods_or_in_the_idl_is_reported_once_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "bad.xml").write_text("<node>\n  <x/><y>\n</node>")
    unknown = "x.yaml:7:14: dbus.interface: unknown interface 'org.example.VM7' of example.xml"
    for old, new, problem in (
        ("interface: org.example.VM1", "interface: org.example.VM7", f"{unknown} (did you mean 'org.example.VM1'?)"),
        ("example.xml", "bad.xml", "bad.xml:3:3: invalid XML: mismatched tag"),
    ):
        built = build_methods(tmp_path, "m: {member: Stat}\nn: {member: Stat}", HEAD.replace(old, new))
        assert built.problems == [problem]


def test_an_idl_is_a_regular_file_of_bounded_size(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with (tmp_path / "big").open("wb") as big:
        big.truncate(MAX_SIZE + 1)
    odd, large = "not a regular file", f"larger than {MAX_SIZE} bytes"
    for name, why in (("fifo", odd), ("/dev/zero", odd), ("big", large)):
        (problem,) = build_methods(tmp_path, f"m: {{member: Check, idl: {name}}}").problems
        assert problem.endswith(f": {why}")


def test_a_file_outside_the_mapping_directory_is_not_quoted(tmp_path: Path) -> None:
    private, mappings = tmp_path / "private", tmp_path / "mappings"
    private.mkdir()
    mappings.mkdir()
    (private / "shadow").write_text("<hunter22/>")
    (private / "keys").write_text("hunter22: {hunter23: 1}")
    (mappings / "link.yaml").symlink_to(private / "keys")
    problems = build_methods(mappings, "m: {member: Check, idl: ../private/shadow}").problems
    assert "hunter2" not in "".join(problems)
    assert {problem.partition(": ")[2] for problem in problems} == {"not a valid mapping file", "not introspection XML"}


def test_a_method_may_have_its_own_target(tmp_path: Path) -> None:
    entry = "{member: Check, interface: org.example.Session1, bus_name: org.other, object_path: /o, params: [session]}"
    target = build_methods(tmp_path, f"m: {entry}").route("m").bus_target
    assert str(target) == "org.other /o org.example.Session1.Check"
    assert (target.signature, target.reply_signature) == ("s", "")
