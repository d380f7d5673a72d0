"""What a rate says at small numbers: exact binomial tails and the bounds made of them. Knows no method and no limit."""

from __future__ import annotations

from math import exp, hypot, lgamma, log, log1p, sqrt

CHANCE = 0.01  # what happens less often than this by chance is held to be no chance
DEVIATIONS = 2.3263  # of a normal distribution, beyond which lies CHANCE of it

_PRECISION = 1e-12  # terms of a sum smaller than this part of it change nothing
_HALVINGS = 40
_MANY = 1000  # hits and misses from which on the exact sum is slow, and the normal distribution as good


def tail(hits: int, trials: int, rate: float) -> float:
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


def at_least(hits: int, trials: int) -> float:
    """The lowest rate that explains what was seen (Clopper and Pearson's bound, one-sided; Wilson's for many)."""
    if min(hits, trials - hits) > _MANY:
        return _wilson(hits / trials, trials)
    low, high = 0.0, hits / trials if trials else 0.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if tail(hits, trials, middle) < CHANCE:
            low = middle
        else:
            high = middle
    return low


def _wilson(rate: float, trials: int) -> float:
    square = DEVIATIONS**2 / trials
    return (rate + square / 2 - DEVIATIONS * sqrt(rate * (1 - rate) / trials + square / trials / 4)) / (1 + square)


def at_most(hits: int, trials: int) -> float:
    """The highest rate that explains what was seen: 0 of 1000 may still be 0.46%."""
    return 1.0 - at_least(trials - hits, trials)


def higher_by(hits: int, trials: int, other_hits: int, other_trials: int) -> float:
    """By how much the first rate is higher for certain (Newcombe's combination of both bounds); may be negative."""
    rate, other = hits / trials, other_hits / other_trials
    doubt = hypot(rate - at_least(hits, trials), at_most(other_hits, other_trials) - other)
    return rate - other - doubt
