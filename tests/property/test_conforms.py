"""What conforms to the schemas of this project is what the jsonschema package accepts."""

from __future__ import annotations

import copy
import random
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from gateway.config.schema import schema as of_config
from gateway.core import conforms
from gateway.mapping import load, schema
from tests.kit.cases import each_case, present
from tests.kit.programs import ROOT

MAPPINGS = [
    present(load.parse(file, file.read_bytes())[0]).data for file in sorted((ROOT / "mappings").rglob("*.yaml"))
]
CONFIGS = [tomllib.loads((ROOT / "docker" / name).read_text()) for name in ("gateway.toml", "dom0.toml")]
KINDS: list[tuple[Any, list[Any]]] = [(schema.schema(), MAPPINGS), (of_config(), CONFIGS)]
OTHERS: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    1.0,
    1.5,
    10**30,
    "",
    "x",
    "a.b",
    "/",
    "write",
    "dbus",
    "30s",
    "10%",
    [],
    [1],
    ["a", "a"],
    [True, 1],
    {},
    {"a": 1},
    {"upstream": "x"},
    {"call": "x"},
    [{}, {}],
    [[]],
]


def places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    for step, inner in data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ():
        found += places(inner, (*path, step))
    return found


def changed(data: Any, chance: random.Random) -> Any:
    """A document with another value, a further key, or one less, at one place."""
    made = copy.deepcopy(data)
    place = chance.choice([path for path in places(made) if path])
    around = made
    for step in place[:-1]:
        around = around[step]
    match chance.randrange(4):
        case 0 if isinstance(around, dict):
            del around[place[-1]]
        case 1 if isinstance(around, dict):
            around[chance.choice([*KEYS, "nonsense"])] = copy.deepcopy(chance.choice(OTHERS))
        case 2 if isinstance(around, list):
            around.append(copy.deepcopy(chance.choice(around)))
        case _:
            around[place[-1]] = copy.deepcopy(chance.choice([*OTHERS, around[place[-1]]]))
    return made


KEYS = sorted(
    {step for data in (*MAPPINGS, *CONFIGS) for path in places(data) for step in path if isinstance(step, str)}
)


@given(st.integers(0, 2**32))
def test_a_changed_document_conforms_when_the_package_accepts_it(seed: int) -> None:
    chance = random.Random(seed)
    described, documents = chance.choice(KINDS)
    small = [each for each in documents if len(places(each)) < 400]
    is_right, validator = conforms.compiled(described), Draft202012Validator(described)
    for _ in range(5):
        data = changed(chance.choice(small), chance)
        assert is_right(data) is validator.is_valid(data), data


def test_what_is_shipped_conforms() -> None:
    for described, documents in KINDS:
        assert all(map(conforms.compiled(described), documents))


@each_case(
    "described",
    [
        {"type": "integer"},
        {"type": "number"},
        {"type": ["integer", "string"], "minimum": 1},
        {"enum": [1, "a", [True]]},
        {"const": 1},
        {"const": True},
        {"uniqueItems": True},
        {"minLength": 1},
        {"pattern": "^a"},
        {"minItems": 1},
        {"items": {"type": "string"}},
        {"propertyNames": {"maxProperties": 0}},
        {"minProperties": 1},
        {"maxProperties": 0},
        {"not": {"type": "string"}},
        {"oneOf": [{"type": "string"}, {"minLength": 1}]},
        {"anyOf": [{"const": 1}, {"const": 0}]},
        {"if": {"type": "object"}, "then": {"required": ["a"]}, "else": {"type": "array"}},
        {"maximum": 1, "minimum": 0},
        {"properties": {"a": {"const": 1}}, "additionalProperties": False},
        {"additionalProperties": {"type": "integer"}},
        {"$defs": {"x": {"type": "array", "items": {"$ref": "#/$defs/x"}}}, "$ref": "#/$defs/x"},
        {"items": False},
    ],
)
def test_each_keyword_means_what_it_means_to_the_package(described: dict[str, Any]) -> None:
    for value in OTHERS:
        assert conforms.compiled(described)(value) is Draft202012Validator(described).is_valid(value), value


def test_a_keyword_that_is_not_known_is_no_schema() -> None:
    with pytest.raises(LookupError):
        conforms.compiled({"properties": {"a": {"multipleOf": 2}}})
