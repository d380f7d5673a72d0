"""Numbers that an old service writes as text, read as numbers again where the mapping says that they are some.

Over XML-RPC the old services write 42 and "42" alike, and over xenstore everything is text.
"""

from __future__ import annotations

import re

from gateway.core.model import Value
from gateway.core.signature import Type

_INTEGERS = frozenset("ynqiuxt")
_INTEGER = re.compile(r"-?[0-9]{1,20}").fullmatch
_DOUBLE = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?").fullmatch


def typed(value: Value, kind: Type) -> Value:
    """A result with its numbers; what has not the shape of its type stays as it is."""
    if isinstance(value, str):
        return _number(value, kind.code)
    if isinstance(value, list):
        return _items(value, kind)
    if isinstance(value, dict) and kind.is_dict:
        item = kind.children[0].children[1]
        return {name: typed(each, item) for name, each in value.items()}
    return value


def _number(text: str, code: str) -> Value:
    if code in _INTEGERS and _INTEGER(text):
        return int(text)
    return float(text) if code == "d" and _DOUBLE(text) else text


def _items(items: list[Value], kind: Type) -> Value:
    if kind.code == "a" and not kind.is_dict:
        return [typed(item, kind.children[0]) for item in items]
    if kind.code == "(" and len(items) == len(kind.children):
        return [typed(item, child) for item, child in zip(items, kind.children, strict=True)]
    return items
