"""What both sides did, compared with the limits of a plan: within a limit, perhaps above it, or certainly above it.

All tests are valid however often they are repeated (see `statistics`). Each limit of each step has the error
probability `ALPHA`, which the views of its counts share: all of them, and the last window of them. A limit is
exceeded when the observed value is above it. It is broken when in addition

- mismatches: "the rate is within the limit" is refuted;
- errors: "D-Bus fails at most half the limit more often than the legacy service" is refuted. Calls that have a key are
  judged by key, so that one key never breaks the limit, and many calls of few keys count as few;
- mistakes of clients, which count for neither side: the same, of calls that D-Bus refuses;
- latency: "the quantile is at most sqrt(limit) times the control's" is refuted. Both quantiles are uncertain.

A rate of mismatches just above its limit neither breaks it nor lets a step wait for ever: see `near_limit`.

The half limits are the indifference zone of Wald's test: a difference that small is rolled back by mistake with
probability `ALPHA` at most, and one above the limit is found early. Fewer trials than `RolloutLimits.samples` decide
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from itertools import zip_longest
from math import ceil, inf, sqrt
from operator import add, sub
from typing import TypedDict

from msgspec import Struct
from msgspec.structs import replace

from gateway.core.migration import statistics
from gateway.core.migration.statistics import ErrorsByKey, quantile

ALPHA = 0.002  # error probability of each limit in each step
MAX_ERROR_RATE = 0.5  # a higher rate of errors is a breach without any control to compare with


class RolloutLimits(Struct, frozen=True):
    """What the new side may do worse."""

    mismatches: float = 0.001  # of the comparisons
    errors: float = 0.005  # of the calls, more than the control's
    latency: float = 1.5  # times the control's p50, and times its p99
    slow_from: float = 0.01  # seconds; what is faster than this is never too slow
    samples: int = 100  # fewer comparisons or calls say nothing: no promotion, no breach
    window: float = 60.0  # seconds; windows of this length are tested by themselves: a long good time hides no bad end


class SideCounts(Struct, frozen=True):
    """What one side did, whether it answered or was only observed."""

    calls: int = 0
    errors: int = 0
    latency: tuple[int, ...] = ()  # calls in each bucket of `statistics`
    keys: tuple[int, ...] = ()  # of each group of keys: calls, then errors of each; empty: the method has no key
    clients: tuple[int, ...] = ()  # of each group of keys: mistakes of clients, which are not among calls; empty: none

    def __add__(self, other: SideCounts) -> SideCounts:
        return self._each(add, other)

    def __sub__(self, other: SideCounts) -> SideCounts:
        return self._each(sub, other)

    def _each(self, combine: Callable[[int, int], int], other: SideCounts) -> SideCounts:
        return SideCounts(
            combine(self.calls, other.calls),
            combine(self.errors, other.errors),
            _each(combine, self.latency, other.latency),
            _each(combine, self.keys, other.keys),
            _each(combine, self.clients, other.clients),
        )

    @property
    def refusing(self) -> SideCounts:
        """All its calls, of which the mistakes of clients are the errors."""
        refused = self.clients or (0,) * statistics.KEY_GROUPS
        calls = _each(add, self.keys[: len(self.keys) // 2], refused)
        return SideCounts(sum(calls), sum(refused), keys=(*calls, *refused))

    @property
    def by_key(self) -> ErrorsByKey:
        """Its errors as they count in a decision."""
        groups = len(self.keys) // 2
        if not groups or sum(self.keys[:groups]) != self.calls:
            return ErrorsByKey(self.errors, self.calls, others=self.calls)
        return statistics.errors_by_key(self.keys[:groups], self.keys[groups:])


class BothSides(Struct, frozen=True):
    """What both sides did. The control is the legacy service, the candidate D-Bus."""

    compared: int = 0
    different: int = 0
    control: SideCounts = SideCounts()
    candidate: SideCounts = SideCounts()

    def __add__(self, other: BothSides) -> BothSides:
        return BothSides(
            self.compared + other.compared,
            self.different + other.different,
            self.control + other.control,
            self.candidate + other.candidate,
        )

    def since(self, start: BothSides) -> BothSides:
        """What came after `start`; all of it when the counters were cleared meanwhile."""
        left = BothSides(
            self.compared - start.compared,
            self.different - start.different,
            self.control - start.control,
            self.candidate - start.candidate,
        )
        numbers = (left.compared, left.different, left.control.calls, left.control.errors)
        return self if min(*numbers, left.candidate.calls, left.candidate.errors) < 0 else left


def _each(combine: Callable[[int, int], int], ours: Sequence[int], theirs: Sequence[int]) -> tuple[int, ...]:
    if not theirs or (not ours and combine is add):
        return tuple(ours or theirs)
    if len(ours) != len(theirs):
        return tuple(max(combine(one, other), 0) for one, other in zip_longest(ours, theirs, fillvalue=0))
    return tuple(map(combine, ours, theirs))


class Part(Struct, frozen=True):
    """Some counts of a step that are tested by themselves too, with their share of the error probability."""

    counts: BothSides
    alpha: float = ALPHA


class Breach(Struct, frozen=True):
    """A limit that is exceeded, with the evidence that this is not chance and the evidence that is needed."""

    evidence: float  # natural logarithm, see `statistics`
    needed: float
    words: str
    doubt: str = "may be chance"  # why a step waits, if it is not broken

    @property
    def broken(self) -> bool:
        """Whether it is certain."""
        return self.evidence >= self.needed

    @property
    def likely(self) -> bool:
        """Whether chance alone does this in fewer than one of ten windows: no moment for a promotion."""
        return self.evidence >= _LIKELY


_LIKELY = statistics.threshold(0.1)
_RULED_OUT = statistics.threshold(0.05)  # of a rate a little above the limit, see `near_limit`
_FEW_KEYS = 2.0  # the design effect from which on errors are those of few keys


def find_breaches(
    limits: RolloutLimits, baseline: SideCounts | None, counts: BothSides, alpha: float = ALPHA
) -> Iterator[Breach]:
    """The exceeded limits, of those with enough counts. `alpha`: the error probability for each."""
    needed, ours = statistics.threshold(alpha), counts.candidate
    if counts.compared >= limits.samples:
        yield from _mismatches(limits, counts, needed)
    if any(ours.clients):
        # Mistakes of clients that D-Bus sees more often: it takes right calls for wrong ones. Only beside calls of the
        # legacy service in the same step: at another time clients make other mistakes.
        refusing, usual = ours.refusing, counts.control.refusing
        if min(usual.calls, refusing.calls) >= limits.samples:
            yield from _errors(limits, usual, refusing, needed, "were refused as mistakes of clients")
    if ours.calls < limits.samples:
        return
    control = control_of(limits.samples, counts, baseline)
    if control is not None:
        yield from _errors(limits, control, ours, needed)
        for part in (0.5, 0.99):
            yield from _latency(limits, part, control, ours, alpha)
        return
    by_key = ours.by_key
    evidence = statistics.evidence_above(by_key.errors / by_key.effect, by_key.calls / by_key.effect, MAX_ERROR_RATE)
    if evidence >= needed:
        yield Breach(evidence, needed, f"{_failed(ours)}, and the legacy service has too few to compare with")


def control_of(samples: int, counts: BothSides, baseline: SideCounts | None) -> SideCounts | None:
    """The counts to compare the candidate with: the control's of this step, or of an earlier one; None: too few."""
    if counts.control.calls >= samples:
        return counts.control
    return baseline if baseline is not None and baseline.calls else None


def _mismatches(limits: RolloutLimits, counts: BothSides, needed: float) -> Iterator[Breach]:
    different, compared, limit = counts.different, counts.compared, limits.mismatches
    if different <= compared * limit or near_limit(limits, counts):
        return
    doubt = "may be chance"
    against = statistics.evidence_not_above(different, compared, limit)
    if against > 0:  # the rate is nearer to the limit than to a little above it
        more, above = ceil(compared * (_RULED_OUT / against - 1)), percent(statistics.a_little_above(limit))
        doubt = f"may be chance, and {more} comparisons more at this rate rule out {above}"
    words = f"{different} of {compared} differ ({percent(different / compared)}, limit {percent(limit)})"
    yield Breach(statistics.evidence_above(different, compared, limit), needed, words, doubt)


def near_limit(limits: RolloutLimits, counts: BothSides) -> str:
    """Words for a rate of mismatches that is above its limit, and so near to it that no step waits; else nothing.

    Without this a rate just within its limit would be above it again and again, for as long as it takes to tell them
    apart: with a limit of 0.1 %, 0.09 % takes millions of comparisons.
    """
    different, compared, limit = counts.different, counts.compared, limits.mismatches
    if different <= compared * limit or statistics.evidence_not_above(different, compared, limit) < _RULED_OUT:
        return ""
    return f"above the limit of {percent(limit)}, but {percent(statistics.a_little_above(limit))} is ruled out"


def _errors(
    limits: RolloutLimits, control: SideCounts, candidate: SideCounts, needed: float, what: str = "failed"
) -> Iterator[Breach]:
    """Errors of the candidate beyond the control's, both judged by key.

    Where they are of few keys, a step does not wait for a difference that has less than the odds of ten to one: keys
    that fail go on failing, so waiting would show nothing more. When one key stands out and the others have made too
    few calls, nothing is certain, and the step waits.
    """
    least = control.errors - max(control.keys[len(control.keys) // 2 :], default=0)  # if one key is cut
    if candidate.errors / candidate.calls - least / control.calls <= limits.errors:
        return
    ours, theirs = candidate.by_key, control.by_key
    alone = ours.cut > 0 and ours.others < limits.samples
    errors = candidate.errors if alone else ours.errors
    usual = theirs.errors / theirs.calls
    if errors / ours.calls - usual <= limits.errors:
        return
    words = f"{_failed(candidate, what)}, by the legacy service {percent(usual)}, limit {percent(limits.errors)} more"
    if alone:
        yield Breach(0.0, needed, f"{words}; of other keys only {ours.others} of {limits.samples} calls")
        return
    few = ours.effect >= _FEW_KEYS
    effect = theirs.effect_beside(ours)
    evidence = statistics.evidence_of_increase(
        ours.errors / ours.effect,
        ours.calls / ours.effect,
        theirs.errors / effect,
        theirs.calls / effect,
        limits.errors / 2,
        fixed=few,
    )
    if not few or evidence >= _LIKELY:
        yield Breach(evidence, needed, words)


def _failed(candidate: SideCounts, what: str = "failed") -> str:
    rate, cut = percent(candidate.errors / candidate.calls), candidate.by_key.cut
    aside = f", {cut} of them set aside as of one key" if cut else ""
    return f"{candidate.errors} of {candidate.calls} calls by D-Bus {what} ({rate}{aside})"


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
    """What a decision is made of, for the audit. `seconds`: since the step began."""
    sides = {"legacy": counts.control, "dbus": counts.candidate}
    found: dict[str, float] = {
        "step_seconds": round(seconds, 3),
        "compared": counts.compared,
        "different": counts.different,
    }
    for name, side in sides.items():
        found |= {f"{name}_calls": side.calls, f"{name}_errors": side.errors}
        if any(side.clients):
            found[f"{name}_client_errors"] = sum(side.clients)
        if any(side.latency):
            found |= {f"{name}_p50": quantile(side.latency, 0.5), f"{name}_p99": quantile(side.latency, 0.99)}
    return found


def summary(counts: BothSides) -> str:
    """The same in a line; what was compared with the rate that it does not rule out."""
    compared = "nothing compared"
    if counts.compared:
        most = percent(statistics.upper_bound(counts.different, counts.compared))
        compared = f"{counts.different} of {counts.compared} differ (no more than {most})"
    failed = f"{counts.candidate.errors} of {counts.candidate.calls} calls by D-Bus failed"
    cut = counts.candidate.by_key.cut
    return f"{compared}, {failed}{f' ({cut} of them set aside as of one key)' if cut else ''}"


class LimitRow(TypedDict):
    """One limit of a step and where it stands, in words."""

    limit: str
    allowed: str
    measured: str


def limit_rows(limits: RolloutLimits, baseline: SideCounts | None, counts: BothSides) -> tuple[LimitRow, ...]:
    """Each limit with what was measured in this step."""
    sides = (control_of(limits.samples, counts, baseline) or counts.control, counts.candidate)
    failed = _sides(*(_part(each.errors, each.calls) for each in sides))
    rows = [
        ("mismatches", f"{percent(limits.mismatches)} of the comparisons", _part(counts.different, counts.compared)),
        ("errors", f"{percent(limits.errors)} more than the legacy service", failed),
    ]
    for part in (0.5, 0.99):
        times = (duration(quantile(each.latency, part)) if any(each.latency) else "" for each in sides)
        rows.append((f"p{part * 100:g}", f"{limits.latency:g} times the legacy service's", _sides(*times)))
    return tuple(LimitRow(limit=name, allowed=allowed, measured=measured) for name, allowed, measured in rows)


def _part(some: int, all_: int) -> str:
    return f"{some} of {all_} ({percent(some / all_)})" if all_ else "nothing yet"


def _sides(legacy: str, dbus: str) -> str:
    return f"D-Bus {dbus or 'nothing yet'}, legacy {legacy or 'nothing yet'}"


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
    if not sides.candidate.calls and not sides.compared:
        return Assessment.NO_EVIDENCE
    if _exceeds(_ERRORS, sides):
        return Assessment.FAILS
    if sides.different:
        return Assessment.DIFFERS
    if _exceeds(_LATENCY, sides):
        return Assessment.SLOW
    if not sides.compared:
        return Assessment.NOT_COMPARED
    if sides.compared < LIMITS.samples:
        return Assessment.SO_FAR
    return Assessment.IGNORED if ignored else Assessment.EQUAL


def _exceeds(limits: RolloutLimits, sides: BothSides) -> bool:
    return any(over.broken for over in find_breaches(limits, None, sides, statistics.SHOWN_ALPHA))
