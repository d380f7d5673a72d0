"""The mapping compiler is total: for any content of a file the result is a table and a list of problems."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.core.dbus import introspection_xml
from gateway.core.dbus.arguments import EncodeArguments, ParameterCountError
from gateway.core.dbus.marshal import MarshalError
from gateway.core.routing.route import Route
from gateway.core.rpc.model import Call, Value
from gateway.mapping.compiler import build
from gateway.mapping.load import parse
from gateway.mapping.schema import schema
from tests.kit.cases import present
from tests.kit.mappings import HEAD, IDL
from tests.property.test_schemas import places

GOOD = HEAD.replace(
    "methods:\n",
    """\
publish:
  - {listener: store, node: "/vm/{name}/kib", signal: Retargeted, value: "{kib}", permissions: "n0,r5"}
  - {listener: store, node: /state, property: PowerState, value: "is {PowerState}"}
  - {listener: store, node: "/vm/{vm}", object_path: "/vm/{vm}", objects: /vm, properties: {p: {present: Paused}}}
on_change:
  - {listener: store, node: "/vm/{vm}/name", method: i, params: {label: "{value}"}, allowed_domains: [1, "{vm}", any]}
  - {listener: store, node: "/vm/{vm}/all", method: c, params: {n: {node: a/b}, k: {tree: .}}}
session: {parameter: session, interface: org.example.Session1, member: Check, errors: {a.B: {code: A}}}
defaults: {timeout: 5s, effect: read, coerce: legacy, variants: typed, mode: dbus}
errors: {"*": {code: 5, args: ["{vm}", "{0}"], message: "{message}"}}
methods:
""",
) + (
    """\
  a: {member: Start, object_path: "/vm/{vm}", params: [session, vm, paused, {name: force, default: false}]}
  b: {member: Add, params: [{name: o, unknown_members: ignore, fields: {n: name, m: {to: memory, default: 1}}}]}
  c: {member: Configure, params: [n, k], args: {config: {gather: {n: n, k: k}}, pair: {gather: [n, k]}}}
  d: {member: Plug, params: [{name: devices, struct: [mac, mtu]}], aliases: [e]}
  f: {member: Disks, result: {struct: [id, size]}}
  g: {member: Info, variants: plain, result: {fields: {id: Uuid, at: {from: Made, format: datetime}}}}
  h: {property: Created, result: {format: text}}
  i: {set_property: NameLabel, params: [{name: label, to: value}]}
  j: {all_properties: true, result: {p: PowerState}}
  k: {managed_objects: {key: NameLabel}, result: {fields: {made: {from: Created, format: datetime}}}}
  l: {member: Stat, result: [state, {from: memory_bytes, format: text}]}
  m: {member: At, params: [{name: when, format: datetime, default: "2026-01-01"}]}
"""
)

SETTINGS = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture(scope="module")
def compiles(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bytes], list[str]]:
    """Builds one file and returns its problems."""
    directory = tmp_path_factory.mktemp("mappings")
    (directory / "example.xml").write_text(IDL)

    def run(content: bytes) -> list[str]:
        (directory / "x.yaml").write_bytes(content)
        table, problems = build([directory], codecs={"xmlrpc"}, dialects={"plain"}, listeners=None)
        assert table.revision
        assert all("\n" not in str(problem) for problem in problems)
        return [str(problem) for problem in problems]

    return run


@pytest.fixture(scope="module")
def routes(tmp_path_factory: pytest.TempPathFactory) -> list[Route]:
    """The methods of the good file."""
    directory = tmp_path_factory.mktemp("good")
    (directory / "example.xml").write_text(IDL)
    (directory / "x.yaml").write_text(GOOD)
    table, problems = build([directory], codecs={"xmlrpc"}, dialects={"plain"}, listeners=None)
    assert problems == []
    return list(table.routes())


def _keys(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        yield from node.get("properties", {})
        for item in node.values():
            yield from _keys(item)


WORDS = sorted({*_keys(schema()), "Start", "Stat", "a", "vm", "name", "memory", "*", "{vm}", "/x/{vm}", "void", "5s"})
leaves = (
    st.sampled_from(WORDS)
    | st.text(max_size=5)
    | st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from([2**64, -1, 0])
)
data = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4),
    max_leaves=8,
)


GOOD_DATA: Any = present(parse(Path("x.yaml"), GOOD.encode())[0]).data
PLACES = places(GOOD_DATA)
GONE = object()


def _changed(path: tuple[Any, ...], value: object) -> Any:
    """The good file with another value at a place, or without that place."""
    made = copy.deepcopy(GOOD_DATA)
    around = made
    for step in path[:-1]:
        around = around[step]
    if value is GONE:
        del around[path[-1]]
    else:
        around[path[-1]] = value
    return made


def test_the_file_that_is_mutated_is_good(compiles: Callable[[bytes], list[str]]) -> None:
    assert compiles(GOOD.encode()) == []


@SETTINGS
@given(st.data())
def test_any_mutation_of_a_good_mapping_gives_a_table_and_problems(
    compiles: Callable[[bytes], list[str]], draw: st.DataObject
) -> None:
    path = draw.draw(st.sampled_from(PLACES[1:]))
    changed = _changed(path, GONE if draw.draw(st.booleans()) else draw.draw(data))
    compiles(json.dumps(changed).encode())  # JSON is YAML too


@SETTINGS
@given(st.integers(0, len(GOOD)), st.text(alphabet="{}[]:,-*&!|>'\"#%@` \n\tax0", max_size=6), st.integers(0, 6))
def test_any_edit_of_a_good_mapping_gives_a_table_and_problems(
    compiles: Callable[[bytes], list[str]], at: int, inserted: str, removed: int
) -> None:
    compiles((GOOD[:at] + inserted + GOOD[at + removed :]).encode())


@SETTINGS
@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_give_a_table_and_problems(compiles: Callable[[bytes], list[str]], content: bytes) -> None:
    assert compiles(content)


@SETTINGS
@given(st.integers(0, len(IDL)), st.text(alphabet="<>/=\"'&;! asv(){}h", max_size=6), st.integers(0, 6))
def test_any_edit_of_an_idl_is_read_or_rejected(at: int, inserted: str, removed: int) -> None:
    assert _line_of_refusal(IDL[:at] + inserted + IDL[at + removed :]) >= 0


def _line_of_refusal(xml: str) -> int:
    try:
        introspection_xml.parse(xml)
    except introspection_xml.IdlError as error:
        return error.line
    return 0


values: st.SearchStrategy[Value] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from(["session", "vm", "paused", "force", "o", "n", "k", "devices", "label", "when", "x"])


@SETTINGS
@given(st.lists(values, max_size=4), st.dictionaries(names, values, max_size=3))
def test_any_call_is_encoded_or_rejected(routes: list[Route], params: list[Value], named: dict[str, Value]) -> None:
    for route in routes:
        check = route.session_check
        counted = len(params) + len(named) - (0 if check is None else 1)
        for bind in (route.encode_arguments, *(() if check is None else (check.encode_arguments,))):
            assert _ending(bind, Call(route.method, tuple(params), named)) in ("bound", "$.params", counted)


def _ending(bind: EncodeArguments, call: Call) -> str | int:
    """The outcome: bound, or rejected for a value, or for the number of parameters."""
    try:
        bind(call)
    except MarshalError as error:
        return str(error)[:8]
    except ParameterCountError as error:
        return error.received
    return "bound"
