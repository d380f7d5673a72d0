"""Bytes -> a JSON value read strictly, or a refusal that names the place; knows no JSON-RPC.

A fast library reads; what it would let pass (members twice, any depth, any number of values) is found from counts of
bytes. Only for a text that is refused does a slow reader look again, for the place (docs/decisions/0002).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NoReturn, TypeAlias

import msgspec

from gateway.core.model import FaultCode, Limits
from gateway.core.refusal import render

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode

_BRACKETS_AND_QUOTES = bytes(set(range(256)) - set(b'"[]{}'))  # what to delete for them to remain
_ONE_KIND = bytes.maketrans(b"{}", b"[]")
_BETWEEN_BRACKETS = ord("\\")  # one above "[" and one below "]"
_WHITESPACE = b" \t\r\n"
_SHORTEST_VALUE = 2  # bytes of a value and what parts it from the next, but for the last one


class Refused(Exception):  # noqa: N818 - no error of ours: it carries a fault up to where the codec returns it
    """What is wrong with a text, and where."""

    def __init__(self, code: FaultCode, message: str) -> None:
        super().__init__(message)
        self.code = code


def read(body: bytes, limits: Limits) -> Any:
    """Read one JSON text (RFC 8259) within `limits`; integers are exact. Raises Refused and nothing else."""
    if len(body) > limits.body:
        raise Refused(FaultCode.TOO_LARGE, f"expected at most {limits.body} bytes, got {len(body)}")
    brackets = body.count(b"[") + body.count(b"{")
    if brackets > limits.depth:
        _check_depth(body, limits.depth)
    if len(body) >= limits.elements * _SHORTEST_VALUE and brackets + body.count(b",") >= limits.elements:
        _check_elements(body, limits.elements)
    try:
        value = _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        _explain(body)
    if not _members_are_unique(body, value):
        _look_closely(body)
    return value


def raw_items(body: bytes) -> list[bytes]:
    """The text of each item of an array that `read` has accepted."""
    return [bytes(item) for item in msgspec.json.decode(body, type=list[msgspec.Raw])]


def raw_member(body: bytes, name: str) -> bytes:
    """The text of one member of an object that `read` has accepted."""
    return bytes(msgspec.json.decode(body, type=dict[str, msgspec.Raw])[name])


# What the fast reader does not check


def _check_depth(body: bytes, limit: int) -> None:
    """How many brackets are open after each one, when all else is deleted."""
    brackets = _without_escapes(body).translate(_ONE_KIND, _BRACKETS_AND_QUOTES).replace(b'""', b"")
    if b'"' in brackets:
        brackets = _outside_strings(brackets, b"")
    if max(accumulate(map(_BETWEEN_BRACKETS.__sub__, brackets)), default=0) > limit:
        raise Refused(FaultCode.TOO_LARGE, f"expected at most {limit} nested arrays and objects, got more")


def _check_elements(body: bytes, limit: int) -> None:
    """A value that is not the first in its array or object has a comma before it."""
    text = _outside_strings(_without_escapes(body), b"0").translate(None, _WHITESPACE)
    filled = text.count(b"[") - text.count(b"[]") + text.count(b"{") - text.count(b"{}")
    if 1 + text.count(b",") + filled > limit:
        raise Refused(FaultCode.TOO_LARGE, f"expected at most {limit} values, got more")


def _without_escapes(body: bytes) -> bytes:
    """The text such that every quotation mark begins or ends a string."""
    return body.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in body else body


def _outside_strings(body: bytes, string: bytes) -> bytes:
    return string.join(body.split(b'"')[::2])


def _members_are_unique(body: bytes, value: Any) -> bool:
    r"""Whether no member was lost, told by the colons: a lost one takes its own with it, and writing adds none.

    But for colons that the body writes as \u003a; where there may be such ones, the answer is no.
    """
    if b"\\" in body and b"\\u00" in body:
        return False
    return _encode(value).count(b":") == body.count(b":")


# The slow reader, which knows places


_Place: TypeAlias = "tuple[_Place, str | int] | None"  # of a value: that of its container, and the step from there


@dataclass(frozen=True, slots=True)
class _Odd:
    """Stands in a value where something is that JSON or its reader cannot have."""

    code: FaultCode
    what: str
    member: str | None = None


_WORTH_A_LOOK = (list, dict, str, _Odd)


def _explain(body: bytes) -> NoReturn:
    """Say why the fast reader could not read this."""
    _look_closely(body)
    raise Refused(FaultCode.PARSE_ERROR, "expected JSON with numbers of reasonable length")


def _look_closely(body: bytes) -> None:
    """Read with care for places; returns when there is nothing to refuse."""
    text = _utf8(body)
    try:
        value = _SLOW.decode(text)
    except json.JSONDecodeError as error:
        what = f"expected JSON, it ends or goes wrong at character {error.pos} of {len(text)}"
        raise Refused(FaultCode.PARSE_ERROR, what) from None
    except RecursionError:
        raise Refused(FaultCode.TOO_LARGE, "nested deeper than can be read") from None
    for place, odd in _oddities(value):
        steps = _steps(place if odd.member is None else (place, odd.member))
        raise Refused(odd.code, f"{render(steps)}: {odd.what}")


def _utf8(body: bytes) -> str:
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        what = f"expected UTF-8, got the byte 0x{body[error.start]:02x} at {error.start}"
        raise Refused(FaultCode.PARSE_ERROR, what) from None
    if text.startswith("\ufeff"):
        raise Refused(FaultCode.PARSE_ERROR, "expected JSON without a byte order mark")
    return text


def _oddities(root: Any) -> Iterator[tuple[_Place, _Odd]]:
    todo: list[tuple[_Place, Any]] = [(None, root)]
    while todo:
        place, value = todo.pop()
        if isinstance(value, _Odd):
            yield place, value
        elif isinstance(value, str):
            if not _is_unicode(value):
                yield place, _Odd(FaultCode.INVALID_REQUEST, "expected Unicode text, got half of a surrogate pair")
        elif isinstance(value, list | dict):
            items = enumerate(value) if isinstance(value, list) else value.items()
            todo += [((place, step), item) for step, item in items if type(item) in _WORTH_A_LOOK][::-1]


def _steps(place: _Place) -> list[str | int]:
    steps: list[str | int] = []
    while place is not None:
        place, step = place
        steps.append(step)
    return steps[::-1]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any] | _Odd:
    members: dict[str, Any] = {}
    for name, value in pairs:
        if name in members:
            return _Odd(FaultCode.INVALID_REQUEST, "expected one member of this name, got two", name)
        if not _is_unicode(name):
            what = "expected Unicode text as a member's name, got half of a surrogate pair"
            return _Odd(FaultCode.INVALID_REQUEST, what, name)
        members[name] = value
    return members


def _integer(text: str) -> int | _Odd:
    try:
        return int(text)
    except ValueError:  # longer than Python converts, for that takes time with the square of the length
        return _Odd(FaultCode.TOO_LARGE, f"expected an integer of reasonable length, got {len(text)} digits")


def _number(text: str) -> float | _Odd:
    number = float(text)
    return number if number - number == 0 else _Odd(FaultCode.INVALID_REQUEST, "expected a number within 1.8e308")


def _constant(text: str) -> _Odd:
    return _Odd(FaultCode.PARSE_ERROR, f"expected JSON, got {text}")


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


_SLOW = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer, parse_float=_number, parse_constant=_constant)
