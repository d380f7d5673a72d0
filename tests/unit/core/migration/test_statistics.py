from __future__ import annotations

from itertools import product
from math import comb, exp, inf, isclose, sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.migration.statistics import (
    BOUNDS,
    BUCKETS,
    SHOWN_ALPHA,
    STEP,
    a_little_above,
    binomial_tail,
    bucket_of,
    empty_histogram,
    errors_by_key,
    evidence_above,
    evidence_below,
    evidence_not_above,
    evidence_of_increase,
    key_group,
    lower_bound,
    quantile,
    quantile_bound,
    slower,
    spent,
    threshold,
    upper_bound,
)
from tests.kit.cases import each_case

# One look


def _binomial(hits: int, trials: int, rate: float) -> float:
    return comb(trials, hits) * rate**hits * (1 - rate) ** (trials - hits)


def test_the_tail_is_that_of_the_binomial_distribution_and_bounds_are_those_of_clopper_and_pearson() -> None:
    for hits, trials, rate in ((1, 100, 0.001), (2, 100, 0.001), (5, 5, 0.5), (12, 40, 0.2)):
        exact = sum(_binomial(more, trials, rate) for more in range(hits, trials + 1))
        assert isclose(binomial_tail(hits, trials, rate), exact, rel_tol=1e-9)
    no_surprise = [(0, 0, 0.5), (0, 100, 0.0), (5, 100, 0.05), (3, 3, 1.0)]
    assert [binomial_tail(*each) for each in no_surprise] == [1.0] * 4
    assert binomial_tail(1, 1_000_000, 0.0) == 0.0
    assert isclose(upper_bound(0, 1000), 1 - SHOWN_ALPHA ** (1 / 1000), rel_tol=1e-6)
    assert upper_bound(0, 0) == 1.0
    assert isclose(lower_bound(1001, 200_000), 0.0046452, rel_tol=0.002)  # the exact bound; Wilson's is used


@given(st.integers(1, 300), st.integers(0, 300))
def test_the_lower_bound_is_the_rate_that_makes_the_observation_just_rare(hits: int, more: int) -> None:
    bound = lower_bound(hits, hits + more)
    assert isclose(binomial_tail(hits, hits + more, bound), SHOWN_ALPHA, rel_tol=1e-3)
    assert 0.0 <= bound <= hits / (hits + more) <= upper_bound(hits, hits + more) <= 1.0


# Any number of looks


@each_case("limit", [0.001, 0.05, 0.5, 0.99])
def test_evidence_has_the_mean_1_at_the_limit_and_less_within_it(limit: float) -> None:
    above = a_little_above(limit)
    for evidence, at, within in (
        (evidence_above, limit, limit / 2),
        (evidence_below, limit, (1 + limit) / 2),
        (evidence_not_above, above, (1 + above) / 2),
    ):
        for rate, exact in ((at, True), (within, False)):
            mean = sum(_binomial(hits, 40, rate) * exp(evidence(hits, 40, limit)) for hits in range(41))
            assert isclose(mean, 1.0, rel_tol=1e-9) if exact else mean < 1.0


@each_case("trials", [(12, 12), (3, 20), (20, 3)])
@each_case("margin", [0.0, 0.01])
@each_case("rate", [0.0, 0.02, 0.3, 0.8])
def test_evidence_of_an_increase_has_a_mean_of_at_most_1_whatever_the_control(
    rate: float, margin: float, trials: tuple[int, int]
) -> None:
    ours, theirs = trials
    mean = sum(
        _binomial(hits, ours, rate + margin)
        * _binomial(other, theirs, rate)
        * exp(evidence_of_increase(hits, ours, other, theirs, margin))
        for hits, other in product(range(ours + 1), range(theirs + 1))
    )
    assert mean <= 1.0 + 1e-9


@each_case(("rate", "alpha"), [(0.02, 0.05), (0.3, 0.01)])
def test_a_look_after_every_call_ever_crosses_the_threshold_with_no_more_than_alpha(rate: float, alpha: float) -> None:
    """Exactly, by following the distribution of the hits."""
    crossed, alive = 0.0, {0: 1.0}
    for trials in range(1, 400):
        after: dict[int, float] = {}
        for hits, chance in alive.items():
            after[hits] = after.get(hits, 0.0) + chance * (1 - rate)
            after[hits + 1] = after.get(hits + 1, 0.0) + chance * rate
        over = [hits for hits in after if evidence_above(hits, trials, rate) >= threshold(alpha)]
        crossed += sum(after.pop(hits) for hits in over)
        alive = {hits: chance for hits, chance in after.items() if chance > 1e-15}
    assert alpha / 5 < crossed <= alpha


def test_every_rate_is_decided_in_the_end_by_one_test_or_the_other() -> None:
    """The two ratios cross at about a seventh above the limit, so that no rate is left between them."""
    trials, limit = 10_000_000, 0.001
    for rate in range(1000, 1300, 10):
        hits = trials * rate // 1_000_000
        certain = evidence_above(hits, trials, limit) >= threshold(1e-6)
        assert certain is not (evidence_not_above(hits, trials, limit) >= threshold(0.05))
        assert certain is (rate > 1143)


def test_a_limit_of_nothing_is_refuted_by_the_first_hit_and_an_increase_is_seen_at_any_division() -> None:
    assert (evidence_above(1, 1000, 0.0), evidence_above(0, 1000, 0.0)) == (inf, 0.0)
    assert evidence_not_above(0, 1000, 0.0) == evidence_not_above(1, 1000, 0.0) == 0.0
    assert (evidence_below(999, 1000, 1.0), evidence_below(1000, 1000, 1.0)) == (inf, 0.0)
    for trials, others in ((1000, 1000), (1000, 100_000), (1000, 120)):
        assert evidence_of_increase(trials * 3 // 10, trials, others // 100, others, 0.0025) > threshold(1e-6)
        assert evidence_of_increase(trials // 100, trials, others // 100, others) < 0
    assert evidence_of_increase(10, 10, 0, 0) == -inf
    first = sum(spent(0.01, number) for number in range(1, 100_000))
    assert 0.0098 < first < 0.01


# Latency

TIMES = st.lists(st.floats(1e-4, 500), min_size=1)


def _histogram(times: list[float]) -> list[int]:
    buckets = empty_histogram()
    for time in times:
        buckets[bucket_of(time)] += 1
    return buckets


def test_every_time_has_a_bucket_and_quantiles_come_down_with_more_calls() -> None:
    assert bucket_of(0.0) == bucket_of(BOUNDS[0]) == 0
    assert bucket_of(BOUNDS[-1] + 1) == BUCKETS - 1
    assert BOUNDS[-1] > 720
    assert quantile([], 0.5) == quantile(empty_histogram(), 0.99) == 0.0
    assert quantile(_histogram([10_000.0]), 0.5) == BOUNDS[-1]
    few, many = (quantile_bound(_histogram([n / of for n in range(1, of + 1)]), 0.5, 0.01) for of in (100, 1000))
    assert 0.8 > few > many > 0.5
    assert quantile_bound(_histogram([0.01] * 100), 0.99, 0.01) == inf  # no 100 calls say what a p99 is


@given(TIMES, st.sampled_from([0.5, 0.9, 0.99]))
def test_a_quantile_is_an_upper_bound_and_at_most_a_step_too_high(times: list[float], part: float) -> None:
    shown = quantile(_histogram(times), part)
    assert sum(time <= shown for time in times) >= len(times) * part
    assert sum(time <= shown / STEP**1.01 for time in times) < max(1, len(times) * part)


@given(TIMES, st.floats(1e-4, 500))
def test_slower_counts_no_call_that_may_have_been_faster(times: list[float], limit: float) -> None:
    counted = slower(_histogram(times), limit)
    assert sum(time > limit * STEP for time in times) <= counted <= sum(time > limit for time in times)


# Errors by key


def test_a_group_of_keys_that_stands_out_is_cut_to_what_the_others_explain() -> None:
    for errors, left in (([20, *[0] * 49], 1), ([20, *[1] * 49], 1 + int(1 + 3 * sqrt(0.95)) + 49)):
        found = errors_by_key([20] * 50, errors)
        assert (found.errors, found.cut, found.others) == (left, sum(errors) - left, 980)
    found = errors_by_key([20] * 50, [1] * 50)
    assert (found.errors, found.calls, found.effect, found.cut) == (50, 1000, 1.0, 0)
    assert [key_group(key) for key in ("", "OpaqueRef:1", "\ud800")] == [0, 26, 40]


def test_the_design_effect_of_keys_that_always_fail_is_the_number_of_their_calls() -> None:
    found = errors_by_key([20] * 50, [20] * 10 + [0] * 40)
    assert found.effect == pytest.approx(20.0, rel=0.03)
    assert found.errors / found.effect == pytest.approx(10.0, abs=0.5)  # one group was cut
    failing, sound = errors_by_key([20] * 50, [20] * 10 + [0] * 40), errors_by_key([5] * 50, [0] * 50)
    assert sound.effect == 1.0
    assert sound.effect_beside(failing) == pytest.approx(5.0, rel=0.03)
    assert failing.effect_beside(sound) == failing.effect
