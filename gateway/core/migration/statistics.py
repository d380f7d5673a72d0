"""Statistics that stay valid however often they are looked at, and histograms of latency.

A rollout looks at its counts several times a second, for hours. A test made for one look is then wrong far more often
than it says. The tests here are e-processes: a number that starts at 1 and, while the hypothesis is true, exceeds `1/a`
*at any time* with a probability of at most `a` (Ville's inequality). All functions return its natural logarithm, the
"evidence against" the hypothesis; `threshold(a)` is the value that it must reach.

- One rate against a limit: Robbins' mixture of Wald's likelihood ratios, over alternatives of `ODDS` times the odds.
  A. Wald, Sequential Analysis (1947); H. Robbins, Ann. Math. Stat. 41 (1970); R. Johari et al., Peeking at A/B Tests
  (KDD 2017), for the mixture SPRT.
- Two rates: a betting supermartingale, mixed over fixed stakes (`evidence_of_increase`). S. Howard et al.,
  Time-uniform Chernoff bounds via nonnegative supermartingales, Probab. Surveys 17 (2020); I. Waudby-Smith and
  A. Ramdas, Estimating means of bounded random variables by betting, JRSS B 86 (2024).
- Quantiles: a test of one rate at a bound that the control's quantile does not exceed, after S. Howard and A. Ramdas,
  Sequential estimation of quantiles, Bernoulli 28 (2022).
- Windows that begin again and again: window number k gets a share of `1/(zeta(s) k**s)` of the error probability
  (the stitching function of S. Howard et al., Ann. Statist. 49 (2021), equation 10, with their s = 1.4).
- What is shown to people (`upper_bound`) is a bound for one look: C. Clopper and E. Pearson, Biometrika 26 (1934).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate
from math import ceil, exp, inf, lgamma, log, log1p, sqrt

# One look

SHOWN_ALPHA = 0.01  # error probability of the bounds that are shown to people
_DEVIATIONS = 2.3263  # of a normal distribution, beyond which SHOWN_ALPHA of it lies
_PRECISION = 1e-12  # terms of a sum smaller than this share of it change nothing
_HALVINGS = 40
_MANY = 1000  # hits and misses from which on the exact sum is slow, and the normal distribution as good


def binomial_tail(hits: int, trials: int, rate: float) -> float:
    """The probability of `hits` or more in `trials` at this rate; 1.0 where the hits do not exceed the expectation."""
    if hits <= trials * rate:
        return 1.0
    if rate <= 0:
        return 0.0
    choose = lgamma(trials + 1) - lgamma(hits + 1) - lgamma(trials - hits + 1)
    term = exp(choose + hits * log(rate) + (trials - hits) * log1p(-rate))
    total = term
    for count in range(hits, trials):
        term *= (trials - count) / (count + 1) * rate / (1 - rate)
        total += term
        if term < total * _PRECISION:
            break
    return min(total, 1.0)


def lower_bound(hits: int, trials: int) -> float:
    """The lowest rate that one look does not rule out (Clopper and Pearson, one-sided; Wilson's for many trials)."""
    if min(hits, trials - hits) > _MANY:
        return _wilson(hits / trials, trials)
    low, high = 0.0, hits / trials if trials else 0.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if binomial_tail(hits, trials, middle) < SHOWN_ALPHA:
            low = middle
        else:
            high = middle
    return low


def _wilson(rate: float, trials: int) -> float:
    square = _DEVIATIONS**2 / trials
    return (rate + square / 2 - _DEVIATIONS * sqrt(rate * (1 - rate) / trials + square / trials / 4)) / (1 + square)


def upper_bound(hits: int, trials: int) -> float:
    """The highest rate that one look does not rule out: 0 of 1000 may still be 0.46%."""
    return 1.0 - lower_bound(trials - hits, trials)


# Any number of looks

ODDS = (1.3, 2.0, 4.0, 10.0, 30.0)  # alternatives to a rate: its odds, so many times
_STAKES = (0.15, 0.4, 0.75, 0.985)  # of what the ratio allows
_HIGH_STAKES = (2.0, 4.0, 8.0)  # where the control ran more calls
_EQUAL = 0.98  # calls of the control for each of ours, where it runs all of them too
_RATIOS = tuple(0.02 * 1.25**number for number in range(40))  # for any other division


def threshold(alpha: float) -> float:
    """The evidence that a true hypothesis ever reaches with a probability of at most `alpha`."""
    return -log(alpha)


def spent(alpha: float, number: int) -> float:
    """The share of `alpha` for window `number` (from 1): the shares of all windows add up to `alpha`."""
    return alpha / _ZETA / float(number**_SPENDING)


_SPENDING, _ZETA = 1.4, 3.1055  # zeta(1.4)


def evidence_above(hits: int, trials: int, limit: float) -> float:
    """Evidence against "the rate is at most `limit`"."""
    return _mixed(hits, trials, limit, ODDS)


def evidence_below(hits: int, trials: int, limit: float) -> float:
    """Evidence against "the rate is at least `limit`"."""
    return _mixed(hits, trials, limit, [1 / odds for odds in ODDS])


def _mixed(hits: int, trials: int, limit: float, alternatives: Sequence[float]) -> float:
    """The mean of the likelihood ratios: each alternative has a rate p with p/(1-p) = odds * limit/(1-limit)."""
    if limit <= 0 or limit >= 1:
        impossible = hits > 0 if limit <= 0 else hits < trials
        return inf if impossible else 0.0
    # Each hit multiplies the ratio by odds, and each trial divides it by (1 - limit + odds * limit).
    logs = (hits * log(odds) - trials * log1p(limit * (odds - 1)) for odds in alternatives)
    return _log_sum((each, 1 / len(alternatives)) for each in logs)


def evidence_of_increase(hits: int, trials: int, other_hits: int, other_trials: int, margin: float = 0.0) -> float:
    """Evidence against "the first rate is at most `margin` above the other", whatever the other is.

    A stake u on each hit of ours and u/r against each hit of the other side: (1+u)**hits * (1-u/r)**other_hits *
    exp(-u*margin*trials) is at most a supermartingale wherever r * trials <= other_trials, because log(1+x) <= x.
    Stakes and ratios r are fixed beforehand, so that their mixture is valid for any division of the calls; of the
    ratios that fit, the greatest says enough.
    """
    fitting = [bets for ratio, bets in _BETS if ratio * trials <= other_trials]
    equal = [_EQUAL_BETS] if _EQUAL * trials <= other_trials else []
    return _log_sum(
        (hits * win + other_hits * loss - stake * margin * trials, weight)
        for bets in (*equal, *fitting[-1:])
        for win, loss, stake, weight in bets
    )


def _bets(ratio: float, weight: float) -> tuple[tuple[float, float, float, float], ...]:
    """For each stake the logarithms that a hit of either side adds, the stake, and its weight in the mixture."""
    stakes = [stake * min(ratio, 1.0) for stake in _STAKES] + [stake for stake in _HIGH_STAKES if stake < ratio]
    return tuple((log1p(stake), log1p(-stake / ratio), stake, weight / len(stakes)) for stake in stakes)


def _log_sum(terms: Iterable[tuple[float, float]]) -> float:
    """log(sum of weight * exp(value))."""
    logs = [value + log(weight) for value, weight in terms]
    most = max(logs, default=-inf)
    return most if most in (inf, -inf) else most + log(sum(exp(each - most) for each in logs))


_EQUAL_BETS = _bets(_EQUAL, 0.6)
_BETS = tuple((ratio, _bets(ratio, 0.4 / len(_RATIOS))) for ratio in _RATIOS)


# Latency, counted in buckets that are the same everywhere

STEP = 1.05  # each bound is so many times the one before: the precision of every latency that is shown or compared
FIRST = 50e-6  # seconds
BOUNDS = tuple(FIRST * STEP**number for number in range(339))  # upper bounds in seconds, to 12 minutes
BUCKETS = len(BOUNDS) + 1  # the last one is for all that took longer


def empty_histogram() -> list[int]:
    """No calls."""
    return [0] * BUCKETS


def bucket_of(seconds: float) -> int:
    """The bucket of a call that took so long."""
    return bisect_left(BOUNDS, seconds)


def quantile(buckets: Sequence[int], part: float) -> float:
    """An upper bound in seconds that this part of the calls did not exceed, at most one `STEP` too high; 0: no calls.

    The last bucket has no upper bound: calls of more than 12 minutes count as 12 minutes.
    """
    wanted = max(1, ceil(sum(buckets) * part - _PRECISION))
    number = bisect_left(list(accumulate(buckets)), wanted)
    return BOUNDS[min(number, len(BOUNDS) - 1)] if number < len(buckets) else 0.0


def slower(buckets: Sequence[int], seconds: float) -> int:
    """How many calls certainly took longer: those of the buckets that begin at this time or later."""
    return sum(buckets[bucket_of(seconds) + 1 :])


def quantile_bound(buckets: Sequence[int], part: float, alpha: float) -> float:
    """A time that the true quantile does not exceed at any look, but with probability `alpha`; inf: too few calls.

    The lowest bound of a bucket at which "at least 1-part of all calls are slower" is refuted.
    """
    trials = sum(buckets)
    needed, rest = threshold(alpha), 1 - part
    if evidence_below(0, trials, rest) < needed:
        return inf
    few, many = 0, int(trials * rest)  # the most calls above a bound that still refute it
    while few < many:
        middle = (few + many + 1) // 2
        if evidence_below(middle, trials, rest) >= needed:
            few = middle
        else:
            many = middle - 1
    number = bisect_left(list(accumulate(buckets)), trials - few)
    return BOUNDS[number] if number < len(BOUNDS) else inf
