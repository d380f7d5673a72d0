"""The forms in which a legacy server takes the name of one method; a dialect says which its server knows.

xapi takes `VM.start` as `VM_start` too, and `Async.VM.start` and `InternalAsync.VM.start` run the same method as a task
whose reference is the result. A mode governs a method in all of its forms.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec


class SpelledName(NamedTuple):
    """What a method's name says: `name` as the mapping has it, and the prefix of a form whose result is a task."""

    name: str
    task_prefix: str = ""


class MethodSpelling(msgspec.Struct, frozen=True):
    """`joined`: stands for the dot in "Class.message", where the name has no dot. `task_prefixes`: "Async."."""

    joined: str = ""
    task_prefixes: tuple[str, ...] = ()

    def read(self, method: str) -> SpelledName:
        """A name without the prefix that asks for a task. One prefix is taken off, as the server does it."""
        for prefix in self.task_prefixes:
            if method.startswith(prefix):
                return SpelledName(method[len(prefix) :], prefix)
        return SpelledName(method)

    def others(self, name: str) -> tuple[str, ...]:
        """The further spellings of a mapped name, without prefixes."""
        return (name.replace(".", self.joined),) if self.joined and name.count(".") == 1 else ()

    def forms(self, name: str) -> tuple[str, ...]:
        """Every other form of a mapped name, those that ask for a task too."""
        return (*self.others(name), *(prefix + name for prefix in self.task_prefixes))

    def index(self, names: Iterable[str]) -> Mapping[str, str]:
        """Further spelling -> mapped name. The mapping compiler refuses two methods that share a spelling."""
        return {other: name for name in names for other in self.others(name)}


AS_WRITTEN = MethodSpelling()  # a method has one name
