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

from adapters.codecs.shared import is_long
from gateway.core.dbus.scalars import MarshalError
from gateway.core.rpc.model import Value
from gateway.core.rpc.units import LONGEST_ZONE, compact

LongIntegers: TypeAlias = Literal["number", "text"]  # how an integer is written that a double cannot hold exactly
Write: TypeAlias = Callable[[Value], bytes]

_LARGEST_IN_DOUBLE = 2**53
_PIECE = 128  # items
_encode = msgspec.json.Encoder().encode
_moment = re.compile(rb"T[0-9][0-9]:[0-9][0-9]:").search  # in each one that the library writes on its own
_WRITTEN_RIGHTLY = frozenset({str, int, bool, bytes, NoneType})


def write(value: Value) -> bytes:
    """Write JSON with exact integers of any size; raises MarshalError only."""
    if type(value) is str or not is_long(value, _PIECE):
        return _whole(value)
    try:
        return b"".join(_pieces(value))
    except (ValueError, RecursionError, MarshalError):  # without its place
        return _write_slowly(value)


def write_long_as_text(value: Value) -> bytes:
    """Write JSON with integers beyond 2**53 as decimal text, for clients whose only number type is the double."""
    return _write_slowly(value, longs_as_text=True)


WRITERS: Mapping[LongIntegers, Write] = {"number": write, "text": write_long_as_text}


def visible(text: str) -> str:
    """Return the text with characters that JSON cannot carry spelled out, for messages."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


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
            yield from _pieces(item) if is_long(item, _PIECE) else (_whole(item),)
            comma = b","
    yield b"}" if is_struct else b"]"


def _whole(value: Any) -> bytes:
    try:
        text = _encode(value)
        # The library writes NaN as null and a datetime in another form; all else is right, and stays as it is.
        if type(value) is str or (b"null" not in text and not _moment(text)):
            return text
        return _encode(_odd(value))
    except (ValueError, TypeError, OverflowError, RecursionError, MarshalError):  # without its place
        return _write_slowly(value)


def _odd(value: Any) -> Value:
    """Convert what the library writes otherwise: datetimes, and numbers that are not finite; the rest is not copied."""
    kind = type(value)
    if kind is dict:
        changed = {name: _odd(item) for name, item in value.items() if type(item) not in _WRITTEN_RIGHTLY}
        return {**value, **changed} if changed else value
    if kind is list:
        return value if all(type(item) in _WRITTEN_RIGHTLY for item in value) else [_odd(item) for item in value]
    return value if kind in _WRITTEN_RIGHTLY or kind not in _SCALARS else _SCALARS[kind](value)


def _write_slowly(value: Value, *, longs_as_text: bool = False) -> bytes:
    try:
        return _encode(_converted(value, _integer_or_text if longs_as_text else _integer))
    except RecursionError:
        raise MarshalError("fewer nested arrays and structs", None) from None


def _converted(value: Any, integer: Callable[[int], Value]) -> Value:
    """Convert the value to one that the library writes correctly; raises MarshalError with the place."""
    kind = type(value)
    if kind is str:
        return _text(value)
    if kind is int:
        return integer(value)
    step: Any = None
    try:
        if kind is list:
            items: list[Value] = []
            for step, item in enumerate(value):  # noqa: B007 - the place of the bad one
                items.append(_converted(item, integer))
            return items
        if kind is dict:
            members: dict[str, Value] = {}
            for step, item in value.items():
                members[_text(step)] = _converted(item, integer)
            return members
    except MarshalError as error:
        error.at(step)
        raise
    if kind not in _SCALARS:
        raise MarshalError("a value that JSON has", value)
    return _SCALARS[kind](value)


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
    return _integer(number) if abs(number) <= _LARGEST_IN_DOUBLE else str(_integer(number))


def _finite(number: float) -> Value:
    if not isfinite(number):
        raise MarshalError("a finite number", number)
    return number


def _date(moment: datetime) -> str:
    text, zone = compact(moment)
    if len(zone) > LONGEST_ZONE:
        raise MarshalError("an offset of whole minutes from UTC", zone)
    return text + zone


_SCALARS: Mapping[type, Callable[[Any], Value]] = {
    **dict.fromkeys((NoneType, bool, bytes), lambda value: value),
    float: _finite,
    datetime: _date,
}
