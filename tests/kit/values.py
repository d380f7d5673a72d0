"""Values for tests: hypothesis strategies for D-Bus types and legacy values, places in values, strict equality, values
that D-Bus must refuse, what protocols lose, and the cases of tests/wire/reports/.
"""

from __future__ import annotations

import copy
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from msgspec import Struct
from ruamel.yaml import YAML

from gateway.core.comparison.json_path import Place
from gateway.core.dbus.marshal import MAX_DEPTH
from gateway.core.dbus.signature import INTEGER_RANGES, Type
from gateway.core.dbus.target import Variants
from gateway.core.rpc.model import Fault, FaultCode, Outcome, Reply, Value

Values = SearchStrategy[Value]

_BASIC = st.sampled_from("ybnqiuxtdsog").map(Type)
_TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
_ELEMENTS = st.text("abzAZ09_", min_size=1, max_size=4)
_PATHS = st.lists(_ELEMENTS, max_size=3).map(lambda elements: "/" + "/".join(elements))
_PLAIN_INTEGERS = st.integers(INTEGER_RANGES["x"][0], INTEGER_RANGES["t"][1])


def types(*, variant: bool = True, leaves: int = 8) -> SearchStrategy[Type]:
    """Every complete type but `h`, nested as far as `leaves` allows."""
    leaf = _BASIC | st.just(Type("v")) if variant else _BASIC
    return st.recursive(leaf, _containers, max_leaves=leaves)


def _containers(inner: SearchStrategy[Type]) -> SearchStrategy[Type]:
    entries = st.tuples(_BASIC, inner).map(lambda pair: Type("{", pair))
    fields = st.lists(inner, min_size=1, max_size=4).map(lambda children: Type("(", tuple(children)))
    return (inner | entries).map(lambda child: Type("a", (child,))) | fields


def anything() -> Values:
    """Every legacy value, also those that no D-Bus type can carry."""
    hostile = st.sampled_from(
        ["\0", "\ud800", "a\udfff", "/", "//", "a{vs}", "1.0", "01", "-0", "1e999", "9" * 30, 2**64]
    )
    integers = st.integers() | st.integers(-(2**2000), 2**2000)
    texts = st.text(max_size=6) | hostile
    leaf: Values = st.one_of(
        st.none(), st.booleans(), integers, st.floats(), texts, st.binary(max_size=6), st.datetimes()
    )
    keys = st.text(max_size=4) | st.sampled_from(
        ["signature", "value", "1", "01", "0.0", "-0.0", "true", "\0", "\ud800"]
    )
    return st.recursive(leaf, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4))


def fitting(kind: Type, variants: Variants = "plain", *, nearly: bool = False, depth: int = 2) -> Values:
    """Return legacy values that fit the type, and that a round trip does not change.

    `nearly`: any part may be something else instead. `depth`: typed variants inside each other.
    """
    values = _fitting(kind, variants, nearly=nearly, depth=depth)
    return st.one_of(values, values, values, anything()) if nearly else values


def _fitting(kind: Type, variants: Variants, *, nearly: bool, depth: int) -> Values:
    if kind.code in _LEAVES:
        return _LEAVES[kind.code]
    if kind.code == "v":
        return _PLAIN if variants == "plain" else _typed(nearly=nearly, depth=depth)
    if kind.code == "(":
        fields = [fitting(child, variants, nearly=nearly, depth=depth) for child in kind.children]
        return st.tuples(*fields).map(list)
    element = kind.children[0]
    if element.code == "y":
        return st.binary(max_size=8)
    if element.code == "{":
        items = fitting(element.children[1], variants, nearly=nearly, depth=depth)
        return st.dictionaries(KEYS[element.children[0].code], items, max_size=4)
    return st.lists(fitting(element, variants, nearly=nearly, depth=depth), max_size=4)


def _typed(*, nearly: bool, depth: int) -> Values:
    def value(kind: Type) -> Values:
        inside = fitting(kind, "typed", nearly=nearly, depth=depth - 1)
        return inside.map(lambda value: {"signature": str(kind), "value": value})

    return types(variant=depth > 0, leaves=3).flatmap(value)


_LEAVES: dict[str, Values] = {
    "b": st.booleans(),
    "d": st.floats(),
    "s": _TEXTS,
    "o": _PATHS,
    "g": st.lists(types(leaves=3).map(str), max_size=3).map("".join),
    **{code: st.integers(low, high) for code, (low, high) in INTEGER_RANGES.items()},
}
_PLAIN: Values = st.recursive(
    st.one_of(st.booleans(), _PLAIN_INTEGERS, st.floats(), _TEXTS, st.binary(max_size=8)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXTS, inner, max_size=4),
    max_leaves=10,
)
# As texts; -0.0 is left out, for it cannot stand beside 0.0.
KEYS: dict[str, SearchStrategy[str]] = {
    "b": st.sampled_from(["true", "false"]),
    "d": st.floats().map(lambda key: repr(key or 0.0)),
    "s": _TEXTS,
    "o": _PATHS,
    "g": st.lists(types(leaves=3).map(str), max_size=3).map("".join),
    **{code: st.integers(low, high).map(str) for code, (low, high) in INTEGER_RANGES.items()},
}


# Places in values


texts = st.text(max_size=8) | st.sampled_from(["", "1", "a b", "\ud800", "\0", "'"])
outcomes: st.SearchStrategy[Outcome] = anything().map(Reply) | st.builds(
    Fault, st.sampled_from(FaultCode), texts, texts, anything()
)


def places(value: Value, place: Place = ()) -> Iterator[Place]:
    """Every place in a value, the whole of it first."""
    yield place
    inside: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, item in inside:
        yield from places(item, (*place, step))


def value_at(value: Any, place: Place) -> Value:
    for step in place:
        value = value[step]
    found: Value = value
    return found


def changed(value: Value, place: Place, new: Value) -> Value:
    """The same value with something else at one place."""
    if not place:
        return new
    whole: Any = copy.copy(value)
    whole[place[0]] = changed(whole[place[0]], place[1:], new)
    result: Value = whole
    return result


def without(value: Value, place: Place) -> Value:
    """The same value without the member or item at a place."""
    *around, last = place
    holder: Any = copy.copy(value_at(value, tuple(around)))
    del holder[last]
    return changed(value, tuple(around), holder)


# Strict equality: 1, 1.0 and True differ


def exactly(value: object) -> object:
    """Return the value with the type beside each leaf, for comparison."""
    if isinstance(value, dict):
        return {name: exactly(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return type(value).__name__, [exactly(item) for item in value]
    if isinstance(value, msgspec.Struct):
        return type(value).__name__, [exactly(getattr(value, name)) for name in value.__struct_fields__]
    if isinstance(value, Struct):
        return type(value).__name__, [exactly(getattr(value, name)) for name in value.__struct_fields__]
    if isinstance(value, float):
        return "float", repr(value)  # -0.0 is not 0.0
    return type(value).__name__, value


# Values that no D-Bus message may carry, with a part of the error message


def nested(times: int, value: Value) -> Value:
    """Return a value inside this many arrays."""
    for _ in range(times):
        value = [value]
    return value


def typed_variants(times: int) -> Value:
    """Return this many variants inside each other."""
    value: Value = {"signature": "y", "value": 1}
    for _ in range(times - 1):
        value = {"signature": "v", "value": value}
    return value


# Each is refused before a library or a broker sees it.
REFUSED: list[tuple[str, Variants, Value, str]] = [
    ("v", "plain", nested(MAX_DEPTH // 2, []), "at most 63 nested containers"),
    ("a" * 32 + "(" * 32 + "y" + ")" * 32, "plain", nested(64, 1), "at most 63 nested containers"),
    ("v", "plain", nested(40, []), "at most 63 nested containers"),
    ("v", "typed", typed_variants(MAX_DEPTH + 1), "at most 63 nested containers"),
    ("v", "typed", {"signature": "a" * 33 + "y", "value": nested(33, 1)}, "the signature of one complete type"),
    ("v", "typed", {"signature": "(" * 33 + "y" + ")" * 33, "value": 1}, "the signature of one complete type"),
    ("v", "typed", {"signature": "()", "value": []}, "the signature of one complete type"),
    ("v", "typed", {"signature": "a{vs}", "value": {}}, "the signature of one complete type"),
    ("v", "typed", {"signature": "h", "value": 0}, "anything but h"),
    ("v", "typed", {"signature": "y" * 255, "value": 0}, "the signature of one complete type"),
    ("v", "typed", {"signature": "v", "value": None}, 'v as {"signature": ..., "value": ...}, got null'),
    ("v", "plain", None, "expected v, got null"),
    ("v", "plain", 2**64, "expected t, got 18446744073709551616"),
    ("v", "plain", 10**400, "expected t, got an integer of 1329 bits"),
    ("av", "plain", [1, None], "$[1]: expected v, got null"),
    ("a{sv}", "plain", {"a": {"b": [None]}}, "$.a.b[0]: expected v, got null"),
    ("a{sv}", "plain", {"a\0": 1}, "expected s as a key"),
    ("a{sv}", "plain", {"\udc00": 1}, "expected s as a key"),
    ("s", "plain", "a\0", "expected s without NUL"),
    ("s", "plain", "\ud800", "expected s without lone surrogates"),
    ("as", "plain", ["\ud83d", "\ude00"], "expected s without lone surrogates"),
    ("s", "plain", None, "expected s, got null"),
    ("t", "plain", 2**64, "expected t"),
    ("at", "plain", [0, 2**64], "$[1]: expected t"),
    ("ai", "plain", [True], "$[0]: expected i, got true"),
    ("ay", "plain", [256], "expected ay, got an array"),
    ("o", "plain", "", "expected o"),
    ("o", "plain", "//", "expected o"),
    ("o", "plain", "/a/", "expected o"),
    ("o", "plain", "/a\n", "expected o"),
    ("o", "plain", "/\u0661", "expected o"),
    ("o", "plain", "/a/../b", "expected o"),
    ("g", "plain", "y" * 256, "expected g"),
    ("g", "plain", "a", "expected g"),
    ("g", "plain", "(y", "expected g"),
    ("g", "plain", "y\n", "expected g"),
    ("(ss)", "plain", ["a"], "expected (ss), got an array of 1"),
    ("(ss)", "plain", ["a", "b", "c"], "expected (ss), got an array of 3"),
    ("(s)", "plain", [None], "$[0]: expected s, got null"),
    ("a{ds}", "plain", {"0.0": "a", "-0.0": "b"}, "expected keys that stay different"),
    ("a{us}", "plain", {"1": "a", "01": "b"}, "expected u as a key (in decimal)"),
    ("a{us}", "plain", {"\u0661": "a"}, "expected u as a key (in decimal)"),
    ("a{gs}", "plain", {"a": "x"}, "expected g as a key"),
    ("a{sh}", "plain", {"a": 1}, "$.a: expected anything but h"),
]


# What a protocol returns of a value, where that is not the value itself


class UnsupportedValueError(Exception):
    """The protocol cannot represent the value, and must refuse it."""


def _text(value: Value) -> Value:
    """xenstore has text, arrays and structs: an empty one is an empty node, and there is no nil."""
    if value is None:
        raise UnsupportedValueError
    if isinstance(value, list):
        return [_text(item) for item in value] or ""
    if isinstance(value, dict):
        return {name: _text(item) for name, item in value.items()} or ""
    if isinstance(value, bool):
        return "1" if value else "0"
    return value if isinstance(value, str) else repr(value)


_IN_CALLS: Mapping[str, Callable[[Value], Value]] = {"xenstore": _text}


def in_call(protocol: str, value: Value) -> Value:
    """A parameter, as the server reads it; raises UnsupportedValueError."""
    return _IN_CALLS[protocol](value) if protocol in _IN_CALLS else value


def in_reply(protocol: str, value: Value) -> Value:
    """A reply's value, as the client reads it; raises UnsupportedValueError."""
    if protocol == "xenstore" and value in (None, [], {}):
        return None
    return in_call(protocol, value)


# Faults for which a protocol returns the method or the parameter instead of a message.
OWN_WORDS: Mapping[tuple[str, FaultCode], str] = {("xenstore", FaultCode.UNKNOWN_METHOD): "ping"}


# The cases of tests/wire/reports/


REPORTS = Path(__file__).parents[1] / "wire" / "reports"
_PARAMS = "<params><param><value>{}</value></param></params>"

Case = dict[str, Any]


def cases(name: str) -> list[Any]:
    """Return the cases of one file, as parameters of a test."""
    return [pytest.param(case, id=case["title"]) for case in YAML(typ="safe", pure=True).load(REPORTS / f"{name}.yaml")]


def value_of(written: Any) -> Value:
    """Return the value of a case: {date} and {bytes} stand for types that YAML lacks."""
    match written:
        case {"date": text}:
            return datetime.fromisoformat(text)
        case {"bytes": text}:
            return b64decode(text)
    value: Value = written
    return value


def xmlrpc_call(method: str, value: str) -> bytes:
    return f"<methodCall><methodName>{method}</methodName>{_PARAMS.format(value)}</methodCall>".encode()


def xmlrpc_answer(value: str) -> bytes:
    return f"<methodResponse>{_PARAMS.format(value)}</methodResponse>".encode()
