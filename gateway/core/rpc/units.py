"""Reads and writes durations and sizes: "30s" is 30.0 seconds, "300KiB" is 307200 bytes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime

SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
BYTES = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}

DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)", re.ASCII)
SIZE = re.compile(r"(\d+)(B|KiB|MiB|GiB)", re.ASCII)


def seconds(text: str) -> float:
    """Read a duration in seconds; raises ValueError that says what was expected."""
    match = DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"expected a duration such as 500ms, 30s, 10m or 1h, got '{text}'")
    return float(match[1]) * SECONDS[match[2]]


def size(text: str) -> int:
    """Read a size in bytes; raises ValueError that says what was expected."""
    match = SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"expected a size such as 512B, 300KiB or 32MiB, got '{text}'")
    return int(match[1]) * BYTES[match[2]]


def short(value: float) -> str:
    """Write a number for people: with four digits, or whole."""
    return f"{value:.0f}" if 1000 <= abs(value) < 1e15 else f"{value:.4g}"


def written(value: float, units: Mapping[str, float]) -> str:
    """Write a number of seconds (SECONDS) or bytes (BYTES) with the largest unit of which it is a whole number."""
    whole = [unit for unit, size in units.items() if value % size == 0]
    unit = whole[-1] if whole and value else "s" if "s" in units else "B"
    return f"{value / units[unit]:g}{unit}"


def compact(moment: datetime) -> tuple[str, str]:
    """A dateTime as the legacy servers write it, in two parts: `20260131T09:05:00`, and `Z`, an offset or nothing.

    Seconds have a fraction if the moment has one. An offset that is not in whole minutes is longer than `+hh:mm`.
    """
    text = moment.replace(tzinfo=None).isoformat()
    zone = moment.isoformat()[len(text) :]
    return text.replace("-", ""), "Z" if zone == "+00:00" else zone


LONGEST_ZONE = len("+hh:mm")
