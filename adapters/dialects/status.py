"""The Status struct that XenAPI and xapi-idl use over XML-RPC in place of its fault."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from gateway.core.rpc.model import Fault, Outcome, Reply, Value

_SAME = frozenset({str, bool, float})

# XML 1.0, section 2.2.
_UNCARRIABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


def success(value: Value, text: Callable[[str], str] | None = None) -> Reply:
    """Return {Status: Success, Value}; integers become decimal text, as in legacy servers; `text` maps texts."""
    return Reply({"Status": "Success", "Value": integers_as_text(value, text)})


def failure(error: Value, text: Callable[[str], str] | None = None) -> Reply:
    """Return {Status: Failure, ErrorDescription}."""
    return Reply({"Status": "Failure", "ErrorDescription": integers_as_text(error, text)})


def read(reply: Reply, fault: Callable[[Value], Fault]) -> Outcome:
    """Read a Status struct, with `fault` made of an error; any other reply is returned unchanged."""
    match reply.value:
        case {"Status": "Success", "Value": content, **others} if not others:
            return Reply(content)
        case {"Status": "Failure", "ErrorDescription": error, **others} if not others:
            return fault(error)
    return reply


def integers_as_text(value: Any, text: Callable[[str], str] | None = None) -> Value:
    """Return the value with each integer at any depth as decimal text, and each text mapped by `text`.

    Only texts that are not printable are mapped: all others are the same for each reader.
    """
    kind = type(value)
    if kind is dict:
        texts = [item for item in value.values() if type(item) is str]  # most members
        stay = text is None or "".join(texts).isprintable()
        if stay and len(texts) == len(value):
            return value  # type: ignore[no-any-return]  # most structs inside of records
        same = _SAME if stay else _SAME - {str}
        return {name: item if type(item) in same else integers_as_text(item, text) for name, item in value.items()}
    if kind is str:
        return value if text is None or value.isprintable() else text(value)
    if kind is int:
        return str(value)
    if kind is list:
        for item in value:
            if type(item) is not str or not (text is None or item.isprintable()):
                return [integers_as_text(item, text) for item in value]
    result: Value = value
    return result


def carriable(text: str) -> str:
    """Return the text without characters that XML cannot carry; xapi omits them too."""
    return _UNCARRIABLE.sub("", text)
