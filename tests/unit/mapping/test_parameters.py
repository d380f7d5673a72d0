from __future__ import annotations

from pathlib import Path

import pytest

from gateway.core.dbus.formats import of_class
from gateway.core.dbus.marshal import Variant
from gateway.core.dbus.names import escape_path_element
from gateway.core.dbus.scalars import MarshalError
from gateway.core.rpc.model import Call, Value
from tests.kit.mappings import build_methods

START = "member: Start, object_path: '/org/example/vm/{vm}'"

# method entry, parameters by position, the body they become
BODIES: list[tuple[str, tuple[Value, ...], list[object]]] = [
    ("{member: Add, params: [name, memory]}", ("a", 5), ["a", 5]),
    ("{member: Add, params: [memory, name]}", (5, "a"), ["a", 5]),
    ("{member: Add, params: [{name: dbg, drop: true}, name, memory]}", (None, "a", 5), ["a", 5]),
    ("{member: Add, params: [name, memory, {name: o, drop: true, default: {}}]}", ("a", 5, {"x": [None]}), ["a", 5]),
    ("{member: Add, params: [name, memory, {name: o, drop: true, default: {}}]}", ("a", 5), ["a", 5]),
    ("{member: Add, params: [{name: label, to: name}, {name: kib, to: memory}]}", ("a", 5), ["a", 5]),
    ("{member: Add, params: [name], args: {memory: 7}}", ("a",), ["a", 7]),
    ("{member: Add, params: [name, {name: memory, default: 9}]}", ("a",), ["a", 9]),
    ("{member: Add, params: [name, {name: memory, default: 9}]}", ("a", 1), ["a", 1]),
    ("{member: Add, params: [name, memory], coerce: legacy}", ("a", "5"), ["a", 5]),
    (
        "{member: Add, params: [{name: o, fields: {label: name, kib: {to: memory, default: 3}}}]}",
        ({"label": "a"},),
        ["a", 3],
    ),
    (
        "{member: Add, params: [{name: o, unknown_members: ignore, fields: {name: name, memory: memory}}]}",
        ({"name": "a", "memory": 5, "more": None},),
        ["a", 5],
    ),
    (
        "{member: Add, params: [{name: o, default: {name: b}, fields: {name: name, m: {to: memory, default: 1}}}]}",
        (),
        ["b", 1],
    ),
    (
        "{member: Configure, params: [n, k], args: {config: {gather: {name: n, kib: k}}, pair: {gather: [n, k]}}}",
        ("a", 5),
        [{"name": Variant("s", "a"), "kib": Variant("x", 5)}, ("a", 5)],
    ),
    (
        "{member: Configure, args: {config: {const: {a: true}}, pair: [x, 1]}}",
        (),
        [{"a": Variant("b", True)}, ("x", 1)],
    ),
    (
        "{member: Configure, args: {config: {const: {}}}, params: [{name: pair, struct: [mac, mtu]}]}",
        ({"mtu": 9, "mac": "m"},),
        [{}, ("m", 9)],
    ),
    (
        "{member: Plug, params: [{name: devices, struct: [mac, mtu], unknown_members: ignore}]}",
        ([{"mtu": 9, "mac": "m", "x": 1}],),
        [[("m", 9)]],
    ),
    ("{member: At, params: [{name: when, format: datetime}]}", ("19700101T00:01:00Z",), [60]),
    ("{set_property: NameLabel, params: [value]}", ("a",), ["org.example.VM1", "NameLabel", Variant("s", "a")]),
    ("{set_property: NameLabel, args: {value: b}}", (), ["org.example.VM1", "NameLabel", Variant("s", "b")]),
    ("{property: PowerState}", (), ["org.example.VM1", "PowerState"]),
    ("{all_properties: true}", (), ["org.example.VM1"]),
    ("{managed_objects: true}", (), []),
]


@pytest.mark.parametrize(("entry", "params", "body"), BODIES)
def test_parameters_become_the_body(tmp_path: Path, entry: str, params: tuple[Value, ...], body: list[object]) -> None:
    assert build_methods(tmp_path, f"m: {entry}").bind("m", *params).body == body


def test_a_parameter_is_escaped_into_the_object_path(tmp_path: Path) -> None:
    built = build_methods(tmp_path, f"m: {{{START}, params: [vm, paused, force]}}")
    assert built.bind("m", "../x", True, False).object_path == "/org/example/vm/_2e_2e_2fx"
    assert built.bind("m", 7, True, False).object_path == "/org/example/vm/_37"


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


def test_parameters_are_described_for_help_texts(tmp_path: Path) -> None:
    entry = f"{{{START}, params: [vm, paused, {{name: force, default: false, documentation: At once.}}]}}"
    vm, paused, force = build_methods(tmp_path, f"m: {entry}").route("m").parameters
    assert (str(vm.type), vm.required, vm.documentation) == ("s", True, "")
    assert (str(paused.type), paused.required, paused.documentation) == ("b", True, "Not yet.")
    assert (str(force.type), force.required, force.documentation) == ("b", False, "At once.")


@pytest.mark.parametrize(
    ("params", "named", "place"),
    [
        (
            ({"name": "xenbr9", "memory": 5}, "a", 5),
            {},
            "$.params[0]: expected a single value, which is not used, got a",
        ),
        (("a", 5), {"dbg": ["x"]}, "$.params.dbg: expected a single value, which is not used, got an array"),
    ],
)
@pytest.mark.parametrize("target", ["member: Add", "member: Add, object_path: '/vm/{name}'"])
def test_a_struct_for_a_parameter_that_is_not_used_is_refused(
    tmp_path: Path, params: tuple[Value, ...], named: dict[str, Value], place: str, target: str
) -> None:
    """It is one of named parameters, sent where they are not understood: all of them would be lost."""
    built = build_methods(tmp_path, f"m: {{{target}, params: [{{name: dbg, drop: true}}, name, memory]}}")
    with pytest.raises(MarshalError) as caught:
        built.bind("m", *params, **named)
    assert str(caught.value).startswith(place)


def test_a_parameter_that_is_dropped_or_taken_apart_has_no_type(tmp_path: Path) -> None:
    entry = "{member: Add, params: [{name: dbg, drop: true}, {name: o, fields: {n: name, m: memory}}]}"
    assert [one.type for one in build_methods(tmp_path, f"m: {entry}").route("m").parameters] == [None, None]


def test_a_parameter_in_another_form_is_described_as_the_client_gives_it(tmp_path: Path) -> None:
    methods = "m: {member: Plug, params: [{name: devices, struct: [mac, mtu]}]}"
    built = build_methods(tmp_path, f"{methods}\nn: {{member: At, params: [{{name: when, format: datetime}}]}}")
    assert [str(built.route(name).parameters[0].type) for name in "mn"] == ["aa{sv}", "s"]


# method entry (in line 13 of the file, its value in column 6), what is said of it
PROBLEMS = [
    ("{member: Add, params: [name]}", "x.yaml:13:3: methods.m: nobody gives the in-argument 'memory u' of {Add}"),
    (
        "{member: Add, params: [name, memory, size]}",
        (
            "x.yaml:13:43: methods.m.params[2]: parameter 'size' leads nowhere: 'size' is no in-argument of {Add} "
            "(it has: name s, memory u); say `to`, `fields` or `drop`, or gather it"
        ),
    ),
    (
        "{member: Add, params: [name, {name: m, to: memori}], args: {memory: 1}}",
        "x.yaml:13:49: methods.m.params[1].to: 'memori' is no in-argument of {Add} (did you mean 'memory'?)",
    ),
    (
        "{member: Add, params: [name, {name: m, to: name}], args: {memory: 1}}",
        "x.yaml:13:35: methods.m.params[1]: the in-argument 'name' is given twice",
    ),
    (
        "{member: Add, params: [name, memory], args: {memory: 1}}",
        "x.yaml:13:51: methods.m.args.memory: the in-argument 'memory' is given twice: by a parameter, and here",
    ),
    (
        "{member: Add, params: [name, memory], args: {x: 1}}",
        "x.yaml:13:51: methods.m.args.x: 'x' is no in-argument of {Add} (it has: name s, memory u)",
    ),
    (
        "{member: Add, params: [name], args: {memory: -1}}",
        "x.yaml:13:51: methods.m.args.memory: expected u, got -1",
    ),
    (
        "{member: Add, params: [name, {name: memory, default: x}]}",
        'x.yaml:13:59: methods.m.params[1].default: expected u, got "x"',
    ),
    (
        "{member: Add, params: [{name: name, default: x}, memory]}",
        "x.yaml:13:55: methods.m.params[1]: parameter 'memory' is required, but comes after one that may be left out",
    ),
    (
        "{member: Add, params: [name, memory, {name: name, drop: true}]}",
        "x.yaml:13:50: methods.m.params[2].name: parameter 'name' is there twice",
    ),
    (
        f"{{{START}, params: [paused, force]}}",
        "x.yaml:13:35: methods.m.object_path: {vm} in the object path is no parameter (there are: paused, force)",
    ),
    (
        f"{{{START}, params: [paused, force, {{name: vm, default: [1]}}]}}",
        (
            "x.yaml:13:103: methods.m.params[2].default: "
            "[0]: expected text or a whole number, for the object path, got an array of 1"
        ),
    ),
    (
        "{member: Add, params: [name, {name: memory, drop: true, to: memory}]}",
        "x.yaml:13:62: methods.m.params[1].to: 'to' does not go with 'drop'",
    ),
    (
        "{member: Add, params: [name, {name: memory, unknown_members: ignore}]}",
        "x.yaml:13:50: methods.m.params[1].unknown_members: 'unknown_members' goes with 'fields' or 'struct' only",
    ),
    (
        "{member: Add, params: [name, memory, {name: d, drop: true, format: datetime}]}",
        "x.yaml:13:65: methods.m.params[2].format: 'format' does not go with 'drop'",
    ),
    (
        "{member: Add, params: [name, {name: memory, struct: [a, b]}]}",
        "x.yaml:13:58: methods.m.params[1].struct: 'memory u' is no struct, nor an array or dictionary of structs",
    ),
    (
        "{member: Plug, params: [{name: devices, struct: [a]}]}",
        "x.yaml:13:54: methods.m.params[0].struct: 'devices a(su)' has 2 fields, 1 are named",
    ),
    (
        "{member: Plug, params: [{name: devices, format: datetime}]}",
        (
            "x.yaml:13:54: methods.m.params[0].format: 'devices a(su)' cannot say a moment: "
            "one of x, t, u, i, d, s is needed"
        ),
    ),
    (
        "{member: Plug, params: [{name: devices, struct: [a, b], format: datetime}]}",
        "x.yaml:13:62: methods.m.params[0].format: 'format' does not go with 'struct'",
    ),
    (
        "{member: Add, params: [{name: o, fields: {n: name, m: {to: memory, default: x}}}]}",
        'x.yaml:13:82: methods.m.params[0].fields.m.default: expected u, got "x"',
    ),
    (
        "{member: Add, params: [{name: o, fields: {n: name, m: memories}}], args: {memory: 1}}",
        "x.yaml:13:60: methods.m.params[0].fields.m: 'memories' is no in-argument of {Add} (did you mean 'memory'?)",
    ),
    (
        "{member: Add, params: [{name: o, default: {n: 1, m: 1}, fields: {n: name, m: memory}}]}",
        "x.yaml:13:48: methods.m.params[0].default: expected s, got 1",
    ),
    (
        "{member: Add, params: [{name: o, default: {n: a}, fields: {n: name, m: memory}}]}",
        "x.yaml:13:48: methods.m.params[0].default: m: expected a member of this name, got nothing",
    ),
    (
        "{member: Plug, params: [d], args: {devices: {gather: [d]}}}",
        "x.yaml:13:59: methods.m.args.devices.gather: 'devices a(su)' is not a struct",
    ),
    (
        "{member: Plug, params: [d], args: {devices: {gather: {d: d}}}}",
        "x.yaml:13:59: methods.m.args.devices.gather: 'devices a(su)' is not a dictionary",
    ),
    (
        "{member: Configure, params: [n], args: {config: {gather: {n: n, o: m}}, pair: [x, 1]}}",
        "x.yaml:13:73: methods.m.args.config.gather.o: 'm' is no parameter (there are: n)",
    ),
    (
        "{member: Configure, params: [n], args: {config: {const: {}}, pair: {gather: [n]}}}",
        "x.yaml:13:82: methods.m.args.pair.gather: 'pair (su)' has 2 fields, 1 are gathered",
    ),
    (
        "{member: Configure, params: [n, {name: k, default: x}], args: {config: {const: {}}, pair: {gather: [n, k]}}}",
        'x.yaml:13:57: methods.m.params[1].default: expected u, got "x"',
    ),
    (
        "{set_property: NameLabel, params: [v], args: {value: {gather: [v]}}}",
        "x.yaml:13:60: methods.m.args.value.gather: a property is written with a parameter or a constant",
    ),
    (
        f"{{{START}, params: [{{name: vm, drop: true}}, paused, force]}}",
        "x.yaml:13:79: methods.m.params[0].drop: 'drop' does not go with the object path, which needs 'vm'",
    ),
    (
        "{member: Configure, params: [{name: o, fields: {pair: pair}}], args: {config: {gather: {o: o}}}}",
        "x.yaml:13:45: methods.m.params[0].fields: 'fields' does not go with 'gather', which needs 'o'",
    ),
    (
        "{set_property: NameLabel}",
        "x.yaml:13:3: methods.m: nobody gives the in-argument 'value s' of org.example.VM1.NameLabel",
    ),
]


@pytest.mark.parametrize(("entry", "problem"), PROBLEMS)
def test_what_cannot_be_bound_is_a_problem_with_its_place(tmp_path: Path, entry: str, problem: str) -> None:
    expected = problem.replace("{Add}", "org.example.VM1.Add")
    assert build_methods(tmp_path, f"m: {entry}").problems == [expected]
