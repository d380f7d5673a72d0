"""Whether two legacy values are the same to a client: types count, NaN is NaN. Knows no rule and no path."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from enum import Enum
from typing import Final, Literal, TypeAlias

from gateway.core.rpc.model import Value

MOST = 250_000  # values that one comparison looks at


class _Missing(Enum):
    MISSING = "missing"


MISSING: Final = _Missing.MISSING  # what stands where a member or item is not there; nil is there
Missing: TypeAlias = Literal[_Missing.MISSING]
Found: TypeAlias = Value | Missing


class ComparisonBudgetError(Exception):
    """More values than one comparison looks at."""


class Budget:
    """How many values may still be looked at; shared by all parts of one comparison."""

    def __init__(self, left: int = MOST) -> None:
        self.left = left

    def spend(self, values: int = 1) -> None:
        """Note what was looked at; raises TooMuchError."""
        self.left -= values
        if self.left < 0:
            raise ComparisonBudgetError


def equal(one: Found, other: Found, budget: Budget) -> bool:
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
        elif not leaves_equal(one, other):
            return False
    return True


def leaves_equal(one: object, other: object) -> bool:
    """The same of two values of one type that hold no others."""
    return one is other or one == other or (one != one and other != other)


def holds_others(value: Found) -> bool:
    """Whether it is a list or a struct."""
    return isinstance(value, list | dict)


def hash_key(value: Found, budget: Budget) -> Hashable:
    """The same for two values exactly when they are the same."""
    budget.spend()
    if isinstance(value, list):
        return "list", tuple([hash_key(item, budget) for item in value])
    if isinstance(value, dict):
        return "struct", frozenset(_members(value, budget))
    if isinstance(value, float) and value != value:
        return "nan"
    return type(value), value


def _members(struct: dict[str, Value], budget: Budget) -> Iterator[tuple[str, Hashable]]:
    for name, member in struct.items():
        yield name, hash_key(member, budget)


# Which item of one list belongs to which of another when their order says nothing. Knows no rule and no path.


AlignedPair: TypeAlias = tuple[int | None, int | None]  # indexes in control and candidate; None: it has no partner
Agree: TypeAlias = Callable[[int, int], bool]

MOST_TRIED = 64  # items on a side that are tried each against each


def align(
    control: Sequence[Value],
    candidate: Sequence[Value],
    by: Sequence[str],
    budget: Budget,
    agree: Agree | None = None,
) -> list[AlignedPair]:
    """Every item once, with its partner: items that are the same first, then those that agree, then the rest.

    `by`: items of the rest are partners when these members are the same, in their order where several are. Without it
    the rest have no partners, but for a single one on each side. `agree`: whether two that are not the same agree.
    """
    pairs: list[AlignedPair] = []
    for ours, theirs in _groups(control, candidate, by, budget):
        pairs += _pair_group(control, candidate, ours, theirs, budget, agree, keyed=bool(by))
    return sorted(pairs, key=_in_order)


def _in_order(align: AlignedPair) -> tuple[bool, int]:
    """As the control has them; what only the candidate has comes last."""
    one, other = align
    return (False, one) if one is not None else (True, other or 0)


def _groups(
    control: Sequence[Value], candidate: Sequence[Value], by: Sequence[str], budget: Budget
) -> Iterator[tuple[list[int], list[int]]]:
    if not by:
        yield list(range(len(control))), list(range(len(candidate)))
        return
    groups: dict[Hashable, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for side, items in enumerate((control, candidate)):
        for index, item in enumerate(items):
            groups[_key(item, by, budget)][side].append(index)
    yield from groups.values()


def _key(item: Value, by: Sequence[str], budget: Budget) -> Hashable:
    """What tells an item apart; None for one that does not have it all."""
    if not isinstance(item, dict) or not all(name in item for name in by):
        return None
    return tuple([hash_key(item[name], budget) for name in by])


def _pair_group(
    control: Sequence[Value],
    candidate: Sequence[Value],
    ours: list[int],
    theirs: list[int],
    budget: Budget,
    agree: Agree | None,
    *,
    keyed: bool,
) -> Iterator[AlignedPair]:
    if len(ours) == len(theirs) == 1:
        yield ours[0], theirs[0]
        return
    alike = _alike(control, candidate, ours, theirs, budget)
    yield from alike
    ours, theirs = _rest(ours, theirs, alike)
    if agree is not None and ours and theirs and max(len(ours), len(theirs)) <= MOST_TRIED:
        agreeing = _matching(ours, theirs, agree)
        yield from agreeing
        ours, theirs = _rest(ours, theirs, agreeing)
    together = min(len(ours), len(theirs)) if keyed or len(ours) == len(theirs) == 1 else 0
    yield from zip(ours[:together], theirs[:together], strict=True)
    yield from ((index, None) for index in ours[together:])
    yield from ((None, index) for index in theirs[together:])


def _alike(
    control: Sequence[Value], candidate: Sequence[Value], ours: Sequence[int], theirs: Sequence[int], budget: Budget
) -> list[tuple[int, int]]:
    waiting: dict[Hashable, list[int]] = defaultdict(list)
    for index in reversed(theirs):
        waiting[hash_key(candidate[index], budget)].append(index)
    pairs = []
    for index in ours:
        partners = waiting.get(hash_key(control[index], budget))
        if partners:
            pairs.append((index, partners.pop()))
    return pairs


def _rest(ours: list[int], theirs: list[int], paired: Sequence[tuple[int, int]]) -> tuple[list[int], list[int]]:
    gone, given = {one for one, _ in paired}, {other for _, other in paired}
    return [one for one in ours if one not in gone], [other for other in theirs if other not in given]


def _matching(ours: Sequence[int], theirs: Sequence[int], agree: Agree) -> list[tuple[int, int]]:
    """As many pairs that agree as there can be (Kuhn's augmenting paths): which list comes first does not matter."""
    agreeing = {one: [other for other in theirs if agree(one, other)] for one in ours}
    partner: dict[int, int] = {}  # of theirs

    def placed(one: int, tried: set[int]) -> bool:
        for other in agreeing[one]:
            if other not in tried:
                tried.add(other)
                if other not in partner or placed(partner[other], tried):
                    partner[other] = one
                    return True
        return False

    for one in ours:
        placed(one, set())
    return [(one, other) for other, one in partner.items()]
