"""Alignment of two lists whose order has no meaning: which item of the control is compared with which of the candidate.

Equal items are partners first. Where rules let unequal items agree, a maximum matching (augmenting paths, Kuhn 1955;
here breadth-first) finds as many agreeing pairs as possible, so the order of neither list matters. Only items with
one agreement key are tried with each other, and the budget bounds the tries.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TypeAlias

from msgspec import Struct

from gateway.core.comparison.equality import Budget, hash_key
from gateway.core.rpc.model import Value

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
