from __future__ import annotations

from math import comb, isclose

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.migration.statistics import ALPHA, binomial_tail, certain_increase, lower_bound, upper_bound


def _exact(hits: int, trials: int, rate: float) -> float:
    return sum(comb(trials, n) * rate**n * (1 - rate) ** (trials - n) for n in range(hits, trials + 1))


@pytest.mark.parametrize(("hits", "trials", "rate"), [(1, 100, 0.001), (2, 100, 0.001), (5, 5, 0.5), (12, 40, 0.2)])
def test_the_tail_is_that_of_the_binomial_distribution(hits: int, trials: int, rate: float) -> None:
    assert isclose(binomial_tail(hits, trials, rate), _exact(hits, trials, rate), rel_tol=1e-9)


def test_what_is_expected_is_nothing_to_wonder_at() -> None:
    assert (
        binomial_tail(0, 0, 0.5)
        == binomial_tail(0, 100, 0.0)
        == binomial_tail(5, 100, 0.05)
        == binomial_tail(3, 3, 1.0)
        == 1.0
    )


def test_what_cannot_be_is_never_chance() -> None:
    assert binomial_tail(1, 1_000_000, 0.0) == 0.0


def test_one_of_a_hundred_may_be_chance_at_a_thousandth_and_two_are_not() -> None:
    assert binomial_tail(1, 100, 0.001) > ALPHA > binomial_tail(2, 100, 0.001)


def test_nothing_in_a_thousand_does_not_rule_out_four_in_a_thousand() -> None:
    assert isclose(upper_bound(0, 1000), 1 - ALPHA ** (1 / 1000), rel_tol=1e-6)
    assert upper_bound(0, 0) == 1.0


@given(st.integers(0, 3000), st.integers(1, 3000))
def test_the_observed_rate_lies_between_its_bounds(hits: int, more: int) -> None:
    trials = hits + more
    assert 0.0 <= lower_bound(hits, trials) <= hits / trials <= upper_bound(hits, trials) <= 1.0


@given(st.integers(1, 300), st.integers(0, 300))
def test_the_lower_bound_is_the_rate_that_makes_the_observation_just_rare(hits: int, more: int) -> None:
    assert isclose(binomial_tail(hits, hits + more, lower_bound(hits, hits + more)), ALPHA, rel_tol=1e-3)


def test_for_many_the_quick_bound_is_the_exact_one() -> None:
    assert isclose(lower_bound(1001, 200_000), 0.0046452, rel_tol=0.002)  # the exact bound, by the sum


def test_a_rate_is_higher_for_certain_by_less_than_it_looks() -> None:
    assert 0 < certain_increase(30, 100, 0, 100) < 0.3
    assert certain_increase(1, 100, 0, 100) < 0
    assert isclose(certain_increase(300_000, 1_000_000, 0, 1_000_000), 0.3, rel_tol=0.01)
