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

from gateway.core.dbus.arguments import EncodeArguments, ParameterCountError
from gateway.core.dbus.marshal import MarshalError
from gateway.core.routing.route import Route
from gateway.core.rpc.model import Call, Value
from gateway.mapping.compiler import build
from gateway.mapping.load import parse
from gateway.mapping.schema import schema
from gateway.mapping.table import Table
from tests.kit.cases import present
from tests.kit.mappings import HEAD, IDL
from tests.kit.values import anything
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
def compiles(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Table]:
    """Builds one file, and returns its table if it has no problems that span several lines."""
    directory = tmp_path_factory.mktemp("mappings")
    (directory / "example.xml").write_text(IDL)

    def run(content: str) -> Table:
        (directory / "x.yaml").write_text(content)
        table, problems = build([directory], codecs={"xmlrpc"}, dialects={"plain"}, listeners=None)
        assert table.revision
        assert all("\n" not in str(problem) for problem in problems)
        assert content != GOOD or problems == []
        return table

    return run


@pytest.fixture(scope="module")
def routes(compiles: Callable[[str], Table]) -> list[Route]:
    return list(compiles(GOOD).routes())


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


@SETTINGS
@given(st.data())
def test_any_mutation_of_a_good_mapping_gives_a_table_and_problems(
    compiles: Callable[[str], Table], draw: st.DataObject
) -> None:
    path = draw.draw(st.sampled_from(PLACES[1:]))
    changed = _changed(path, GONE if draw.draw(st.booleans()) else draw.draw(data))
    compiles(json.dumps(changed))  # JSON is YAML too


names = st.sampled_from(["session", "vm", "paused", "force", "o", "n", "k", "devices", "label", "when", "x"])


@SETTINGS
@given(st.lists(anything(), max_size=4), st.dictionaries(names, anything(), max_size=3))
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
