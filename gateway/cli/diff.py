"""Mismatch records as text for a terminal and as JSON lines. Red is the control, green the candidate."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, tzinfo
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from gateway.mapping.problem import printable

CONTROL, CANDIDATE = "red", "green"  # as in every diff: expected and found
LONGEST = 2000  # characters of one value
LONG = 30  # characters; of two longer values only the difference is highlighted
SHORT = 40  # characters of an example in the summary
NAMED = 5  # ignored or noisy paths that are listed

_VERDICTS: Mapping[str, tuple[str, str]] = {
    "equal": ("equal", "green"),
    "ignored": ("equal but for ignored", "cyan"),
    "different": ("different", "yellow"),
    "error_different": ("errors differ", "red"),
}


def places(pairs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each method and path that differs: in how many of these mismatches, and the values of the newest one."""
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for pair in pairs:  # the newest first
        service, method = pair["method"]
        here: dict[str, Any] = {}
        for difference in pair["document"]["differences"]:
            here.setdefault(_ANY_INDEX.sub("[*]", difference["path"]), difference)
        for path, example in here.items():
            row = {"service": service, "method": method, "path": path, "count": 0, "example": example}
            found.setdefault((service, method, path), row)["count"] += 1
    return sorted(found.values(), key=lambda row: -int(row["count"]))


_ANY_INDEX = re.compile(r"\[\d+\]")


def summary(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    """The places as a table, the most frequent first."""
    table = Table(box=None, pad_edge=False, show_edge=False, header_style="bold")
    for column in ("METHOD", "PLACE", "TIMES", "CONTROL", "CANDIDATE"):
        table.add_column(column, overflow="fold", justify="right" if column == "TIMES" else "left")
    for row in rows:
        values = _shortened(*_both(row["example"]))
        name = Text(printable(f"{row['service']}/{row['method']}"))
        table.add_row(name, Text(printable(row["path"])), Text(str(row["count"])), *values)
    return table


def _shortened(control: Text, candidate: Text) -> Iterator[Text]:
    """The two values; of long ones the part where they begin to differ."""
    start = max(0, _common_prefix(control.plain, candidate.plain) - SHORT // 2)
    for value in (control, candidate):
        short = Text.assemble("..." if start else "", value[start:])
        short.truncate(SHORT, overflow="ellipsis")
        yield short


def show(pair: Mapping[str, Any], when: float | None = None, zone: tzinfo | None = None) -> RenderableType:
    """Format one mismatch record: the call, its caller and time, and the differences of the two outcomes.

    `when`: seconds since 1970, shown in `zone`, or else in local time.
    """
    words, style = _VERDICTS.get(pair["verdict"], (pair["verdict"], ""))
    moment = "" if when is None else datetime.fromtimestamp(when, zone).isoformat(" ", "seconds")
    name = (printable(pair["call"]["method"]), "bold")
    context = Table.grid(padding=(0, 2))
    context.add_column(style="dim", no_wrap=True)
    context.add_column(overflow="fold")
    context.add_row("  called", Text(_called(pair)))
    for side, colour in (("control", CONTROL), ("candidate", CANDIDATE)):
        ran = pair[side]
        context.add_row(f"  {side}", Text.assemble((ran["side"], colour), f" in {ran['ms']:.1f} ms"))
    parts: list[RenderableType] = [Text.assemble(name, "  ", (words, style), (f"  {moment}", "dim")), context]
    if pair["differences"]:
        parts.append(Padding(_table(pair), (0, 0, 0, 2), expand=False))
    if pair["more"]:
        parts.append(Text(f"  and more differences than these {len(pair['differences'])}", "dim"))
    for kind, title in (("ignored", "ignored"), ("noisy", "noise (the control differs from itself)")):
        if found := pair[kind]:
            named = ", ".join(printable(each["path"]) for each in found[:NAMED])
            rest = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
            parts.append(Text(f"  {title}: {named}{rest}", "dim"))
    return Group(*parts)


def _called(pair: Mapping[str, Any]) -> str:
    call = pair["call"]
    given = [value_in_words(value) for value in call["params"]]
    for name, value in call["named"].get("$struct", call["named"].items()):  # a name that is not text is in such pairs
        given.append(f"{printable(name) if isinstance(name, str) else value_in_words(name)}={value_in_words(value)}")
    by = f" by {printable(pair['caller'])}" if pair["caller"] else ""
    over = f" over {printable(pair['protocol'])}" if pair["protocol"] else ""
    return f"({', '.join(given)}){by}{over}"


def _table(pair: Mapping[str, Any]) -> Table:
    """For each path one line for the control, one for the candidate, and the rule that applies."""
    table = Table.grid(padding=(0, 1))
    table.add_column(style="bold", overflow="fold")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for difference in pair["differences"]:
        ours, theirs = _both(difference)
        table.add_row(Text(printable(difference["path"])), Text("-", CONTROL), ours)
        table.add_row("", Text("+", CANDIDATE), theirs)
        if "why" in difference:
            table.add_row("", "", Text(printable(difference["why"]), "dim"))
    return table


def _both(difference: Mapping[str, Any]) -> tuple[Text, Text]:
    """The two values; in two long texts only the difference is highlighted."""
    write, nothing = (_fault_in_words, "a reply") if difference["path"] == "fault" else (value_in_words, "missing")
    control, candidate = (write(difference[side]) if side in difference else None for side in ("control", "candidate"))
    if control is None or candidate is None or min(len(control), len(candidate)) < LONG:
        both = ((control, CONTROL), (candidate, CANDIDATE))
        one, other = (Text(f"({nothing})", f"italic {c}") if text is None else Text(text, c) for text, c in both)
        return one, other
    start = _common_prefix(control, candidate)
    end = _common_prefix(control[start:][::-1], candidate[start:][::-1])
    return _highlighted(control, start, end, CONTROL), _highlighted(candidate, start, end, CANDIDATE)


def _fault_in_words(fault: Mapping[str, Any]) -> str:
    parts = [value if isinstance(value, str) else value_in_words(value) for value in (fault["name"], fault["message"])]
    parts += [] if fault["data"] is None else [value_in_words(fault["data"])]
    return printable(f"{fault['code']}: {' '.join(filter(None, parts))}")


def _common_prefix(one: str, other: str) -> int:
    """The number of equal characters at the beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (left, right) in pairs if left != right), min(len(one), len(other)))


def _highlighted(text: str, start: int, end: int, style: str) -> Text:
    stop = len(text) - end
    return Text.assemble((text[:start], style), (text[start:stop], f"bold reverse {style}"), (text[stop:], style))


def value_in_words(document: Any) -> str:
    """A recorded value as one printable line of bounded length."""
    text = printable(_words(document))
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}... ({len(text) - LONGEST} characters more)"


def _words(document: Any) -> str:
    if isinstance(document, list):
        return f"[{', '.join(map(_words, document))}]"
    if not isinstance(document, dict):
        return json.dumps(document, ensure_ascii=False)
    if len(document) == 1:
        tag, inside = next(iter(document.items()))
        if tag in _MARKERS and isinstance(inside, str | int):
            return _MARKERS[tag](inside)
    if document.keys() == {"$begins", "$left_out"}:
        return f"{_words(document['$begins'])}... ({document['$left_out']} more)"
    members = (
        f"... ({member} more)" if name == "$left_out" else f"{json.dumps(name, ensure_ascii=False)}: {_words(member)}"
        for name, member in document.items()
    )
    return f"{{{', '.join(members)}}}"


# Marker for a redacted value or one that JSON cannot carry -> its text.
_MARKERS: Mapping[str, Callable[[Any], str]] = {
    "$redacted": lambda kind: f"<redacted {kind}>",
    "$left_out": lambda much: f"... ({much} more)" if isinstance(much, int) else f"({much})",
    "$bytes": lambda text: f"bytes {text}",
    "$dateTime": lambda text: f"dateTime {text}",
    "$double": str,
    "$integer": str,
}
