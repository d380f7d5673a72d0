"""Reads plain YAML 1.2: what people write in mapping files day by day.

A plain document is a mapping or list in block style, whose keys and scalars stand on one line each: unquoted, in '' or
in "" without escapes. Flow collections, comments, anchors and aliases belong to it. Tags, block scalars, tabs, document
markers and scalars of several lines do not. What is not plain, or is wrong, is left to the full parser, which words the
error. A plain document means exactly what it means to that parser (tests/property/test_plain_yaml.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from copy import deepcopy
from itertools import islice
from typing import Any, TypeAlias

from msgspec import Struct, field

Path: TypeAlias = "tuple[str | int, ...]"
Mark: TypeAlias = tuple[int, int]  # line and column, from 1

DEEPEST = 32  # nodes in each other
MOST = 20_000  # nodes, with those of aliases
LONGEST_KEY = 128  # characters

# Tabs, other ends of lines, what cannot be printed, and markers of documents.
_unusual = re.compile(r"[^\n\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]").search
_marker = re.compile(r"^(?:---|\.\.\.|%)", re.MULTILINE).search

_gap = re.compile(r"(?: *+(?:(?<![^ \n])#[^\n]*+)?\n)*+ *+").match  # to the next token
_end = re.compile(r" *+(?:(?<![^ \n])#[^\n]*+)?\n").match  # of a line
_START = r"[^ \n\-?:,\[\]{}#&*!|>'\"%@`]"
_plain = re.compile(rf"(?:{_START}|-(?=[^ \n]))(?:[^ \n:#]|:(?![ \n])|(?<=[^ \n])#| +(?=[^ \n#:]|:[^ \n]))*+").match
_flow_plain = re.compile(
    rf"(?:{_START}|-(?=[^ \n,\[\]{{}}]))"
    r"(?:[^ \n:#,\[\]{}]|:(?![ \n,\[\]{}])|(?<=[^ \n])#| +(?=[^ \n#:,\[\]{}]|:[^ \n,\[\]{}]))*+"
).match
_quoted = re.compile(r"\"([^\"\\\n]*+)\"|'((?:[^'\n]|'')*+)'").match
_name = re.compile(r"[&*]([A-Za-z0-9_-]++)(?=[ \n,\]}])").match


class PlainDocument(Struct):
    """The data of a document, and where each value and each key stands."""

    data: Any = None
    values: dict[Path, Mark] = field(default_factory=dict)
    keys: dict[Path, Mark] = field(default_factory=dict)


def read(text: str, scalar: Callable[[str], Any]) -> PlainDocument | None:
    """Read a plain document; None: it is none. `scalar` makes a value of an unquoted text; it may raise ValueError."""
    if _unusual(text) or _marker(text):
        return None
    reader = _Reader(text if text.endswith("\n") else text + "\n", scalar)
    try:
        reader.document.data = reader.whole()
    except (_NotPlainError, ValueError, LookupError):  # a name that no anchor has, a number that is none
        return None
    return reader.document


class _Anchored(Struct):
    """A node with an anchor; places by the path below it."""

    data: Any
    values: list[tuple[Path, Mark]]
    keys: list[tuple[Path, Mark]]
    depth: int


class _NotPlainError(Exception):
    """The document is left to the full parser."""


class _Reader:
    """Stands at a token: `column` is its place in the line, from 0, and -1 at the end of the text."""

    def __init__(self, text: str, scalar: Callable[[str], Any]) -> None:
        self.document = PlainDocument()
        self._values, self._keys = self.document.values, self.document.keys
        self._text, self._scalar = text, scalar
        self._anchors: dict[str, _Anchored] = {}
        self._at = self._line = self._begin = 0  # `_begin`: where the line begins
        self.column = 0

    def whole(self) -> Any:
        """The data of the document."""
        self._skip()
        if self.column < 0:
            raise _NotPlainError
        data = self._block((), -1)
        if self.column >= 0 or not isinstance(data, dict | list):
            raise _NotPlainError
        return data

    # Places

    def _skip(self) -> None:
        """Go to the next token, over ends of lines and comments."""
        found = _gap(self._text, self._at)
        assert found is not None  # it matches nothing, too
        lines = found[0].count("\n")
        self._at = found.end()
        if lines:
            self._line += lines
            self._begin = self._text.rindex("\n", 0, self._at) + 1
        self.column = self._at - self._begin if self._at < len(self._text) else -1

    def _end_line(self, parent: int) -> None:
        """Go from the end of a scalar to the next line, which must not continue it."""
        if _end(self._text, self._at) is None:
            raise _NotPlainError
        self._skip()
        if self.column > parent:
            raise _NotPlainError

    def _mark(self) -> Mark:
        return self._line + 1, self._at - self._begin + 1

    def _key(self, path: Path, plain: Callable[[str, int], re.Match[str] | None]) -> Path | None:
        """Go over a key and its colon, and note it; None where there is no key."""
        text, at, mark = self._text, self._at, self._mark()
        found = _quoted(text, at) or plain(text, at)
        if found is None or text[found.end() : found.end() + 2] not in (": ", ":\n"):
            return None
        inner = (*path, _unquoted(found) if text[at] in "\"'" else found[0])
        if found.end() - at > LONGEST_KEY or inner in self._keys or len(inner) > DEEPEST:
            raise _NotPlainError
        self._keys[inner] = mark
        self._at = found.end() + 1
        return inner

    # Block style

    def _block(self, path: Path, parent: int) -> Any:
        """The node at this token, in a node whose column is `parent`."""
        if len(path) > DEEPEST:
            raise _NotPlainError
        column, before = self.column, self._at
        mark = self._mark()
        if self._text.startswith(("- ", "-\n"), before):
            self._values[path] = mark
            return self._sequence(path, column)
        key = self._key(path, _plain)
        if key is not None:
            self._values[path] = mark
            return self._mapping(path, column, key)
        return self._inline(path, parent)

    def _mapping(self, path: Path, column: int, key: Path | None) -> dict[str, Any]:
        data: dict[str, Any] = {}
        while key is not None:
            name = key[-1]
            assert isinstance(name, str)
            data[name] = self._entry(key, column, in_mapping=True)
            if self.column < column:
                return data
            key = self._key(path, _plain) if self.column == column else None
        raise _NotPlainError

    def _sequence(self, path: Path, column: int) -> list[Any]:
        data: list[Any] = []
        while self.column == column and self._text.startswith(("- ", "-\n"), self._at):
            self._at += 1
            data.append(self._entry((*path, len(data)), column, in_mapping=False))
        if self.column > column:
            raise _NotPlainError
        return data

    def _entry(self, path: Path, column: int, *, in_mapping: bool) -> Any:
        """What stands behind a colon or a dash of a node at `column`."""
        empty = self._mark()
        if _end(self._text, self._at) is None:
            self._skip()
            found = _name(self._text, self._at)
            if found is not None and self._text[self._at] == "&" and _end(self._text, found.end()) is not None:
                return self._anchor(path, column, None)
            return self._inline(path, column) if in_mapping else self._block(path, column)
        self._skip()
        is_list = in_mapping and self.column == column and self._text.startswith(("- ", "-\n"), self._at)
        if self.column > column or is_list:
            return self._block(path, column)
        if self.column < 0:
            raise _NotPlainError
        self._values[path] = self._mark() if in_mapping else empty  # as the full parser has it
        return self._scalar("")

    def _inline(self, path: Path, parent: int) -> Any:
        """A node that begins in this line and is neither a mapping nor a list in block style."""
        data = self._flow(path, _plain)
        self._end_line(parent)
        return data

    # Flow style, and scalars

    def _flow(self, path: Path, plain: Callable[[str, int], re.Match[str] | None]) -> Any:
        """A flow collection or a scalar."""
        text, at = self._text, self._at
        first, mark = text[at], self._mark()
        if first == "*":
            return self._alias(path)
        if first == "&":
            return self._anchor(path, -1, plain)
        self._values[path] = mark
        if first == "[":
            return self._flow_sequence(path)
        if first == "{":
            return self._flow_mapping(path)
        found = _quoted(text, at) if first in "\"'" else plain(text, at)
        if found is None:
            raise _NotPlainError
        self._at = found.end()
        return _unquoted(found) if first in "\"'" else self._scalar(found[0])

    def _alias(self, path: Path) -> Any:
        """The node of an anchor once more; its parts stand where they stand there."""
        found = _name(self._text, self._at)
        if found is None:
            raise _NotPlainError
        anchored = self._anchors[found[1]]
        self._at = found.end()
        for marks, parts in ((self._values, anchored.values), (self._keys, anchored.keys)):
            marks.update(((*path, *inner), mark) for inner, mark in parts)
        if len(path) + anchored.depth > DEEPEST or len(self._values) > MOST:
            raise _NotPlainError
        return deepcopy(anchored.data)

    def _anchor(self, path: Path, column: int, plain: Callable[[str, int], re.Match[str] | None] | None) -> Any:
        """A node behind an anchor. `plain`: how an unquoted scalar in this line reads; None: the node begins below."""
        found, mark = _name(self._text, self._at), self._mark()
        if found is None:
            raise _NotPlainError
        if plain is not None and self._text[found.end()] != " ":
            raise _NotPlainError
        self._anchors.pop(found[1], None)  # it stands for this node, which is not complete
        self._at = found.end() + (plain is not None)
        if plain is None:
            self._skip()
        if self._text[self._at : self._at + 1] in ("", " ", "\n", "&", "*", "#") or (
            plain is None and self.column <= column
        ):
            raise _NotPlainError
        values, keys = len(self._values), len(self._keys)
        data = self._block(path, column) if plain is None else self._flow(path, plain)
        self._values[path] = mark
        parts = [(inner[len(path) :], place) for inner, place in islice(self._values.items(), values, None)]
        of_keys = [(inner[len(path) :], place) for inner, place in islice(self._keys.items(), keys, None)]
        self._anchors[found[1]] = _Anchored(data, parts, of_keys, max(len(inner) for inner, _ in parts))
        return data

    def _flow_sequence(self, path: Path) -> list[Any]:
        data: list[Any] = []
        while self._next("]", first=not data):
            inner = (*path, len(data))
            if len(inner) > DEEPEST:
                raise _NotPlainError
            data.append(self._flow(inner, _flow_plain))
        return data

    def _flow_mapping(self, path: Path) -> dict[str, Any]:
        data: dict[str, Any] = {}
        while self._next("}", first=not data):
            key = self._key(path, _flow_plain)
            if key is None:
                raise _NotPlainError
            name = key[-1]
            assert isinstance(name, str)
            empty = self._mark()
            self._skip()
            if self._text[self._at : self._at + 1] in (",", "}"):
                self._values[key], data[name] = empty, self._scalar("")
            else:
                data[name] = self._flow(key, _flow_plain)
        return data

    def _next(self, closing: str, *, first: bool) -> bool:
        """Go to the next entry of a flow collection; False: to what is behind it."""
        if first:
            self._at += 1
        self._skip()
        if not first and self._text[self._at : self._at + 1] == ",":
            self._at += 1
            self._skip()
        elif not first and self._text[self._at : self._at + 1] != closing:
            raise _NotPlainError
        if self.column < 0:
            raise _NotPlainError
        if self._text[self._at] != closing:
            return True
        self._at += 1
        return False


def _unquoted(found: re.Match[str]) -> str:
    return found[1] if found[1] is not None else found[2].replace("''", "'")
