"""What a rate says at small numbers: exact binomial tails and the bounds made of them. Knows no method and no limit."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from math import exp, hypot, lgamma, log, log1p, sqrt

ALPHA = 0.01  # what happens less often than this by chance is held to be no chance
DEVIATIONS = 2.3263  # of a normal distribution, beyond which lies CHANCE of it

_PRECISION = 1e-12  # terms of a sum smaller than this part of it change nothing
_HALVINGS = 40
_MANY = 1000  # hits and misses from which on the exact sum is slow, and the normal distribution as good


def binomial_tail(hits: int, trials: int, rate: float) -> float:
    """How likely `hits` or more of `trials` are at this rate; 1.0 where that is nothing to wonder at."""
    if hits <= trials * rate:
        return 1.0
    if rate <= 0:
        return 0.0
    term = exp(_log_choose(trials, hits) + hits * log(rate) + (trials - hits) * log1p(-rate))
    total = term
    for count in range(hits, trials):
        term *= (trials - count) / (count + 1) * rate / (1 - rate)
        total += term
        if term < total * _PRECISION:
            break
    return min(total, 1.0)


def _log_choose(trials: int, hits: int) -> float:
    return lgamma(trials + 1) - lgamma(hits + 1) - lgamma(trials - hits + 1)


def lower_bound(hits: int, trials: int) -> float:
    """The lowest rate that explains what was seen (Clopper and Pearson's bound, one-sided; Wilson's for many)."""
    if min(hits, trials - hits) > _MANY:
        return _wilson(hits / trials, trials)
    low, high = 0.0, hits / trials if trials else 0.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if binomial_tail(hits, trials, middle) < ALPHA:
            low = middle
        else:
            high = middle
    return low


def _wilson(rate: float, trials: int) -> float:
    square = DEVIATIONS**2 / trials
    return (rate + square / 2 - DEVIATIONS * sqrt(rate * (1 - rate) / trials + square / trials / 4)) / (1 + square)


def upper_bound(hits: int, trials: int) -> float:
    """The highest rate that explains what was seen: 0 of 1000 may still be 0.46%."""
    return 1.0 - lower_bound(trials - hits, trials)


def certain_increase(hits: int, trials: int, other_hits: int, other_trials: int) -> float:
    """By how much the first rate is higher for certain (Newcombe's combination of both bounds); may be negative."""
    rate, other = hits / trials, other_hits / other_trials
    doubt = hypot(rate - lower_bound(hits, trials), upper_bound(other_hits, other_trials) - other)
    return rate - other - doubt


# How long calls took, counted in buckets that are the same everywhere: kept, added, compared. Knows no method.


STEP = 1.25  # each bound is so many times the one before
FIRST = 50e-6  # seconds
BOUNDS = tuple(FIRST * STEP**number for number in range(75))  # upper bounds in seconds, to 12 minutes
BUCKETS = len(BOUNDS) + 1  # the last one is for all that took longer


def empty_histogram() -> list[int]:
    """No calls."""
    return [0] * BUCKETS


def bucket_of(seconds: float) -> int:
    """The bucket of a call that took so long."""
    return bisect_left(BOUNDS, seconds)


def quantile(buckets: Sequence[int], part: float) -> float:
    """The seconds within which this part of the calls ended, read off inside its bucket; 0 when there were none."""
    wanted = sum(buckets) * part
    before = 0
    for number, count in enumerate(buckets):
        if count and before + count >= wanted:
            lower = FIRST * STEP ** (number - 1)
            return float(min(lower * STEP ** ((wanted - before) / count), BOUNDS[-1]))
        before += count
    return 0.0


def quantile_ratio(buckets: Sequence[int], seconds: float) -> int:
    """How many calls took longer for certain: those of the buckets that begin there or later."""
    return sum(buckets[bucket_of(seconds) + 1 :])
