"""A small language over two values, `control` and `candidate`, for rules; cannot reach anything else, always ends.

Python's grammar is read with `ast`; what is not listed here is refused when it is compiled. There are no loops, and no
value grows beyond a bound, so an expression costs at most its length times the size of the two values.
"""

from __future__ import annotations

import ast
import itertools
import operator
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeAlias

from gateway.core.comparison.equality import Budget, ComparisonBudgetError, equal
from gateway.core.rpc.model import Value

LONGEST = 500  # characters of an expression
MOST_PARTS = 100  # of one expression
LONGEST_TEXT = 100_000  # characters of a text that is made
LONGEST_NUMBER = 100  # characters of a text that is read as a number
WIDEST = 4096  # bits of an integer that is worked with

VARIABLES = ("control", "candidate")
WORDS: Mapping[str, Value] = {"true": True, "false": False, "nil": None}

_Run: TypeAlias = Callable[[Value, Value], Value]


class ExpressionError(Exception):
    """An expression that has no value for these two; the text says why."""


@dataclass(frozen=True, slots=True)
class Expression:
    """One expression, ready to run."""

    text: str
    _run: _Run = field(compare=False, repr=False)

    def holds(self, control: Value, candidate: Value) -> bool:
        """Whether it is true of these two; raises ExpressionError when it is neither true nor false."""
        return _truth(_guarded(self._run, control, candidate))


def compile(text: str) -> Expression:  # noqa: A001 - read as expression.compile, as re.compile is
    """Read an expression; raises ValueError saying what in it is not allowed, and where."""
    if len(text) > LONGEST:
        raise ValueError(f"expected an expression of at most {LONGEST} characters, got {len(text)}")
    try:
        with warnings.catch_warnings(action="error"):  # Python warns of texts with a stray backslash
            tree = ast.parse(f"(\n{text}\n)", mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError, Warning):
        tree = None
    if tree is None or not text.strip():
        raise ValueError(f"expected an expression such as control == candidate + 1, got {text!a}")
    if sum(1 for _ in ast.walk(tree)) > MOST_PARTS:
        raise ValueError(f"expected an expression of at most {MOST_PARTS} names, operators and constants")
    return Expression(text, _compile(tree))


def _guarded(run: _Run, control: Value, candidate: Value) -> Value:
    try:
        return run(control, candidate)
    except ZeroDivisionError:
        raise ExpressionError("it divides by zero") from None
    except OverflowError:
        raise ExpressionError("a number in it is too large") from None
    except ComparisonBudgetError:
        raise ExpressionError("the values in it are too large to compare") from None


# Compiling: a table of what may stand in an expression


def _compile(node: ast.AST) -> _Run:
    make = _NODES.get(type(node))
    if make is None:
        raise _refused(node, "is not part of the language")
    return make(node)


def _refused(node: ast.AST, why: str) -> ValueError:
    column = getattr(node, "col_offset", 0) + 1
    return ValueError(f"character {column}: {ast.unparse(node)!a} {why}")


def _constant(node: Any) -> _Run:
    value = node.value
    if value is not None and type(value) not in (bool, int, float, str):
        raise _refused(node, "is no literal: text, numbers, true, false and nil are")
    return lambda _control, _candidate: value


def _variable(node: Any) -> _Run:
    if node.id in WORDS:
        value = WORDS[node.id]
        return lambda _control, _candidate: value
    if node.id not in VARIABLES:
        raise _refused(node, f"is no name: {', '.join((*VARIABLES, *WORDS))} are")
    return _control if node.id == "control" else _candidate


def _control(control: Value, _: Value) -> Value:
    return control


def _candidate(_: Value, candidate: Value) -> Value:
    return candidate


def _sequence(node: Any) -> _Run:
    items = [_compile(item) for item in node.elts]
    return lambda control, candidate: [run(control, candidate) for run in items]


def _boolean(node: Any) -> _Run:
    runs = [_compile(value) for value in node.values]
    every = isinstance(node.op, ast.And)

    def run(control: Value, candidate: Value) -> Value:
        truths = (_truth(each(control, candidate)) for each in runs)
        return all(truths) if every else any(truths)

    return run


def _unary(node: Any) -> _Run:
    inner = _compile(node.operand)
    act = _UNARY.get(type(node.op))
    if act is None:
        raise _refused(node, "is not part of the language")
    return lambda control, candidate: act(inner(control, candidate))


def _binary(node: Any) -> _Run:
    left, right = _compile(node.left), _compile(node.right)
    act = _BINARY.get(type(node.op))
    if act is None:
        raise _refused(node, "is no operator: + - * / // % are")
    return lambda control, candidate: act(left(control, candidate), right(control, candidate))


def _comparison(node: Any) -> _Run:
    runs = [_compile(each) for each in (node.left, *node.comparators)]
    acts = [_COMPARISONS.get(type(op)) for op in node.ops]
    if None in acts:
        raise _refused(node, "is no comparison: == != < <= > >= in are")

    def run(control: Value, candidate: Value) -> Value:
        values = [each(control, candidate) for each in runs]
        return all(act(*pair) for act, pair in zip(acts, itertools.pairwise(values), strict=True) if act)

    return run


def _call(node: Any) -> _Run:
    name = node.func.id if isinstance(node.func, ast.Name) else ""
    if name not in FUNCTIONS:
        raise _refused(node, f"is no function: {', '.join(FUNCTIONS)} are")
    function, wanted = FUNCTIONS[name]
    if node.keywords or len(node.args) != wanted or any(isinstance(each, ast.Starred) for each in node.args):
        raise _refused(node, f"is not called so: {name} takes {wanted} value{'s' if wanted > 1 else ''}")
    runs = [_compile(each) for each in node.args]
    return lambda control, candidate: function(*[run(control, candidate) for run in runs])


def _item(node: Any) -> _Run:
    inner, key = _compile(node.value), _compile(node.slice)
    return lambda control, candidate: _pick(inner(control, candidate), key(control, candidate))


_NODES: Mapping[type[ast.AST], Callable[[Any], _Run]] = {
    ast.Constant: _constant,
    ast.Name: _variable,
    ast.List: _sequence,
    ast.Tuple: _sequence,
    ast.BoolOp: _boolean,
    ast.UnaryOp: _unary,
    ast.BinOp: _binary,
    ast.Compare: _comparison,
    ast.Call: _call,
    ast.Subscript: _item,
}


# Running


def _kind(value: Value) -> str:
    kinds = {bool: "true or false", str: "a text", list: "a list", dict: "a struct", bytes: "bytes", type(None): "nil"}
    return kinds.get(type(value), "a number" if isinstance(value, int | float) else "a dateTime")


def _truth(value: Value) -> bool:
    if not isinstance(value, bool):
        raise ExpressionError(f"expected true or false, got {_kind(value)}")
    return value


def _number(value: Value) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ExpressionError(f"expected a number, got {_kind(value)}")
    if isinstance(value, int) and value.bit_length() > WIDEST:
        raise ExpressionError(f"a number in it has more than {WIDEST} bits")
    return value


def _text(value: Value) -> str:
    if not isinstance(value, str):
        raise ExpressionError(f"expected a text, got {_kind(value)}")
    if len(value) > LONGEST_TEXT:
        raise ExpressionError(f"a text in it has more than {LONGEST_TEXT} characters")
    return value


def _of_numbers(act: Callable[[Any, Any], Value]) -> Callable[[Value, Value], Value]:
    return lambda one, other: act(_number(one), _number(other))


def _add(one: Value, other: Value) -> Value:
    if isinstance(one, str):
        return _text(one) + _text(other)
    added: Value = _number(one) + _number(other)
    return added


def _equal(one: Value, other: Value) -> bool:
    """Numbers by their value; anything else when it is the same."""
    if _is_number(one) and _is_number(other):
        return one == other
    return equal(one, other, Budget())


def _is_number(value: Value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _ordered(act: Callable[[Any, Any], bool]) -> Callable[[Value, Value], bool]:
    def compare(one: Value, other: Value) -> bool:
        comparable = (_is_number(one) and _is_number(other)) or (isinstance(one, str) and isinstance(other, str))
        if not comparable and not (isinstance(one, datetime) and isinstance(other, datetime)):
            raise ExpressionError(f"{_kind(one)} and {_kind(other)} have no order")
        try:
            return act(one, other)
        except TypeError:
            raise ExpressionError("a dateTime with a zone and one without have no order") from None

    return compare


def _within(item: Value, whole: Value) -> bool:
    if isinstance(whole, str):
        return _text(item) in _text(whole)
    if isinstance(whole, dict):
        return _text(item) in whole
    if isinstance(whole, list):
        return any(_equal(item, each) for each in whole)
    raise ExpressionError(f"nothing is in {_kind(whole)}")


def _pick(whole: Value, key: Value) -> Value:
    if isinstance(whole, dict):
        if _text(key) not in whole:
            raise ExpressionError(f"there is no member {ascii(key)[:60]}")
        return whole[_text(key)]
    if isinstance(whole, list):
        index = _number(key)
        if not isinstance(index, int) or not -len(whole) <= index < len(whole):
            raise ExpressionError(f"there is no item {index} in a list of {len(whole)}")
        return whole[index]
    raise ExpressionError(f"{_kind(whole)} has no items")


def _length(value: Value) -> Value:
    if not isinstance(value, str | bytes | list | dict):
        raise ExpressionError(f"{_kind(value)} has no length")
    return len(value)


def _to_number(kind: type[int | float]) -> Callable[[Value], Value]:
    def read(value: Value) -> Value:
        if isinstance(value, str) and len(value) > LONGEST_NUMBER:
            raise ExpressionError(f"a text of more than {LONGEST_NUMBER} characters is no number")
        try:
            return kind(value if isinstance(value, str) else _number(value))
        except ValueError:
            raise ExpressionError(f"expected a number, got {ascii(value)[:60]}") from None

    return read


def as_text(value: Value) -> str:
    """A value that holds no others as text: numbers in decimal, `true`, `false`, ISO 8601; raises ExpressionError."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.isoformat()
    return value if isinstance(value, str) else repr(_number(value))


def _absolute(value: Value) -> Value:
    magnitude: Value = abs(_number(value))
    return magnitude


_UNARY: Mapping[type[ast.AST], Callable[[Value], Value]] = {
    ast.Not: lambda value: not _truth(value),
    ast.USub: lambda value: -_number(value),
    ast.UAdd: _number,
}
_BINARY: Mapping[type[ast.AST], Callable[[Value, Value], Value]] = {
    ast.Add: _add,
    ast.Sub: _of_numbers(operator.sub),
    ast.Mult: _of_numbers(operator.mul),
    ast.Div: _of_numbers(operator.truediv),
    ast.FloorDiv: _of_numbers(operator.floordiv),
    ast.Mod: _of_numbers(operator.mod),
}
_COMPARISONS: Mapping[type[ast.AST], Callable[[Value, Value], bool]] = {
    ast.Eq: _equal,
    ast.NotEq: lambda one, other: not _equal(one, other),
    ast.Lt: _ordered(operator.lt),
    ast.LtE: _ordered(operator.le),
    ast.Gt: _ordered(operator.gt),
    ast.GtE: _ordered(operator.ge),
    ast.In: _within,
    ast.NotIn: lambda item, whole: not _within(item, whole),
}
# Name -> what it does, and how many values it takes.
FUNCTIONS: Mapping[str, tuple[Callable[..., Value], int]] = {
    "len": (_length, 1),
    "lower": (lambda value: _text(value).lower(), 1),
    "upper": (lambda value: _text(value).upper(), 1),
    "int": (_to_number(int), 1),
    "float": (_to_number(float), 1),
    "text": (as_text, 1),
    "abs": (_absolute, 1),
    "starts_with": (lambda text, start: _text(text).startswith(_text(start)), 2),
    "ends_with": (lambda text, end: _text(text).endswith(_text(end)), 2),
}
