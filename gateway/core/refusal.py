"""What is said of a value that its type cannot carry: the place, what was expected, what came; knows no types."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sized
from datetime import datetime

_SHOWN = 40  # characters of a text that a message repeats
_SHOWN_BITS = 128  # of an integer that a message repeats
_SIZED: tuple[tuple[type[Sized], str], ...] = ((list, "an array"), (dict, "a struct"))


class MarshalError(Exception):
    """A value that its type cannot carry, told as `$.params[1].vcpus: expected u, got -1`."""

    def __init__(self, expected: str, got: object) -> None:
        super().__init__(expected)
        self.expected = expected
        self.got = shown(got)
        self.path: tuple[str | int, ...] = ()

    def at(self, *place: str | int) -> MarshalError:
        """Say where in the surrounding value it stands; each level on the way up adds its step in front."""
        self.path = (*place, *self.path)
        return self

    @property
    def bare(self) -> str:
        """The same for a log: the value is left out."""
        return f"{render(self.path)}: expected {self.expected}"

    def __str__(self) -> str:
        return f"{self.bare}, got {self.got}"


def render(path: Iterable[str | int]) -> str:
    """A place in a legacy value, `$.params[1].vcpus`; ASCII on one line, whatever the keys are."""
    return "$" + "".join(map(_step, path))


def shown(value: object) -> str:
    """A value in a message: ASCII on one line, never long."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str):
        return json.dumps(value if len(value) <= _SHOWN else value[:_SHOWN] + "...")
    if isinstance(value, int):
        bits = value.bit_length()
        return str(value) if bits <= _SHOWN_BITS else f"an integer of {bits} bits"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    for kind, noun in _SIZED:
        if isinstance(value, kind):
            return f"{noun} of {len(value)}"
    return "a dateTime" if isinstance(value, datetime) else "a value of no known type"


def _step(step: str | int) -> str:
    if isinstance(step, int):
        return f"[{step}]"
    plain = len(step) <= _SHOWN and step.isascii() and step.isidentifier()
    return f".{step}" if plain else f"[{shown(step)}]"
