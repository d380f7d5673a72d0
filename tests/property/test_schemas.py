"""The two packages that check files agree: jsonschema_rs says whether they are right, jsonschema what is wrong."""

from __future__ import annotations

import copy
import random
import tomllib
from typing import Any

import jsonschema_rs
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from gateway.config.schema import schema as of_config
from gateway.mapping import load, schema
from tests.kit.cases import present
from tests.kit.programs import ROOT

MAPPINGS = [
    present(load.parse(file, file.read_bytes())[0]).data for file in sorted((ROOT / "mappings").rglob("*.yaml"))
]
CONFIGS = [tomllib.loads((ROOT / "docker" / name).read_text()) for name in ("gateway.toml", "dom0.toml")]
KINDS: list[tuple[Any, list[Any]]] = [(schema.schema(), MAPPINGS), (of_config(), CONFIGS)]
OTHERS: list[Any] = [
    *(None, True, False, 0, 1, -1, 1.0, 1.5, 10**30, "", "x", "a.b", "/", "write", "dbus", "30s", "10%"),
    *([], [1], ["a", "a"], [True, 1], {}, {"a": 1}, {"upstream": "x"}, {"call": "x"}, [{}, {}], [[]]),
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
