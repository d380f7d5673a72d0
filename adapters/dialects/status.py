"""The Status struct that XenAPI and xapi-idl use over XML-RPC in place of its fault."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from gateway.core.rpc.model import Reply, Value


class StatusStruct(NamedTuple):
    """A Status struct that was read. `content`: the value or the error."""

    success: bool
    content: Value


def success(value: Value, text: Callable[[str], str] | None = None) -> Reply:
    """Return {Status: Success, Value}; integers become decimal text, as in legacy servers; `text` maps texts."""
    return Reply({"Status": "Success", "Value": integers_as_text(value, text)})


def failure(error: Value, text: Callable[[str], str] | None = None) -> Reply:
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
        return value if _only_text(value, text) else [integers_as_text(item, text) for item in value]
    result: Value = value
    return result


_SAME = frozenset({str, bool, float})


def _only_text(items: Iterable[Any], text: Callable[[str], str] | None) -> bool:
    """Whether all of these are texts that stay as they are."""
    for item in items:  # noqa: SIM110 - a generator costs half as much again
        if type(item) is not str or not (text is None or item.isprintable()):
            return False
    return True


# XML 1.0, section 2.2.
_UNCARRIABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


def carriable(text: str) -> str:
    """Return the text without characters that XML cannot carry; xapi omits them too."""
    return _UNCARRIABLE.sub("", text)
