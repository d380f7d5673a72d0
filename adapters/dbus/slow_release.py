"""Frees large values a few parts at a time.

The interpreter frees a value with all that it holds in one step: 10,000 records of 20 fields take 7 ms, in which no
call goes on. So their parts are held here until nothing else refers to the whole, and are then let go in slices.
"""

from __future__ import annotations

import asyncio
from sys import getrefcount
from typing import Any

_INTERVAL = 0.05  # seconds between two looks
_PATIENCE = 60.0  # seconds after which a value that others still hold is left to them
_SLICE = 100  # parts that are freed in one turn of the loop: about 0.1 ms of records of 20 fields
_MANY = 1000  # parts that are enough: a value is taken apart no further
_HELD_HERE = 2  # references of the count itself: the list, and the argument


def release_slowly(*values: object) -> None:
    """Hold the parts of large values until nothing else refers to them. One that lies in another comes after it.

    A value that is no container is freed in no time, so it is left alone.
    """
    containers = [value for value in values if isinstance(value, dict | list)]
    if containers:
        _Release([*reversed(containers)])


class _Release:
    def __init__(self, values: list[object]) -> None:
        self._values = values
        self._parts: list[object] = []
        self._loop = asyncio.get_running_loop()
        self._until = self._loop.time() + _PATIENCE
        self._loop.call_later(_INTERVAL, self._look)

    def _look(self) -> None:
        """Take apart what nothing else refers to; look again while there is more."""
        if self._loop.time() > self._until:
            return
        while self._values and getrefcount(self._values[-1]) <= _HELD_HERE:
            self._parts += _parts(self._values.pop())
        if self._parts:
            del self._parts[-_SLICE:]
            self._loop.call_soon(self._look)
        elif self._values:
            self._loop.call_later(_INTERVAL, self._look)


def _parts(value: object) -> list[object]:
    """Containers inside a value, from the first level that has many."""
    parts: list[object] = [value]
    while 0 < len(parts) < _MANY:
        inside: list[object] = []
        for part in parts:
            items: Any = part.values() if isinstance(part, dict) else part if isinstance(part, list | tuple) else ()
            inside += [item for item in items if isinstance(item, dict | list | tuple)]
        if not inside:
            break
        parts = inside
    return parts
