"""How commands print: JSON, tables, counts. Knows no command."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from time import time
from typing import Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gateway.core.dbus.names import printable


class _Terminal(Console):
    """Shows control characters of what others wrote as escapes: no `--why` moves a cursor or changes a colour."""

    def print(self, *objects: Any, **how: Any) -> None:
        """As Console does."""
        super().print(*map(shown, objects), **how)


def shown(what: Any) -> Any:
    """A text as it may be shown: line ends stay, all else that is no text is escaped."""
    if isinstance(what, Text) and not _is_plain(what.plain):
        return Text("\n".join(map(printable, what.plain.split("\n"))), what.style)
    if isinstance(what, str) and not _is_plain(what):
        return "\n".join(map(printable, what.split("\n")))
    return what


def _is_plain(text: str) -> bool:
    return text.replace("\n", "").isprintable()


class _Rows(Table):
    """A table whose rows stay lines, whatever stands in a cell."""

    def add_row(self, *cells: Any, **how: Any) -> None:
        """As Table does."""
        super().add_row(*map(_cell, cells), **how)


def _cell(what: Any) -> Any:
    if isinstance(what, Text) and not what.plain.isprintable():
        return Text(printable(what.plain), what.style)
    return printable(what) if isinstance(what, str) else what


out = _Terminal(highlight=False)
err = _Terminal(stderr=True, highlight=False)


def count(number: int, what: str) -> str:
    """ "1 file", "2 files"."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def print_json(document: object) -> None:
    """For machines."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(document, enc_hook=str), indent=2).decode() + "\n")


@contextmanager
def table(*columns: str) -> Iterator[Table]:
    """A table of these columns, printed when its rows have been added."""
    rows = _Rows(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for column in columns:
        rows.add_column(column, overflow="fold")
    yield rows
    # Piped into a file or another program a row stays a line; on a terminal it is folded to fit.
    console = out if out.is_terminal else _Terminal(highlight=False, width=500)
    console.print(rows)


# Numbers and moments as a person reads them in a table. Knows no command.


NOTHING = "-"
ALMOST = 99.9  # per cent; from here on more digits tell it from all


def seconds(value: float | None) -> str:
    """0.0031 -> "3.1ms"; two digits, more where they are whole."""
    if value is None:
        return NOTHING
    unit, size = next(((unit, size) for unit, size in _UNITS if value >= size), _UNITS[-1])
    amount = value / size
    return f"{amount:.2g}{unit}" if amount < 10 else f"{amount:.0f}{unit}"


_UNITS = (("s", 1.0), ("ms", 1e-3), ("us", 1e-6))


def rate(value: float | None) -> str:
    """A part of all: 0.0005 -> "0.05%". What is not all never looks like all, nor what is there like nothing."""
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


def pair(old: str, new: str) -> str:
    """The legacy service's and D-Bus's."""
    return NOTHING if old == new == NOTHING else f"{old} / {new}"


def moment(when: float | None, now: float | None = None) -> str:
    """In local time; the day is left out where it is today."""
    if when is None:
        return ""
    then, today = (datetime.fromtimestamp(each).astimezone() for each in (when, time() if now is None else now))
    return then.strftime("%H:%M:%S" if then.date() == today.date() else "%Y-%m-%d %H:%M:%S")


def numbers(of: Mapping[str, Any]) -> str:
    """Those that made a decision, in a line; what is no news is left out."""
    return ", ".join(
        f"{name} {_short(name, value)}" for name, value in of.items() if value not in (False, None, "", [])
    )


def _short(name: str, value: Any) -> str:
    if name == "until":
        return moment(value)
    if value is True:
        return "yes"
    if isinstance(value, list):
        return " ".join(map(str, value))
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


# Problems of mapping files as a command prints them, and the exit status that belongs to them.


PROBLEMS = {"schema": 3, "idl": 4, "live": 5}  # `check`: the first level that failed


def report_problems(problems: Sequence[Any], *, as_json: bool) -> None:
    """Print every problem, then end with the status of the first level that failed."""
    if as_json:
        print_json({"problems": problems})
    else:
        for problem in problems:
            err.print(str(problem), markup=False, soft_wrap=True)
        names = {problem.file for problem in problems}
        err.print(f"{count(len(problems), 'problem')} in {count(len(names), 'file')}", style="bold")
    levels = {problem.level for problem in problems}
    raise typer.Exit(next(status for level, status in PROBLEMS.items() if level in levels))
