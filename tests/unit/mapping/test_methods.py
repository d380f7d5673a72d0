from __future__ import annotations

from pathlib import Path

import pytest

from gateway.core.dbus.arguments import ParameterCountError
from gateway.core.dbus.marshal import MarshalError
from gateway.core.migration.modes import Mode
from gateway.core.routing.route import Effect
from gateway.core.rpc.model import Call, Fault, FaultCode
from tests.kit.mappings import HEAD, Built, build_methods

SESSION = """\
session:
  parameter: session
  interface: org.example.Session1
  member: Check
  errors: {org.example.Error.Gone: {code: SESSION_INVALID, args: ["{session}"]}}
errors: {"*": {code: OTHER}}
methods:
"""
START = "m: {member: Start, params: [session, paused, {name: force, default: false}]}"


def _guarded(directory: Path, methods: str = START) -> Built:
    return build_methods(directory, methods, HEAD.replace("methods:\n", SESSION))


def test_what_a_method_does_not_say_its_file_says(tmp_path: Path) -> None:
    defaults = "defaults: {timeout: 500ms, effect: idempotent, mode: 'off', coerce: legacy}\nmethods:\n"
    methods = "m: {member: Start, params: [paused, force]}\nn: {member: Stat, timeout: 10m, effect: write, mode: dbus}"
    built = build_methods(tmp_path, methods, HEAD.replace("methods:\n", defaults))
    m, n = built.route("m"), built.route("n")
    assert (m.timeout, m.effect, m.migration.setting.mode) == (0.5, Effect.IDEMPOTENT, Mode.OFF)
    assert built.bind("m", "true", 0).body == [True, False]
    assert (n.timeout, n.effect, n.migration.setting.mode) == (600.0, Effect.WRITE, Mode.DBUS)


def test_what_nobody_says_is_careful(tmp_path: Path) -> None:
    route = build_methods(tmp_path, "m: {member: Stat}").route("m")
    assert (route.timeout, route.effect, route.migration.setting.mode) == (60.0, Effect.WRITE, Mode.DBUS)


@pytest.mark.parametrize(
    ("entry", "effect"),
    [
        ("{property: PowerState}", Effect.READ),
        ("{all_properties: true}", Effect.READ),
        ("{managed_objects: true}", Effect.READ),
        ("{set_property: NameLabel, params: [value]}", Effect.IDEMPOTENT),
        ("{set_property: NameLabel, params: [value], effect: write}", Effect.WRITE),
    ],
)
def test_reading_a_property_is_a_read_unless_the_method_says_otherwise(
    tmp_path: Path, entry: str, effect: Effect
) -> None:
    assert build_methods(tmp_path, f"m: {entry}").route("m").effect is effect


def test_a_route_says_where_it_comes_from_and_what_it_does(tmp_path: Path) -> None:
    methods = "m: {member: Start, params: [paused, force]}\nn: {member: Stat, documentation: Own words.}"
    built = build_methods(tmp_path, methods)
    assert built.route("m").source == f"{tmp_path}/x.yaml:13"
    assert built.route("m").documentation == "Starts the VM."
    assert built.route("n").documentation == "Own words."
    assert built.route("n").service == "example"


def test_an_alias_leads_to_the_same_route(tmp_path: Path) -> None:
    built = build_methods(tmp_path, "m: {member: Stat, aliases: [old.m, older.m]}")
    assert built.route("old.m") is built.route("m")
    assert built.route("m").aliases == ("old.m", "older.m")
    assert len(built.table.routes()) == 1


def test_a_timeout_of_nothing_is_a_problem(tmp_path: Path) -> None:
    problem = "x.yaml:13:30: methods.m.timeout: expected a time longer than nothing"
    assert build_methods(tmp_path, "m: {member: Stat, timeout: 0s}").problems == [problem]


# Sessions


def test_a_method_with_the_session_parameter_is_guarded(tmp_path: Path) -> None:
    guard = _guarded(tmp_path).route("m").session_check
    assert guard is not None
    call = guard.encode_arguments(Call("m", ("s1", True)))
    assert (call.interface, call.member, call.body) == ("org.example.Session1", "Check", ["s1"])
    assert guard.encode_arguments(Call("m", (True,), {"session": "s2"})).body == ["s2"]
    assert (guard.service, guard.method, guard.effect) == ("example", "session check", Effect.READ)


def test_the_session_itself_goes_no_further(tmp_path: Path) -> None:
    assert _guarded(tmp_path).bind("m", "s1", True).body == [True, False]


def test_a_session_may_be_an_in_argument_too(tmp_path: Path) -> None:
    built = _guarded(tmp_path, "m: {member: Check, interface: org.example.Session1, params: [session]}")
    assert built.bind("m", "s1").body == ["s1"]
    assert built.route("m").session_check is not None


def test_a_method_without_the_session_parameter_has_no_guard(tmp_path: Path) -> None:
    assert _guarded(tmp_path, f"{START}\nn: {{member: Stat}}").route("n").session_check is None


def test_the_guard_translates_with_its_own_errors_first(tmp_path: Path) -> None:
    guard = _guarded(tmp_path).route("m").session_check
    assert guard is not None
    call = Call("m", ("s1", True))
    gone = guard.map_error(Fault(FaultCode.REMOTE, "", name="org.example.Error.Gone", data=[]), call)
    assert (gone.name, gone.data) == ("SESSION_INVALID", ["s1"])
    assert guard.map_error(Fault(FaultCode.REMOTE, "", name="org.example.Error.Odd", data=[]), call).name == "OTHER"


def test_parameters_are_counted_without_the_session_before_it_is_checked(tmp_path: Path) -> None:
    route = _guarded(tmp_path).route("m")
    assert route.session_check is not None
    for bind in (route.encode_arguments, route.session_check.encode_arguments):
        with pytest.raises(ParameterCountError) as caught:
            bind(Call("m"))
        assert (caught.value.expected, caught.value.received) == (1, -1)
        with pytest.raises(ParameterCountError) as caught:
            bind(Call("m", ("s1", True, True, True)))
        assert (caught.value.expected, caught.value.received) == (1, 3)


def test_a_session_that_is_no_text_is_refused_with_its_place(tmp_path: Path) -> None:
    guard = _guarded(tmp_path).route("m").session_check
    assert guard is not None
    with pytest.raises(MarshalError, match=r"^\$\.params\[0\]: expected s, got 5$"):
        guard.encode_arguments(Call("m", (5, True)))


def test_a_session_check_has_one_in_argument(tmp_path: Path) -> None:
    head = HEAD.replace("methods:\n", SESSION.replace("Check", "Nothing"))
    problem = "x.yaml:15:11: session.member: org.example.Session1.Nothing has 0 in-arguments, expected one: the session"
    assert build_methods(tmp_path, START, head).problems == [problem]


def test_a_session_check_that_guards_nothing_is_a_problem(tmp_path: Path) -> None:
    problem = "x.yaml:13:14: session.parameter: no method of this file has the parameter 'session'"
    assert _guarded(tmp_path, "m: {member: Stat}").problems == [problem]


def test_a_session_check_is_at_a_fixed_object(tmp_path: Path) -> None:
    head = HEAD.replace("methods:\n", SESSION).replace("member: Check", "object_path: /a/{session}\n  member: Check")
    problem = "x.yaml:15:16: session.object_path: the session's object path holds no parameters"
    assert build_methods(tmp_path, START, head).problems == [problem]


def test_a_session_cannot_be_left_out(tmp_path: Path) -> None:
    problem = "x.yaml:19:46: methods.m.params[0].default: the session cannot be left out"
    methods = "m: {member: Stat, params: [{name: session, default: x}]}"
    assert _guarded(tmp_path, methods).problems == [problem]


def test_session_errors_know_the_session_only(tmp_path: Path) -> None:
    head = HEAD.replace("methods:\n", SESSION.replace("{session}", "{paused}"))
    problem = (
        "x.yaml:16:67: session.errors.org.example.Error.Gone.args[0]: {paused} is no parameter (there are: session)"
    )
    assert build_methods(tmp_path, START, head).problems == [problem]
