"""Equality of legacy values as a client sees it: types count, NaN equals NaN, the members of a struct have no order.

Every comparison has a budget of values. The budget bounds the work, and it is the place where a long comparison pauses:
`Budget.spend` calls a checkpoint at least once in CHECK_EVERY values.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from enum import Enum
from typing import Final, Literal, TypeAlias

from gateway.core.rpc.model import Value

MAX_VALUES = 250_000  # values that one comparison visits
CHECK_EVERY = 128  # values between two checkpoints; visiting one takes a few microseconds


class _Missing(Enum):
    MISSING = "missing"


MISSING: Final = _Missing.MISSING  # in place of a member or item that is absent; nil is present
Missing: TypeAlias = Literal[_Missing.MISSING]
MaybeValue: TypeAlias = Value | Missing
Checkpoint: TypeAlias = Callable[[], None]


class ComparisonBudgetError(Exception):
    """The comparison would visit more values than its budget."""


def no_checkpoint() -> None:
    """Do not pause: for values that are compared quickly."""


class Budget:
    """The number of values that all parts of one comparison may still visit."""

    def __init__(self, left: int = MAX_VALUES, checkpoint: Checkpoint = no_checkpoint) -> None:
        self.left = left
        self.checkpoint = checkpoint
        self._since_check = 0

    def spend(self) -> None:
        """Count a visited value; raises ComparisonBudgetError when there were too many."""
        self.left -= 1
        if self.left < 0:
            raise ComparisonBudgetError
        self._since_check += 1
        if self._since_check >= CHECK_EVERY:
            self._since_check = 0
            self.checkpoint()


def equal(one: MaybeValue, other: MaybeValue, budget: Budget) -> bool:
    """Whether a client cannot distinguish the two. 1, True, 1.0 and "1" are four different values."""
    pending: list[Iterator[tuple[MaybeValue, MaybeValue]]] = [iter([(one, other)])]
    while pending:
        for one, other in pending[-1]:
            budget.spend()
            if type(one) is not type(other):
                return False
            if isinstance(one, list) and isinstance(other, list):
                if len(one) != len(other):
                    return False
                pending.append(zip(one, other, strict=True))
                break
            if isinstance(one, dict) and isinstance(other, dict):
                if one.keys() != other.keys():
                    return False
                pending.append(zip(one.values(), map(other.__getitem__, one), strict=True))
                break
            if not leaves_equal(one, other):
                return False
        else:
            pending.pop()
    return True


def leaves_equal(one: object, other: object) -> bool:
    """The same for two values of one type that contain no other values."""
    return one is other or one == other or (one != one and other != other)


def hash_key(value: MaybeValue, budget: Budget) -> Hashable:
    """A key that two values share exactly when they are equal."""
    budget.spend()
    if isinstance(value, list):
        return "list", tuple([hash_key(item, budget) for item in value])
    if isinstance(value, dict):
        return "struct", frozenset([(name, hash_key(member, budget)) for name, member in value.items()])
    if isinstance(value, float) and value != value:
        return "nan"
    return type(value), value
