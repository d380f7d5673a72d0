"""The Status struct that XenAPI and xapi-idl use over XML-RPC in place of its fault."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from gateway.core.rpc.model import Reply, Value


class StatusStruct(NamedTuple):
    """A Status struct that was read. `content`: the value or the error."""

    success: bool
    content: Value


def _same(text: str) -> str:
    return text


def success(value: Value, text: Callable[[str], str] = _same) -> Reply:
    """Return {Status: Success, Value}; integers become decimal text, as in legacy servers; `text` maps texts."""
    return Reply({"Status": "Success", "Value": integers_as_text(value, text)})


def failure(error: Value, text: Callable[[str], str] = _same) -> Reply:
    """Return {Status: Failure, ErrorDescription}."""
    return Reply({"Status": "Failure", "ErrorDescription": integers_as_text(error, text)})


def read(value: Value) -> StatusStruct | None:
    """Read a Status struct; None for any other value."""
    match value:
        case {"Status": "Success", "Value": content, **others} if not others:
            return StatusStruct(success=True, content=content)
        case {"Status": "Failure", "ErrorDescription": content, **others} if not others:
            return StatusStruct(success=False, content=content)
    return None


def integers_as_text(value: Any, text: Callable[[str], str] = _same) -> Value:
    """Return the value with each integer at any depth as decimal text, and each text mapped by `text`."""
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
    """Return the text without characters that XML cannot carry; xapi omits them too."""
    return text if text.isprintable() else _UNCARRIABLE.sub("", text)
