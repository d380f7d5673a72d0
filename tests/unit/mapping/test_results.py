from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gateway.core.dbus.formats import of_class
from gateway.core.dbus.marshal import MarshalError, Variant
from gateway.core.rpc.model import Value
from tests.kit.mappings import build_methods

STAT: list[Any] = ["on", 5]
RECORD: list[Any] = [{"PowerState": Variant("s", "on"), "Created": Variant("x", 60), "Odd": Variant("u", 1)}]
OBJECTS: list[Any] = [
    {
        "/org/example/vm/a_2d1": {"org.example.VM1": {"NameLabel": Variant("s", "one"), "Created": Variant("x", 60)}},
        "/org/example/sr/b": {"org.example.SR1": {}},
    }
]
MINUTE = datetime(1970, 1, 1, 0, 1, tzinfo=UTC)

# method entry, body of the method return, result, its type
RESULTS: list[tuple[str, list[Any], Value, str]] = [
    ("{member: Start, params: [paused, force]}", [], None, "None"),
    ("{member: Add, params: [name, memory]}", ["u"], "u", "s"),
    ("{member: Stat}", STAT, {"state": "on", "memory_bytes": 5}, "a{sv}"),
    ("{member: Stat, result: void}", STAT, None, "None"),
    ("{member: Stat, result: state}", STAT, "on", "s"),
    ("{member: Stat, result: [memory_bytes, state]}", STAT, [5, "on"], "av"),
    ("{member: Stat, result: {power: state}}", STAT, {"power": "on"}, "a{sv}"),
    (
        "{member: Stat, result: {power: state, m: {from: memory_bytes, format: text}}}",
        STAT,
        {"power": "on", "m": "5"},
        "a{sv}",
    ),
    ("{member: Stat, result: {fields: {format: state}}}", STAT, {"format": "on"}, "a{sv}"),
    ("{member: Stat, result: {from: memory_bytes, format: text}}", STAT, "5", "s"),
    ("{member: Disks, result: {struct: [id, size]}}", [[("d", 1)]], [{"id": "d", "size": 1}], "aa{sv}"),
    ("{member: Disks}", [[("d", 1)]], [["d", 1]], "a(st)"),
    (
        "{member: Info, result: {fields: {id: Uuid, at: {from: Made, format: datetime}, no: Absent}}}",
        [{"Uuid": Variant("s", "u"), "Made": Variant("x", 60)}],
        {"id": "u", "at": MINUTE},
        "a{sv}",
    ),
    ("{member: At, params: [when], result: {format: datetime}}", [60], MINUTE, "s"),
    ("{member: Info, variants: typed}", [{"a": Variant("u", 1)}], {"a": {"signature": "u", "value": 1}}, "a{sv}"),
    ("{property: PowerState}", [Variant("s", "on")], "on", "s"),
    ("{property: Created, result: {format: datetime}}", [Variant("x", 60)], MINUTE, "s"),
    ("{property: Tags}", [Variant("as", ["a"])], ["a"], "as"),
    ("{set_property: NameLabel, params: [value]}", [], None, "None"),
    ("{all_properties: true}", RECORD, {"PowerState": "on", "Created": 60, "Odd": 1}, "a{sv}"),
    ("{all_properties: true, result: {power: PowerState}}", RECORD, {"power": "on"}, "a{sv}"),
    (
        "{all_properties: true, result: {fields: {power: PowerState, made: {from: Created, format: datetime}}}}",
        RECORD,
        {"power": "on", "made": MINUTE},
        "a{sv}",
    ),
    ("{managed_objects: true}", OBJECTS, {"a-1": {"NameLabel": "one", "Created": 60}}, "a{sa{sv}}"),
    (
        "{managed_objects: {key: NameLabel}, result: {made: {from: Created, format: text}}}",
        OBJECTS,
        {"one": {"made": "60"}},
        "a{sa{sv}}",
    ),
]


@pytest.mark.parametrize(("entry", "body", "result", "kind"), RESULTS)
def test_a_method_return_becomes_the_result(
    tmp_path: Path, entry: str, body: list[Any], result: Value, kind: str
) -> None:
    route = build_methods(tmp_path, f"m: {entry}").route("m")
    assert route.decode_result(body) == result
    assert str(route.result) == kind


PROBLEMS = [
    (
        "{member: Stat, result: {m: memory}}",
        (
            "x.yaml:13:33: methods.m.result.m: 'memory' is no out-argument of org.example.VM1.Stat "
            "(did you mean 'memory_bytes'?)"
        ),
    ),
    (
        "{member: Stat, result: domid}",
        (
            "x.yaml:13:29: methods.m.result: 'domid' is no out-argument of org.example.VM1.Stat "
            "(it has: state s, memory_bytes t)"
        ),
    ),
    (
        "{member: Stat, result: {format: text}}",
        "x.yaml:13:21: methods.m.result: 'from' is missing: which out-argument? (there are: state s, memory_bytes t)",
    ),
    (
        "{member: Start, params: [paused, force], result: paused}",
        "x.yaml:13:55: methods.m.result: 'paused' is no out-argument of org.example.VM1.Start (it has: none)",
    ),
    (
        "{member: Stat, result: {from: state, format: text}}",
        (
            "x.yaml:13:51: methods.m.result.format: 'state s' cannot be shown as text: "
            "one of y, n, q, i, u, x, t, d is needed"
        ),
    ),
    (
        "{member: Stat, result: {from: state, format: text, struct: [a]}}",
        "x.yaml:13:43: methods.m.result.format: 'format' does not go with 'struct'",
    ),
    ("{member: Stat, result: [{format: text}]}", "x.yaml:13:30: methods.m.result[0]: 'from' is missing"),
    (
        "{member: Stat, result: {from: state, fields: {a: b}}}",
        (
            "x.yaml:13:51: methods.m.result.fields: 'state s' is no dictionary with text keys, "
            "nor an array or dictionary of such"
        ),
    ),
    (
        "{member: Disks, result: {struct: [a]}}",
        "x.yaml:13:39: methods.m.result.struct: 'disks a(st)' has 2 fields, 1 are named",
    ),
    (
        "{member: Stat, result: {from: state, struct: [a]}}",
        "x.yaml:13:51: methods.m.result.struct: 'state s' is no struct, nor an array or dictionary of structs",
    ),
    (
        "{member: Info, result: {fields: {a: {from: B, struct: [c]}}}}",
        "x.yaml:13:60: methods.m.result.fields.a.struct: 'B v' is no struct, nor an array or dictionary of structs",
    ),
    (
        "{member: Info, variants: typed, result: {fields: {a: {from: B, format: text}}}}",
        (
            "x.yaml:13:77: methods.m.result.fields.a.format: "
            "'B' is a variant, which 'variants: typed' shows with its signature"
        ),
    ),
    (
        "{all_properties: true, result: {p: Powerstate}}",
        "x.yaml:13:41: methods.m.result.p: 'Powerstate' is no property of org.example.VM1 (did you mean 'PowerState'?)",
    ),
    (
        "{all_properties: true, result: [PowerState]}",
        "x.yaml:13:37: methods.m.result: properties are picked as {legacy name: property}, or with 'fields' alone",
    ),
]


@pytest.mark.parametrize(("entry", "problem"), PROBLEMS)
def test_what_cannot_be_shaped_is_a_problem_with_its_place(tmp_path: Path, entry: str, problem: str) -> None:
    assert build_methods(tmp_path, f"m: {entry}").problems == [problem]


def test_a_property_of_another_type_than_the_idl_says_is_refused(tmp_path: Path) -> None:
    route = build_methods(tmp_path, "m: {property: PowerState}").route("m")
    with pytest.raises(MarshalError, match="expected s from the service"):
        route.decode_result([Variant("u", 1)])


def test_objects_with_one_key_are_told_by_their_paths_unless_the_mapping_refuses_them(tmp_path: Path) -> None:
    methods = "m: {managed_objects: {key: NameLabel}}\nn: {managed_objects: {key: NameLabel, on_duplicate: error}}"
    built = build_methods(tmp_path, methods)
    record = {"org.example.VM1": {"NameLabel": Variant("s", "same")}}
    objects = [{"/a": record, "/b": record}]
    assert built.route("m").decode_result(objects) == {"/a": {"NameLabel": "same"}, "/b": {"NameLabel": "same"}}
    with pytest.raises(MarshalError, match="expected a key for the record that no other has"):
        built.route("n").decode_result(objects)


def test_a_second_class_has_references_of_its_own(tmp_path: Path) -> None:
    form = "{class: VM_metrics}"
    own = f"{{own: {{from: NameLabel, format: {form}}}}}"
    methods = f"m: {{managed_objects: {{key: NameLabel, class: VM_metrics}}, result: {own}}}\n"
    methods += f"n: {{property: NameLabel, result: {{format: {form}}}}}\n"
    built = build_methods(tmp_path, methods)
    vm = "OpaqueRef:11111111-aaaa-4aaa-8aaa-000000000001"
    metrics = of_class("VM_metrics")(vm)
    objects = {"/a": {"org.example.VM1": {"NameLabel": Variant("s", vm)}}}
    assert built.route("m").decode_result([objects]) == {metrics: {"own": metrics}}
    assert built.route("n").decode_result([Variant("s", vm)]) == metrics


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("managed_objects: {key: Memory, class: c}", "'class' needs a text as key, and Memory is t"),
        ("managed_objects: {key: path, class: c}", "'class' goes with a property as key"),
        ("property: Memory, result: {format: {class: c}}", "cannot be shown as a reference of c: one of s is needed"),
        (
            "member: At, params: [{name: when, drop: true, format: {class: c}}], args: {when: 1}",
            "does not go with 'drop'",
        ),
    ],
)
def test_what_is_no_reference_belongs_to_no_class(tmp_path: Path, entry: str, problem: str) -> None:
    (found,) = build_methods(tmp_path, f"m: {{{entry}}}").problems
    assert problem in found


@pytest.mark.parametrize(("key", "named"), [("path", "/x/dev_11_22"), ("element", "dev_11_22"), ("PowerState", "on")])
def test_a_record_is_named_by_a_property_or_by_its_path(tmp_path: Path, key: str, named: str) -> None:
    route = build_methods(tmp_path, f"m: {{managed_objects: {{key: {key}}}}}").route("m")
    objects = {"/x/dev_11_22": {"org.example.VM1": {"PowerState": Variant("s", "on")}}}
    assert route.decode_result([objects]) == {named: {"PowerState": "on"}}
