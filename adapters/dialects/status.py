"""The struct that tells success from failure where a protocol's own fault is not used; knows no error codes."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from gateway.core.rpc.model import Reply, Value


class StatusStruct(NamedTuple):
    """What such a struct says. `content`: the value or the error."""

    success: bool
    content: Value


def _same(text: str) -> str:
    return text


def success(value: Value, text: Callable[[str], str] = _same) -> Reply:
    """{Status: Success, Value}; integers become decimal text, as legacy servers write them; texts go through `text`."""
    return Reply({"Status": "Success", "Value": integers_as_text(value, text)})


def failure(error: Value, text: Callable[[str], str] = _same) -> Reply:
    """{Status: Failure, ErrorDescription}."""
    return Reply({"Status": "Failure", "ErrorDescription": integers_as_text(error, text)})


def read(value: Value) -> StatusStruct | None:
    """Take such a struct apart; None for any other value."""
    match value:
        case {"Status": "Success", "Value": content, **others} if not others:
            return StatusStruct(success=True, content=content)
        case {"Status": "Failure", "ErrorDescription": content, **others} if not others:
            return StatusStruct(success=False, content=content)
    return None


def integers_as_text(value: Any, text: Callable[[str], str] = _same) -> Value:
    """The same value with each integer, at every depth, as decimal text, and each text put through `text`."""
    kind = type(value)
    if kind is str:
        return text(value)
    if kind is int:
        return str(value)
    if kind is list:
        return [integers_as_text(item, text) for item in value]
    if kind is dict:
        return {name: integers_as_text(item, text) for name, item in value.items()}
    result: Value = value
    return result


# XML 1.0, section 2.2.
_UNCARRIABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


def carriable(text: str) -> str:
    """The text without the characters that XML cannot carry, which xapi leaves out of what it writes."""
    return text if text.isprintable() else _UNCARRIABLE.sub("", text)
