"""How many bytes a D-Bus body takes, exactly, and each array in it; trusts that marshal.py made it.

D-Bus specification, "Marshaling (Wire Format)". Asked when a message was too long, to say what in it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gateway.core.refusal import MarshalError
from gateway.core.signature import Type, parse, parse_one

MAX_ARRAY = 2**26  # bytes of one array's data
HEADER = 4096  # bytes that a header may take: names of 255 bytes at most, and the fixed part of an object path
MAX_MESSAGE = 2**27  # bytes of a message with its header, whatever a bus is told to take ("Message Format")

_ALIGNMENT: Mapping[str, int] = {
    **dict.fromkeys("ygv", 1),
    **dict.fromkeys("nq", 2),
    **dict.fromkeys("biuhsoa", 4),
    **dict.fromkeys("xtd({", 8),
}
_FIXED = "ybnqiuxtdh"  # as long as they are aligned


def body_size(signature: str, body: Sequence[object]) -> int:
    """The exact length of the marshalled body; raises MarshalError naming the argument whose array is over 2^26."""
    at = 0
    for index, (kind, value) in enumerate(zip(parse(signature), body, strict=True)):
        try:
            at = _end(kind, value, at)
        except MarshalError as error:
            error.at("body", index)
            raise
    return at


def _end(kind: Type, value: Any, at: int) -> int:
    """Where a value ends that may begin, once aligned, at `at`."""
    at = _aligned(kind, at)
    if kind.code in _FIXED:
        return at + _ALIGNMENT[kind.code]
    return _ENDS[kind.code](kind, value, at)


def _aligned(kind: Type, at: int) -> int:
    return at + -at % _ALIGNMENT[kind.code]


def _text_end(_kind: Type, value: str, at: int) -> int:
    return at + 4 + (len(value) if value.isascii() else len(value.encode())) + 1


def _signature_end(_kind: Type, value: str, at: int) -> int:
    return at + 1 + len(value) + 1


def _variant_end(kind: Type, value: Any, at: int) -> int:
    return _end(parse_one(value.signature), value.value, _signature_end(kind, value.signature, at))


def _struct_end(kind: Type, value: Sequence[Any], at: int) -> int:
    for child, item in zip(kind.children, value, strict=True):
        at = _end(child, item, at)
    return at


def _array_end(kind: Type, value: Any, at: int) -> int:
    """The padding before the first element is no part of the array's length, but is there in an empty array too."""
    element = kind.children[0]
    start = end = _aligned(element, at + 4)
    if element.code in _FIXED:
        end = start + len(value) * _ALIGNMENT[element.code]
    else:
        for item in value.items() if kind.is_dict else value:
            end = _end(element, item, end)
    if end - start > MAX_ARRAY:
        raise MarshalError(f"an array of at most {MAX_ARRAY} bytes", end - start)
    return end


_ENDS: Mapping[str, Callable[[Type, Any, int], int]] = {
    "s": _text_end,
    "o": _text_end,
    "g": _signature_end,
    "v": _variant_end,
    "a": _array_end,
    "(": _struct_end,
    "{": _struct_end,
}
