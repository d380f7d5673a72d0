"""Our variants -> the library's, by a converter made once for each signature; checks nothing but that they are ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeAlias

from dbus_fast import Variant

from gateway.core import marshal
from gateway.core.signature import Type, parse, parse_one

Convert: TypeAlias = Callable[[object], object]


@lru_cache(maxsize=4096)
def to_library(signature: str) -> Callable[[Sequence[object]], list[object]]:
    """A function that turns the variants in a checked body into the library's; a plain copy where there are none."""
    converters = [_converter(type_) for type_ in parse(signature)]
    if not any(converters):
        return list
    return lambda body: [
        value if convert is None else convert(value) for convert, value in zip(converters, body, strict=True)
    ]


@lru_cache(maxsize=4096)
def _inner(signature: str) -> Convert | None:
    return _converter(parse_one(signature))


def _variant(value: object) -> Variant:
    # The library dies of a None here (SIGSEGV), so the class is asked for although the body is checked.
    if not isinstance(value, marshal.Variant):
        raise TypeError("a variant is expected")
    convert = _inner(value.signature)
    return Variant(value.signature, value.value if convert is None else convert(value.value), verify=False)


def _converter(type_: Type) -> Convert | None:
    """How to convert a value of this type; None when it may stay as it is."""
    if not type_.has_variant:
        return None
    if type_.code == "v":
        return _variant
    if type_.is_dict:
        return _entries(type_.children[0].children[1])
    return _elements(type_) if type_.code == "a" else _fields(type_)


def _entries(value_type: Type) -> Convert:
    convert = _converter(value_type) or _same
    return lambda value: {key: convert(one) for key, one in value.items()}  # type: ignore[attr-defined]


def _elements(type_: Type) -> Convert:
    convert = _converter(type_.children[0]) or _same
    return lambda value: [convert(one) for one in value]  # type: ignore[attr-defined]


def _fields(type_: Type) -> Convert:
    converters = [_converter(child) or _same for child in type_.children]
    return lambda value: [convert(one) for convert, one in zip(converters, value, strict=True)]  # type: ignore[call-overload]


def _same(value: object) -> object:
    return value
