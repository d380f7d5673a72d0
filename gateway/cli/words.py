"""Numbers and moments as a person reads them in a table. Knows no command."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from time import time
from typing import Any

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
    """The old service's and D-Bus's."""
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
