from __future__ import annotations

import pytest

from gateway.core.dbus.arguments import (
    ArgumentPlan,
    Constant,
    GatheredDict,
    GatheredStruct,
    ParameterCountError,
    Slot,
    Take,
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


NAME, MEMORY = Slot(0, _to("s")), Slot(1, _to("u"))
PLAIN = ArgumentPlan(TARGET, ("name", "memory"), arguments=(NAME, MEMORY))


def _bind(plan: ArgumentPlan, *params: Value, **named: Value) -> MethodCall:
    return compile_arguments(plan)(Call("m", params, named))


def _refusal(plan: ArgumentPlan, *params: Value, **named: Value) -> str:
    with pytest.raises(MarshalError) as caught:
        _bind(plan, *params, **named)
    return str(caught.value)


def _counts(plan: ArgumentPlan, *params: Value, **named: Value) -> tuple[int, int, str]:
    with pytest.raises(ParameterCountError) as caught:
        _bind(plan, *params, **named)
    return caught.value.expected, caught.value.received, str(caught.value)


def test_a_call_becomes_the_targets_method_call() -> None:
    expected = MethodCall("org.example", "/org/example", "org.example.VM1", "Start", "su", ["a", 5])
    assert _bind(PLAIN, "a", 5) == expected


def test_parameters_are_taken_by_name_and_named_ones_before_the_rest() -> None:
    assert _bind(PLAIN, memory=5, name="a").body == ["a", 5]
    assert _bind(PLAIN, "a", memory=5).body == ["a", 5]
    assert _bind(PLAIN, 5, name="a").body == ["a", 5]


def test_a_bad_value_is_told_where_the_client_wrote_it() -> None:
    assert _refusal(PLAIN, "a", -1) == "$.params[1]: expected u, got -1"
    assert _refusal(PLAIN, name="a", memory=-1) == "$.params.memory: expected u, got -1"
    assert _refusal(PLAIN, -1, name="a") == "$.params[0]: expected u, got -1"


def test_an_unknown_name_is_answered_with_those_that_exist() -> None:
    text = '$.params.vm: expected no parameter of this name (there are: name, memory), got "v1"'
    assert _refusal(PLAIN, vm="v1", name="a") == text


def test_a_missing_name_is_named() -> None:
    assert _refusal(PLAIN, name="a") == "$.params.memory: expected a parameter of this name, got nothing"


def test_too_many_or_too_few_are_counted() -> None:
    assert _counts(PLAIN, "a") == (2, 1, "expected 2 parameters, got 1")
    assert _counts(PLAIN) == (2, 0, "expected 2 parameters, got 0")
    assert _counts(PLAIN, "a", 5, 6) == (2, 3, "expected 2 parameters, got 3")
    assert _counts(PLAIN, 5, 6, name="a") == (2, 3, "expected 2 parameters, got 3")


def test_the_session_is_not_counted() -> None:
    plan = ArgumentPlan(TARGET, ("session", "name", "memory"), (7,), session=True, arguments=(Slot(1, _to("s")),))
    assert _counts(plan, "s") == (1, 0, "expected 1 to 2 parameters, got 0")
    assert _counts(plan) == (1, -1, "expected 1 to 2 parameters, got none, not even the session")
    assert _counts(plan, "s", "a", 1, 2) == (1, 3, "expected 1 to 2 parameters, got 3")


def test_trailing_parameters_have_defaults_by_position_and_any_by_name() -> None:
    arguments: tuple[Take, ...] = (*PLAIN.arguments, Slot(2, _to("b")))
    plan = ArgumentPlan(TARGET, ("name", "memory", "force"), (1, False), arguments=arguments)
    assert _bind(plan, "a").body == ["a", 1, False]
    assert _bind(plan, "a", 5).body == ["a", 5, False]
    assert _bind(plan, "a", 5, True).body == ["a", 5, True]
    assert _bind(plan, name="a", force=True).body == ["a", 1, True]
    assert _bind(plan, "a", force=True).body == ["a", 1, True]


# Object paths

VM = ArgumentPlan(Target("org.example", "/vm/{vm}/x{id}", "org.example.VM1", "Start", "", ""), ("vm", "id"))


@each_case(
    ("value", "element"),
    [("v1", "v1"), ("", "_"), ("../..", "_2e_2e_2f_2e_2e"), ("ä", "_c3_a4"), (7, "_37"), (-1, "_2d1"), (True, "_31")],
)
def test_a_value_is_escaped_into_one_element_of_the_path(value: Value, element: str) -> None:
    assert _bind(VM, value, "a").object_path == f"/vm/{element}/xa"


@each_case("value", [None, 1.5, ["a"], {"a": 1}, b"a"])
def test_a_value_that_no_path_can_hold_is_refused(value: Value) -> None:
    assert _refusal(VM, "v1", value).startswith(
        "$.params[1]: expected text or a whole number, for the object path, got"
    )
    assert _refusal(VM, vm=value, id="a").startswith("$.params.vm: expected text or a whole number")


# Structs taken apart

APART = ArgumentPlan(
    TARGET,
    ("dbg", "options"),
    structs=(Unpacked(1, ("url", "live"), {"live": True}),),
    arguments=(Slot(2, _to("s")), Slot(3, _to("b"))),
)


def test_a_struct_is_taken_apart() -> None:
    assert _bind(APART, None, {"url": "u", "live": False}).body == ["u", False]
    assert _bind(APART, None, {"url": "u"}).body == ["u", True]
    assert _bind(APART, None, options={"url": "u"}).body == ["u", True]


@each_case(
    ("value", "text"),
    [
        (5, "$.params[1]: expected a struct, got 5"),
        ({}, "$.params[1].url: expected a member of this name, got nothing"),
        ({"url": 5}, "$.params[1].url: expected s, got 5"),
        ({"url": "u", "x": 1}, "$.params[1].x: expected no member of this name (there are: url, live), got 1"),
    ],
)
def test_a_struct_that_does_not_fit_is_refused(value: Value, text: str) -> None:
    assert _refusal(APART, None, value) == text


def test_other_members_may_be_ignored() -> None:
    structs = (Unpacked(0, ("url",), others_ignored=True),)
    plan = ArgumentPlan(TARGET, ("options",), structs=structs, arguments=(Slot(1, _to("s")),))
    assert _bind(plan, {"url": "u", "x": None}).body == ["u"]


# Gathering

GATHERED: tuple[Take, ...] = (
    Constant(7),
    GatheredStruct((MEMORY, NAME)),
    GatheredDict((("n", NAME), ("m", Slot(1, _to("v"))))),
)


def test_parameters_are_gathered() -> None:
    constant, struct, entries = _bind(ArgumentPlan(TARGET, ("name", "memory"), arguments=GATHERED), "a", 5).body
    assert (constant, struct) == (7, (5, "a"))
    assert isinstance(entries, dict)
    assert list(entries) == ["n", "m"]


def test_a_bad_value_that_is_gathered_is_told_where_the_client_wrote_it() -> None:
    plan = ArgumentPlan(TARGET, ("name", "memory"), arguments=GATHERED)
    assert _refusal(plan, "a", -1) == "$.params[1]: expected u, got -1"
    assert _refusal(plan, memory=5, name=None) == "$.params.name: expected s, got null"


# Structs by the names of their members


def _struct(signature: str, *names: str, ignore: bool = False) -> Encode:
    return struct_encoder(parse_one(signature), names, lambda kind, around: to_dbus(kind, around=around), ignore=ignore)


def test_a_legacy_struct_becomes_a_dbus_struct() -> None:
    assert _struct("(su)", "mac", "mtu")({"mtu": 9, "mac": "m"}) == ("m", 9)
    assert _struct("a(su)", "mac", "mtu")([{"mtu": 9, "mac": "m"}]) == [("m", 9)]
    assert _struct("a{u(su)}", "mac", "mtu")({"4": {"mtu": 9, "mac": "m"}}) == {4: ("m", 9)}
    assert _struct("(s)", "mac", ignore=True)({"mtu": 9, "mac": "m"}) == ("m",)


@each_case(
    ("signature", "value", "text"),
    [
        ("(su)", ["m", 9], "$: expected a struct, got an array of 2"),
        ("(su)", {"mac": "m"}, "$.mtu: expected a member of this name, got nothing"),
        ("(su)", {"mac": "m", "mtu": -1}, "$.mtu: expected u, got -1"),
        ("(su)", {"mac": "m", "mtu": 1, "x": 2}, "$.x: expected no member of this name (there are: mac, mtu), got 2"),
        ("a(su)", {}, "$: expected a(su), got a struct of 0"),
        ("a(su)", [{"mac": "m", "mtu": -1}], "$[0].mtu: expected u, got -1"),
        ("a{u(su)}", [], "$: expected a{u(su)}, got an array of 0"),
        ("a{u(su)}", {"4": {"mac": "m", "mtu": -1}}, '$["4"].mtu: expected u, got -1'),
        ("a{u(su)}", {"x": {"mac": "m", "mtu": 1}}, '$.x: expected u as a key (in decimal), got "x"'),
    ],
)
def test_a_struct_of_other_members_is_refused(signature: str, value: Value, text: str) -> None:
    with pytest.raises(MarshalError) as caught:
        _struct(signature, "mac", "mtu")(value)
    assert str(caught.value) == text


# Looking a parameter up for an error's text


def test_a_parameter_is_found_even_in_a_call_that_does_not_bind() -> None:
    plan = ArgumentPlan(TARGET, ("session", "vm", "force"), (False,))
    find = parameter(plan, "vm")
    assert find(Call("m", ("s", "v1"))) == "v1"
    assert find(Call("m", ("v1",), {"session": "s"})) == "v1"
    assert find(Call("m", (), {"vm": "v1"})) == "v1"
    assert find(Call("m", ("s",))) is None
    assert parameter(plan, "force")(Call("m", ("s", "v1"))) is False


def test_keys_that_become_one_are_refused_with_structs_in_them_too() -> None:
    encode = _struct("a{d(s)}", "name")
    with pytest.raises(MarshalError, match=r"^\$: expected keys that stay different, got a struct of 2$"):
        encode({"0.0": {"name": "a"}, "-0.0": {"name": "b"}})
