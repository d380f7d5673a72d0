"""What a client could not tell apart is the same, and nothing else is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given

from gateway.core.comparison.equality import (
    CHECK_EVERY,
    MISSING,
    Budget,
    ComparisonBudgetError,
    MaybeValue,
    equal,
    hash_key,
    is_container,
)
from gateway.core.rpc.model import Value
from tests.kit.values import anything

NAN = float("nan")
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
OF_ITS_KIND: list[MaybeValue] = [1, True, 1.0, "1", b"1", [1], {"1": 1}, None, MISSING, NOON, NAN, 0, False, "", [], {}]


@pytest.mark.parametrize("one", range(len(OF_ITS_KIND)))
@pytest.mark.parametrize("other", range(len(OF_ITS_KIND)))
def test_types_count(one: int, other: int) -> None:
    assert equal(OF_ITS_KIND[one], OF_ITS_KIND[other], Budget()) is (one == other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (NAN, -NAN),
        ([NAN], [float("nan")]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        (0.0, -0.0),
        (NOON, NOON.astimezone(timezone(timedelta(hours=2)))),
    ],
)
def test_nan_is_nan_and_members_have_no_order(one: Value, other: Value) -> None:
    assert equal(one, other, Budget())
    assert hash_key(one, Budget()) == hash_key(other, Budget())


@pytest.mark.parametrize(("one", "other"), [([1, 2], [2, 1]), ([1], [1, 1]), ({"a": 1}, {"a": 1, "b": None})])
def test_order_and_presence_count(one: Value, other: Value) -> None:
    assert not equal(one, other, Budget())


def test_a_moment_with_a_zone_is_not_one_without() -> None:
    assert not equal(NOON, NOON.replace(tzinfo=None), Budget())


def test_depth_costs_no_stack() -> None:
    deep: Value = None
    for _ in range(10_000):
        deep = [deep]
    assert equal(deep, deep, Budget())
    while isinstance(deep, list) and deep:  # or else it is taken apart by recursion in C
        deep = deep.pop()


def test_more_than_the_budget_is_refused() -> None:
    with pytest.raises(ComparisonBudgetError):
        equal([0] * 10, [0] * 10, Budget(10))
    with pytest.raises(ComparisonBudgetError):
        hash_key([0] * 10, Budget(10))
    assert equal([0] * 9, [0] * 9, Budget(10))


def test_a_long_comparison_reaches_a_checkpoint_often() -> None:
    checks: list[None] = []
    equal([0] * 10_000, [0] * 10_000, Budget(checkpoint=lambda: checks.append(None)))
    assert len(checks) == 10_001 // CHECK_EVERY


def test_lists_and_structs_are_containers() -> None:
    values: list[MaybeValue] = [[], {}, "", None, MISSING]
    assert [is_container(value) for value in values] == [True, True, False, False, False]


@given(anything(), anything())
def test_alike_is_the_same(one: Value, other: Value) -> None:
    assert (hash_key(one, Budget()) == hash_key(other, Budget())) is equal(one, other, Budget())
    assert equal(one, one, Budget())
