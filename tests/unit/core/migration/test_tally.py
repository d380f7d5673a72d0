from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.migration.statistics import (
    BOUNDS,
    BUCKETS,
    STEP,
    bucket_of,
    empty_histogram,
    quantile,
    quantile_ratio,
)

TIMES = st.lists(st.floats(1e-4, 500), min_size=1)


def _tally(times: list[float]) -> list[int]:
    buckets = empty_histogram()
    for time in times:
        buckets[bucket_of(time)] += 1
    return buckets


def test_every_time_has_a_bucket() -> None:
    assert bucket_of(0.0) == 0
    assert bucket_of(BOUNDS[0]) == 0
    assert bucket_of(BOUNDS[-1] + 1) == BUCKETS - 1
    assert BOUNDS[-1] > 600


def test_no_calls_have_no_quantile() -> None:
    assert quantile([], 0.5) == quantile(empty_histogram(), 0.99) == 0.0


@given(TIMES)
def test_a_quantile_is_right_within_a_bucket(times: list[float]) -> None:
    for part in (0.5, 0.99):
        exact = sorted(times)[max(0, -int(-len(times) * part // 1) - 1)]
        assert exact / STEP**1.01 <= quantile(_tally(times), part) <= exact * STEP**1.01


@given(TIMES, st.floats(1e-4, 500))
def test_what_is_counted_as_slower_is_slower(times: list[float], limit: float) -> None:
    assert quantile_ratio(_tally(times), limit) <= sum(time > limit for time in times)
    assert quantile_ratio(_tally(times), limit) >= sum(time > limit * STEP for time in times)


def test_all_that_took_longest_is_named_by_the_last_bound() -> None:
    assert quantile(_tally([10_000.0]), 0.5) == BOUNDS[-1]
