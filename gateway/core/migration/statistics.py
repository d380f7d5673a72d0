"""Statistics that stay valid however often they are looked at, and histograms of latency.

A rollout looks at its counts several times a second, for hours. A test made for one look is then wrong far more often
than it says. The tests here are e-processes: a number that starts at 1 and, while the hypothesis is true, exceeds `1/a`
*at any time* with a probability of at most `a` (Ville's inequality). All functions return its natural logarithm, the
"evidence against" the hypothesis; `threshold(a)` is the value that it must reach.

- One rate against a limit: Robbins' mixture of Wald's likelihood ratios, over alternatives of `ODDS` times the odds.
  The other way round (`evidence_not_above`) it is Wald's test of two rates, which ends with certainty.
  A. Wald, Sequential Analysis (1947); H. Robbins, Ann. Math. Stat. 41 (1970); R. Johari et al., Peeking at A/B Tests
  (KDD 2017), for the mixture SPRT.
- Two rates: a nonnegative supermartingale, mixed over fixed weights (`evidence_of_increase`). S. Howard et al.,
  Time-uniform Chernoff bounds via nonnegative supermartingales, Probab. Surveys 17 (2020); I. Waudby-Smith and
  A. Ramdas, Estimating means of bounded random variables by betting, JRSS B 86 (2024).
- Quantiles: a test of one rate at a bound that the control's quantile does not exceed, after S. Howard and A. Ramdas,
  Sequential estimation of quantiles, Bernoulli 28 (2022).
- Windows that begin again and again: window number k gets a share of `1/(zeta(s) k**s)` of the error probability
  (the stitching function of S. Howard et al., Ann. Statist. 49 (2021), equation 10, with their s = 1.4).
- Errors of keys: calls of one key depend on each other, so errors and calls are divided by their design effect before
  a test. J. Rao and A. Scott, A Simple Method for the Analysis of Clustered Binary Data, Biometrics 48 (1992). One
  group of keys whose errors stand out is cut to what the others explain (winsorizing: J. Tukey, The Future of Data
  Analysis, Ann. Math. Stat. 33 (1962)). Both are estimates, so that the promise holds approximately; see `by_key`.
- What is shown to people (`upper_bound`) is a bound for one look: C. Clopper and E. Pearson, Biometrika 26 (1934).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import accumulate
from math import ceil, exp, inf, lgamma, log, log1p, sqrt
from operator import mul
from zlib import crc32

from msgspec import Struct

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
        rate, square = hits / trials, _DEVIATIONS**2 / trials
        deviation = _DEVIATIONS * sqrt(rate * (1 - rate) / trials + square / trials / 4)
        return (rate + square / 2 - deviation) / (1 + square)
    low, high = 0.0, hits / trials if trials else 0.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if binomial_tail(hits, trials, middle) < SHOWN_ALPHA:
            low = middle
        else:
            high = middle
    return low


def upper_bound(hits: int, trials: int) -> float:
    """The highest rate that one look does not rule out: 0 of 1000 may still be 0.46%."""
    return 1.0 - lower_bound(trials - hits, trials)


# Any number of looks

ODDS = (1.3, 2.0, 4.0, 10.0, 30.0)  # alternatives to a rate: its odds, so many times
_WEIGHTS = (0.15, 0.4, 0.75, 0.985)  # of what the ratio allows
_HIGH_WEIGHTS = (2.0, 4.0, 8.0)  # where the control ran more calls
_EQUAL = 0.98  # calls of the control for each of ours, where it runs all of them too
_RATIOS = tuple(0.02 * 1.25**number for number in range(40))  # for any other division


def threshold(alpha: float) -> float:
    """The evidence that a true hypothesis ever reaches with a probability of at most `alpha`."""
    return -log(alpha)


def spent(alpha: float, number: int) -> float:
    """The share of `alpha` for window `number` (from 1): the shares of all windows add up to `alpha`."""
    return alpha / _ZETA / float(number**_SPENDING)


_SPENDING, _ZETA = 1.4, 3.1055  # zeta(1.4)


def evidence_above(hits: float, trials: float, limit: float) -> float:
    """Evidence against "the rate is at most `limit`"."""
    return _mixed(hits, trials, limit, ODDS)


def evidence_below(hits: float, trials: float, limit: float) -> float:
    """Evidence against "the rate is at least `limit`"."""
    return _mixed(hits, trials, limit, [1 / odds for odds in ODDS])


def a_little_above(limit: float) -> float:
    """The lowest rate above a limit that `evidence_above` looks for, of `ODDS[0]` times the odds."""
    return ODDS[0] * limit / (1 - limit + ODDS[0] * limit)


def evidence_not_above(hits: float, trials: float, limit: float) -> float:
    """Evidence for the limit against a rate `a_little_above` it or higher: Wald's likelihood ratio of the two."""
    return _mixed(hits, trials, a_little_above(limit), (1 / ODDS[0],)) if limit > 0 else 0.0


def _mixed(hits: float, trials: float, limit: float, alternatives: Sequence[float]) -> float:
    """The mean of the likelihood ratios: each alternative has a rate p with p/(1-p) = odds * limit/(1-limit)."""
    if limit <= 0 or limit >= 1:
        impossible = hits > 0 if limit <= 0 else hits < trials
        return inf if impossible else 0.0
    # Each hit multiplies the ratio by odds, and each trial divides it by (1 - limit + odds * limit).
    logs = (hits * log(odds) - trials * log1p(limit * (odds - 1)) for odds in alternatives)
    return _log_sum((each, 1 / len(alternatives)) for each in logs)


def evidence_of_increase(
    hits: float, trials: float, other_hits: float, other_trials: float, margin: float = 0.0, *, fixed: bool = False
) -> float:
    """Evidence against "the first rate is at most `margin` above the other", whatever the other is.

    With a weight u for each hit of ours and u/r for each hit of the other side, (1+u)**hits * (1-u/r)**other_hits *
    exp(-u*margin*trials) is at most a supermartingale wherever r * trials <= other_trials, because log(1+x) <= x.
    Weights and ratios r are fixed beforehand, so that their mixture is valid for any division of the calls; of the
    ratios that fit, the greatest says enough. (The sources call u a bet.) `fixed`: the division does not depend on the
    looks, as that of keys, so that its ratio alone is enough.
    """
    if fixed:
        ratio = other_trials / trials
        return _log_sum(
            (hits * win + other_hits * loss - u * margin * trials, part) for win, loss, u, part in _terms(ratio, 1.0)
        )
    fitting = [terms for ratio, terms in _TERMS if ratio * trials <= other_trials]
    equal = [_EQUAL_TERMS] if _EQUAL * trials <= other_trials else []
    return _log_sum(
        (hits * win + other_hits * loss - u * margin * trials, part)
        for terms in (*equal, *fitting[-1:])
        for win, loss, u, part in terms
    )


def _terms(ratio: float, part: float) -> tuple[tuple[float, float, float, float], ...]:
    """For each weight u the logarithms that a hit of either side adds, u, and its part in the mixture."""
    weights = [u * min(ratio, 1.0) for u in _WEIGHTS] + [u for u in _HIGH_WEIGHTS if u < ratio]
    return tuple((log1p(u), log1p(-u / ratio), u, part / len(weights)) for u in weights)


def _log_sum(terms: Iterable[tuple[float, float]]) -> float:
    """log(sum of weight * exp(value))."""
    logs = [value + log(weight) for value, weight in terms]
    most = max(logs, default=-inf)
    return most if most in (inf, -inf) else most + log(sum(exp(each - most) for each in logs))


_EQUAL_TERMS = _terms(_EQUAL, 0.6)
_TERMS = tuple((ratio, _terms(ratio, 0.4 / len(_RATIOS))) for ratio in _RATIOS)


# Errors of calls that have a key

KEY_GROUPS = 64  # into which a hash divides the keys
_DEVIATIONS_OF_CHANCE = 3.0  # of the errors of a group, beyond which they stand out


class ErrorsByKey(Struct, frozen=True):
    """The errors of one side as they count in a decision.

    `errors`, `calls`: those of the group that stands out are cut. Divided by `effect`, the design effect, they say as
    much as that many independent calls. `size`: calls of the group of an average call. `cut`: the errors that were cut;
    `others`: the calls of the other groups.
    """

    errors: float
    calls: float
    effect: float = 1.0
    size: float = 1.0
    cut: int = 0
    others: int = 0

    def effect_beside(self, other: ErrorsByKey) -> float:
        """The design effect of these calls if errors of a key are at least as alike as those of the other side.

        A side without errors shows nothing of that. By Kish's formula 1 + (size - 1) * correlation, L. Kish, Survey
        Sampling (1965).
        """
        correlation = (other.effect - 1) / (other.size - 1) if other.size > 1 else 0.0
        return max(self.effect, 1 + (self.size - 1) * min(correlation, 1.0))


def key_group(key: str) -> int:
    """The group of a key, 0 to KEY_GROUPS - 1: the same in every process."""
    return crc32(key.encode("utf-8", "surrogatepass")) % KEY_GROUPS


def errors_by_key(calls: Sequence[int], errors: Sequence[int]) -> ErrorsByKey:
    """Judge errors by key. `calls`, `errors`: of each group of keys.

    The group with the most errors beyond the common rate is cut to 1 and what the rate of the others explains, with
    three standard deviations. The design effect is the variance of the rate between the groups, divided by the
    variance that independent calls have (Rao and Scott 1992, with the ratio estimator); it is never below 1.
    """
    total, failed = sum(calls), sum(errors)
    size = _product(calls, calls) / total if total else 1.0
    if not failed:
        return ErrorsByKey(0, total, size=size, others=total)
    common = failed / total
    excess = [wrong - ran * common for ran, wrong in zip(calls, errors, strict=True)]
    worst = max(range(len(calls)), key=excess.__getitem__)
    others = total - calls[worst]
    rate = (failed - errors[worst]) / others if others else 0.0
    expected = calls[worst] * rate
    most = 1 + int(expected + _DEVIATIONS_OF_CHANCE * sqrt(expected * (1 - rate)))
    cut = max(errors[worst] - most, 0)
    kept = [*errors[:worst], errors[worst] - cut, *errors[worst + 1 :]]
    return ErrorsByKey(failed - cut, total, _design_effect(calls, kept), size, cut, others)


def _design_effect(calls: Sequence[int], errors: Sequence[int]) -> float:
    total, failed = sum(calls), sum(errors)
    groups = sum(map(bool, calls))
    rate = failed / total
    if groups < 2 or rate >= 1:
        return 1.0
    # The sum of (errors - calls * rate)**2 over the groups, multiplied out.
    between = _product(errors, errors) - 2 * rate * _product(calls, errors) + rate**2 * _product(calls, calls)
    return max(1.0, between * groups / (groups - 1) / (total * rate * (1 - rate)))


def _product(ours: Sequence[int], theirs: Sequence[int]) -> int:
    return sum(map(mul, ours, theirs))


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
    sums = _sums(tuple(buckets))
    wanted = max(1, ceil((sums[-1] if sums else 0) * part - _PRECISION))
    number = bisect_left(sums, wanted)
    return BOUNDS[min(number, len(BOUNDS) - 1)] if number < len(buckets) else 0.0


@lru_cache(maxsize=64)  # several quantiles are asked of the same calls
def _sums(buckets: tuple[int, ...]) -> Sequence[int]:
    return list(accumulate(buckets))


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
    number = bisect_left(_sums(tuple(buckets)), trials - few)
    return BOUNDS[number] if number < len(BOUNDS) else inf
