"""Where the compiler stands: a node of a document, and the problems found so far. Knows no key of the format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from gateway.core.refusal import MarshalError
from gateway.mapping import problem
from gateway.mapping.load import Document
from gateway.mapping.problem import Level, Problem

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Scope:
    """One node. Its data has the shape that the schema asks for."""

    document: Document
    problems: dict[Problem, None]  # in the order they were found, each once
    path: problem.Path = ()
    data: Any = None

    def at(self, *steps: str | int) -> Scope:
        """A node further in; its data is None where the document does not have it."""
        data = self.data
        for step in steps:
            inside = isinstance(data, Mapping) and step in data
            data = data[step] if inside or (isinstance(data, list) and isinstance(step, int)) else None
        return Scope(self.document, self.problems, (*self.path, *steps), data)

    def says(self, key: str) -> bool:
        """Whether this node is a struct that has the key."""
        return isinstance(self.data, Mapping) and key in self.data

    def fail(self, message: str, *, level: Level = "idl", key: bool = False) -> None:
        """Note a problem with this node (with its key)."""
        self.problems[self.document.problem(self.path, message, level=level, key=key)] = None

    def attempt(self, check: Callable[..., T], *args: Any, level: Level = "idl") -> T | None:
        """The result of a check that raises ValueError or MarshalError; None when it did."""
        try:
            return check(*args)
        except MarshalError as error:
            where = str(error).partition(":")[0].removeprefix("$").removeprefix(".")
            self.fail(f"{where + ': ' if where else ''}expected {error.expected}, got {error.got}", level=level)
        except ValueError as error:
            self.fail(str(error), level=level)
        return None
