"""One value as the text of a node, in the forms of docs/types.md: of answers, and of what is published."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping
from datetime import datetime
from math import isfinite
from typing import Any

from gateway.core.formats import LONGEST_ZONE, compact
from gateway.core.refusal import MarshalError

_I64 = range(-(2**63), 2**64)


def node_text(value: object) -> bytes:
    """What stands in the node; raises MarshalError for what is no single value, or none that a node can say."""
    for kind, write in _WRITERS.items():
        if isinstance(value, kind):
            return write(value)
    raise MarshalError("a value that a node can say", value)


def _nothing(value: None) -> bytes:
    raise MarshalError("a value (a node cannot say nil)", value)


def _string(text: str) -> bytes:
    if "\0" in text:
        raise MarshalError("text without NUL", text)
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise MarshalError("text without lone surrogates", text) from None


def _integer(number: int) -> bytes:
    if number not in _I64:
        raise MarshalError("an integer of 64 bits", number)
    return b"%d" % number


def _double(number: float) -> bytes:
    """The shortest digits that read back as the same number."""
    if not isfinite(number):
        raise MarshalError("a finite number", number)
    return repr(float(number)).encode()


def _date(moment: datetime) -> bytes:
    text, zone = compact(moment)
    if len(zone) > LONGEST_ZONE:
        raise MarshalError("an offset of whole minutes from UTC", zone)
    return (text + zone).encode()


# A boolean is an integer to Python: it comes first.
_WRITERS: Mapping[type, Callable[[Any], bytes]] = {
    str: _string,
    bool: lambda value: b"1" if value else b"0",
    int: _integer,
    float: _double,
    bytes: b64encode,
    datetime: _date,
    type(None): _nothing,
}
