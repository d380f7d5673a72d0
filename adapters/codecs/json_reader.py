"""Strict JSON reader: bytes to a value, or an error that names the place.

A fast library reads. What it accepts too freely (duplicate members, any depth, any number of values) is found from
counts of bytes. Only a text that is refused is read again by a slow reader, which finds the place
(docs/decisions/0002) and the parts that are valid: a bad item of an array leaves the other items intact.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import partial
from itertools import accumulate
from math import isfinite
from typing import Any

import msgspec
from msgspec import Struct, field

from gateway.core.dbus.scalars import render
from gateway.core.rpc.model import FaultCode, MessageLimits

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode

_BRACKETS_AND_QUOTES = bytes(set(range(256)) - set(b'"[]{}'))  # what to delete for them to remain
_ONE_KIND = bytes.maketrans(b"{}", b"[]")
_begins = re.compile(r"[^ \t\r\n,]").search  # an item of an array, or its end
_WHITESPACE = b" \t\r\n"
_ROUNDS = 4  # of removing the innermost brackets, before the rest is counted
_PIECE = 64 * 1024  # bytes of brackets that are counted at a time
_SHORTEST_VALUE = 2  # bytes of a value and what parts it from the next, but for the last one
_HALF_A_PAIR = "got half of a surrogate pair"


class JsonError(Exception):
    """A text that is refused; the message names the place."""

    def __init__(self, code: FaultCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class DamagedJsonError(JsonError):
    """The text is JSON with some invalid values; `value` holds an Odd in place of each."""

    def __init__(self, value: Any, code: FaultCode, message: str) -> None:
        super().__init__(code, message)
        self.value = value


def read(body: bytes, limits: MessageLimits, *, last_wins: bool = False) -> Any:
    """Read one JSON text (RFC 8259) within `limits`; integers are exact. Raises JsonError only.

    `last_wins`: the last of two members of one name counts, as in most readers.
    """
    if len(body) > limits.body:
        raise JsonError(FaultCode.TOO_LARGE, f"expected at most {limits.body} bytes, got {len(body)}")
    brackets = body.count(b"[") + body.count(b"{")
    if brackets > limits.depth:
        _check_depth(body, limits.depth)
    if len(body) >= limits.elements * _SHORTEST_VALUE and brackets + body.count(b",") >= limits.elements:
        _check_elements(body, limits.elements)
    try:
        value = _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        _look_closely(body, _SLOW_LAST if last_wins else _SLOW)
        raise JsonError(FaultCode.PARSE_ERROR, "expected JSON with numbers of reasonable length") from None
    if last_wins or _members_are_unique(body, value):
        return value
    del value  # it is read once more, and may be large
    return _look_closely(body, _SLOW)


def raw_items(body: bytes) -> list[bytes]:
    """Return the text of each item of an array that `read` accepted."""
    return [bytes(item) for item in msgspec.json.decode(body, type=list[msgspec.Raw])]


def raw_member(body: bytes, name: str) -> bytes:
    """Return the text of one member of an object that `read` accepted."""
    return bytes(msgspec.json.decode(body, type=dict[str, msgspec.Raw])[name])


# Checks that the fast reader does not make


def _check_depth(body: bytes, limit: int) -> None:
    """Count the nesting of brackets, with everything else deleted."""
    brackets = _without_escapes(body).translate(_ONE_KIND, _BRACKETS_AND_QUOTES).replace(b'""', b"")
    if b'"' in brackets:
        brackets = _outside_strings(brackets, b"")
    left = limit
    for _ in range(min(limit, _ROUNDS)):  # each time the innermost ones go: most texts are not deep
        before, brackets = brackets, brackets.replace(b"[]", b"")
        if len(before) == len(brackets):
            break
        left -= 1
    if _depth(brackets) > left:
        raise JsonError(FaultCode.TOO_LARGE, f"expected at most {limit} nested arrays and objects, got more")


def _depth(brackets: bytes) -> int:
    """Return the depth of `[` and `]`. The work does not depend on it."""
    depth = deepest = 0
    for at in range(0, len(brackets), _PIECE):
        first, *others = map(len, brackets[at : at + _PIECE].split(b"]"))
        levels = list(accumulate(others, lambda level, begun: level - 1 + begun, initial=depth + first))
        depth, deepest = levels[-1], max(deepest, *levels)
    return deepest


def _check_elements(body: bytes, limit: int) -> None:
    """Count values by commas: every value but the first of an array or object has one before it."""
    text = _outside_strings(_without_escapes(body), b"0").translate(None, _WHITESPACE)
    filled = text.count(b"[") - text.count(b"[]") + text.count(b"{") - text.count(b"{}")
    if 1 + text.count(b",") + filled > limit:
        raise JsonError(FaultCode.TOO_LARGE, f"expected at most {limit} values, got more")


def _without_escapes(body: bytes) -> bytes:
    """Return the text without escapes, so that every quotation mark begins or ends a string."""
    return body.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in body else body


def _outside_strings(body: bytes, string: bytes) -> bytes:
    return string.join(body.split(b'"')[::2])


def _members_are_unique(body: bytes, value: Any) -> bool:
    r"""Return whether the reader kept every member: a duplicate that it dropped leaves one colon too many in the text.

    Where the text may hold colons written as \u003a the answer is False.
    """
    if b"\\u003" in body and (b"\\u003a" in body or b"\\u003A" in body):
        return False
    return _encode(value).count(b":") == body.count(b":")


# The slow reader, which finds places


class Odd(Struct, frozen=True):
    """Marks an invalid value. `members`: the other members, if it is an object."""

    code: FaultCode
    what: str
    member: str | None = None
    members: dict[str, Any] = field(default_factory=dict)


def first_odd(root: Any) -> JsonError | None:
    """Return the first error in a value of DamagedJsonError with its place; None if there is none."""
    steps: list[str | int] = []  # to the container that is looked at
    open_: list[Iterator[tuple[str | int, Any]]] = [iter([("$", root)])]
    while open_:
        for step, item in open_[-1]:
            kind, odd = type(item), None
            if kind is Odd:
                odd = item
            elif kind is str and not _is_unicode(item):
                odd = Odd(FaultCode.INVALID_REQUEST, f"expected Unicode text, {_HALF_A_PAIR}")
            elif (kind is list or kind is dict) and item:
                steps.append(step)
                open_.append(iter(item.items()) if kind is dict else enumerate(item))
                break
            if odd is not None:
                place = [*steps, step, *([] if odd.member is None else [odd.member])]
                return JsonError(odd.code, f"{render(place[1:])}: {odd.what}")
        else:
            open_.pop()
            del steps[-1:]
    return None


def _look_closely(body: bytes, decoder: json.JSONDecoder) -> Any:
    """Read again to find the place of an error; returns the value if there is none."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        what = f"expected UTF-8, got the byte 0x{body[error.start]:02x} at {error.start}"
        raise JsonError(FaultCode.PARSE_ERROR, what) from None
    if text.startswith("\ufeff"):
        raise JsonError(FaultCode.PARSE_ERROR, "expected JSON without a byte order mark")
    try:
        value = decoder.decode(text)
    except json.JSONDecodeError as error:
        what = f"expected JSON, it ends or goes wrong at character {error.pos} of {len(text)}"
        raise JsonError(FaultCode.PARSE_ERROR, what) from None
    except RecursionError:
        raise JsonError(FaultCode.TOO_LARGE, "nested deeper than can be read") from None
    refused = first_odd(value)
    if refused is None:
        return value
    raise refused if refused.code is FaultCode.PARSE_ERROR else DamagedJsonError(value, refused.code, str(refused))


def damaged_items(body: bytes) -> list[bytes]:
    """Return the text of each item of an array with invalid values."""
    text = body.decode()
    items: list[bytes] = []
    at = text.index("[") + 1
    while (begins := _begins(text, at)) is not None and begins[0] != "]":
        _, at = _SLOW.raw_decode(text, begins.start())
        items.append(text[begins.start() : at].encode())
    return items


def number_as_written(body: bytes, name: str) -> bytes:
    """Return the text of a member that is a number with a point or an exponent."""
    return str(json.loads(body, parse_float=str, parse_int=len)[name]).encode()


def _object(pairs: list[tuple[str, Any]], *, last_wins: bool) -> dict[str, Any] | Odd:
    members = dict(pairs)
    if len(members) < len(pairs) and not last_wins:
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                del members[name]
                return Odd(FaultCode.INVALID_REQUEST, "expected one member of this name, got two", name, members)
            seen.add(name)
    for name in members:
        if not _is_unicode(name):
            what = f"expected Unicode text as a member's name, {_HALF_A_PAIR}"
            return Odd(FaultCode.INVALID_REQUEST, what, name, members)
    return members


def _integer(text: str) -> int | Odd:
    try:
        return int(text)
    except ValueError:  # longer than Python converts, for that takes time with the square of the length
        return Odd(FaultCode.TOO_LARGE, f"expected an integer of reasonable length, got {len(text)} digits")


def _number(text: str) -> float | Odd:
    number = float(text)
    return number if isfinite(number) else Odd(FaultCode.INVALID_REQUEST, "expected a number within 1.8e308")


def _constant(text: str) -> Odd:
    return Odd(FaultCode.PARSE_ERROR, f"expected JSON, got {text}")


def _is_unicode(text: str) -> bool:
    try:
        return text.isascii() or bool(text.encode("utf-8"))
    except UnicodeEncodeError:
        return False


_SLOW, _SLOW_LAST = (
    json.JSONDecoder(
        object_pairs_hook=partial(_object, last_wins=last_wins),
        parse_int=_integer,
        parse_float=_number,
        parse_constant=_constant,
    )
    for last_wins in (False, True)
)
