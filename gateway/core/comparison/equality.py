"""Equality of legacy values as a client sees it: types count, NaN equals NaN, the members of a struct have no order.

Where a rule says that a list has no order either, `align` finds the partner of each item. Every comparison has a budget
of values. The budget bounds the work, and it is the place where a long comparison pauses: `Budget.spend` calls a
checkpoint at least once in CHECK_EVERY values.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from enum import Enum
from typing import Final, Literal, TypeAlias

from msgspec import Struct

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


# Alignment of two lists whose order has no meaning: which item of the control is compared with which of the candidate.
# Equal items are partners first. Where rules let unequal items agree, a maximum matching (augmenting paths, Kuhn 1955;
# here breadth-first) finds as many agreeing pairs as possible, so the order of neither list matters. Only items with
# one agreement key are tried with each other, and the budget bounds the tries.

AlignedPair: TypeAlias = tuple[int | None, int | None]  # indexes in control and candidate; None: no partner
_Group: TypeAlias = tuple[list[int], list[int]]  # indexes in control and candidate


class Agreement(Struct, frozen=True):
    """How unequal items may agree. `key`: two items with different keys never agree."""

    agree: Callable[[int, int], bool]  # indexes in control and candidate
    key: Callable[[Value], Hashable]


def align(
    control: Sequence[Value],
    candidate: Sequence[Value],
    by: Sequence[str],
    budget: Budget,
    agreement: Agreement | None = None,
) -> list[AlignedPair]:
    """Every item once, with its partner, in the order of the control; items of the candidate alone come last.

    `by`: only structs whose members of these names are equal become partners; those that are left over are paired in
    their order. Without `by`, left-over items have no partner, except a single one on each side.
    """

    def identity(item: Value) -> Hashable:
        """The members that identify an item; None for an item that lacks one of them."""
        if not by or not isinstance(item, dict) or not all(name in item for name in by):
            return None
        return tuple([hash_key(item[name], budget) for name in by])

    pairs: list[AlignedPair] = []
    for ours, theirs in _grouped(control, candidate, identity):
        if len(ours) == len(theirs) == 1:
            pairs.append((ours[0], theirs[0]))
            continue
        partners = _equal_items(control, candidate, ours, theirs, budget)
        if agreement is not None and len(partners) < min(len(ours), len(theirs)):
            in_group = ([control[one] for one in ours], [candidate[other] for other in theirs])
            for some, others in _grouped(*in_group, agreement.key):
                _match([ours[one] for one in some], [theirs[other] for other in others], partners, agreement, budget)
        taken = set(partners.values())
        rest, others = [one for one in ours if one not in partners], [other for other in theirs if other not in taken]
        together = min(len(rest), len(others)) if by or len(rest) == len(others) == 1 else 0
        pairs += partners.items()
        pairs += zip(rest[:together], others[:together], strict=True)
        pairs += [(one, None) for one in rest[together:]]
        pairs += [(None, other) for other in others[together:]]
    return sorted(pairs, key=lambda pair: (pair[0] is None, pair[1] or 0 if pair[0] is None else pair[0]))


def _grouped(
    control: Sequence[Value], candidate: Sequence[Value], key: Callable[[Value], Hashable]
) -> Iterator[_Group]:
    groups: dict[Hashable, _Group] = defaultdict(lambda: ([], []))
    for side, items in enumerate((control, candidate)):
        for index, item in enumerate(items):
            groups[key(item)][side].append(index)
    yield from groups.values()


def _equal_items(
    control: Sequence[Value], candidate: Sequence[Value], ours: Sequence[int], theirs: Sequence[int], budget: Budget
) -> dict[int, int]:
    waiting: dict[Hashable, list[int]] = defaultdict(list)
    for index in reversed(theirs):
        waiting[hash_key(candidate[index], budget)].append(index)
    partners: dict[int, int] = {}
    for index in ours:
        found = waiting.get(hash_key(control[index], budget))
        if found:
            partners[index] = found.pop()
    return partners


def _match(
    ours: Sequence[int], theirs: Sequence[int], partners: dict[int, int], agreement: Agreement, budget: Budget
) -> None:
    """Extend the partners of some items of the control to a maximum matching."""
    matched = {partners[one]: one for one in ours if one in partners}
    width = max(theirs, default=0) + 1
    tried = {one * width + other: True for other, one in matched.items()}  # keys that no garbage collection visits

    def agree(one: int, other: int) -> bool:
        budget.spend()
        known = tried.get(one * width + other)
        if known is None:
            known = tried[one * width + other] = agreement.agree(one, other)
        return known

    for start in [one for one in ours if one not in partners]:
        if len(matched) == len(theirs):
            return
        reached_from: dict[int, int] = {}
        waiting = deque([start])
        free = None
        while waiting and free is None:
            one = waiting.popleft()
            for other in theirs:
                if other not in reached_from and agree(one, other):
                    reached_from[other] = one
                    if other not in matched:
                        free = other
                        break
                    waiting.append(matched[other])
        while free is not None:  # every item on the way back takes the next partner
            one = reached_from[free]
            before = partners.get(one)
            partners[one], matched[free] = free, one
            free = before
