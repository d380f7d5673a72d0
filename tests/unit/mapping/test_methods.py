"""Method entries: defaults, aliases, and the session check."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.core.dbus.arguments import ParameterCountError
from gateway.core.dbus.marshal import MarshalError
from gateway.core.migration.modes import Mode
from gateway.core.routing.route import Effect
from gateway.core.rpc.model import Call, Fault, FaultCode
from tests.kit.cases import each_case
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


def test_defaults_apply_to_methods_without_the_key(tmp_path: Path) -> None:
    defaults = "defaults: {timeout: 500ms, effect: idempotent, mode: 'off', coerce: legacy}\nmethods:\n"
    methods = "m: {member: Start, params: [paused, force]}\nn: {member: Stat, timeout: 10m, effect: write, mode: dbus}"
    built = build_methods(tmp_path, methods, HEAD.replace("methods:\n", defaults))
    routes = built.route("m"), built.route("n"), build_methods(tmp_path, "m: {member: Stat}").route("m")
    assert [(each.timeout, each.effect, each.migration.setting.mode) for each in routes] == [
        (0.5, Effect.IDEMPOTENT, Mode.OFF),
        (600.0, Effect.WRITE, Mode.DBUS),
        (60.0, Effect.WRITE, Mode.DBUS),  # those of the format are careful
    ]
    assert built.bind("m", "true", 0).body == [True, False]


@each_case(
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


def test_a_route_has_its_source_documentation_and_aliases(tmp_path: Path) -> None:
    methods = "m: {member: Start, params: [paused, force], aliases: [old.m, older.m]}\n"
    built = build_methods(tmp_path, f"{methods}n: {{member: Stat, documentation: Own words.}}")
    route = built.route("m")
    assert built.route("old.m") is built.route("older.m") is route
    assert (route.service, route.source, route.aliases) == ("example", f"{tmp_path}/x.yaml:13", ("old.m", "older.m"))
    assert [built.route(name).documentation for name in "mn"] == ["Starts the VM.", "Own words."]
    assert len(built.table.routes()) == 2


# The session check


def test_a_method_with_the_session_parameter_is_guarded(tmp_path: Path) -> None:
    built = _guarded(tmp_path, f"{START}\nn: {{member: Stat}}")
    guard = built.route("m").session_check
    assert guard is not None
    call = guard.encode_arguments(Call("m", ("s1", True)))
    assert (call.interface, call.member, call.body) == ("org.example.Session1", "Check", ["s1"])
    assert guard.encode_arguments(Call("m", (True,), {"session": "s2"})).body == ["s2"]
    assert (guard.service, guard.method, guard.effect) == ("example", "session check", Effect.READ)
    with pytest.raises(MarshalError, match=r"^\$\.params\[0\]: expected s, got 5$"):
        guard.encode_arguments(Call("m", (5, True)))
    assert built.bind("m", "s1", True).body == [True, False]  # the session is no argument
    assert built.route("n").session_check is None


def test_a_session_may_be_an_argument_too(tmp_path: Path) -> None:
    built = _guarded(tmp_path, "m: {member: Check, interface: org.example.Session1, params: [session]}")
    assert built.bind("m", "s1").body == ["s1"]
    assert built.route("m").session_check is not None


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
        for params, received in (((), -1), (("s1", True, True, True), 3)):
            with pytest.raises(ParameterCountError) as caught:
                bind(Call("m", params))
            assert (caught.value.expected, caught.value.received) == (1, received)
