from __future__ import annotations

from pathlib import Path

import pytest

from gateway.core.rpc.model import Call, Fault, FaultCode, Value
from tests.kit.mappings import HEAD, Built, build_methods

ERRORS = """\
errors:
  org.example.Error.NotFound: {code: HANDLE_INVALID, args: [VM, "{vm}", "{0}", "{1}"]}
  org.example.Error.Busy: {code: 7, message: "{vm} is busy: {message} ({name})"}
  "*": {code: INTERNAL_ERROR, args: ["{name}", "{message}"]}
methods:
"""
METHOD = """\
m:
  member: Start
  object_path: /org/example/vm/{vm}
  params: [vm, paused, force]
  errors:
    org.example.Error.NotFound: {code: OWN, args: ["{0}", "x{0}x", 5, "{1}{9}"]}
n: {member: Stat}
o: {member: Start, object_path: "/org/example/vm/{vm}", params: [vm, paused, force]}
"""


def _built(directory: Path) -> Built:
    return build_methods(directory, METHOD, HEAD.replace("methods:\n", ERRORS))


def _fault(name: str, *args: Value) -> Fault:
    return Fault(FaultCode.REMOTE, "text", name=f"org.example.Error.{name}", data=list(args))


CALL = Call("m", ("v1", True, False))


def test_a_methods_own_errors_go_before_those_of_its_file(tmp_path: Path) -> None:
    built = _built(tmp_path)
    assert built.route("m").map_error(_fault("NotFound", "a"), CALL).name == "OWN"
    assert built.route("o").map_error(_fault("NotFound", "a"), CALL).name == "HANDLE_INVALID"


def test_a_template_alone_keeps_the_type_of_its_value(tmp_path: Path) -> None:
    told = _built(tmp_path).route("m").map_error(_fault("NotFound", 7, [1, "b"]), CALL)
    assert told == Fault(FaultCode.APPLICATION, "text", name="OWN", data=[7, "x7x", 5, '[1,"b"]'])


def test_a_parameter_is_found_by_position_and_by_name(tmp_path: Path) -> None:
    translate = _built(tmp_path).route("o").map_error
    expected: list[Value] = ["VM", "v1", "a", ""]
    assert translate(_fault("NotFound", "a"), CALL).data == expected
    named = Call("o", (True, False), {"vm": "v1"})
    assert translate(_fault("NotFound", "a"), named).data == expected


def test_a_parameter_that_the_method_lacks_is_the_empty_text(tmp_path: Path) -> None:
    told = _built(tmp_path).route("n").map_error(_fault("Busy", "later"), Call("n"))
    assert told.message == " is busy: later (org.example.Error.Busy)"
    assert told.name == "7"


def test_all_other_errors_of_the_bus_are_told_by_the_star(tmp_path: Path) -> None:
    told = _built(tmp_path).route("n").map_error(_fault("Odd", 5), Call("n"))
    assert told.data == ["org.example.Error.Odd", "text"]


def test_a_fault_without_a_name_stays_as_it_is(tmp_path: Path) -> None:
    fault = Fault(FaultCode.TIMEOUT, "no answer")
    assert _built(tmp_path).route("n").map_error(fault, Call("n")) is fault


def test_without_an_entry_a_fault_stays_as_it_is(tmp_path: Path) -> None:
    fault = _fault("Odd")
    assert build_methods(tmp_path, "n: {member: Stat}").route("n").map_error(fault, Call("n")) is fault


PROBLEMS = [
    (
        "{member: Stat, errors: {org.example.E: {code: A, args: ['{vm}']}}}",
        "x.yaml:13:62: methods.m.errors.org.example.E.args[0]: {vm} is no parameter (there are: none)",
    ),
    (
        "{member: Stat, params: [{name: host, drop: true}], errors: {org.example.E: {code: A, message: 'x{hots}'}}}",
        "x.yaml:13:100: methods.m.errors.org.example.E.message: {hots} is no parameter (did you mean 'host'?)",
    ),
    (
        "{member: Stat, errors: {NotFound: {code: A}}}",
        (
            "x.yaml:13:40: methods.m.errors.NotFound: "
            "expected an error name such as org.example.Error.NotFound, got 'NotFound'"
        ),
    ),
]


@pytest.mark.parametrize(("entry", "problem"), PROBLEMS)
def test_what_cannot_be_translated_is_a_problem_with_its_place(tmp_path: Path, entry: str, problem: str) -> None:
    assert build_methods(tmp_path, f"m: {entry}").problems == [problem]
