"""JSON writer: a value to JSON as legacy servers write it, or an error that names the place.

Bytes become base64, a datetime the compact form of XenAPI. NaN and half a surrogate pair are refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from itertools import islice
from math import isfinite
from types import NoneType
from typing import Any, Literal, TypeAlias

import msgspec

from gateway.core.dbus.scalars import MarshalError
from gateway.core.rpc.model import Value
from gateway.core.rpc.units import LONGEST_ZONE, compact

LongIntegers: TypeAlias = Literal["number", "text"]  # how an integer is written that a double cannot hold exactly
Write: TypeAlias = Callable[[Value], bytes]

_LARGEST_IN_DOUBLE = 2**53
_FEW = 4  # a Status struct and the result of event.from have fewer
_PIECE = 128  # items
_encode = msgspec.json.Encoder().encode
_moment = re.compile(rb"T[0-9][0-9]:[0-9][0-9]:").search  # in each one that the library writes on its own


def write(value: Value) -> bytes:
    """Write JSON with exact integers of any size; raises MarshalError only."""
    if type(value) is str or not _is_long(value):
        return _whole(value)
    try:
        return b"".join(_pieces(value))
    except (ValueError, RecursionError, MarshalError):  # without its place
        return _write_slowly(value, _integer)


def _is_long(value: object, depth: int = 3) -> bool:
    """Whether a value, or one that it holds beside few others, has many items."""
    if type(value) is not dict and type(value) is not list:
        return False
    if len(value) > _FEW:
        return len(value) > _PIECE
    for item in value.values() if type(value) is dict else value:  # a generator costs as much again
        if (type(item) is dict or type(item) is list) and depth and _is_long(item, depth - 1):
            return True
    return False


def _pieces(value: Any) -> Iterator[bytes]:
    """The text of a long value, piece by piece: the library holds the interpreter for each."""
    is_struct, comma = type(value) is dict, b""
    yield b"{" if is_struct else b"["
    if len(value) > _PIECE:
        items = iter(value.items() if is_struct else value)
        while piece := (dict if is_struct else list)(islice(items, _PIECE)):
            yield comma + _whole(piece)[1:-1]
            comma = b","
    else:
        for name, item in value.items() if is_struct else enumerate(value):
            yield comma + (_encode(name) + b":" if is_struct else b"")
            yield from _pieces(item) if _is_long(item) else (_whole(item),)
            comma = b","
    yield b"}" if is_struct else b"]"


def _whole(value: Any) -> bytes:
    try:
        text = _encode(value)
    except (ValueError, TypeError, OverflowError, RecursionError):
        return _write_slowly(value, _integer)
    if type(value) is str:
        return text
    # The library writes NaN as null and a datetime in another form; all else is right, and stays as it is.
    if b"null" not in text and not _moment(text):
        return text
    try:
        return _encode(_odd(value))
    except MarshalError:  # without its place
        return _write_slowly(value, _integer)


def _odd(value: Any) -> Value:
    """Convert what the library writes otherwise: datetimes, and numbers that are not finite; the rest is not copied."""
    kind = type(value)
    if kind is dict:
        changed = {name: _odd(item) for name, item in value.items() if type(item) not in _WRITTEN_RIGHTLY}
        return {**value, **changed} if changed else value
    if kind is list:
        return value if all(type(item) in _WRITTEN_RIGHTLY for item in value) else [_odd(item) for item in value]
    return value if kind in _WRITTEN_RIGHTLY else _SCALARS.get(kind, _same)(value)


_WRITTEN_RIGHTLY = frozenset({str, int, bool, bytes, NoneType})


def write_long_as_text(value: Value) -> bytes:
    """Write JSON with integers beyond 2**53 as decimal text, for clients whose only number type is the double."""
    return _write_slowly(value, _integer_or_text)


WRITERS: Mapping[LongIntegers, Write] = {"number": write, "text": write_long_as_text}


def visible(text: str) -> str:
    """Return the text with characters that JSON cannot carry spelled out, for messages."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _write_slowly(value: Value, integer: Callable[[int], Value]) -> bytes:
    try:
        return _encode(_plain(value, integer))
    except RecursionError:
        raise MarshalError("fewer nested arrays and structs", None) from None


def _plain(value: Any, integer: Callable[[int], Value]) -> Value:
    """Convert the value to one that the library writes correctly."""
    kind = type(value)
    if kind is str:
        return _text(value)
    if kind is int:
        return integer(value)
    if kind is list:
        return _array(value, integer)
    if kind is dict:
        return _struct(value, integer)
    return _SCALARS.get(kind, _unknown)(value)


def _array(items: list[Any], integer: Callable[[int], Value]) -> Value:
    done: list[Value] = []
    try:
        for item in items:
            done.append(_plain(item, integer))  # noqa: PERF401 - a comprehension would not know where it failed
    except MarshalError as error:
        error.at(len(done))
        raise
    return done


def _struct(members: dict[str, Any], integer: Callable[[int], Value]) -> Value:
    done: dict[str, Value] = {}
    name = ""
    try:
        for name, item in members.items():
            done[_text(name)] = _plain(item, integer)
    except MarshalError as error:
        error.at(name)
        raise
    return done


def _text(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise MarshalError("Unicode text without half a surrogate pair", text) from None
    return text


def _integer(number: int) -> Value:
    try:
        str(number)
    except ValueError:  # longer than Python converts
        raise MarshalError("an integer of reasonable length", number) from None
    return number


def _integer_or_text(number: int) -> Value:
    _integer(number)
    return number if abs(number) <= _LARGEST_IN_DOUBLE else str(number)


def _finite(number: float) -> Value:
    if not isfinite(number):
        raise MarshalError("a finite number", number)
    return number


def _date(moment: datetime) -> str:
    text, zone = compact(moment)
    if len(zone) > LONGEST_ZONE:
        raise MarshalError("an offset of whole minutes from UTC", zone)
    return text + zone


def _same(value: Value) -> Value:
    return value


def _unknown(value: Value) -> Value:
    raise MarshalError("a value that JSON has", value)


_SCALARS: Mapping[type, Callable[[Any], Value]] = {
    NoneType: _same,
    bool: _same,
    bytes: _same,
    float: _finite,
    datetime: _date,
}
