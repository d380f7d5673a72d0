from __future__ import annotations

from pathlib import Path

import pytest

from gateway.core.dbus.target import Subscription
from gateway.core.routing.publication import Publication
from gateway.core.rpc.model import Call
from tests.kit.mappings import HEAD, Built, build_files

TOP = HEAD.removesuffix("methods:\n")  # eleven lines
PROPERTIES = "org.freedesktop.DBus.Properties"
OF_VM = "org.example.VM1"


def publish(directory: Path, *entries: str) -> Built:
    """A file with these `publish` entries, from its line 12 on, each on a line."""
    text = "publish:\n" + "".join(f"  - {{listener: store, {entry}}}\n" for entry in entries)
    return build_files(directory, x=f"{TOP}{text}methods:\n  m: {{member: Stat}}\n")


def published(directory: Path, entry: str) -> Publication:
    built = publish(directory, entry)
    assert built.problems == []
    (publication,) = built.table.publications
    return publication


def problem(directory: Path, entry: str) -> str:
    built = publish(directory, entry)
    assert built.table.publications == ()
    (only,) = built.problems
    assert only.startswith("x.yaml:13:"), only
    return only.partition(": ")[2]


def test_a_signal_is_shown_with_its_arguments(tmp_path: Path) -> None:
    publication = published(tmp_path, 'node: "/vm/{name}/target", signal: Retargeted, value: "{kib} KiB"')
    (heard,) = publication.subscriptions
    assert heard == Subscription("org.example", "/org/example", OF_VM, "Retargeted", "sx")
    assert publication.arguments == ("name", "kib")
    assert publication.node_set("", {"name": "web", "kib": 7}).leaves == {"/vm/web/target": b"7 KiB"}
    assert (publication.read, publication.read_all) == (None, None)
    assert publication.source.endswith("x.yaml:13")


def test_properties_of_one_object_are_shown_and_can_be_read(tmp_path: Path) -> None:
    entry = 'node: /vm, properties: {memory: Memory, a/b: "{PowerState}!", own: NameLabel}, permissions: "n0,r5"'
    publication = published(tmp_path, entry)
    (heard,) = publication.subscriptions
    assert heard.properties == {"Memory": "t", "PowerState": "s", "NameLabel": "s"}
    picture = publication.node_set("", {"Memory": 7, "PowerState": "on", "NameLabel": "x"})
    assert picture.leaves == {"/vm/memory": b"7", "/vm/a/b": b"on!", "/vm/own": b"x"}
    assert picture.grants == (("n", 0), ("r", 5))
    assert publication.read is not None
    call = publication.read.encode_arguments(Call("publish"))
    assert (call.object_path, call.interface, call.member, call.body) == ("/org/example", PROPERTIES, "GetAll", [OF_VM])
    assert publication.read_all is None


def test_one_property_needs_no_more_than_its_name(tmp_path: Path) -> None:
    assert published(tmp_path, "node: /state, property: PowerState").node_set("", {"PowerState": "on"}).leaves == {
        "/state": b"on"
    }
    with_text = published(tmp_path, 'node: /state, property: PowerState, value: "is {PowerState}"')
    assert with_text.node_set("", {"PowerState": "on"}).leaves == {"/state": b"is on"}


def test_all_objects_are_shown_each_at_its_own_node(tmp_path: Path) -> None:
    entry = 'object_path: "/org/example/vm/{vm}", node: "/vm/{vm}", property: Memory, objects: /org/example'
    publication = published(tmp_path, entry)
    changes, added, removed = publication.subscriptions
    assert (changes.object_path, changes.below, changes.properties) == ("/org/example/vm", True, {"Memory": "t"})
    assert (added.object_path, added.member, added.below) == ("/org/example", "InterfacesAdded", True)
    assert removed.member == "InterfacesRemoved"
    assert publication.read is not None
    assert publication.read.encode_arguments(Call("publish", (), {"vm": "5"})).object_path == "/org/example/vm/_35"
    assert publication.read_all is not None
    assert publication.read_all.encode_arguments(Call("publish")).object_path == "/org/example"
    assert published(tmp_path, entry.replace(", objects: /org/example", "")).subscriptions[1].object_path == (
        "/org/example/vm"
    )


def test_a_flag_is_a_node_that_is_there_or_not(tmp_path: Path) -> None:
    publication = published(tmp_path, "node: /vm, properties: {paused: {present: Paused}}")
    assert publication.node_set("", {"Paused": True}).leaves == {"/vm/paused": b""}
    assert publication.node_set("", {"Paused": False}).leaves == {"/vm/paused": None}


NO_PROPERTY = "is no property of org.example.VM1 (there are: PowerState, NameLabel, Memory, Created, Tags, Paused)"
ONE_NAME = "expected an object path with one name at most, as its last element: /org/example/vm/{vm}"
ONE_OBJECT = "'objects' does not go with an object path without a name in it: there is one object"
A_PATH = "expected a path such as /local/domain/{domid}/control, got"
ALREADY = "'objects' does not go with a signal: what has happened cannot be read again"
KINDS = "expected exactly one of signal, property, properties, got"
NEAR = "is no property of org.example.VM1 (did you mean 'Memory'?)"


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (
            "node: /a, signal: Retarget, value: x",
            "'Retarget' is no signal of org.example.VM1 (did you mean 'Retargeted'?)",
        ),
        (
            'node: /a, signal: Retargeted, value: "{kb}"',
            "'kb' is no argument of org.example.VM1.Retargeted (did you mean 'kib'?)",
        ),
        ("node: /a, signal: Retargeted", "'value' is missing: the text of the node, such as \"{kib}\""),
        ("node: /a, property: Memry", f"'Memry' {NEAR}"),
        ("node: /a, property: Secret", f"'Secret' {NO_PROPERTY}"),
        ("node: /a, property: Tags", "'Tags as' is no text, number or boolean, which a node could say"),
        ("node: /a, properties: {b: {present: Memory}}", "'Memory t' is no boolean"),
        ("node: /a, properties: {b: {present: Memry}}", f"'Memry' {NEAR}"),
        ('node: "/a/{vm}", property: Memory', f"'vm' {NO_PROPERTY}"),
        ("node: /a/b.c, property: Memory", f"{A_PATH} '/a/b.c'"),
        ("node: /a, properties: {b.c: Memory}", f"{A_PATH} '/b.c'"),
        (
            'node: /a, properties: {"{Memory}": Memory}',
            "expected the path of a node below 'node', without names in braces",
        ),
        (
            "node: /a, properties: {b: Memory}, value: x",
            "'value' does not go with 'properties', where each node has its own",
        ),
        ("node: /a, property: Memory, objects: /x", ONE_OBJECT),
        ("node: /a, signal: Retargeted, value: x, objects: /x", ALREADY),
        ('node: /a, property: Memory, value: "x"', "no property is published"),
        (
            'node: /a, property: Memory, permissions: "x0"',
            "expected permissions such as n0,r5 (the owner comes first), got 'x0'",
        ),
        ('node: /a, property: Memory, permissions: "n0,r{vm}"', "{vm} does not stand in 'node' (there are: none)"),
        ('object_path: "/org/example/{a}/{b}", node: "/a/{b}", property: Memory', ONE_NAME),
        ('object_path: "/{vm}", node: "/a/{vm}", property: Memory', ONE_NAME),
        (
            'object_path: "/org/example/vm/{vm}", node: /a, property: Memory',
            "every object would write this one node: {vm} is missing in it",
        ),
        ("node: /a, property: Memory, signal: Retargeted", f"{KINDS} signal and property"),
        ("node: /a", f"{KINDS} none"),
        (
            "node: /a, property: Memory, interface: org.example.VM",
            "'org.example.VM' is no interface of example.xml (did you mean 'org.example.VM1'?)",
        ),
    ],
)
def test_a_problem_is_told_with_its_place(tmp_path: Path, entry: str, expected: str) -> None:
    assert problem(tmp_path, entry).partition(": ")[2] == expected


def test_a_problem_names_file_line_and_column(tmp_path: Path) -> None:
    built = publish(tmp_path, "node: /a, property: Memry")
    assert built.problems == [
        "x.yaml:13:43: publish[0].property: 'Memry' is no property of org.example.VM1 (did you mean 'Memory'?)"
    ]


def test_a_node_is_published_once_whatever_the_file(tmp_path: Path) -> None:
    entry = "node: /a, properties: {b: Memory}"
    built = publish(tmp_path, entry, "node: /a/b, property: PowerState", "node: /a/c, property: PowerState")
    assert built.problems == ["x.yaml:14:29: publish[1].node: /a/b is published already, in x.yaml:13"]


def test_a_listener_that_is_not_there_is_told(tmp_path: Path) -> None:
    for listener, told in (("stores", "is no listener (did you mean 'store'?)"), ("rpc", "is not a xenstore")):
        text = f"publish: [{{listener: {listener}, node: /a, property: Memory}}]\n"
        built = build_files(tmp_path, x=f"{TOP}{text}methods:\n  m: {{member: Stat}}\n")
        assert built.problems == [f"x.yaml:12:22: publish[0].listener: '{listener}' {told}"]


def test_what_runs_can_be_held_against_it(tmp_path: Path) -> None:
    built = publish(tmp_path, "node: /a, property: Memory", "node: /b, signal: Retargeted, value: x")
    members = [contract.members for contract in built.table.contracts if contract.place.startswith("publish")]
    assert members == [("Memory",), ("Retargeted",)]


def test_a_fingerprint_changes_with_the_entry_and_with_the_idl_only(tmp_path: Path) -> None:
    entries = ("node: /a, property: Memory", "node: /b, property: Memory")
    first = [each.fingerprint for each in publish(tmp_path, *entries).table.publications]
    again = [each.fingerprint for each in publish(tmp_path, "node: /c, property: Memory", *entries).table.publications]
    assert again[1:] == first
    assert len(set(again)) == 3
