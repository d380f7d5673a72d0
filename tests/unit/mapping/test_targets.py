from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.mapping.load import MAX_SIZE
from tests.kit.mappings import HEAD, build_files, build_methods

PROBLEMS = [
    (
        "{member: Starr, params: []}",
        "x.yaml:13:15: methods.m.member: 'Starr' is no method of org.example.VM1 (did you mean 'Start'?)",
    ),
    (
        "{property: Domid}",
        (
            "x.yaml:13:17: methods.m.property: 'Domid' is no property of org.example.VM1 "
            "(it has: PowerState, NameLabel, Memory, Created, Tags, Secret, Paused)"
        ),
    ),
    (
        "{property: Secret}",
        "x.yaml:13:17: methods.m.property: org.example.VM1.Secret cannot be read, its access is 'write'",
    ),
    (
        "{set_property: PowerState, params: [value]}",
        "x.yaml:13:21: methods.m.set_property: org.example.VM1.PowerState cannot be written, its access is 'read'",
    ),
    (
        "{managed_objects: {key: Tags}}",
        "x.yaml:13:30: methods.m.managed_objects.key: 'Tags as' cannot be a key: text or a whole number is needed",
    ),
    (
        "{managed_objects: {key: Uuid}}",
        (
            "x.yaml:13:30: methods.m.managed_objects.key: 'Uuid' is no property of org.example.VM1 "
            "(it has: PowerState, NameLabel, Memory, Created, Tags, Secret, Paused)"
        ),
    ),
    (
        "{member: Pass, params: [fd]}",
        (
            "x.yaml:13:15: methods.m.member: 'fd h' of org.example.VM1.Pass holds a file descriptor (h), "
            "which no legacy protocol carries"
        ),
    ),
    (
        "{member: Check, interface: org.example.VM2}",
        (
            "x.yaml:13:33: methods.m.interface: 'org.example.VM2' is no interface of example.xml "
            "(did you mean 'org.example.VM1'?)"
        ),
    ),
    (
        "{member: Check, bus_name: example}",
        "x.yaml:13:32: methods.m.bus_name: expected a bus name such as org.example.Service, got 'example'",
    ),
    (
        "{member: Check, object_path: /a//b}",
        "x.yaml:13:35: methods.m.object_path: expected an object path such as /org/example/vm/{vm}, got '/a//b'",
    ),
    (
        "{member: Check, interface: VM1}",
        "x.yaml:13:33: methods.m.interface: expected an interface such as org.example.Service1, got 'VM1'",
    ),
    (
        "{member: Check, idl: none.xml}",
        "x.yaml:13:27: methods.m.idl: 'none.xml' cannot be read: No such file or directory",
    ),
]


@pytest.mark.parametrize(("entry", "problem"), PROBLEMS)
def test_what_cannot_be_called_is_a_problem_with_its_place(tmp_path: Path, entry: str, problem: str) -> None:
    assert build_methods(tmp_path, f"m: {entry}").problems == [problem]


def test_where_a_method_lives_must_be_said_somewhere(tmp_path: Path) -> None:
    head = HEAD.replace("  bus_name: org.example\n", "  # nothing here\n")
    problem = "x.yaml:13:3: methods.m: 'bus_name' is missing, here and under 'dbus'"
    assert build_methods(tmp_path, "m: {member: Stat}", head).problems == [problem]


def test_what_is_wrong_for_all_methods_is_said_once(tmp_path: Path) -> None:
    head = HEAD.replace("interface: org.example.VM1", "interface: org.example.VM7")
    problem = "x.yaml:7:14: dbus.interface: 'org.example.VM7' is no interface of example.xml"
    methods = "m: {member: Stat}\nn: {member: Stat}"
    assert build_methods(tmp_path, methods, head).problems == [f"{problem} (did you mean 'org.example.VM1'?)"]


@pytest.mark.parametrize(
    ("name", "why"),
    [("fifo", "is no regular file"), ("/dev/zero", "is no regular file"), ("big", f"is larger than {MAX_SIZE} bytes")],
)
def test_an_idl_is_a_regular_file_of_bounded_size(tmp_path: Path, name: str, why: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    with (tmp_path / "big").open("wb") as big:
        big.truncate(MAX_SIZE + 1)
    (problem,) = build_methods(tmp_path, f"m: {{member: Check, idl: {name}}}").problems
    assert problem.endswith(f"cannot be read: {why}")


def test_a_file_outside_the_mapping_directory_is_not_quoted(tmp_path: Path) -> None:
    private, mappings = tmp_path / "private", tmp_path / "mappings"
    private.mkdir()
    mappings.mkdir()
    (private / "shadow").write_text("<node><interface name='hunter22'/></node>")
    (private / "keys").write_text("hunter22: {hunter23: 1}")
    (mappings / "link.yaml").symlink_to(private / "keys")
    problems = build_methods(mappings, "m: {member: Check, idl: ../private/shadow}").problems
    assert "hunter2" not in "".join(problems)
    assert {problem.partition(": ")[2] for problem in problems} == {"is no mapping file", "is no introspection XML"}


def test_a_bad_idl_is_said_once_where_it_stands(tmp_path: Path) -> None:
    (tmp_path / "bad.xml").write_text("<node>\n  <interface name='x'/>\n</node>")
    head = HEAD.replace("example.xml", "bad.xml")
    problem = "bad.xml:2:3: interface: expected an interface such as org.example.Service1, got 'x'"
    assert build_methods(tmp_path, "m: {member: Stat}\nn: {member: Stat}", head).problems == [problem]


def test_a_method_may_live_elsewhere_than_its_file_says(tmp_path: Path) -> None:
    entry = "{member: Check, interface: org.example.Session1, bus_name: org.other, object_path: /o, params: [session]}"
    target = build_methods(tmp_path, f"m: {entry}").route("m").bus_target
    assert str(target) == "org.other /o org.example.Session1.Check"
    assert (target.signature, target.reply_signature) == ("s", "")


def test_without_any_method_entry_of_a_kind_nothing_is_called(tmp_path: Path) -> None:
    problem = "x.yaml:13:6: methods.m: expected exactly one of member, property, set_property, all_properties, "
    problems = build_files(tmp_path, x=HEAD + "  m: {effect: read}\n  n: {member: A, property: B}\n").problems
    assert problems == [
        f"{problem}managed_objects, got none",
        problem.replace("13:6", "14:6").replace(".m:", ".n:") + "managed_objects, got member and property",
    ]
