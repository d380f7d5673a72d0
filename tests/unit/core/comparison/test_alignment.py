"""Items of two lists find their partners."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.comparison.alignment import Agreement, AlignedPair, align
from gateway.core.comparison.equality import Budget, ComparisonBudgetError

letters = st.lists(st.sampled_from("abc"), max_size=6)


def paired(control: list[Any], candidate: list[Any], *by: str) -> list[AlignedPair]:
    return align(control, candidate, by, Budget())


def test_items_that_are_the_same_are_partners_wherever_they_stand() -> None:
    assert paired(["a", "b", 1], [1, "a", "b"]) == [(0, 1), (1, 2), (2, 0)]


def test_types_count() -> None:
    assert paired([1, 2], [True, "2"]) == [(0, None), (1, None), (None, 0), (None, 1)]


def test_every_copy_needs_its_own_partner() -> None:
    assert paired(["a", "a", "b"], ["a", "b", "b"]) == [(0, 0), (1, 2), (2, 1)]
    assert paired(["a", "a"], ["a", "b", "c"]) == [(0, 0), (1, None), (None, 1), (None, 2)]


def test_a_single_one_left_on_each_side_are_partners() -> None:
    assert paired(["a", "b"], ["c", "a"]) == [(0, 1), (1, 0)]


def test_structs_are_partners_by_their_key() -> None:
    a, b, c = {"id": "a", "n": 1}, {"id": "b", "n": 2}, {"id": "c", "n": 3}
    assert paired([a, b], [c, {"id": "a", "n": 9}], "id") == [(0, 1), (1, None), (None, 0)]


def test_a_key_can_be_of_several_members() -> None:
    one, other = {"h": 1, "id": 1, "n": 1}, {"h": 2, "id": 1, "n": 2}
    assert paired([one, other], [{**other, "n": 3}, {**one, "n": 4}], "h", "id") == [(0, 1), (1, 0)]


def test_structs_of_one_key_are_partners_when_they_are_the_same_and_else_in_their_order() -> None:
    one, other, third = {"id": 1, "n": 1}, {"id": 1, "n": 2}, {"id": 1, "n": 3}
    assert paired([one, other, other], [third, one], "id") == [(0, 1), (1, 0), (2, None)]


def test_items_without_the_key_are_a_group_of_their_own() -> None:
    assert paired([5, {"id": 1}, {"x": 1}], [{"id": 1}, {"x": 2}], "id") == [(0, 1), (1, 0), (2, None)]


def agreeing(*pairs: tuple[int, int]) -> Agreement:
    return Agreement(lambda one, other: (one, other) in pairs, lambda _: None)


def test_as_many_as_possible_agree_though_the_first_choice_is_wrong() -> None:
    assert align(["a", "b"], ["c", "d"], (), Budget(), agreeing((0, 0), (0, 1), (1, 0))) == [(0, 1), (1, 0)]


def test_equal_items_part_where_both_agree_with_another() -> None:
    """2 and 2 are equal, but only 1-2 and 2-3 pair all of them."""
    near = Agreement(lambda one, other: abs([1, 2][one] - [2, 3][other]) <= 1, lambda _: None)
    assert align([1, 2], [2, 3], (), Budget(), near) == [(0, 0), (1, 1)]


@pytest.mark.parametrize("length", [65, 400])
def test_lists_of_any_length_are_matched(length: int) -> None:
    ours, theirs = list(range(length)), [number + 0.5 for number in reversed(range(length))]
    near = Agreement(lambda one, other: abs(ours[one] - theirs[other]) <= 0.5, lambda _: None)
    assert align(ours, theirs, (), Budget(), near) == [(index, length - 1 - index) for index in range(length)]


def test_items_of_different_keys_are_not_tried() -> None:
    tried: list[tuple[int, int]] = []

    def agree(one: int, other: int) -> bool:
        tried.append((one, other))
        return True

    pairs = align([1, 11, 21], [22, 12, 2], (), Budget(), Agreement(agree, lambda item: str(item)[:-1]))
    assert pairs == [(0, 2), (1, 1), (2, 0)]
    assert sorted(tried) == pairs


def test_tries_are_bounded_by_the_budget() -> None:
    with pytest.raises(ComparisonBudgetError):
        align(list(range(100)), list(range(1000, 1100)), (), Budget(5_000), agreeing())


@given(letters, letters, st.randoms())
def test_everybody_is_named_once_and_order_does_not_matter(
    control: list[Any], candidate: list[Any], chance: random.Random
) -> None:
    pairs = paired(control, candidate)
    assert sorted(one for one, _ in pairs if one is not None) == list(range(len(control)))
    assert sorted(other for _, other in pairs if other is not None) == list(range(len(candidate)))
    chance.shuffle(candidate)
    assert _alike(control, candidate) == sum(
        control[one] == candidate[other] for one, other in _full(control, candidate)
    )
    assert len(paired(candidate, control)) == len(pairs)


def _full(control: list[Any], candidate: list[Any]) -> list[tuple[int, int]]:
    return [(one, other) for one, other in paired(control, candidate) if one is not None and other is not None]


def _alike(control: list[Any], candidate: list[Any]) -> int:
    return sum(min(control.count(letter), candidate.count(letter)) for letter in "abc")
