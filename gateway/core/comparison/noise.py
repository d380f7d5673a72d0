"""Noise: the control runs twice, and a difference between control and candidate counts only if it is not noise.

Noise excuses what the control itself varies in, and nothing else:

- another value is excused at or inside a place where the two answers of the control differ;
- another type only where the control varies in type, a present or absent member only where it varies in presence;
- a present or absent item only where the control has the same one, or where it varies in the length of that list, and
  then only from the first item on that came or went.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from typing import TypeAlias

from msgspec.structs import replace

from gateway.core.comparison.compare import MAX_DIFFERENCES, Comparison, Difference, Verdict, conclude, walk_outcomes
from gateway.core.comparison.equality import MAX_VALUES, MISSING, Budget, Checkpoint, MaybeValue, no_checkpoint
from gateway.core.comparison.json_path import Place
from gateway.core.comparison.rules import NO_RULES, Rules
from gateway.core.rpc.model import Outcome

MAX_NOISE = 3_000  # places at which a control may vary

_Key: TypeAlias = tuple[str, Place]  # root and place


class _Kind(Enum):
    VALUE = "value"
    TYPE = "type"
    PRESENCE = "presence"


def compare_with_noise(
    control: Outcome,
    again: Outcome,
    candidate: Outcome,
    rules: Rules = NO_RULES,
    checkpoint: Checkpoint = no_checkpoint,
    max_values: int = MAX_VALUES,
) -> Comparison:
    """The differences between control and candidate that are not noise. `again`: the control's second answer."""
    noise = walk_outcomes(control, again, rules, MAX_NOISE, Budget(max_values, checkpoint))
    found = walk_outcomes(control, candidate, rules, MAX_NOISE, Budget(max_values, checkpoint))
    blamed = list(_Noise(noise.differences, checkpoint).blame(found.differences))
    excused = len(blamed) < len(found.differences)
    result = conclude(blamed, found.ignored, exhausted=found.exhausted, more=found.more, excused=excused)
    if blamed and (noise.exhausted or noise.more):  # what is blamed may be noise that was not found
        result = replace(result, verdict=Verdict.TOO_LARGE, differences=(), more=True)
    return replace(result, noisy=tuple(noise.differences[:MAX_DIFFERENCES]))


class _Noise:
    """The differences between the two answers of the control."""

    def __init__(self, noise: Sequence[Difference], checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._at = {(each.root, each.place): each for each in noise}
        self._items = _items_by_list(noise)

    def blame(self, differences: Sequence[Difference]) -> Iterator[Difference]:
        """Those that are not noise, in their order."""
        lists = _items_by_list(differences)
        excused = {id(each) for where, items in lists.items() for each in self._excused_items(where, items)}
        for each in differences:
            self._checkpoint()
            if id(each) not in excused and (_is_item(each) or not self._excuses(each)):
                yield each

    def _excuses(self, difference: Difference) -> bool:
        kind = _kind(difference.control, difference.candidate)
        pairs = self._pairs(difference.root, difference.place)
        return any(kind is _Kind.VALUE or kind is _kind(*pair) for pair in pairs)

    def _pairs(self, root: str, place: Place) -> Iterator[tuple[MaybeValue, MaybeValue]]:
        """Both values of the control at a place, from each unstable place at or around it."""
        for length in range(len(place) + 1):
            around = self._at.get((root, place[:length]))
            if around is not None:
                yield _follow(around.control, place[length:]), _follow(around.candidate, place[length:])

    def _excused_items(self, where: _Key, items: Sequence[Difference]) -> Iterable[Difference]:
        root, place = where
        noise = self._items.get(where, [])
        unstable = {each.place for each in noise}
        if noise:
            first, varies = min(unstable), _growth(noise) != 0
        else:
            lengths = [len(each) if isinstance(each, list) else 0 for pair in self._pairs(root, place) for each in pair]
            first, varies = (*place, min(lengths, default=0)), len(set(lengths)) > 1
        if _growth(items) and not varies:
            return ()
        return [each for each in items if each.place in unstable or (varies and each.place >= first)]


def _items_by_list(differences: Sequence[Difference]) -> Mapping[_Key, list[Difference]]:
    """The items that are present on one side only, by root and place of their list."""
    items: dict[_Key, list[Difference]] = defaultdict(list)
    for each in differences:
        if _is_item(each):
            items[each.root, each.place[:-1]].append(each)
    return items


def _is_item(difference: Difference) -> bool:
    """Whether an item of a list is present on one side only."""
    one_sided = difference.control is MISSING or difference.candidate is MISSING
    return one_sided and bool(difference.place) and isinstance(difference.place[-1], int)


def _growth(items: Iterable[Difference]) -> int:
    """By how many items the second list is longer."""
    return sum(1 if each.control is MISSING else -1 for each in items)


def _kind(one: MaybeValue, other: MaybeValue) -> _Kind:
    if one is MISSING or other is MISSING:
        return _Kind.VALUE if one is other else _Kind.PRESENCE
    return _Kind.VALUE if type(one) is type(other) else _Kind.TYPE


def _follow(value: MaybeValue, steps: Place) -> MaybeValue:
    for step in steps:
        if isinstance(value, dict) and isinstance(step, str):
            value = value.get(step, MISSING)
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            value = value[step]
        else:
            return MISSING
    return value
