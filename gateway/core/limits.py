"""What was seen of both sides, held against limits: kept, over a limit by what may be chance, or broken. Knows no plan.

What is held against a limit are hits out of trials. A rate within its limit keeps it. A rate over its limit breaks it
when chance would do that less than once in a hundred (`chance.CHANCE`); else more calls must tell. Fewer trials than
`Limits.samples` say nothing at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from operator import add, sub
from typing import Self

from gateway.core import chance
from gateway.core.tally import quantile, slower

HOPELESS = 0.5  # of the calls fail: too much whatever the old service does


@dataclass(frozen=True, slots=True)
class Limits:
    """What the new side may do worse."""

    mismatches: float = 0.001  # of the comparisons
    errors: float = 0.005  # of the calls, more than the control's
    latency: float = 1.5  # times the control's p50, and times its p99
    slow_from: float = 0.01  # seconds; what is faster than this is never too slow
    samples: int = 100  # fewer comparisons or calls say nothing: no promotion, no breach
    window: float = 60.0  # seconds; the last so many are judged by themselves too, lest a long good time hide a bad end


@dataclass(frozen=True, slots=True)
class OneSide:
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
class Sides:
    """What both sides did. The control is the old service, the candidate D-Bus."""

    compared: int = 0
    different: int = 0
    control: OneSide = OneSide()
    candidate: OneSide = OneSide()

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


def _numbers(sides: Sides) -> tuple[int, ...]:
    control, candidate = sides.control, sides.candidate
    return (sides.compared, sides.different, control.calls, control.errors, candidate.calls, candidate.errors)


def _each(combine: Callable[[int, int], int], ours: Sequence[int], theirs: Sequence[int]) -> tuple[int, ...]:
    return tuple(max(combine(one, other), 0) for one, other in zip_longest(ours, theirs, fillvalue=0))


@dataclass(frozen=True, slots=True)
class Over:
    """An observed rate over its limit. `broken`: chance does not explain it."""

    broken: bool
    words: str


def judge(limits: Limits, baseline: OneSide | None, counts: Sides) -> Iterator[Over]:
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


def control_of(samples: int, counts: Sides, baseline: OneSide | None) -> OneSide | None:
    """What the candidate is held against: the control now, or what it did in an earlier step."""
    if counts.control.calls >= samples:
        return counts.control
    return baseline if baseline is not None and baseline.calls else None


def _mismatches(limits: Limits, counts: Sides) -> Iterator[Over]:
    different, compared = counts.different, counts.compared
    if different > compared * limits.mismatches:
        words = (
            f"{different} of {compared} differ ({percent(different / compared)}, limit {percent(limits.mismatches)})"
        )
        yield Over(chance.tail(different, compared, limits.mismatches) < chance.CHANCE, words)


def _errors(limits: Limits, control: OneSide, candidate: OneSide) -> Iterator[Over]:
    rate, usual = candidate.errors / candidate.calls, control.errors / control.calls
    if rate - usual > limits.errors:
        words = f"{_failed(candidate)}, by the old service {percent(usual)}, limit {percent(limits.errors)} more"
        higher = chance.higher_by(candidate.errors, candidate.calls, control.errors, control.calls)
        yield Over(higher > limits.errors, words)


def _hopeless(candidate: OneSide) -> Iterator[Over]:
    if chance.at_least(candidate.errors, candidate.calls) > HOPELESS:
        yield Over(broken=True, words=f"{_failed(candidate)}, and the old service has too few to compare with")


def _failed(candidate: OneSide) -> str:
    rate = percent(candidate.errors / candidate.calls)
    return f"{candidate.errors} of {candidate.calls} calls by D-Bus failed ({rate})"


def _latency(limits: Limits, part: float, control: OneSide, candidate: OneSide) -> Iterator[Over]:
    """Held to the control's quantile, by counting how many were slower than that allows.

    As many as what was seen of the control does not rule out for itself are no breach: a p99 of few calls is chance.
    """
    usual = quantile(control.latency, part)
    allowed = max(usual * limits.latency, limits.slow_from)
    trials, slow = sum(candidate.latency), slower(candidate.latency, allowed)
    if usual > 0 and slow > trials * (1 - part):
        name, now = f"p{part * 100:g}", quantile(candidate.latency, part)
        words = (
            f"{name} of D-Bus is {duration(now)}, of the old service {duration(usual)}, limit {limits.latency:g} times"
        )
        its_own = chance.at_most(slower(control.latency, allowed), sum(control.latency))
        yield Over(chance.tail(slow, trials, max(1 - part, its_own)) < chance.CHANCE, words)


# Words and numbers


def numbers(counts: Sides, seconds: float) -> dict[str, float]:
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


def summary(counts: Sides) -> str:
    """The same in a line; what was compared with the rate that it does not rule out."""
    compared = "nothing compared"
    if counts.compared:
        most = percent(chance.at_most(counts.different, counts.compared))
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


LIMITS = Limits()
