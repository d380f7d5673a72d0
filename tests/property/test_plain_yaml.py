"""A document that is read as plain YAML means what it means to the full parser: the same data at the same places."""

from __future__ import annotations

import random
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml.error import YAMLError

from gateway.core import plain_yaml
from gateway.mapping import load
from tests.kit.cases import each_case, present
from tests.kit.programs import ROOT

FILES = sorted([*(ROOT / "mappings").rglob("*.yaml"), *(ROOT / "tests").rglob("*.yaml")])
TEXTS = [file.read_text() for file in FILES]
BITS = [
    *"{}[],:#&*!|>'\"%@`?-~ \n\\=é\xa0\u3000\t",
    "  ",
    ": ",
    "- ",
    " #",
    "\n  ",
    "\n- ",
    "&a ",
    "*a",
    "&a",
    "null",
    "0x1F",
    "1e3",
    '""',
    "''",
    "{}",
    "[]",
    "? ",
    " : ",
    "a: b",
    "- - x",
    "<<",
    "yes",
    ".inf",
    "0o7",
    "2001-01-01",
    "--- ",
    "key:\n",
    "1_0",
    "+1",
    "12:30",
    "- &a b\n",
    "::",
    "a:b",
    "#x",
    " #x\n",
    "&a {b: *a}",
]


def in_full(text: str) -> tuple[object, ...] | None:
    """Data and places as the full parser has them; None where it has found a problem."""
    reader = load._Reader("x")
    try:
        data = reader.read(text)
    except (YAMLError, RecursionError):
        return None
    return None if reader.problems else (repr(data), reader.values, reader.keys)  # 1 is not true, and NaN is NaN


def in_short(text: str) -> tuple[object, ...] | None:
    found = plain_yaml.read(text, load._plain_scalar)
    return None if found is None else (repr(found.data), found.values, found.keys)


@each_case("file", [file for file in FILES if file.is_relative_to(ROOT / "mappings")])
def test_every_shipped_mapping_is_plain_and_means_the_same(file: Path) -> None:
    text = file.read_text()
    assert present(in_short(text)) == in_full(text)


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
def test_whatever_is_changed_it_means_the_same_or_is_left_to_the_full_parser(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(20):
        text = changed(chance.choice(TEXTS), chance)
        short = in_short(text)
        assert short is None or short == in_full(text), text


@each_case(
    "text",
    [
        "a: {b: 1, 'c': [x, 2.5], d: }\ne:\nf: # c\n  - x\n  -\n  - k: v\n    z: ~\n",
        "g:\n- 1\n- {}\n- []\nh: \"q\"\n'i j': a b\n",
        "a: &x {b: [1, &y 2]}\nc: *x\nd: [*y, *x]\ne: &z\n  f: {g: *x}\nh: *z\n",
        "a: 'it''s'\nb: x:y#z\n\"*\": [http://h/p?q=1, -1, - ]\n",
    ],
)
def test_what_people_write(text: str) -> None:
    expected = in_full(text)
    assert in_short(text) in (None, expected)
    assert expected is None or in_short(text) == expected


@each_case(
    "text",
    [
        "",
        "# nothing",
        "text",
        "a: b: c",
        "a: b\n  c",
        "a: |\n  b",
        "a: !!str b",
        "a:\tb",
        "a: b\r\n",
        "--- \na: b",
        "a: *b",
        "a: &x [*x]",
        "a: 1\na: 2",
        "a: {b: 1, b: 2}",
        "a: [b: c]",
        "a: [1,, 2]",
        "a: {b}",
        '"a":b',
        "a: [1",
        "a: 'b",
        "- a\nb: c",
        'a: "\\n"',
        "a: 1\n b: 2",
        "a:\n  b: 1\n c: 2",
        "? a\n: b",
        "a : b",
        "{a: b}: c",
        "a: }",
        "[a]: b",
        f"{'k' * 2000}: v",
        "a: " + "[" * 100 + "]" * 100,
        "a: \u2028",
        "a: \ufeffb",
        "a: >-\n  b",
        "a: @b",
        "a: `b",
        "a: %b",
    ],
)
def test_what_is_not_plain(text: str) -> None:
    assert in_short(text) is None


def test_aliases_that_multiply_are_left_to_the_full_parser() -> None:
    levels = [f"a{at}: &a{at} [{', '.join([f'*a{at - 1}'] * 10)}]" for at in range(1, 8)]
    assert in_short("\n".join(["a0: &a0 [1, 2, 3, 4]", *levels])) is None
