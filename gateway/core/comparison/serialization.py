"""Legacy values as JSON, without loss and readable, and back; and shortened for people.

Values that JSON has stay unchanged. Others are a struct with one member that names their type: `{"$bytes": "aGk="}`,
`{"$dateTime": "2026-01-31T09:05:00+00:00"}`, `{"$double": "nan"}`, `{"$integer": "9007199254740993"}`,
`{"$text": "7aCA"}` for a text with half a surrogate pair (base64), `{"$struct": [[name, member], ...]}` for a struct
whose names JSON cannot carry, or that would be taken for one of these.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from datetime import datetime
from math import isfinite
from typing import Any, TypeAlias

from msgspec import Struct

from gateway.core.dbus.scalars import has_surrogate
from gateway.core.rpc.model import Value

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

SAFE = 2**53  # a larger integer loses digits in a JSON reader that uses doubles
LONGEST_DECIMAL = 4000  # digits of an integer that Python writes and reads in decimal

LEFT_OUT = "$left_out"  # how much of a value was left out
BEGINS = "$begins"  # the beginning of a text or of bytes


def write(value: Value) -> Json:
    """A value as JSON; never fails: a value of an unknown type is replaced by the name of its type."""
    return _WRITERS.get(type(value), _unknown)(value)


def read(document: Json) -> Value:
    """The inverse of `write`; raises ValueError for documents that `write` does not produce."""
    if isinstance(document, list):
        return [read(item) for item in document]
    if not isinstance(document, dict):
        return document
    if len(document) == 1:
        tag, inside = next(iter(document.items()))
        if tag in _READERS:
            return _READERS[tag](inside)
    return {name: read(member) for name, member in document.items()}


def _unknown(value: Any) -> Json:
    """Subclasses of the known types, and struct names that are not text; other values are only named."""
    for kind in (bool, int, float, str, bytes, datetime, list, dict):
        if isinstance(value, kind):
            return _WRITERS[kind](value)
    if isinstance(value, bytearray | memoryview):
        return write(bytes(value))
    return write(list(value)) if isinstance(value, tuple) else {"$unknown": type(value).__name__}


def _integer(value: int) -> Json:
    if -SAFE <= value <= SAFE:
        return int(value)
    return {"$integer": str(int(value)) if value.bit_length() < 3 * LONGEST_DECIMAL else hex(value)}


def _text(value: str) -> Json:
    if not has_surrogate(value):
        return str(value)
    return {"$text": b64encode(value.encode("utf-8", "surrogatepass")).decode()}


def _struct(value: Mapping[Any, Value]) -> Json:
    plain = all(isinstance(name, str) and not has_surrogate(name) for name in value)
    if plain and not (len(value) == 1 and next(iter(value)) in _READERS):
        return {str(name): write(member) for name, member in value.items()}
    return {"$struct": [[write(name), write(member)] for name, member in value.items()]}


_WRITERS: Mapping[type, Callable[[Any], Json]] = {
    type(None): lambda _value: None,
    bool: bool,
    int: _integer,
    float: lambda value: float(value) if isfinite(value) else {"$double": repr(float(value))},
    str: _text,
    bytes: lambda value: {"$bytes": b64encode(value).decode()},
    datetime: lambda value: {"$dateTime": value.isoformat()},
    list: lambda value: [write(item) for item in value],
    dict: _struct,
}


def _read_struct(inside: Json) -> Value:
    pairs = inside if isinstance(inside, list) else [None]
    struct: dict[Any, Value] = {}
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2:
            raise ValueError("expected [[name, member], ...] in a $struct")
        name = read(pair[0])
        if isinstance(name, list | dict):
            raise ValueError("expected a name, got a list or a struct")  # noqa: TRY004 - as below
        struct[name] = read(pair[1])
    return struct


def _expect(inside: Json) -> str:
    if not isinstance(inside, str):
        raise ValueError(f"expected text, got {type(inside).__name__}")  # noqa: TRY004 - one kind of error for a reader
    return inside


_READERS: Mapping[str, Callable[[Json], Value]] = {
    "$bytes": lambda inside: b64decode(_expect(inside), validate=True),
    "$dateTime": lambda inside: datetime.fromisoformat(_expect(inside)),
    "$double": lambda inside: float(_expect(inside)),
    "$integer": lambda inside: int(_expect(inside), 0),
    "$text": lambda inside: b64decode(_expect(inside), validate=True).decode("utf-8", "surrogatepass"),
    "$struct": _read_struct,
}


# Shortening


class SizeBudget(Struct, frozen=True):
    """How much of a value is kept."""

    text: int = 500  # characters of a text, bytes of bytes
    items: int = 50  # of a list, members of a struct
    depth: int = 12  # lists and structs inside each other
    values: int = 2000  # in all


EVIDENCE = SizeBudget()


def shorten(value: Value, size: SizeBudget = EVIDENCE) -> Value:
    """The value without its long parts; beside each is how much was left out: `{"$left_out": 950}`."""
    left = size.values

    def cut(value: Value, depth: int) -> Value:
        nonlocal left
        left -= 1
        if isinstance(value, str | bytes):
            return value if len(value) <= size.text else {BEGINS: value[: size.text], LEFT_OUT: len(value) - size.text}
        if type(value) is int and value.bit_length() > 4 * size.text:
            return {LEFT_OUT: f"an integer of {value.bit_length()} bits"}
        if not isinstance(value, list | dict):
            return value
        if value and depth <= 0:
            return {LEFT_OUT: len(value)}
        kept: dict[str | int, Value] = {}
        for name, item in value.items() if isinstance(value, dict) else enumerate(value):
            if left <= 0 or len(kept) >= size.items:
                break
            kept[_short_name(name, size.text)] = cut(item, depth - 1)
        out: dict[str, Value] = {LEFT_OUT: len(value) - len(kept)} if len(value) > len(kept) else {}
        if isinstance(value, list):
            return [*kept.values(), *([out] if out else [])]
        return {**{str(name): member for name, member in kept.items()}, **out}

    return cut(value, size.depth)


def _short_name(name: str | int, size: int) -> str | int:
    if isinstance(name, int) or len(name) <= size:
        return name
    return f"{name[:size]}... ({len(name) - size} left out)"
