"""Paths into legacy values: a small part of JSONPath (RFC 9535).

Patterns are read: `.name`, `['any name']`, `[3]`, `[*]` and `.*` (each item or member), `..name` (at any depth). Places
are written: `$.vms[2].name`. A cursor follows many patterns at once through a value, one step after the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias, TypeVar

from msgspec import Struct

from gateway.core.dbus import names

Place: TypeAlias = "tuple[str | int, ...]"  # the names and indexes on the way to one value

LONGEST = 1000  # characters of a path that is read

_NAME = re.compile(r"[^\W\d][\w-]*|\d+[\w-]*[^\W\d][\w-]*")  # a name that needs no quotation marks when read
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")  # a name that is written without quotation marks
_QUOTED = re.compile(r"""\['((?:[^'\\]|\\.)*)'\]|\["((?:[^"\\]|\\.)*)"\]""", re.DOTALL)
_INDEX = re.compile(r"\[(0|[1-9][0-9]{0,8})\]")
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)
_ESCAPED: Mapping[str, str] = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", "'": "'", '"': '"', "/": "/"}


class _Each(Struct, frozen=True):
    """Any one step."""


class Below(Struct, frozen=True):
    """A member of this name at any depth."""

    name: str


EACH: Final = _Each()
PathStep: TypeAlias = str | int | _Each | Below
PathSteps: TypeAlias = tuple[PathStep, ...]


class Pattern(Struct, frozen=True):
    """All places that one path means. `text`: the path as written in the mapping."""

    steps: PathSteps
    text: str = "$"
    root: str = "$"

    def __str__(self) -> str:
        return self.text


def parse(text: str, roots: Iterable[str] = ("$",)) -> Pattern:
    """Read a path that begins with one of these roots; raises ValueError naming the character."""
    root = next((root for root in roots if text.startswith(root)), None)
    if root is None:
        raise ValueError(
            f"expected a path such as {next(iter(roots))}.name or $.list[*].name, got {names.quoted(text)}"
        )
    if len(text) > LONGEST:
        raise ValueError(f"expected a path of at most {LONGEST} characters, got {len(text)}")
    steps: list[PathStep] = []
    at = len(root)
    while at < len(text):
        step, at = _step(text, at)
        steps.append(step)
    return Pattern(tuple(steps), text, root)


def show(place: Place, root: str = "$") -> str:
    """A place in the syntax of a path, `$.vms[2]['a b']`; one printable line."""
    return root + "".join(map(_written, place))


# Following many paths at once through a value

T = TypeVar("T")
Cursor: TypeAlias = (
    "tuple[tuple[PathSteps, T], ...]"  # remaining steps of each pattern, and its value; in order of precedence
)


def start_cursor(patterns: Iterable[tuple[Pattern, T]]) -> Cursor[T]:
    """A cursor at the root."""
    return tuple((pattern.steps, owner) for pattern, owner in patterns)


def advance_cursor(cursor: Cursor[T], step: str | int) -> Cursor[T]:
    """A cursor one step further in, without the patterns that do not lead there."""
    if not cursor:
        return cursor
    further: list[tuple[PathSteps, T]] = []
    for steps, owner in cursor:
        if not steps:
            continue
        first = steps[0]
        if isinstance(first, Below):
            if first.name == step:
                further.append((steps[1:], owner))
            further.append((steps, owner))
        elif first is EACH or (type(first) is type(step) and first == step):
            further.append((steps[1:], owner))
    return tuple(further) if len(further) < 2 else _each_once(further)


def cursor_value(cursor: Cursor[T]) -> T | None:
    """The value of the first pattern that means this very place; None without one."""
    return next((owner for steps, owner in cursor if not steps), None)


def _each_once(cursor: Iterable[tuple[PathSteps, T]]) -> Cursor[T]:
    """Without duplicates: `..a..a` reaches one place in many ways."""
    return tuple({(steps, id(owner)): (steps, owner) for steps, owner in cursor}.values())


# Reading and writing steps


def _step(text: str, at: int) -> tuple[PathStep, int]:
    if text.startswith("..", at):
        step, end = (_bracket if text.startswith("[", at + 2) else _name)(text, at + 2)
        if not isinstance(step, str):
            raise _wrong(text, at + 2, "a name after '..'")
        return Below(step), end
    if text.startswith(".*", at):
        return EACH, at + 2
    if text.startswith(".", at):
        return _name(text, at + 1)
    if text.startswith("[", at):
        return _bracket(text, at)
    raise _wrong(text, at, "a step such as .name, ['name'], [3], [*], .* or ..name")


def _name(text: str, at: int) -> tuple[PathStep, int]:
    match = _NAME.match(text, at)
    if match is None:
        raise _wrong(
            text, at, "a name (with quotation marks and brackets around it when it is not a plain one: ['a b'])"
        )
    return match[0], match.end()


def _bracket(text: str, at: int) -> tuple[PathStep, int]:
    if text.startswith("[*]", at):
        return EACH, at + 3
    index = _INDEX.match(text, at)
    if index is not None:
        return int(index[1]), index.end()
    quoted = _QUOTED.match(text, at)
    if quoted is None:
        raise _wrong(text, at, "[3], [*] or ['name']")
    inside = quoted[1] if quoted[1] is not None else quoted[2]

    def unescaped(match: re.Match[str]) -> str:
        *codes, plain = match.groups()
        code = next((code for code in codes if code), None)
        if code is not None and int(code, 16) <= 0x10FFFF:
            return chr(int(code, 16))
        if plain not in _ESCAPED:
            raise _wrong(text, at, r"an escape such as \', \\, \n or \u00e9")
        return _ESCAPED[plain]

    return _ESCAPE.sub(unescaped, inside), quoted.end()


def _written(step: str | int) -> str:
    if isinstance(step, int):
        return f"[{step}]"
    if _PLAIN.fullmatch(step):
        return f".{step}"
    quoted = step.replace("\\", "\\\\").replace("'", "\\'")
    return f"['{names.printable(quoted)}']"


def _wrong(text: str, at: int, expected: str) -> ValueError:
    rest = f"got {names.quoted(text[at:])}" if at < len(text) else "but it ends there"
    return ValueError(f"path {names.quoted(text)}, character {at + 1}: expected {expected}, {rest}")
