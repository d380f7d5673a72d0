"""The struct that tells success from failure where a protocol's own fault is not used; knows no error codes."""

from __future__ import annotations

from typing import Any, NamedTuple

from gateway.core.model import Reply, Value


class Status(NamedTuple):
    """What such a struct says. `content`: the value or the error."""

    success: bool
    content: Value


def success(value: Value) -> Reply:
    """{Status: Success, Value}; integers become decimal text, as they are in the old servers' XML."""
    return Reply({"Status": "Success", "Value": integers_as_text(value)})


def failure(error: Value) -> Reply:
    """{Status: Failure, ErrorDescription}."""
    return Reply({"Status": "Failure", "ErrorDescription": integers_as_text(error)})


def read(value: Value) -> Status | None:
    """Take such a struct apart; None for any other value."""
    match value:
        case {"Status": "Success", "Value": content, **others} if not others:
            return Status(success=True, content=content)
        case {"Status": "Failure", "ErrorDescription": content, **others} if not others:
            return Status(success=False, content=content)
    return None


def integers_as_text(value: Any) -> Value:
    """The same value with each integer, at every depth, as decimal text."""
    kind = type(value)
    if kind is int:
        return str(value)
    if kind is list:
        return [integers_as_text(item) for item in value]
    if kind is dict:
        return {name: integers_as_text(item) for name, item in value.items()}
    result: Value = value
    return result
