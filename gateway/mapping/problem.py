"""A problem of a mapping file or of the config: message, place and level of checking; and the wording of messages."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Literal, Protocol, TypeAlias

from msgspec import Struct
from msgspec.structs import force_setattr

from gateway.core.dbus.names import printable

__all__ = ["Level", "Path", "Positioned", "Problem", "did_you_mean", "format_place", "one_of", "printable", "unknown"]

Level: TypeAlias = Literal["config", "schema", "idl", "live"]
Path: TypeAlias = "tuple[str | int, ...]"  # keys and indexes that lead to a node of a document


class Problem(Struct, frozen=True, order=True):
    """One problem; its text is one printable line, `file:line:column: place: message`."""

    file: str
    line: int  # from 1
    column: int  # from 1
    place: str
    message: str
    level: Level

    def __post_init__(self) -> None:
        for name in ("file", "place", "message"):
            force_setattr(self, name, printable(getattr(self, name)))

    @property
    def source(self) -> str:
        """The file and the line: `mappings/xenopsd.yaml:12`."""
        return f"{self.file}:{self.line}"

    def __str__(self) -> str:
        where = f"{self.source}:{self.column}"
        return f"{where}: {self.place}: {self.message}" if self.place else f"{where}: {self.message}"


class Positioned(Protocol):
    """A document that knows the position of each of its nodes."""

    def problem(self, path: Path, message: str, *, key: bool = False) -> Problem:
        """A problem with the value at `path`, or its key."""


def format_place(path: Path) -> str:
    """The path of a node as text: `methods.VM.stat.params[1]`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")


def one_of(names: Iterable[str]) -> str:
    """The names as a list for a message: `a, b`; `none` when there are none."""
    return ", ".join(names) or "none"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint with the known name that is nearest to `name`; empty when none is near."""
    near = get_close_matches(name, list(known), n=1)
    return f" (did you mean '{near[0]}'?)" if near else ""


def unknown(kind: str, name: str, known: Iterable[object], *, owner: str = "") -> str:
    """`unknown KIND 'NAME' of OWNER`, and the nearest known name, or else all of them.

    The name of something known is the first word of its text: an argument may be listed with its type.
    """
    listed = [str(each) for each in known]
    expected = f"; expected {'one of ' if len(listed) > 1 else ''}{', '.join(listed)}" if listed else "; there are none"
    hint = did_you_mean(name, [each.split(" ")[0] for each in listed]) or expected
    return f"unknown {kind} '{name}'{f' of {owner}' if owner else ''}{hint}"
