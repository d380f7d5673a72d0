"""TOML text as a document that knows line and column of each key and value, as toml.io/en/v1.0.0 defines the text.

tomllib reads the values. It keeps no positions, so `_Positions` walks over the same text, which is valid by then.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from gateway.mapping.problem import Path as Steps
from gateway.mapping.problem import Problem, format_place


class TomlDocument(Struct, frozen=True):
    """A TOML file as plain data. `keys`, `values`: the offset of each node in `text`."""

    path: Path
    text: str
    data: dict[str, Any]
    keys: Mapping[Steps, int]
    values: Mapping[Steps, int]

    def problem(self, path: Steps, message: str, *, key: bool = False) -> Problem:
        """A problem with the value at `path`, or its key; if it is missing, at the nearest node around it."""
        offsets = self.keys if key else self.values
        around = (path[:length] for length in range(len(path), 0, -1))
        at = next(
            (offsets.get(each, self.keys.get(each)) for each in around if each in self.keys or each in offsets), 0
        )
        return Problem(str(self.path), *_mark(self.text, at or 0), format_place(path), message, "config")


def parse(path: Path, text: str) -> TomlDocument | Problem:
    """The text of a file as a document, or the problem that it is not TOML."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message, line, column = _SYNTAX.fullmatch(str(error)).groups()  # type: ignore[union-attr]  # it always matches
        mark = (int(line), int(column)) if line else _mark(text, len(text))
        return Problem(str(path), *mark, "", f"invalid TOML: {message}", "config")
    positions = _Positions(text.replace("\r\n", "\n"))
    positions.read()
    return TomlDocument(path, positions.text, data, positions.keys, positions.values)


_SYNTAX = re.compile(r"(.*?)(?: \(at (?:line (\d+), column (\d+)|end of document)\))?", re.DOTALL)


def _mark(text: str, offset: int) -> tuple[int, int]:
    """Line and column, from 1."""
    return text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)


_BLANK = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?"""(?:"{0,2})|' + r"'''.*?'''(?:'{0,2})|" + r'"(?:\\.|[^"\\\n])*"|' + r"'[^'\n]*'", re.DOTALL
)
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^\s,\]}#]+(?: \d\d:\d\d[^\s,\]}#]*)?")  # a date may have a space before its time


class _Positions:
    """Walks over valid TOML and notes where each key and value begins."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.keys: dict[Steps, int] = {}
        self.values: dict[Steps, int] = {}
        self._at = 0
        self._tables: dict[Steps, int] = {}  # arrays of tables -> index of their last table

    def read(self) -> None:
        table: Steps = ()
        while self._skip(_BLANK) < len(self.text):
            if self.text[self._at] == "[":
                table = self._header()
            else:
                self._pair(table)

    def _header(self) -> Steps:
        brackets = 2 if self.text.startswith("[[", self._at) else 1
        self._at += brackets
        path, at = self._key(())
        self._at += brackets
        self.keys.setdefault(path, at)
        self.values.setdefault(path, at)
        if brackets == 1:
            return path
        self._tables[path] = self._tables.get(path, -1) + 1
        path = (*path, self._tables[path])
        self.values[path] = at
        return path

    def _pair(self, table: Steps) -> None:
        path, at = self._key(table)
        self.keys[path] = at
        self._at += 1  # =
        self._skip(_SPACE)
        self._value(path)

    def _key(self, path: Steps) -> tuple[Steps, int]:
        """Where a dotted key leads from a table, through the tables of its parts; and where its last part begins."""
        while True:
            at = self._skip(_SPACE)
            word = self._take(_STRING if self.text[at] in "\"'" else _BARE_KEY)
            path = (*path, next(iter(tomllib.loads(f"{word} = 0"))))
            if self.text[self._skip(_SPACE)] != ".":
                return path, at
            self._at += 1
            self.keys.setdefault(path, at)
            self.values.setdefault(path, at)
            path = (*path, self._tables[path]) if path in self._tables else path

    def _value(self, path: Steps) -> None:
        self.values[path] = self._at
        first = self.text[self._at]
        if first not in "[{":
            self._take(_STRING if first in "\"'" else _SCALAR)
            return
        self._at += 1
        index = 0
        while self.text[self._skip(_BLANK)] not in "]}":
            if first == "[":
                self._value((*path, index))
            else:
                self._pair(path)
            index += 1
            if self.text[self._skip(_BLANK)] == ",":
                self._at += 1
        self._at += 1

    def _skip(self, pattern: re.Pattern[str]) -> int:
        self._take(pattern)
        return self._at

    def _take(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self.text, self._at)
        assert found is not None, "tomllib has read the same text"
        self._at = found.end()
        return found[0]
