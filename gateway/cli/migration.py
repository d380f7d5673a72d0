"""The table of methods that have two sides, a row each, as wide as there is room. Knows no command."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.text import Text

from gateway.cli.showing import out, table
from gateway.cli.words import NOTHING, number, pair, rate, seconds

Row = Mapping[str, Any]

STYLES = {
    "dbus fails": "bold red", "differs": "bold red", "dbus slow": "red",
    "no evidence": "dim", "not compared": "dim", "equal so far": "yellow", "equal but for ignored": "green",
    "equal": "green",
}  # fmt: skip


def print_methods(rows: Sequence[Row], width: int | None, *, everything: bool = False) -> None:
    """`width`: of the terminal; None: there is none, and rows are as long as they are.

    Methods to which nothing has happened are only counted, unless `everything` is asked for.
    """
    told = rows if everything else [row for row in rows if not _untouched(row)]
    if told:
        _print_rows(told, width)
    if len(told) < len(rows):
        out.print(Text(_as_mapped([row for row in rows if _untouched(row)]), "dim"), soft_wrap=True)


def _as_mapped(rows: Sequence[Row]) -> str:
    """ "as the mapping says, and not called yet: networkd 30 dbus, xapi 2 dbus and 1 off"."""
    services: dict[str, dict[str, int]] = {}
    for row in rows:
        modes = services.setdefault(row["service"], {})
        modes[row["mode"]] = modes.get(row["mode"], 0) + 1
    counts = (
        f"{service} {' and '.join(f'{number} {mode}' for mode, number in modes.items())}"
        for service, modes in services.items()
    )
    return f"as the mapping says, and not called yet: {', '.join(counts)} (`status '*'` shows them)"


def _print_rows(rows: Sequence[Row], width: int | None) -> None:
    columns = [name for name, (_, least) in _COLUMNS.items() if width is None or width >= least]
    services = {row["service"] for row in rows}
    out.print(_LEGEND, style="dim")
    with table("METHOD", *columns) as shown:
        for column in shown.columns:
            header = str(column.header)
            column.no_wrap = header not in _FOLDED
            column.justify = "left" if header in _LEFT else "right"
        for row in rows:
            name = Text(f"{row['service']}/{row['method']}" if len(services) > 1 else row["method"])
            cells = (_COLUMNS[column][0](row) for column in columns)
            shown.add_row(name, *cells, style="dim" if _untouched(row) else None)


def _untouched(row: Row) -> bool:
    return row["set_by"] == "mapping" and not row["legacy"]["calls"] and not row["dbus"]["calls"]


def _mode(row: Row) -> Text:
    words = row["mode"].split()
    return Text(" ".join(word for word in words if not word.endswith("%")))


def _share(row: Row) -> Text:
    setting = row["setting"]
    return Text(f"{setting['percent']}%" if setting["mode"] == "canary" else NOTHING)


def _set_by(row: Row) -> Text:
    rollout = f" ({row['rollout']})" if row["rollout"] else ""
    return Text(row["set_by"] + rollout, "dim" if row["set_by"] == "mapping" else "")


def _equal(row: Row) -> Text:
    return Text(f"{rate(row['equal_share'])} of {number(row['comparisons'])}" if row["comparisons"] else NOTHING)


def _verdict(row: Row) -> Text:
    return Text(row["verdict"], STYLES.get(row["verdict"], ""))


def _both(read: Callable[[Mapping[str, Any]], str]) -> Callable[[Row], Text]:
    """Of the old service and of D-Bus."""
    return lambda row: Text(pair(read(row["legacy"]), read(row["dbus"])))


# Each column with the width that a terminal must have for it.
_COLUMNS: Mapping[str, tuple[Callable[[Row], Text], int]] = {
    "MODE": (_mode, 0),
    "SHARE": (_share, 0),
    "SET BY": (_set_by, 100),
    "CALLS": (_both(lambda side: number(side["calls"])), 120),
    "EQUAL": (_equal, 0),
    "ERRORS": (_both(lambda side: rate(side["error_rate"])), 76),
    "P50": (_both(lambda side: seconds(side["p50"])), 140),
    "P99": (_both(lambda side: seconds(side["p99"])), 90),
    "VERDICT": (_verdict, 0),
}
_LEFT = frozenset({"METHOD", "MODE", "SET BY", "VERDICT"})
_FOLDED = frozenset({"METHOD", "SET BY", "VERDICT"})
_LEGEND = "of two numbers the first is the old service's, the second D-Bus's"
