"""The mapping compiler is total: any file gives a table and problems. Both packages that check files agree on it."""

from __future__ import annotations

import copy
import json
import random
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from gateway.config.schema import schema as of_config
from gateway.core.dbus.arguments import EncodeArguments, ParameterCountError
from gateway.core.dbus.marshal import MarshalError
from gateway.core.routing.route import Route
from gateway.core.rpc.model import Call, Value
from gateway.mapping import load, schema
from gateway.mapping.compiler import build
from gateway.mapping.table import Table
from tests.kit.cases import present
from tests.kit.mappings import HEAD, IDL
from tests.kit.programs import ROOT
from tests.kit.values import anything

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


NAMES = ("Start", "Stat", "vm", "name", "memory", "{vm}", "/x/{vm}", "void", "5s")
WORDS = sorted({*_keys(schema.schema()), *_keys(of_config()), *NAMES})
OTHERS: list[Any] = [
    *(None, True, False, 0, 1, -1, 1.0, 1.5, 2**64, 10**30, "", "x", "a.b", "/", "write", "dbus", "30s", "10%", "*"),
    *([], [1], ["a", "a"], [True, 1], {}, {"a": 1}, {"upstream": "x"}, {"call": "x"}, [{}, {}], [[]]),
]
GOOD_DATA: Any = present(load.parse(Path("x.yaml"), GOOD.encode())[0]).data


def places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    for step, inner in data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ():
        found += places(inner, (*path, step))
    return found


def changed(data: Any, chance: random.Random) -> Any:
    """A document with another value, a further key, or one less, at one place."""
    made = copy.deepcopy(data)
    place = chance.choice([path for path in places(made) if path])
    holder = made
    for step in place[:-1]:
        holder = holder[step]
    match chance.randrange(4):
        case 0 if isinstance(holder, dict):
            del holder[place[-1]]
        case 1 if isinstance(holder, dict):
            holder[chance.choice([*WORDS, "nonsense"])] = copy.deepcopy(chance.choice(OTHERS))
        case 2 if isinstance(holder, list):
            holder.append(copy.deepcopy(chance.choice(holder)))
        case _:
            holder[place[-1]] = copy.deepcopy(chance.choice([*OTHERS, *WORDS, holder[place[-1]]]))
    return made


@SETTINGS
@given(st.integers(0, 2**32))
def test_any_mutation_of_a_good_mapping_gives_a_table_and_problems(compiles: Callable[[str], Table], seed: int) -> None:
    chance = random.Random(seed)
    made = changed(GOOD_DATA, chance)
    compiles(json.dumps(changed(made, chance) if chance.random() < 0.3 else made))  # JSON is YAML too


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


# The two packages that check files agree: jsonschema_rs says whether they are right, jsonschema what is wrong


MAPPINGS = [
    present(load.parse(file, file.read_bytes())[0]).data for file in sorted((ROOT / "mappings").rglob("*.yaml"))
]
CONFIGS = [tomllib.loads((ROOT / "docker" / name).read_text()) for name in ("gateway.toml", "dom0.toml")]
KINDS: list[tuple[Any, list[Any]]] = [(schema.schema(), MAPPINGS), (of_config(), CONFIGS)]


@given(st.integers(0, 2**32))
def test_a_changed_document_is_right_for_both_or_for_none(seed: int) -> None:
    chance = random.Random(seed)
    described, documents = chance.choice(KINDS)
    small = [each for each in documents if len(places(each)) < 400]
    compiled, validator = jsonschema_rs.validator_for(described), Draft202012Validator(described)
    for _ in range(5):
        data = changed(chance.choice(small), chance)
        assert bool(schema.errors(data, described, compiled)) is not validator.is_valid(data), data


def test_what_is_shipped_conforms() -> None:
    for described, documents in KINDS:
        assert all(map(jsonschema_rs.validator_for(described).is_valid, documents))
