"""Whether two legacy values are the same to a client: types count, NaN is NaN. Knows no rule and no path."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from enum import Enum
from typing import Final, Literal, TypeAlias

from gateway.core.model import Value

MOST = 250_000  # values that one comparison looks at


class _Missing(Enum):
    MISSING = "missing"


MISSING: Final = _Missing.MISSING  # what stands where a member or item is not there; nil is there
Missing: TypeAlias = Literal[_Missing.MISSING]
Found: TypeAlias = Value | Missing


class TooMuchError(Exception):
    """More values than one comparison looks at."""


class Budget:
    """How many values may still be looked at; shared by all parts of one comparison."""

    def __init__(self, left: int = MOST) -> None:
        self.left = left

    def spend(self, values: int = 1) -> None:
        """Note what was looked at; raises TooMuchError."""
        self.left -= values
        if self.left < 0:
            raise TooMuchError


def same(one: Found, other: Found, budget: Budget) -> bool:
    """Whether a client could not tell them apart. 1, True, 1.0 and "1" are four things; NaN equals NaN."""
    pairs: list[tuple[Found, Found]] = [(one, other)]
    while pairs:
        one, other = pairs.pop()
        if type(one) is not type(other):
            return False
        if isinstance(one, list) and isinstance(other, list):
            if len(one) != len(other):
                return False
            budget.spend(len(one))
            pairs += zip(one, other, strict=True)
        elif isinstance(one, dict) and isinstance(other, dict):
            if one.keys() != other.keys():
                return False
            budget.spend(len(one))
            pairs += [(one[name], other[name]) for name in one]
        elif not same_leaf(one, other):
            return False
    return True


def same_leaf(one: object, other: object) -> bool:
    """The same of two values of one type that hold no others."""
    return one is other or one == other or (one != one and other != other)


def holds_others(value: Found) -> bool:
    """Whether it is a list or a struct."""
    return isinstance(value, list | dict)


def likeness(value: Found, budget: Budget) -> Hashable:
    """The same for two values exactly when they are the same."""
    budget.spend()
    if isinstance(value, list):
        return "list", tuple([likeness(item, budget) for item in value])
    if isinstance(value, dict):
        return "struct", frozenset(_members(value, budget))
    if isinstance(value, float) and value != value:
        return "nan"
    return type(value), value


def _members(struct: dict[str, Value], budget: Budget) -> Iterator[tuple[str, Hashable]]:
    for name, member in struct.items():
        yield name, likeness(member, budget)
