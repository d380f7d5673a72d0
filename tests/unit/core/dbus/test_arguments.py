from __future__ import annotations

import pytest

from gateway.core.dbus.arguments import (
    ArgumentPlan,
    GatheredStruct,
    ParameterCountError,
    Slot,
    Unpacked,
    compile_arguments,
    parameter,
    struct_encoder,
)
from gateway.core.dbus.marshal import Encode, MarshalError, to_dbus
from gateway.core.dbus.signature import parse_one
from gateway.core.dbus.target import MethodCall, Target
from gateway.core.rpc.model import Call, Value
from tests.kit.cases import each_case

TARGET = Target("org.example", "/org/example", "org.example.VM1", "Start", "su", "")


def _to(signature: str) -> Encode:
    return to_dbus(parse_one(signature))


def _struct(signature: str, *names: str, ignore: bool = False) -> Encode:
    return struct_encoder(parse_one(signature), names, lambda kind, around: to_dbus(kind, around=around), ignore=ignore)


NAME, MEMORY = Slot(0, _to("s")), Slot(1, _to("u"))
PLAIN = ArgumentPlan(TARGET, ("name", "memory"), arguments=(NAME, MEMORY))
FORCED = ArgumentPlan(TARGET, ("name", "memory", "force"), (1, False), arguments=(NAME, MEMORY, Slot(2, _to("b"))))
SESSION = ArgumentPlan(TARGET, ("session", "name", "memory"), (7,), session=True, arguments=(Slot(1, _to("s")),))
VM = ArgumentPlan(Target("org.example", "/vm/{vm}/x{id}", "org.example.VM1", "Start", "", ""), ("vm", "id"))
APART = ArgumentPlan(
    TARGET,
    ("dbg", "options"),
    structs=(Unpacked(1, ("url", "live"), {"live": True}),),
    arguments=(Slot(2, _to("s")), Slot(3, _to("b"))),
)
GATHERING = ArgumentPlan(TARGET, ("name", "memory"), arguments=(GatheredStruct((MEMORY, NAME)),))


def test_a_call_becomes_the_targets_method_call() -> None:
    expected = MethodCall("org.example", "/org/example", "org.example.VM1", "Start", "su", ["a", 5])
    assert compile_arguments(PLAIN)(Call("m", ("a", 5))) == expected


@each_case(
    ("plan", "params", "named", "body"),
    [
        (PLAIN, (), {"memory": 5, "name": "a"}, ["a", 5]),
        (PLAIN, ("a",), {"memory": 5}, ["a", 5]),
        (PLAIN, (5,), {"name": "a"}, ["a", 5]),
        (FORCED, (), {"name": "a", "force": True}, ["a", 1, True]),
        (FORCED, ("a",), {"force": True}, ["a", 1, True]),
        (APART, (None,), {"options": {"url": "u"}}, ["u", True]),
    ],
)
def test_parameters_by_name_become_the_body_too(
    plan: ArgumentPlan, params: tuple[Value, ...], named: dict[str, Value], body: list[object]
) -> None:
    assert compile_arguments(plan)(Call("m", params, named)).body == body


@each_case(
    ("plan", "params", "named", "text"),
    [
        (PLAIN, ("a", -1), {}, "$.params[1]: expected u, got -1"),
        (PLAIN, (), {"name": "a", "memory": -1}, "$.params.memory: expected u, got -1"),
        (PLAIN, (-1,), {"name": "a"}, "$.params[0]: expected u, got -1"),
        (
            PLAIN,
            (),
            {"vm": "v1", "name": "a"},
            '$.params.vm: expected no parameter of this name (there are: name, memory), got "v1"',
        ),
        (PLAIN, (), {"name": "a"}, "$.params.memory: expected a parameter of this name, got nothing"),
        (APART, (None, 5), {}, "$.params[1]: expected a struct, got 5"),
        (APART, (None, {}), {}, "$.params[1].url: expected a member of this name, got nothing"),
        (APART, (None, {"url": 5}), {}, "$.params[1].url: expected s, got 5"),
        (
            APART,
            (None, {"url": "u", "x": 1}),
            {},
            "$.params[1].x: expected no member of this name (there are: url, live), got 1",
        ),
        (GATHERING, ("a", -1), {}, "$.params[1]: expected u, got -1"),
        (GATHERING, (), {"memory": 5, "name": None}, "$.params.name: expected s, got null"),
        *(
            (VM, params, named, f"$.params{place}: expected text or a whole number, for the object path, got {got}")
            for value, got in ((None, "null"), (1.5, "1.5"), (["a"], "an array of 1"), (b"a", "1 bytes"))
            for params, named, place in ((("v1", value), {}, "[1]"), ((), {"vm": value, "id": "a"}, ".vm"))
        ),
    ],
)
def test_a_bad_value_is_told_where_the_client_wrote_it(
    plan: ArgumentPlan, params: tuple[Value, ...], named: dict[str, Value], text: str
) -> None:
    with pytest.raises(MarshalError) as caught:
        compile_arguments(plan)(Call("m", params, named))
    assert str(caught.value) == text


@each_case(
    ("plan", "params", "named", "received", "words"),
    [
        (PLAIN, ("a",), {}, 1, "expected 2 parameters, got 1"),
        (PLAIN, (), {}, 0, "expected 2 parameters, got 0"),
        (PLAIN, ("a", 5, 6), {}, 3, "expected 2 parameters, got 3"),
        (PLAIN, (5, 6), {"name": "a"}, 3, "expected 2 parameters, got 3"),
        # the session is not counted
        (SESSION, ("s",), {}, 0, "expected 1 to 2 parameters, got 0"),
        (SESSION, (), {}, -1, "expected 1 to 2 parameters, got none, not even the session"),
        (SESSION, ("s", "a", 1, 2), {}, 3, "expected 1 to 2 parameters, got 3"),
    ],
)
def test_too_many_or_too_few_are_counted(
    plan: ArgumentPlan, params: tuple[Value, ...], named: dict[str, Value], received: int, words: str
) -> None:
    with pytest.raises(ParameterCountError) as caught:
        compile_arguments(plan)(Call("m", params, named))
    assert (caught.value.received, str(caught.value)) == (received, words)
    assert caught.value.expected == (1 if plan is SESSION else 2)


@each_case(
    ("value", "element"),
    [("v1", "v1"), ("", "_"), ("../..", "_2e_2e_2f_2e_2e"), ("ä", "_c3_a4"), (7, "_37"), (-1, "_2d1"), (True, "_31")],
)
def test_a_value_is_escaped_into_one_element_of_the_path(value: Value, element: str) -> None:
    assert compile_arguments(VM)(Call("m", (value, "a"))).object_path == f"/vm/{element}/xa"


def test_a_legacy_struct_becomes_a_dbus_struct() -> None:
    assert _struct("(su)", "mac", "mtu")({"mtu": 9, "mac": "m"}) == ("m", 9)
    assert _struct("a(su)", "mac", "mtu")([{"mtu": 9, "mac": "m"}]) == [("m", 9)]
    assert _struct("a{u(su)}", "mac", "mtu")({"4": {"mtu": 9, "mac": "m"}}) == {4: ("m", 9)}
    assert _struct("(s)", "mac", ignore=True)({"mtu": 9, "mac": "m"}) == ("m",)


M1: Value = {"mac": "m", "mtu": 1}
M_BAD: Value = {"mac": "m", "mtu": -1}


@each_case(
    ("signature", "value", "text"),
    [
        ("(su)", ["m", 9], "$: expected a struct, got an array of 2"),
        ("(su)", {"mac": "m"}, "$.mtu: expected a member of this name, got nothing"),
        ("(su)", M_BAD, "$.mtu: expected u, got -1"),
        ("(su)", {"mac": "m", "mtu": 1, "x": 2}, "$.x: expected no member of this name (there are: mac, mtu), got 2"),
        ("a(su)", {}, "$: expected a(su), got a struct of 0"),
        ("a(su)", [M_BAD], "$[0].mtu: expected u, got -1"),
        ("a{u(su)}", [], "$: expected a{u(su)}, got an array of 0"),
        ("a{u(su)}", {"4": M_BAD}, '$["4"].mtu: expected u, got -1'),
        ("a{u(su)}", {"x": M1}, '$.x: expected u as a key (in decimal), got "x"'),
        ("a{d(su)}", {"0.0": M1, "-0.0": M1}, "$: expected keys that stay different, got a struct of 2"),
    ],
)
def test_a_struct_of_other_members_is_refused(signature: str, value: Value, text: str) -> None:
    with pytest.raises(MarshalError) as caught:
        _struct(signature, "mac", "mtu")(value)
    assert str(caught.value) == text


def test_a_parameter_is_found_even_in_a_call_that_does_not_bind() -> None:
    plan = ArgumentPlan(TARGET, ("session", "vm", "force"), (False,))
    find = parameter(plan, "vm")
    assert find(Call("m", ("s", "v1"))) == "v1"
    assert find(Call("m", ("v1",), {"session": "s"})) == "v1"
    assert find(Call("m", (), {"vm": "v1"})) == "v1"
    assert find(Call("m", ("s",))) is None
    assert parameter(plan, "force")(Call("m", ("s", "v1"))) is False
