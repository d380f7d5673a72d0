"""Hypothesis strategies: D-Bus types over the whole grammar; legacy values that fit them, nearly fit, or do not."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from gateway.core.dbus.signature import INTEGER_RANGES, Type
from gateway.core.dbus.target import Variants
from gateway.core.rpc.model import Value

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
    """Legacy values that the type admits, such that the way out and back gives them again.

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
