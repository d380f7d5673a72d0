from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.tally import BOUNDS, BUCKETS, STEP, Tally, added, empty, merged, place, quantile, slower

TIMES = st.lists(st.floats(1e-4, 500), min_size=1)


def _tally(times: list[float]) -> list[int]:
    buckets = empty()
    for time in times:
        buckets[place(time)] += 1
    return buckets


def test_every_time_has_a_bucket() -> None:
    assert place(0.0) == 0
    assert place(BOUNDS[0]) == 0
    assert place(BOUNDS[-1] + 1) == BUCKETS - 1
    assert BOUNDS[-1] > 600


def test_no_calls_have_no_quantile() -> None:
    assert quantile([], 0.5) == quantile(empty(), 0.99) == 0.0


@given(TIMES)
def test_a_quantile_is_right_within_a_bucket(times: list[float]) -> None:
    for part in (0.5, 0.99):
        exact = sorted(times)[max(0, -int(-len(times) * part // 1) - 1)]
        assert exact / STEP**1.01 <= quantile(_tally(times), part) <= exact * STEP**1.01


@given(TIMES, st.floats(1e-4, 500))
def test_what_is_counted_as_slower_is_slower(times: list[float], limit: float) -> None:
    assert slower(_tally(times), limit) <= sum(time > limit for time in times)
    assert slower(_tally(times), limit) >= sum(time > limit * STEP for time in times)


def test_all_that_took_longest_is_named_by_the_last_bound() -> None:
    assert quantile(_tally([10_000.0]), 0.5) == BOUNDS[-1]


@given(TIMES, TIMES)
def test_histograms_of_several_processes_are_added_number_by_number(one: list[float], other: list[float]) -> None:
    assert merged(_tally(one), _tally(other)) == _tally([*one, *other])
    assert merged([1], [2, 3]) == [3, 3]
    assert merged() == []


def test_counters_are_added_by_name() -> None:
    assert added({"equal": 1}, {"equal": 2, "ignored": 3}) == {"equal": 3, "ignored": 3}


def test_a_tally_is_emptied_into_a_store_and_filled_again_when_that_fails() -> None:
    mine = Tally()
    mine.count("calls", "equal")
    mine.count("calls")
    mine.took("dbus", 0.001)
    counts, durations = mine.take()
    assert (counts, durations) == ({"calls": 2, "equal": 1}, {"dbus": _tally([0.001])})
    assert mine.take() == ({}, {})
    mine.took("legacy", 1.0)
    mine.count("equal")
    mine.put_back(counts, durations)
    assert mine.take() == ({"calls": 2, "equal": 2}, {"legacy": _tally([1.0]), **durations})
