"""The query language of XenAPI's `get_all_records_where`: an expression -> a function that selects records.

    field "power_state" = "Running" and not (field "name__label" = "a" or false)

`=` compares texts: a field, or a text in double quotes, on both sides. `and` and `or` have the same precedence and are
evaluated from left to right; `not` applies to everything on its right. A field is compared as xapi's database has it:
`text_of` gives that text. The database joins some names with two underscores (`name__label`); one is the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from typing import TypeAlias

from gateway.core.rpc.model import Value
from gateway.core.rpc.units import compact

Record: TypeAlias = Mapping[str, Value]
Selects: TypeAlias = Callable[[Record], bool]

MAX_TERMS = 256  # comparisons and constants in an expression: each record is tested with all of them
MAX_DEPTH = 64  # of parentheses and `not`
MAX_LENGTH = 32 * 1024  # characters of an expression

_TOKEN = re.compile(r'[ \t\r\n]*(?:"([^"]*)"|([=()])|([A-Za-z_]+)|(.))', re.DOTALL)
_WORDS = frozenset(("field", "and", "or", "not", "true", "false"))


class QueryError(ValueError):
    """An invalid expression, or a field that the class does not have."""


def compile_query(expression: str, fields: Collection[str]) -> Selects:
    """Return whether a record is selected, as a function; raises QueryError. `fields`: those of the records."""
    if len(expression) > MAX_LENGTH:
        raise QueryError(f"expected an expression of at most {MAX_LENGTH} characters, got {len(expression)}")
    parser = _Parser(expression, fields)
    selects = parser.expression(0)
    parser.expect("'and', 'or' or the end", "")
    return lambda record: selects(_Texts(record))


def text_of(value: Value) -> str:
    """Return the text of a field in xapi's database; the empty text for a field that a record lacks."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.18g}"
    if isinstance(value, datetime):
        return "".join(compact(value))
    if isinstance(value, list):
        return f"({' '.join(_item(item) for item in value)})"
    if isinstance(value, dict):
        return f"({' '.join(f'({_item(key)} {_item(item)})' for key, item in value.items())})"
    return "" if value is None else str(value)


class _Texts(dict[str, str]):
    """The texts of the fields of one record, made once: a field may be named many times in an expression."""

    def __init__(self, record: Record) -> None:
        super().__init__()
        self._record = record

    def __missing__(self, name: str) -> str:
        self[name] = text = text_of(self._record.get(name))
        return text


def _item(value: Value) -> str:
    if isinstance(value, list | dict):
        return text_of(value)
    return "'" + text_of(value).replace("\\", "\\\\").replace("'", "\\'") + "'"


_Holds: TypeAlias = Callable[[_Texts], bool]


class _Parser:
    """A recursive descent parser; a token is a word, a sign, or a text with its first quote. The last one is empty."""

    def __init__(self, expression: str, fields: Collection[str]) -> None:
        tokens: list[str] = []
        text = expression.rstrip(" \t\r\n")
        for match in _TOKEN.finditer(text):
            quoted, sign, word, other = match.groups()
            if other is not None or (word is not None and word not in _WORDS):
                raise QueryError(f"unexpected '{(word or other)[:40]}'")
            tokens.append(f'"{quoted}' if quoted is not None else str(sign or word))
        self._tokens = iter([*tokens, ""])
        self._next = next(self._tokens)
        self._fields = fields
        self._terms = 0

    def expect(self, what: str, *tokens: str) -> str:
        """Take the next token, which must be one of these, or a text in quotes where there are none."""
        found = self._next
        if not (found in tokens if tokens else found.startswith('"')):
            shown = f"'{found[:40]}'" if found else "the end"
            raise QueryError(f"expected {what}, got {shown}")
        self._next = next(self._tokens, "")
        return found

    def _take(self, *tokens: str) -> str:
        return self.expect("", *tokens) if self._next in tokens else ""

    def expression(self, depth: int) -> _Holds:
        """Read an expression inside so many parentheses and `not`."""
        steps = [("and", self._operand(depth))]
        while word := self._take("and", "or"):
            steps.append((word, self._operand(depth)))
        if len(steps) == 1:
            return steps[0][1]

        def selects(texts: _Texts) -> bool:
            holds = True
            for word, step in steps:
                holds = (holds or step(texts)) if word == "or" else (holds and step(texts))
            return holds

        return selects

    def _operand(self, depth: int) -> _Holds:
        if depth > MAX_DEPTH:
            raise QueryError(f"more than {MAX_DEPTH} nested parentheses and 'not'")
        if self._take("not"):
            negated = self.expression(depth + 1)
            return lambda texts: not negated(texts)
        if self._take("("):
            inside = self.expression(depth + 1)
            self.expect("')'", ")")
            return inside
        self._terms += 1
        if self._terms > MAX_TERMS:
            raise QueryError(f"more than {MAX_TERMS} comparisons")
        if constant := self._take("true", "false"):
            return lambda _texts: constant == "true"
        left = self._value()
        self.expect("'='", "=")
        right = self._value()
        return lambda texts: left(texts) == right(texts)

    def _value(self) -> Callable[[_Texts], str]:
        named = self._take("field")
        text = self.expect("a name in double quotes" if named else 'field "NAME" or a text in double quotes')[1:]
        if not named:
            return lambda _texts: text
        name = text if text in self._fields else text.replace("__", "_")
        if name not in self._fields:
            raise QueryError(f"unknown field '{text[:40]}'")
        return lambda texts: texts[name]
