"""Checks of legacy values against the basic D-Bus types (D-Bus specification, "Basic types").

Values are checked one by one, many at once, and as the text of dict keys. docs/types.md lists what is accepted.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime
from typing import Any

from gateway.core.dbus import names
from gateway.core.dbus.signature import INTEGER_RANGES, parse
from gateway.core.rpc.model import Value

_SHOWN = 40  # characters of a text that a message repeats
_SHOWN_BITS = 128  # of an integer that a message repeats


class MarshalError(Exception):
    """A value that does not fit its type: `$.params[1].vcpus: expected u, got -1`."""

    def __init__(self, expected: str, got: object) -> None:
        super().__init__(expected)
        self.expected = expected
        self.got = quoted(got)
        self.path: tuple[str | int, ...] = ()

    def at(self, *place: str | int) -> MarshalError:
        """Prepend one step to the place; each level on the way up adds its own."""
        self.path = (*place, *self.path)
        return self

    @property
    def bare(self) -> str:
        """Return the text for a log, without the value."""
        return f"{render(self.path)}: expected {self.expected}"

    def __str__(self) -> str:
        return f"{self.bare}, got {self.got}"


def absent(expected: str) -> MarshalError:
    """Return the error of a value that is not there."""
    error = MarshalError(expected, None)
    error.got = "nothing"
    return error


def placed(step: str | int, convert: Callable[[Any], Any], value: Any) -> Any:
    """Convert a value whose place is one step further in."""
    try:
        return convert(value)
    except MarshalError as error:
        error.at(step)
        raise


def render(path: Iterable[str | int]) -> str:
    """Return a place in a legacy value, `$.params[1].vcpus`, in ASCII on one line."""
    place = "$"
    for step in path:
        if isinstance(step, int):
            place += f"[{step}]"
        elif len(step) <= _SHOWN and step.isascii() and step.isidentifier():
            place += f".{step}"
        else:
            place += f"[{quoted(step)}]"
    return place


def quoted(value: object) -> str:
    """Return a value for a message: ASCII, one line, limited length."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str):
        return json.dumps(value if len(value) <= _SHOWN else value[:_SHOWN] + "...")
    if isinstance(value, int):
        bits = value.bit_length()
        return str(value) if bits <= _SHOWN_BITS else f"an integer of {bits} bits"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, list | dict):
        return f"{'an array' if isinstance(value, list) else 'a struct'} of {len(value)}"
    return "a dateTime" if isinstance(value, datetime) else "a value of no known type"


_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,19}")  # canonical, and no longer than any D-Bus integer
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")  # what "%.16g" and JSON write
_NOT_FINITE = frozenset(("inf", "-inf", "nan", "-nan"))  # "%.16g" again
_LARGEST_WHOLE = 2.0**53  # up to which each integer has a double of its own
_BOOLEANS: Mapping[str, bool] = {"true": True, "false": False}
_LEGACY_BOOLEANS: Mapping[str, bool] = {**_BOOLEANS, "1": True, "0": False}


def refuse_file_descriptor(value: object) -> Any:
    """Refuse a file descriptor, which no legacy protocol can carry."""
    raise MarshalError("anything but h (file descriptors cannot be carried)", value)


def text(value: Value) -> str:
    """Check a string: no NUL, valid UTF-8."""
    if type(value) is not str:
        raise MarshalError("s", value)
    if "\0" in value:
        raise MarshalError("s without NUL", value)
    if not value.isascii() and has_surrogate(value):
        raise MarshalError("s without lone surrogates", value)
    return value


def object_path(value: Value) -> str:
    """Check an object path."""
    if type(value) is str and names.is_object_path(value):
        return value
    raise MarshalError("o", value)


def signature(value: Value) -> str:
    """Check a signature: any number of complete types."""
    if type(value) is not str:
        raise MarshalError("g", value)
    try:
        parse(value)
    except ValueError:
        raise MarshalError("g", value) from None
    return value


def byte_array(value: Value) -> bytes:
    """Check bytes, or canonical base64 text (RFC 4648, section 3.5), since JSON has no bytes."""
    if type(value) is bytes:
        return value
    if type(value) is not str:
        raise MarshalError("ay", value)
    try:
        decoded = base64.b64decode(value, validate=True)
    except ValueError:
        decoded = b""
    if base64.b64encode(decoded).decode() != value:
        raise MarshalError("ay as canonical base64", value)
    return decoded


def boolean(value: Value) -> bool:
    """Check a boolean; 0 and 1 are refused."""
    if type(value) is bool:
        return value
    raise MarshalError("b", value)


def legacy_boolean(value: Value) -> bool:
    """Check a boolean; 0, 1 and the texts "true", "false", "1", "0" are accepted too."""
    if type(value) is str and value in _LEGACY_BOOLEANS:
        return _LEGACY_BOOLEANS[value]
    if type(value) is int and value in (0, 1):
        return bool(value)
    return boolean(value)


def double(value: Value) -> float:
    """Check a double, or an integer that a double holds exactly."""
    if type(value) is float:
        return value
    if type(value) is int:
        return _exact_double(value, value)
    raise MarshalError("d", value)


def legacy_double(value: Value) -> float:
    """Check a double; a number as text is accepted too, integers exactly."""
    if type(value) is not str:
        return double(value)
    if _INTEGER.fullmatch(value):
        return _exact_double(int(value), value)
    if value in _NOT_FINITE:
        return float(value)
    if not _NUMBER.fullmatch(value):
        raise MarshalError("d", value)
    number = float(value)
    lost = number == 0 and any(digit in "123456789" for digit in re.split("[eE]", value)[0])
    if lost or math.isinf(number):
        raise MarshalError("d within its range", value)
    return number


def _exact_double(number: int, value: Value) -> float:
    try:
        result = float(number)
    except OverflowError:
        result = math.nan
    if result != number:
        raise MarshalError("d, or an integer that a double holds exactly", value)
    return result


def integer(code: str, *, decimal: bool = False, whole: bool = False) -> Callable[[Value], int]:
    """Return the check of an integer in the range of the D-Bus type `code`; booleans and 1.0 are refused.

    `decimal`: canonical decimal text is accepted too, as XenAPI writes every int64. `whole`: so is a whole double up to
    2^53; a larger one stands for several integers.
    """
    low, high = INTEGER_RANGES[code]

    def check(value: Value) -> int:
        if type(value) is int and low <= value <= high:
            return value
        if decimal and type(value) is str and _INTEGER.fullmatch(value) and low <= int(value) <= high:
            return int(value)
        if (
            whole
            and type(value) is float
            and low <= value <= high
            and abs(value) <= _LARGEST_WHOLE
            and value.is_integer()
        ):
            return int(value)
        raise MarshalError(code, value)

    return check


def has_surrogate(text: str) -> bool:
    """Return whether a text has half of a surrogate pair, which UTF-8 cannot express."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


STRICT: Mapping[str, Callable[[Any], object]] = {
    "b": boolean,
    "d": double,
    "s": text,
    "o": object_path,
    "g": signature,
    "h": refuse_file_descriptor,
    **{code: integer(code) for code in INTEGER_RANGES},
}
LEGACY: Mapping[str, Callable[[Any], object]] = {
    **STRICT,
    "b": legacy_boolean,
    "d": legacy_double,
    **{code: integer(code, decimal=True, whole=True) for code in INTEGER_RANGES},
}


# Many values at once: whether all can pass unchanged, without a call for each


def all_texts(values: Iterable[Any]) -> bool:
    """Return whether every value is a string that D-Bus can carry."""
    try:
        joined = "".join(values)
    except TypeError:
        return False
    return "\0" not in joined and (joined.isascii() or not has_surrogate(joined))


def _all_integers(code: str) -> Callable[[Collection[Any]], bool]:
    low, high = INTEGER_RANGES[code]
    return lambda values: {*map(type, values)} == {int} and low <= min(values) and max(values) <= high


def _all_of(kind: type) -> Callable[[Collection[Any]], bool]:
    return lambda values: {*map(type, values)} == {kind}


UNCHANGED: Mapping[str, Callable[[Collection[Any]], bool]] = {
    "s": all_texts,
    "b": _all_of(bool),
    "d": _all_of(float),
    **{code: _all_integers(code) for code in INTEGER_RANGES},
}


# Dict keys: legacy keys are text, D-Bus keys any basic type. A key has exactly one text, so that keys stay unique.


def _canonical_double(text: str) -> float:
    if repr(float(text)) != text:
        raise ValueError
    return float(text)


def _key(expected: str, read: Callable[[Any], object]) -> Callable[[Any], object]:
    def check(value: Any) -> object:
        try:
            if type(value) is str:
                return read(value)
        except (MarshalError, ValueError, KeyError):
            pass
        raise MarshalError(expected, value)

    return check


KEYS_IN: Mapping[str, Callable[[Any], object]] = {
    "b": _key('b as a key ("true" or "false")', _BOOLEANS.__getitem__),
    "d": _key('d as a key (in its shortest form: "1.0", "1e+16")', _canonical_double),
    "h": refuse_file_descriptor,
    **{code: _key(f"{code} as a key", STRICT[code]) for code in "sog"},
    **{code: _key(f"{code} as a key (in decimal)", integer(code, decimal=True)) for code in INTEGER_RANGES},
}
KEYS_OUT: Mapping[str, Callable[[Any], str]] = {
    "b": lambda key: "true" if key else "false",
    "d": repr,
    "h": refuse_file_descriptor,
    **dict.fromkeys(INTEGER_RANGES, str),
}
