"""What the parser in C reads means what it means to the parser in Python: the same data at the same places."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import Node

from gateway.mapping import load
from gateway.mapping.load import Steps
from tests.kit.cases import each_case, present
from tests.kit.programs import ROOT

FILES = sorted([*(ROOT / "mappings").rglob("*.yaml"), *(ROOT / "tests").rglob("*.yaml")])
TEXTS = [file.read_text() for file in FILES]
BITS = [
    *"{}[],:#&*!|>'\"%@`?-~ \n\\=é\xa0\u3000\t",
    *("  ", ": ", "- ", " #", "\n  ", "\n- ", "&a ", "*a", "&a", "? ", " : ", "a: b", "- - x", "<<", "--- ", "key:\n"),
    *("null", "0x1F", "1e3", '""', "''", "{}", "[]", "yes", ".inf", "0o7", "2001-01-01", "1_0", "+1", "12:30"),
    *("- &a b\n", "::", "a:b", "#x", " #x\n", "&a {b: *a}"),
]


def _read(node: Node | None) -> tuple[object, ...] | None:
    """Data and places, but not those of empty values: the parsers see them at one side of a space."""
    reader = load._Reader("x")
    data = None if node is None else reader.data(node, ())
    if node is None or reader.problems:
        return None
    places = {path: mark for path, mark in reader.values.items() if _value(data, path) is not None}
    return repr(data), places, reader.keys  # as text: 1 is not true, and NaN is NaN


def _value(data: Any, path: Steps) -> Any:
    for step in path:
        data = data[step]
    return data


def in_python(text: str) -> tuple[object, ...] | None:
    """Data and places; None where a problem is found."""
    try:
        return _read(load.compose(text))
    except (YAMLError, RecursionError):
        return None


def in_c(text: str) -> tuple[object, ...] | None:
    return _read(load.compose_quickly(text))


@each_case("file", [file for file in FILES if file.is_relative_to(ROOT / "mappings")])
def test_every_shipped_mapping_is_read_in_c(file: Path) -> None:
    text = file.read_text()
    assert present(in_c(text)) == in_python(text)


def changed(text: str, chance: random.Random) -> str:
    """Some lines of a text with a few changes."""
    lines = text.split("\n")
    begin = chance.randrange(len(lines))
    part = lines[begin : begin + chance.randrange(1, 14)]
    if chance.random() < 0.5:
        indent = min((len(line) - len(line.lstrip()) for line in part if line.strip()), default=0)
        part = [line[indent:] for line in part]
    text = "\n".join(part)
    for _ in range(chance.choice((0, 1, 1, 2, 3, 5))):
        at, other = sorted((chance.randrange(len(text) + 1), chance.randrange(len(text) + 1)))
        match chance.randrange(4):
            case 0:
                text = text[:at] + text[at + chance.randrange(1, 4) :]
            case 1:
                text = text[:at] + text[at:other][:20] + text[at:]
            case _:
                text = text[:at] + chance.choice(BITS) + text[at:]
    return text


@given(st.integers(0, 2**32))
def test_whatever_is_changed_it_means_the_same_or_is_left_to_python(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(20):
        text = changed(chance.choice(TEXTS), chance)
        found = in_c(text)
        assert found is None or found == in_python(text), text


@each_case(
    "text",
    [
        # what the versions of YAML read differently
        *("", "a: |\n  b", "a:\tb", "a: b\r\n", "%YAML 1.1\n---\na: yes", "? a\n: b", "a: ! b", "a: \u2028"),
        *("a: \ufeffb", "--- a\n--- b"),
        # an error, whose words are those of the parser in Python
        *("a: *b", "a: [1", "a: 'b", "{a: b:c}", "a: b: c", "a: &x 1\nb: &x 2\nc: *x"),
        # what would end the stack
        *("[" * 200_000, "- " * 200_000, "{a: " * 200_000, "a: " + "[" * 100 + "]" * 100),
    ],
)
def test_what_is_odd_wrong_or_nested_deeply_is_left_to_the_parser_in_python(text: str) -> None:
    assert load.compose_quickly(text) is None


def test_aliases_that_multiply_are_no_data() -> None:
    levels = [f"a{at}: &a{at} [{', '.join([f'*a{at - 1}'] * 10)}]" for at in range(1, 8)]
    assert in_c("\n".join(["a0: &a0 [1, 2, 3, 4]", *levels])) is None


def test_a_document_of_too_many_nodes_is_not_composed_to_its_end() -> None:
    text = "[" + "1, " * load.MAX_KEYS_AND_NODES + "1]"
    with pytest.raises(load.TooManyNodesError):
        load.compose_quickly(text)
    document, (problem,) = load.parse(Path("x.yaml"), text.encode())
    assert (document, problem.message) == (None, load.TOO_MANY)
