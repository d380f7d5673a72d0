"""Parameters and constants of a method -> the D-Bus method call."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.core.dbus.formats import of_class
from gateway.core.dbus.marshal import Variant
from gateway.core.dbus.names import escape_path_element
from gateway.core.dbus.scalars import MarshalError
from gateway.core.rpc.model import Call, Value
from tests.kit.cases import each_case
from tests.kit.mappings import build_methods

START = "member: Start, object_path: '/org/example/vm/{vm}'"


# Keys of a method (a list: `params` of Add), parameters by position, the body they become
BODIES: list[tuple[str, tuple[Value, ...], list[object]]] = [
    ("[name, memory]", ("a", 5), ["a", 5]),
    ("[memory, name]", (5, "a"), ["a", 5]),
    ("[{name: dbg, drop: true}, name, memory]", (None, "a", 5), ["a", 5]),
    ("[name, memory, {name: o, drop: true, default: {}}]", ("a", 5, {"x": [None]}), ["a", 5]),
    ("[name, memory, {name: o, drop: true, default: {}}]", ("a", 5), ["a", 5]),
    ("[{name: label, to: name}, {name: kib, to: memory}]", ("a", 5), ["a", 5]),
    ("[name], args: {memory: 7}", ("a",), ["a", 7]),
    ("[name, {name: memory, default: 9}]", ("a",), ["a", 9]),
    ("[name, {name: memory, default: 9}]", ("a", 1), ["a", 1]),
    ("[name, memory], coerce: legacy", ("a", "5"), ["a", 5]),
    ("[{name: o, fields: {label: name, kib: {to: memory, default: 3}}}]", ({"label": "a"},), ["a", 3]),
    (
        "[{name: o, unknown_members: ignore, fields: {name: name, memory: memory}}]",
        ({"name": "a", "memory": 5, "more": None},),
        ["a", 5],
    ),
    ("[{name: o, default: {name: b}, fields: {name: name, m: {to: memory, default: 1}}}]", (), ["b", 1]),
    (
        "member: Configure, params: [n, k], args: {config: {gather: {name: n, kib: k}}, pair: {gather: [n, k]}}",
        ("a", 5),
        [{"name": Variant("s", "a"), "kib": Variant("x", 5)}, ("a", 5)],
    ),
    ("member: Configure, args: {config: {const: {a: true}}, pair: [x, 1]}", (), [{"a": Variant("b", True)}, ("x", 1)]),
    (
        "member: Configure, args: {config: {const: {}}}, params: [{name: pair, struct: [mac, mtu]}]",
        ({"mtu": 9, "mac": "m"},),
        [{}, ("m", 9)],
    ),
    (
        "member: Plug, params: [{name: devices, struct: [mac, mtu], unknown_members: ignore}]",
        ([{"mtu": 9, "mac": "m", "x": 1}],),
        [[("m", 9)]],
    ),
    ("member: At, params: [{name: when, format: datetime}]", ("19700101T00:01:00Z",), [60]),
    ("set_property: NameLabel, params: [value]", ("a",), ["org.example.VM1", "NameLabel", Variant("s", "a")]),
    ("set_property: NameLabel, args: {value: b}", (), ["org.example.VM1", "NameLabel", Variant("s", "b")]),
    ("property: PowerState", (), ["org.example.VM1", "PowerState"]),
    ("all_properties: true", (), ["org.example.VM1"]),
    ("managed_objects: true", (), []),
]


@each_case(("entry", "params", "body"), BODIES)
def test_parameters_become_the_body(tmp_path: Path, entry: str, params: tuple[Value, ...], body: list[object]) -> None:
    keys = f"member: Add, params: {entry}" if entry.startswith("[") else entry
    assert build_methods(tmp_path, f"m: {{{keys}}}").bind("m", *params).body == body


def test_a_reference_of_a_second_class_is_that_of_the_object(tmp_path: Path) -> None:
    param = "{name: vm, format: {class: VM_metrics}}"
    methods = f"m: {{{START}, params: [{param}, paused, force], coerce: legacy, key: vm}}\n"
    methods += f"n: {{member: Add, params: [{param.replace('vm', 'name')}, memory]}}"
    built = build_methods(tmp_path, methods)
    vm = "11111111-aaaa-4aaa-8aaa-000000000001"
    metrics = of_class("VM_metrics")(vm)
    assert built.bind("m", metrics, False, False).object_path == "/org/example/vm/" + escape_path_element(vm)
    assert built.bind("n", metrics, 5).body == [vm, 5]
    key = built.route("m").migration.key
    assert key is not None
    assert key.take(Call("m", (metrics,))) == vm  # its canary divides the objects, as those of the first class do


def test_parameters_are_described_in_the_form_of_the_client(tmp_path: Path) -> None:
    start = f"m: {{{START}, params: [vm, paused, {{name: force, default: false, documentation: At once.}}]}}"
    add = "n: {member: Add, params: [{name: dbg, drop: true}, {name: o, fields: {n: name, m: memory}}]}"
    plug = "o: {member: Plug, params: [{name: devices, struct: [mac, mtu]}]}"
    built = build_methods(
        tmp_path, f"{start}\n{add}\n{plug}\np: {{member: At, params: [{{name: t, to: when, format: datetime}}]}}"
    )
    assert [
        (each.name, str(each.type), each.required, each.documentation)
        for name in "mnop"
        for each in built.route(name).parameters
    ] == [
        ("vm", "s", True, ""),
        ("paused", "b", True, "Not yet."),
        ("force", "b", False, "At once."),
        *((name, kind, True, "") for name, kind in (("dbg", "None"), ("o", "None"), ("devices", "aa{sv}"), ("t", "s"))),
    ]


def test_a_struct_for_a_dropped_parameter_is_rejected(tmp_path: Path) -> None:
    """It is one of named parameters, sent where they are not understood: all of them would be lost."""
    for target in ("member: Add", "member: Add, object_path: '/vm/{name}'"):
        built = build_methods(tmp_path, f"m: {{{target}, params: [{{name: dbg, drop: true}}, name, memory]}}")
        with pytest.raises(MarshalError, match=r"^\$\.params\[0\]: expected a single value, which is not used, got a"):
            built.bind("m", {"name": "xenbr9", "memory": 5}, "a", 5)
        with pytest.raises(MarshalError, match=r"^\$\.params\.dbg: expected a single value, which is not used, got an"):
            built.bind("m", "a", 5, dbg=["x"])
