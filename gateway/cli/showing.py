"""How commands print: JSON, tables, counts. Knows no command."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gateway.core.names import printable


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
