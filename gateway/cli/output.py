"""Output of the commands: text without control characters, tables, JSON, numbers, and problems of mapping files."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from time import time
from typing import Any

import msgspec
import typer
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from gateway.cli.app import json_output
from gateway.core.dbus.names import printable

PIPE_WIDTH = 500  # columns


class _Terminal(Console):
    """Prints texts as they are, also in tables, without markup (`[red]`) and names of emoji (`:m:`).

    Control characters are escaped, so that no text of a client or operator moves a cursor or changes a colour.
    """

    def __init__(self, **how: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **how)

    def print(self, *objects: Any, **how: Any) -> None:
        """Print without wrapping, unless `how` says otherwise; a table is fitted to the terminal."""
        if all(isinstance(each, str | Text) for each in objects):
            how = {"soft_wrap": True, **how}
        super().print(*map(shown, objects), **how)


def shown(what: Any, *, is_cell: bool = False) -> Any:
    """Escape control characters in a text; line ends only in a cell."""
    text = what.plain if isinstance(what, Text) else what
    if not isinstance(text, str) or (text if is_cell else text.replace("\n", "")).isprintable():
        return what
    escaped = printable(text) if is_cell else "\n".join(map(printable, text.split("\n")))
    return Text(escaped, what.style) if isinstance(what, Text) else escaped


class _Rows(Table):
    """A table whose cells have no line ends."""

    def add_row(self, *cells: Any, **how: Any) -> None:
        super().add_row(*(shown(cell, is_cell=True) for cell in cells), **how)


out = _Terminal()
err = _Terminal(stderr=True)


def count(number: int, what: str, many: str = "") -> str:
    """ "1 file", "2 files"."""
    return f"{number} {what}" if number == 1 else f"{number} {many or f'{what}s'}"


def print_json(document: object) -> None:
    """Print one JSON document, indented."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(document, enc_hook=str), indent=2).decode() + "\n")


def print_fitted(what: RenderableType) -> None:
    """Print a table or the like: folded to fit a terminal; in a pipe a row stays one line."""
    (out if out.is_terminal else _Terminal(width=PIPE_WIDTH)).print(what)


@contextmanager
def table(*columns: str) -> Iterator[Table]:
    """Make a table of these columns, and print it after the block has added its rows."""
    rows = _Rows(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for column in columns:
        rows.add_column(column, overflow="fold")
    yield rows
    print_fitted(rows)


NOTHING = "-"
ALMOST = 99.9  # per cent; from here on three digits, so that it never looks like 100%


def seconds(value: float | None) -> str:
    """0.0031 -> "3.1ms": two digits, more if they are whole."""
    if value is None:
        return NOTHING
    unit, size = next(((unit, size) for unit, size in _UNITS if value >= size), _UNITS[-1])
    amount = value / size
    return f"{amount:.2g}{unit}" if amount < 10 else f"{amount:.0f}{unit}"


_UNITS = (("s", 1.0), ("ms", 1e-3), ("us", 1e-6))


def rate(value: float | None) -> str:
    """0.0005 -> "0.05%". Only 0 is shown as 0%, only 1 as 100%."""
    if value is None:
        return NOTHING
    if value in (0, 1):
        return f"{value:.0%}"
    percent = value * 100
    if percent >= ALMOST:
        return f"{min(percent, 99.999):.3f}".rstrip("0") + "%"
    return f"{percent:.1f}%" if percent >= 10 else f"{max(percent, 0.001):.2g}%"


def number(value: int) -> str:
    """12345 -> "12,345"."""
    return f"{value:,}"


def pair(legacy: str, dbus: str) -> str:
    """A value of legacy and of D-Bus: "1ms / 2ms"."""
    return NOTHING if legacy == dbus == NOTHING else f"{legacy} / {dbus}"


def moment(when: float | None, now: float | None = None) -> str:
    """A time in local time; the date is left out if it is today."""
    if when is None:
        return ""
    then, today = (datetime.fromtimestamp(each).astimezone() for each in (when, time() if now is None else now))
    return then.strftime("%H:%M:%S" if then.date() == today.date() else "%Y-%m-%d %H:%M:%S")


def numbers(values: Mapping[str, Any]) -> str:
    """The numbers of a decision in one line, without empty ones."""
    from gateway.core.admin.views import numbers_in_words  # only audit and rollouts have use for it

    return numbers_in_words(values, moment)


PROBLEMS = {"config": 2, "schema": 3, "idl": 4, "live": 5}  # level of a problem -> exit status of `check`


def report_problems(problems: Sequence[Any]) -> None:
    """Print every problem of files and end the command with the status of the first level that failed."""
    levels = {problem.level for problem in problems}
    status = next(status for level, status in PROBLEMS.items() if level in levels)
    names = {problem.file for problem in problems}
    total = f"{count(len(problems), 'problem')} in {count(len(names), 'file')}"
    if json_output.get():
        print_json({"error": total, "status": status, "problems": problems})
    else:
        for problem in problems:
            err.print(str(problem))
        err.print(total, style="bold")
    raise typer.Exit(status)
