"""Results, records and errors of a method."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gateway.core.dbus.marshal import MarshalError, Variant
from gateway.core.rpc.model import Call, Fault, FaultCode, Value
from tests.kit.cases import each_case
from tests.kit.mappings import HEAD, Built, build_methods

STAT: list[Any] = ["on", 5]

RECORD: list[Any] = [{"PowerState": Variant("s", "on"), "Created": Variant("x", 60), "Odd": Variant("u", 1)}]

OBJECTS: list[Any] = [
    {
        "/org/example/vm/a_2d1": {"org.example.VM1": {"NameLabel": Variant("s", "one"), "Created": Variant("x", 60)}},
        "/org/example/sr/b": {"org.example.SR1": {}},
    }
]

MINUTE = datetime(1970, 1, 1, 0, 1, tzinfo=UTC)


# Keys of a method, body of the method return, result, its type
RESULTS: list[tuple[str, list[Any], Value, str]] = [
    ("member: Start, params: [paused, force]", [], None, "None"),
    ("member: Add, params: [name, memory]", ["u"], "u", "s"),
    ("member: Stat", STAT, {"state": "on", "memory_bytes": 5}, "a{sv}"),
    ("member: Stat, result: void", STAT, None, "None"),
    ("member: Stat, result: state", STAT, "on", "s"),
    ("member: Stat, result: [memory_bytes, state]", STAT, [5, "on"], "av"),
    ("member: Stat, result: {power: state}", STAT, {"power": "on"}, "a{sv}"),
    (
        "member: Stat, result: {power: state, m: {from: memory_bytes, format: text}}",
        STAT,
        {"power": "on", "m": "5"},
        "a{sv}",
    ),
    ("member: Stat, result: {fields: {format: state}}", STAT, {"format": "on"}, "a{sv}"),
    ("member: Stat, result: {from: memory_bytes, format: text}", STAT, "5", "s"),
    ("member: Disks, result: {struct: [id, size]}", [[("d", 1)]], [{"id": "d", "size": 1}], "aa{sv}"),
    ("member: Disks", [[("d", 1)]], [["d", 1]], "a(st)"),
    (
        "member: Info, result: {fields: {id: Uuid, at: {from: Made, format: datetime}, no: Absent}}",
        [{"Uuid": Variant("s", "u"), "Made": Variant("x", 60)}],
        {"id": "u", "at": MINUTE},
        "a{sv}",
    ),
    ("member: At, params: [when], result: {format: datetime}", [60], MINUTE, "s"),
    ("member: Info, variants: typed", [{"a": Variant("u", 1)}], {"a": {"signature": "u", "value": 1}}, "a{sv}"),
    ("property: PowerState", [Variant("s", "on")], "on", "s"),
    ("property: Created, result: {format: datetime}", [Variant("x", 60)], MINUTE, "s"),
    ("property: Tags", [Variant("as", ["a"])], ["a"], "as"),
    ("set_property: NameLabel, params: [value]", [], None, "None"),
    ("all_properties: true", RECORD, {"PowerState": "on", "Created": 60, "Odd": 1}, "a{sv}"),
    ("all_properties: true, result: {power: PowerState}", RECORD, {"power": "on"}, "a{sv}"),
    (
        "all_properties: true, result: {fields: {power: PowerState, made: {from: Created, format: datetime}}}",
        RECORD,
        {"power": "on", "made": MINUTE},
        "a{sv}",
    ),
    ("managed_objects: true", OBJECTS, {"a-1": {"NameLabel": "one", "Created": 60}}, "a{sa{sv}}"),
    (
        "managed_objects: {key: NameLabel}, result: {made: {from: Created, format: text}}",
        OBJECTS,
        {"one": {"made": "60"}},
        "a{sa{sv}}",
    ),
]


@each_case(("entry", "body", "result", "kind"), RESULTS)
def test_a_method_return_becomes_the_result(
    tmp_path: Path, entry: str, body: list[Any], result: Value, kind: str
) -> None:
    route = build_methods(tmp_path, f"m: {{{entry}}}").route("m")
    assert route.decode_result(body) == result
    assert str(route.result) == kind


def test_objects_with_the_same_key_are_named_by_their_paths_or_are_an_error(tmp_path: Path) -> None:
    methods = "m: {managed_objects: {key: NameLabel}}\nn: {managed_objects: {key: NameLabel, on_duplicate: error}}"
    built = build_methods(tmp_path, methods)
    record = {"org.example.VM1": {"NameLabel": Variant("s", "same")}}
    objects = [{"/a": record, "/b": record}]
    assert built.route("m").decode_result(objects) == {"/a": {"NameLabel": "same"}, "/b": {"NameLabel": "same"}}
    with pytest.raises(MarshalError, match="expected a key for the record that no other has"):
        built.route("n").decode_result(objects)


def test_the_result_of_a_method_with_a_task_is_the_path_of_its_object(tmp_path: Path) -> None:
    tasks = "tasks: {interface: org.example.VM1, status: PowerState}\nmethods:\n"
    built = build_methods(tmp_path, "m: {member: Stat, task: state}", HEAD.replace("methods:\n", tasks))
    assert built.route("m").decode_result(["/task/1", 5]) == "/task/1"
    assert built.route("m").follows is not None


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


@each_case(
    ("method", "fault", "name", "data", "message"),
    [
        # the method's table has precedence; a template alone keeps the type of its value
        ("m", _fault("NotFound", 7, [1, "b"]), "OWN", [7, "x7x", 5, '[1,"b"]'], "text"),
        ("o", _fault("NotFound", "a"), "HANDLE_INVALID", ["VM", "v1", "a", ""], "a"),
        ("n", _fault("Busy", "later"), "7", [], " is busy: later (org.example.Error.Busy)"),  # has no parameter vm
        ("n", _fault("Odd", 5), "INTERNAL_ERROR", ["org.example.Error.Odd", "text"], "text"),
    ],
)
def test_a_dbus_error_becomes_a_legacy_error(
    tmp_path: Path, method: str, fault: Fault, name: str, data: list[Value], message: str
) -> None:
    found = _built(tmp_path).route(method).map_error(fault, CALL if method != "n" else Call("n"))
    assert found == Fault(FaultCode.APPLICATION, message, name=name, data=data)


def test_what_the_tables_do_not_have_is_unchanged_and_what_is_passed_by_name_is_found(tmp_path: Path) -> None:
    timeout, odd = Fault(FaultCode.TIMEOUT, "no answer"), _fault("Odd")
    built = _built(tmp_path)
    found = built.route("o").map_error(_fault("NotFound", "a"), Call("o", (True, False), {"vm": "v1"}))
    assert found.data == ["VM", "v1", "a", ""]
    assert built.route("n").map_error(timeout, Call("n")) is timeout
    assert build_methods(tmp_path, "n: {member: Stat}").route("n").map_error(odd, Call("n")) is odd


def test_a_parameter_that_is_called_name_is_read_where_each_method_has_it(tmp_path: Path) -> None:
    """`{name}` is the name of the error, `{params.name}` the parameter; entries without parameters are shared."""
    head = HEAD.replace(
        "methods:\n",
        'errors: {org.example.Gone: {code: GONE, args: ["{params.name}", "{name}"]}, "*": {code: OTHER}}\nmethods:\n',
    )
    methods = """
        first: {member: Add, params: [name, memory]}
        second: {member: Add, params: [memory, name]}
    """
    built = build_methods(tmp_path, methods, head)
    gone, other = (Fault(FaultCode.APPLICATION, "", f"org.example.{name}") for name in ("Gone", "Else"))
    for method, params in (("first", ("vm", 1)), ("second", (1, "vm"))):
        call, route = Call(method, params), built.route(method)
        assert route.map_error(gone, call).data == ["vm", "org.example.Gone"]
        assert route.map_error(other, call).name == "OTHER"
