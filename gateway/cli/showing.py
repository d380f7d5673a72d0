"""How commands print: JSON, tables, counts. Knows no command."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
from rich.console import Console
from rich.table import Table

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def count(number: int, what: str) -> str:
    """ "1 file", "2 files"."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def print_json(document: object) -> None:
    """For machines."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(document, enc_hook=str), indent=2).decode() + "\n")


@contextmanager
def table(*columns: str) -> Iterator[Table]:
    """A table of these columns, printed when its rows have been added."""
    rows = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for column in columns:
        rows.add_column(column, overflow="fold")
    yield rows
    # Piped into a file or another program a row stays a line; on a terminal it is folded to fit.
    console = out if out.is_terminal else Console(highlight=False, width=500)
    console.print(rows)
