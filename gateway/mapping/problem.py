"""What is wrong with a mapping, where, and at which level of checking; decides nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal, TypeAlias

from gateway.core.dbus.names import printable

__all__ = ["Level", "Path", "Problem", "did_you_mean", "one_of", "place", "printable"]

Level: TypeAlias = Literal["schema", "idl", "live"]
Path: TypeAlias = "tuple[str | int, ...]"  # keys and indexes that lead to a node of a document


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing wrong; its text is one printable line, `file:line:column: place: message`."""

    file: str
    line: int
    column: int
    place: str
    message: str
    level: Level

    def __post_init__(self) -> None:
        for name in ("file", "place", "message"):
            object.__setattr__(self, name, printable(getattr(self, name)))

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}"
        return f"{where}: {self.place}: {self.message}" if self.place else f"{where}: {self.message}"


def place(path: Path) -> str:
    """A node in words: `methods.VM.stat.params[1]`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")


def one_of(names: Iterable[str]) -> str:
    """Names that exist, for a message: `a, b`."""
    return ", ".join(names) or "none"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint to append where a near miss is known."""
    near = get_close_matches(name, list(known), n=1)
    return f" (did you mean '{near[0]}'?)" if near else ""
