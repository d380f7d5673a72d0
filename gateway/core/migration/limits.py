"""What both sides did, compared with the limits of a plan: within a limit, perhaps above it, or certainly above it.

All tests are valid however often they are repeated (see `statistics`). Each limit of each step has the error
probability `ALPHA`, which the views of its counts share: all of them, and the last window of them. A limit is
exceeded when the observed value is above it. It is broken when in addition

- mismatches: "the rate is within the limit" is refuted;
- errors: "D-Bus fails at most half the limit more often than the legacy service" is refuted;
- latency: "the quantile is at most sqrt(limit) times the control's" is refuted. Both quantiles are uncertain.

The half limits are the indifference zone of Wald's test: a difference that small is rolled back by mistake with
probability `ALPHA` at most, and one above the limit is found early. Fewer trials than `RolloutLimits.samples` decide
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import zip_longest
from math import inf, sqrt
from operator import add, sub
from typing import Self

from gateway.core.migration import statistics
from gateway.core.migration.statistics import quantile

ALPHA = 0.002  # error probability of each limit in each step
MAX_ERROR_RATE = 0.5  # a higher rate of errors is a breach without any control to compare with


@dataclass(frozen=True, slots=True)
class RolloutLimits:
    """What the new side may do worse."""

    mismatches: float = 0.001  # of the comparisons
    errors: float = 0.005  # of the calls, more than the control's
    latency: float = 1.5  # times the control's p50, and times its p99
    slow_from: float = 0.01  # seconds; what is faster than this is never too slow
    samples: int = 100  # fewer comparisons or calls say nothing: no promotion, no breach
    window: float = 60.0  # seconds; windows of this length are tested by themselves: a long good time hides no bad end


@dataclass(frozen=True, slots=True)
class SideCounts:
    """What one side did, whether it answered or was only observed."""

    calls: int = 0
    errors: int = 0
    latency: tuple[int, ...] = ()  # calls in each bucket of `tally`

    def __add__(self, other: Self) -> Self:
        return replace(
            self,
            calls=self.calls + other.calls,
            errors=self.errors + other.errors,
            latency=_each(add, self.latency, other.latency),
        )

    def __sub__(self, other: Self) -> Self:
        return replace(
            self,
            calls=self.calls - other.calls,
            errors=self.errors - other.errors,
            latency=_each(sub, self.latency, other.latency),
        )


@dataclass(frozen=True, slots=True)
class BothSides:
    """What both sides did. The control is the legacy service, the candidate D-Bus."""

    compared: int = 0
    different: int = 0
    control: SideCounts = SideCounts()
    candidate: SideCounts = SideCounts()

    def __add__(self, other: Self) -> Self:
        return replace(
            self,
            compared=self.compared + other.compared,
            different=self.different + other.different,
            control=self.control + other.control,
            candidate=self.candidate + other.candidate,
        )

    def since(self, start: Self) -> Self:
        """What came after `start`; all of it when the counters were cleared meanwhile."""
        if any(ours < theirs for ours, theirs in zip(_numbers(self), _numbers(start), strict=True)):
            return self
        return replace(
            self,
            compared=self.compared - start.compared,
            different=self.different - start.different,
            control=self.control - start.control,
            candidate=self.candidate - start.candidate,
        )


def _numbers(sides: BothSides) -> tuple[int, ...]:
    control, candidate = sides.control, sides.candidate
    return (sides.compared, sides.different, control.calls, control.errors, candidate.calls, candidate.errors)


def _each(combine: Callable[[int, int], int], ours: Sequence[int], theirs: Sequence[int]) -> tuple[int, ...]:
    if not theirs or (not ours and combine is add):
        return tuple(ours or theirs)
    if len(ours) != len(theirs):
        return tuple(max(combine(one, other), 0) for one, other in zip_longest(ours, theirs, fillvalue=0))
    return tuple(map(combine, ours, theirs))


@dataclass(frozen=True, slots=True)
class Part:
    """Some counts of a step that are tested by themselves too, with their share of the error probability."""

    counts: BothSides
    alpha: float = ALPHA


@dataclass(frozen=True, slots=True)
class Breach:
    """A limit that is exceeded, with the evidence that this is not chance and the evidence that is needed."""

    evidence: float  # natural logarithm, see `statistics`
    needed: float
    words: str

    @property
    def broken(self) -> bool:
        """Whether it is certain."""
        return self.evidence >= self.needed

    @property
    def likely(self) -> bool:
        """Whether chance alone does this in fewer than one of ten windows: no moment for a promotion."""
        return self.evidence >= _LIKELY


_LIKELY = statistics.threshold(0.1)


def find_breaches(
    limits: RolloutLimits, baseline: SideCounts | None, counts: BothSides, alpha: float = ALPHA
) -> Iterator[Breach]:
    """The exceeded limits, of those with enough counts. `alpha`: the error probability for each."""
    needed = statistics.threshold(alpha)
    if counts.compared >= limits.samples:
        yield from _mismatches(limits, counts, needed)
    if counts.candidate.calls < limits.samples:
        return
    control = control_of(limits.samples, counts, baseline)
    if control is None:
        yield from _hopeless(counts.candidate, needed)
        return
    yield from _errors(limits, control, counts.candidate, needed)
    for part in (0.5, 0.99):
        yield from _latency(limits, part, control, counts.candidate, alpha)


def control_of(samples: int, counts: BothSides, baseline: SideCounts | None) -> SideCounts | None:
    """The counts to compare the candidate with: the control's of this step, or of an earlier one; None: too few."""
    if counts.control.calls >= samples:
        return counts.control
    return baseline if baseline is not None and baseline.calls else None


def _mismatches(limits: RolloutLimits, counts: BothSides, needed: float) -> Iterator[Breach]:
    different, compared = counts.different, counts.compared
    if different > compared * limits.mismatches:
        words = (
            f"{different} of {compared} differ ({percent(different / compared)}, limit {percent(limits.mismatches)})"
        )
        yield Breach(statistics.evidence_above(different, compared, limits.mismatches), needed, words)


def _errors(limits: RolloutLimits, control: SideCounts, candidate: SideCounts, needed: float) -> Iterator[Breach]:
    rate, usual = candidate.errors / candidate.calls, control.errors / control.calls
    if rate - usual > limits.errors:
        words = f"{_failed(candidate)}, by the legacy service {percent(usual)}, limit {percent(limits.errors)} more"
        evidence = statistics.evidence_of_increase(
            candidate.errors, candidate.calls, control.errors, control.calls, limits.errors / 2
        )
        yield Breach(evidence, needed, words)


def _hopeless(candidate: SideCounts, needed: float) -> Iterator[Breach]:
    evidence = statistics.evidence_above(candidate.errors, candidate.calls, MAX_ERROR_RATE)
    if evidence >= needed:
        yield Breach(evidence, needed, f"{_failed(candidate)}, and the legacy service has too few to compare with")


def _failed(candidate: SideCounts) -> str:
    rate = percent(candidate.errors / candidate.calls)
    return f"{candidate.errors} of {candidate.calls} calls by D-Bus failed ({rate})"


def _latency(
    limits: RolloutLimits, part: float, control: SideCounts, candidate: SideCounts, alpha: float
) -> Iterator[Breach]:
    """A quantile of both sides. Not exceeded either while the calls favour no difference, as with two modes of 50%."""
    usual, now = quantile(control.latency, part), quantile(candidate.latency, part)
    if not usual or now <= max(usual * limits.latency, limits.slow_from):
        return
    most = statistics.quantile_bound(control.latency, part, alpha / 2)
    slow = statistics.slower(candidate.latency, most * sqrt(limits.latency))
    evidence = statistics.evidence_above(slow, sum(candidate.latency), 1 - part)
    if evidence > 0:
        name = f"p{part * 100:g}"
        words = f"{name} of D-Bus is {duration(now)}, of legacy {duration(usual)}, limit {limits.latency:g} times"
        yield Breach(evidence, statistics.threshold(alpha / 2), words)


# Words and numbers


def numbers(counts: BothSides, seconds: float) -> dict[str, float]:
    """What a decision is made of, for the audit."""
    sides = {"legacy": counts.control, "dbus": counts.candidate}
    found: dict[str, float] = {
        "seconds": round(seconds, 3),
        "compared": counts.compared,
        "different": counts.different,
    }
    for name, side in sides.items():
        found |= {f"{name}_calls": side.calls, f"{name}_errors": side.errors}
        if any(side.latency):
            found |= {f"{name}_p50": quantile(side.latency, 0.5), f"{name}_p99": quantile(side.latency, 0.99)}
    return found


def summary(counts: BothSides) -> str:
    """The same in a line; what was compared with the rate that it does not rule out."""
    compared = "nothing compared"
    if counts.compared:
        most = percent(statistics.upper_bound(counts.different, counts.compared))
        compared = f"{counts.different} of {counts.compared} differ (no more than {most})"
    return f"{compared}, {counts.candidate.errors} of {counts.candidate.calls} calls by D-Bus failed"


def percent(rate: float) -> str:
    """A rate from 0 to 1 for people."""
    return f"{rate * 100:.3g}%"


def duration(seconds: float) -> str:
    """A time for people."""
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 120 else f"{seconds / 60:.3g} min"


LIMITS = RolloutLimits()


# A verdict on the D-Bus side of one method, for `status`: one look, with the default limits of a rollout.


# One limit at a time, the others out of reach; chance alone is asked how much is enough.
_ERRORS = replace(LIMITS, samples=1, mismatches=1.0, latency=inf)
_LATENCY = replace(LIMITS, mismatches=1.0, errors=1.0)


class Assessment(Enum):
    """In the order in which they are tried: the first that fits is said."""

    NO_EVIDENCE = "no evidence"  # D-Bus has not run a call yet
    FAILS = "dbus fails"  # more often than the legacy service, by more than the limit
    DIFFERS = "differs"  # at least one comparison did
    SLOW = "dbus slow"  # p50 or p99 is over the limit
    NOT_COMPARED = "not compared"  # D-Bus answers, and the legacy service is not asked
    SO_FAR = "equal so far"  # of fewer comparisons than say something
    IGNORED = "equal but for ignored"  # what differs is what the rules of the mapping ignore
    EQUAL = "equal"


def assess(sides: BothSides, ignored: int = 0) -> Assessment:
    """`ignored`: comparisons that are equal by the rules of the mapping only; they are among those compared."""
    return next(word for word, fits in _TABLE.items() if fits(sides, ignored))


def _exceeds(sides: BothSides, *, errors: bool) -> bool:
    limits = _ERRORS if errors else _LATENCY
    return any(over.broken for over in find_breaches(limits, None, sides, statistics.SHOWN_ALPHA))


_TABLE: dict[Assessment, Callable[[BothSides, int], bool]] = {
    Assessment.NO_EVIDENCE: lambda sides, _: not sides.candidate.calls and not sides.compared,
    Assessment.FAILS: lambda sides, _: _exceeds(sides, errors=True),
    Assessment.DIFFERS: lambda sides, _: sides.different > 0,
    Assessment.SLOW: lambda sides, _: _exceeds(sides, errors=False),
    Assessment.NOT_COMPARED: lambda sides, _: not sides.compared,
    Assessment.SO_FAR: lambda sides, _: sides.compared < LIMITS.samples,
    Assessment.IGNORED: lambda _, ignored: ignored > 0,
    Assessment.EQUAL: lambda _, __: True,
}
