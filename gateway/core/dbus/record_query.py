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
    selects = _Parser(expression, fields).parse()
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
    """A recursive descent parser; a token is a word, a sign, or a text with its first quote."""

    def __init__(self, expression: str, fields: Collection[str]) -> None:
        self._tokens = [*_tokens(expression)]
        self._fields = fields
        self._at = 0
        self._terms = 0

    def parse(self) -> _Holds:
        selects = self._expression(0)
        if self._next is not None:
            raise QueryError(f"expected 'and', 'or' or the end, got {self._shown()}")
        return selects

    @property
    def _next(self) -> str | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _take(self, *expected: str) -> bool:
        taken = self._next in expected
        self._at += taken
        return taken

    def _shown(self) -> str:
        return "the end" if self._next is None else f"'{self._next[:40]}'"

    def _expression(self, depth: int) -> _Holds:
        steps = [("", self._operand(depth))]
        while self._next in ("and", "or"):
            word = str(self._next)
            self._at += 1
            steps.append((word, self._operand(depth)))
        return steps[0][1] if len(steps) == 1 else _from_left(steps)

    def _operand(self, depth: int) -> _Holds:
        if depth > MAX_DEPTH:
            raise QueryError(f"more than {MAX_DEPTH} nested parentheses and 'not'")
        if self._take("not"):
            negated = self._expression(depth + 1)
            return lambda texts: not negated(texts)
        if self._take("("):
            inside = self._expression(depth + 1)
            if not self._take(")"):
                raise QueryError(f"expected ')', got {self._shown()}")
            return inside
        self._terms += 1
        if self._terms > MAX_TERMS:
            raise QueryError(f"more than {MAX_TERMS} comparisons")
        if self._next in ("true", "false"):
            constant = self._take("true") or not self._take("false")
            return lambda _texts: constant
        return self._comparison()

    def _comparison(self) -> _Holds:
        left = self._value()
        if not self._take("="):
            raise QueryError(f"expected '=', got {self._shown()}")
        right = self._value()
        return lambda texts: left(texts) == right(texts)

    def _value(self) -> Callable[[_Texts], str]:
        named = self._take("field")
        token = self._next
        if token is None or not token.startswith('"'):
            expected = "a name in double quotes" if named else 'field "NAME" or a text in double quotes'
            raise QueryError(f"expected {expected}, got {self._shown()}")
        self._at += 1
        text = token[1:]
        if not named:
            return lambda _texts: text
        name = text if text in self._fields else text.replace("__", "_")
        if name not in self._fields:
            raise QueryError(f"unknown field '{text[:40]}'")
        return lambda texts: texts[name]


def _tokens(expression: str) -> list[str]:
    """The tokens; raises QueryError for anything else."""
    found: list[str] = []
    text = expression.rstrip(" \t\r\n")
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        assert match is not None
        quoted, sign, word, other = match.groups()
        if other is not None or (word is not None and word not in _WORDS):
            raise QueryError(f"unexpected '{(word or other)[:40]}'")
        found.append(f'"{quoted}' if quoted is not None else str(sign or word))
        at = match.end()
    return found


def _from_left(steps: list[tuple[str, _Holds]]) -> _Holds:
    def selects(texts: _Texts) -> bool:
        holds = True
        for word, step in steps:
            holds = (holds or step(texts)) if word == "or" else (holds and step(texts))
        return holds

    return selects
