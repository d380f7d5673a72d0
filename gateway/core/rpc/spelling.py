"""The forms in which a legacy server accepts the name of a method. Each dialect has those of its servers.

xapi also accepts `VM.start` as `VM_start`; `Async.VM.start` and `InternalAsync.VM.start` run the same method as a task,
and return the task's reference. A mode governs a method in all of its forms.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec


class SpelledName(NamedTuple):
    """A method's name as in the mapping, and the prefix of a form that returns a task."""

    name: str
    task_prefix: str = ""


class MethodSpelling(msgspec.Struct, frozen=True):
    """`joined` replaces the dot of "Class.message" in another spelling. `task_prefixes`: "Async."."""

    joined: str = ""
    task_prefixes: tuple[str, ...] = ()

    def read(self, method: str) -> SpelledName:
        """Split off the prefix that asks for a task. Only one is split off, as the server does it."""
        for prefix in self.task_prefixes:
            if method.startswith(prefix):
                return SpelledName(method[len(prefix) :], prefix)
        return SpelledName(method)

    def others(self, name: str) -> tuple[str, ...]:
        """The further spellings of a mapped name, without prefixes."""
        return (name.replace(".", self.joined),) if self.joined and name.count(".") == 1 else ()

    def forms(self, name: str, *, tasks: bool = True) -> tuple[str, ...]:
        """All other forms of a mapped name, including those that return a task if it has such."""
        return (*self.others(name), *(prefix + name for prefix in self.task_prefixes if tasks))

    def index(self, names: Iterable[str]) -> Mapping[str, str]:
        """Further spelling -> mapped name. The mapping compiler refuses two methods that share a spelling."""
        return {other: name for name in names for other in self.others(name)}


def together(spellings: Iterable[MethodSpelling]) -> MethodSpelling:
    """The forms of several dialects, where a method is exposed with each of them."""
    found = [each for each in spellings if each != AS_WRITTEN]
    prefixes = dict.fromkeys(prefix for each in found for prefix in each.task_prefixes)
    return MethodSpelling(next((each.joined for each in found if each.joined), ""), tuple(prefixes))


AS_WRITTEN = MethodSpelling()  # a method has a single name
