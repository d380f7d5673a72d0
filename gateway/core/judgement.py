"""What the evidence of one method says of its D-Bus side, in a few words. Knows no method, no file and no clock.

The limits are those that a rollout has by default; what chance may explain is not held against D-Bus.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from math import inf

from gateway.core.limits import LIMITS, Sides, judge

# One limit at a time, the others out of reach; chance alone is asked how much is enough.
_ERRORS = replace(LIMITS, samples=1, mismatches=1.0, latency=inf)
_LATENCY = replace(LIMITS, mismatches=1.0, errors=1.0)


class Judgement(Enum):
    """In the order in which they are tried: the first that fits is said."""

    NO_EVIDENCE = "no evidence"  # D-Bus has not run a call yet
    FAILS = "dbus fails"  # more often than the old service, by more than the limit
    DIFFERS = "differs"  # at least one comparison did
    SLOW = "dbus slow"  # p50 or p99 is over the limit
    NOT_COMPARED = "not compared"  # D-Bus answers, and nobody looks at what the old service would have said
    SO_FAR = "equal so far"  # of fewer comparisons than say something
    IGNORED = "equal but for ignored"  # what differs is what the rules of the mapping ignore
    EQUAL = "equal"


def judgement(sides: Sides, ignored: int = 0) -> Judgement:
    """`ignored`: comparisons that are equal by the rules of the mapping only; they are among those compared."""
    return next(word for word, fits in _TABLE.items() if fits(sides, ignored))


def _exceeds(sides: Sides, *, errors: bool) -> bool:
    return any(over.broken for over in judge(_ERRORS if errors else _LATENCY, None, sides))


_TABLE: dict[Judgement, Callable[[Sides, int], bool]] = {
    Judgement.NO_EVIDENCE: lambda sides, _: not sides.candidate.calls and not sides.compared,
    Judgement.FAILS: lambda sides, _: _exceeds(sides, errors=True),
    Judgement.DIFFERS: lambda sides, _: sides.different > 0,
    Judgement.SLOW: lambda sides, _: _exceeds(sides, errors=False),
    Judgement.NOT_COMPARED: lambda sides, _: not sides.compared,
    Judgement.SO_FAR: lambda sides, _: sides.compared < LIMITS.samples,
    Judgement.IGNORED: lambda _, ignored: ignored > 0,
    Judgement.EQUAL: lambda _, __: True,
}
