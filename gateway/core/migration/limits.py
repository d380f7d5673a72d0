"""What was seen of both sides, held against limits: kept, over a limit by what may be chance, or broken. Knows no plan.

What is held against a limit are hits out of trials. A rate within its limit keeps it. A rate over its limit breaks it
when chance would do that less than once in a hundred (`chance.CHANCE`); else more calls must tell. Fewer trials than
`Limits.samples` say nothing at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import zip_longest
from math import inf
from operator import add, sub
from typing import Self

from gateway.core.migration import statistics
from gateway.core.migration.statistics import quantile, quantile_ratio

MAX_ERROR_RATE = 0.5  # of the calls fail: too much whatever the legacy service does


@dataclass(frozen=True, slots=True)
class RolloutLimits:
    """What the new side may do worse."""

    mismatches: float = 0.001  # of the comparisons
    errors: float = 0.005  # of the calls, more than the control's
    latency: float = 1.5  # times the control's p50, and times its p99
    slow_from: float = 0.01  # seconds; what is faster than this is never too slow
    samples: int = 100  # fewer comparisons or calls say nothing: no promotion, no breach
    window: float = 60.0  # seconds; the last so many are judged by themselves too, lest a long good time hide a bad end


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
    return tuple(max(combine(one, other), 0) for one, other in zip_longest(ours, theirs, fillvalue=0))


@dataclass(frozen=True, slots=True)
class Breach:
    """An observed rate over its limit. `broken`: chance does not explain it."""

    broken: bool
    words: str


def find_breaches(limits: RolloutLimits, baseline: SideCounts | None, counts: BothSides) -> Iterator[Breach]:
    """The limits that are exceeded, of those that enough was seen for."""
    if counts.compared >= limits.samples:
        yield from _mismatches(limits, counts)
    if counts.candidate.calls < limits.samples:
        return
    control = control_of(limits.samples, counts, baseline)
    if control is None:
        yield from _hopeless(counts.candidate)
        return
    yield from _errors(limits, control, counts.candidate)
    for part in (0.5, 0.99):
        yield from _latency(limits, part, control, counts.candidate)


def control_of(samples: int, counts: BothSides, baseline: SideCounts | None) -> SideCounts | None:
    """What the candidate is held against: the control now, or what it did in an earlier step."""
    if counts.control.calls >= samples:
        return counts.control
    return baseline if baseline is not None and baseline.calls else None


def _mismatches(limits: RolloutLimits, counts: BothSides) -> Iterator[Breach]:
    different, compared = counts.different, counts.compared
    if different > compared * limits.mismatches:
        words = (
            f"{different} of {compared} differ ({percent(different / compared)}, limit {percent(limits.mismatches)})"
        )
        yield Breach(statistics.binomial_tail(different, compared, limits.mismatches) < statistics.ALPHA, words)


def _errors(limits: RolloutLimits, control: SideCounts, candidate: SideCounts) -> Iterator[Breach]:
    rate, usual = candidate.errors / candidate.calls, control.errors / control.calls
    if rate - usual > limits.errors:
        words = f"{_failed(candidate)}, by the legacy service {percent(usual)}, limit {percent(limits.errors)} more"
        higher = statistics.certain_increase(candidate.errors, candidate.calls, control.errors, control.calls)
        yield Breach(higher > limits.errors, words)


def _hopeless(candidate: SideCounts) -> Iterator[Breach]:
    if statistics.lower_bound(candidate.errors, candidate.calls) > MAX_ERROR_RATE:
        yield Breach(broken=True, words=f"{_failed(candidate)}, and the legacy service has too few to compare with")


def _failed(candidate: SideCounts) -> str:
    rate = percent(candidate.errors / candidate.calls)
    return f"{candidate.errors} of {candidate.calls} calls by D-Bus failed ({rate})"


def _latency(limits: RolloutLimits, part: float, control: SideCounts, candidate: SideCounts) -> Iterator[Breach]:
    """Held to the control's quantile, by counting how many were slower than that allows.

    As many as what was seen of the control does not rule out for itself are no breach: a p99 of few calls is chance.
    """
    usual = quantile(control.latency, part)
    allowed = max(usual * limits.latency, limits.slow_from)
    trials, slow = sum(candidate.latency), quantile_ratio(candidate.latency, allowed)
    if usual > 0 and slow > trials * (1 - part):
        name, now = f"p{part * 100:g}", quantile(candidate.latency, part)
        words = f"{name} of D-Bus is {duration(now)}, of legacy {duration(usual)}, limit {limits.latency:g} times"
        its_own = statistics.upper_bound(quantile_ratio(control.latency, allowed), sum(control.latency))
        yield Breach(statistics.binomial_tail(slow, trials, max(1 - part, its_own)) < statistics.ALPHA, words)


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


# What the evidence of one method says of its D-Bus side, in a few words. Knows no method, no file and no clock.
#
# The limits are those that a rollout has by default; what chance may explain is not held against D-Bus.


# One limit at a time, the others out of reach; chance alone is asked how much is enough.
_ERRORS = replace(LIMITS, samples=1, mismatches=1.0, latency=inf)
_LATENCY = replace(LIMITS, mismatches=1.0, errors=1.0)


class Assessment(Enum):
    """In the order in which they are tried: the first that fits is said."""

    NO_EVIDENCE = "no evidence"  # D-Bus has not run a call yet
    FAILS = "dbus fails"  # more often than the legacy service, by more than the limit
    DIFFERS = "differs"  # at least one comparison did
    SLOW = "dbus slow"  # p50 or p99 is over the limit
    NOT_COMPARED = "not compared"  # D-Bus answers, and nobody looks at what the legacy service would have said
    SO_FAR = "equal so far"  # of fewer comparisons than say something
    IGNORED = "equal but for ignored"  # what differs is what the rules of the mapping ignore
    EQUAL = "equal"


def assess(sides: BothSides, ignored: int = 0) -> Assessment:
    """`ignored`: comparisons that are equal by the rules of the mapping only; they are among those compared."""
    return next(word for word, fits in _TABLE.items() if fits(sides, ignored))


def _exceeds(sides: BothSides, *, errors: bool) -> bool:
    return any(over.broken for over in find_breaches(_ERRORS if errors else _LATENCY, None, sides))


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
