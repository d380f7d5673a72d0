"""Equality of values, and partners for the items of two lists."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.comparison.equality import (
    CHECK_EVERY,
    MISSING,
    Agreement,
    AlignedPair,
    Budget,
    ComparisonBudgetError,
    MaybeValue,
    align,
    equal,
    hash_key,
)
from gateway.core.rpc.model import Value
from tests.kit.cases import each_case
from tests.kit.values import anything

NAN = float("nan")
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
OF_ITS_KIND: list[MaybeValue] = [1, True, 1.0, "1", b"1", [1], {"1": 1}, None, MISSING, NOON, NAN, 0, False, "", [], {}]


def test_types_count() -> None:
    for (at, one), (where, other) in product(enumerate(OF_ITS_KIND), repeat=2):
        assert equal(one, other, Budget()) is (at == where), (one, other)


@each_case(
    ("one", "other", "alike"),
    [
        (NAN, -NAN, True),
        ([NAN], [float("nan")], True),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        (0.0, -0.0, True),
        (NOON, NOON.astimezone(timezone(timedelta(hours=2))), True),
        ([1, 2], [2, 1], False),
        ([1], [1, 1], False),
        ({"a": 1}, {"a": 1, "b": None}, False),
        (NOON, NOON.replace(tzinfo=None), False),
    ],
)
def test_order_and_presence_count_but_for_members_and_nan_is_nan(one: Value, other: Value, alike: bool) -> None:
    assert equal(one, other, Budget()) is alike
    assert (hash_key(one, Budget()) == hash_key(other, Budget())) is alike


def test_depth_costs_no_stack() -> None:
    deep: Value = None
    for _ in range(10_000):
        deep = [deep]
    assert equal(deep, deep, Budget())
    while isinstance(deep, list) and deep:  # or else it is taken apart by recursion in C
        deep = deep.pop()


def test_more_than_the_budget_is_refused_and_a_checkpoint_is_reached_often() -> None:
    with pytest.raises(ComparisonBudgetError):
        equal([0] * 10, [0] * 10, Budget(10))
    with pytest.raises(ComparisonBudgetError):
        hash_key([0] * 10, Budget(10))
    assert equal([0] * 9, [0] * 9, Budget(10))
    checks: list[None] = []
    equal([0] * 10_000, [0] * 10_000, Budget(checkpoint=lambda: checks.append(None)))
    assert len(checks) == 10_001 // CHECK_EVERY


@given(anything(), anything())
def test_alike_is_the_same(one: Value, other: Value) -> None:
    assert (hash_key(one, Budget()) == hash_key(other, Budget())) is equal(one, other, Budget())
    assert equal(one, one, Budget())


# Alignment


letters = st.lists(st.sampled_from("abc"), max_size=6)


def paired(control: list[Any], candidate: list[Any], *by: str) -> list[AlignedPair]:
    return align(control, candidate, by, Budget())


A, B, C = {"id": "a", "n": 1}, {"id": "b", "n": 2}, {"id": "c", "n": 3}
D, E = {"h": 1, "id": 1, "n": 1}, {"h": 2, "id": 1, "n": 2}


@each_case(
    ("control", "candidate", "by", "pairs"),
    [
        (["a", "b", 1], [1, "a", "b"], (), [(0, 1), (1, 2), (2, 0)]),
        ([1, 2], [True, "2"], (), [(0, None), (1, None), (None, 0), (None, 1)]),
        # every copy needs its own partner; a single one left on each side are partners
        (["a", "a", "b"], ["a", "b", "b"], (), [(0, 0), (1, 2), (2, 1)]),
        (["a", "a"], ["a", "b", "c"], (), [(0, 0), (1, None), (None, 1), (None, 2)]),
        (["a", "b"], ["c", "a"], (), [(0, 1), (1, 0)]),
        # structs are partners by their key, which may be of several members
        ([A, B], [C, {"id": "a", "n": 9}], ("id",), [(0, 1), (1, None), (None, 0)]),
        ([D, E], [{**E, "n": 3}, {**D, "n": 4}], ("h", "id"), [(0, 1), (1, 0)]),
        # of one key those that are the same, and else in their order; without the key they are a group of their own
        ([D, E, E], [{"id": 1, "n": 3}, D], ("id",), [(0, 1), (1, 0), (2, None)]),
        ([5, {"id": 1}, {"x": 1}], [{"id": 1}, {"x": 2}], ("id",), [(0, 1), (1, 0), (2, None)]),
    ],
)
def test_items_and_their_partners(
    control: list[Any], candidate: list[Any], by: tuple[str, ...], pairs: list[AlignedPair]
) -> None:
    assert paired(control, candidate, *by) == pairs


def agreeing(*pairs: tuple[int, int]) -> Agreement:
    return Agreement(lambda one, other: (one, other) in pairs, lambda _: None)


def test_as_many_as_possible_agree_within_the_budget() -> None:
    pairs = agreeing((0, 0), (0, 1), (1, 0), (2, 2), (2, 3), (3, 2))  # an item that was paired makes room for the next
    assert align(list("abcd"), list("efgh"), (), Budget(), pairs) == [(0, 1), (1, 0), (2, 3), (3, 2)]
    # 2 and 2 are equal, but only 1-2 and 2-3 pair all of them.
    near = Agreement(lambda one, other: abs([1, 2][one] - [2, 3][other]) <= 1, lambda _: None)
    assert align([1, 2], [2, 3], (), Budget(), near) == [(0, 0), (1, 1)]
    with pytest.raises(ComparisonBudgetError):
        align(list(range(100)), list(range(1000, 1100)), (), Budget(5_000), agreeing())


@given(letters, letters)
def test_everybody_is_named_once_and_as_many_as_possible_are_equal(control: list[Any], candidate: list[Any]) -> None:
    pairs = paired(control, candidate)
    assert sorted(one for one, _ in pairs if one is not None) == list(range(len(control)))
    assert sorted(other for _, other in pairs if other is not None) == list(range(len(candidate)))
    alike = sum(control[one] == candidate[other] for one, other in pairs if one is not None and other is not None)
    assert alike == sum(min(control.count(letter), candidate.count(letter)) for letter in "abc")
