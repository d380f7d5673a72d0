"""Two outcomes of one call -> in what they differ, place by place. Knows no file, no protocol and no clock.

Types count: 1, true, 1.0 and "1" are four things, nil is not nothing, order counts in lists; NaN is NaN. Rules say
where less will do. Of two faults only what is meant for programs is compared: `name` and `data` of an APPLICATION,
`code` and `name` of the rest. Messages are prose: they never are, unless a rule asks (`fault.message`, `exact`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TypeAlias

from gateway.core.comparison import json_path
from gateway.core.comparison.equality import (
    MISSING,
    Budget,
    ComparisonBudgetError,
    Found,
    align,
    equal,
    holds_others,
    leaves_equal,
)
from gateway.core.comparison.expression import Expression, ExpressionError
from gateway.core.comparison.json_path import Cursor, Place
from gateway.core.comparison.rules import FAULT, NO_RULES, RESULT, How, Ignore, Near, Rules, Unordered
from gateway.core.rpc.model import Fault, FaultCode, Outcome, Reply, Value

MOST = 100  # differences that are told of one pair, and as many ignored ones
MOST_SAME = 1_000_000  # values that are held against each other before anything differs; this is quick
MOST_NOISE = 10_000  # places at which a control may contradict itself
TOO_LARGE = "too large: not all of it was compared"


class Verdict(Enum):
    """What came of comparing two outcomes; also the name of what is counted."""

    EQUAL = "equal"
    IGNORED = "ignored"  # they differ only where a rule says that they may, or where the control contradicts itself
    DIFFERENT = "different"
    ERROR_DIFFERENT = "error_different"  # one is a fault and the other is not, or they are different faults
    TOO_LARGE = "too_large"  # the budget ended before a difference was found; neither equal nor different


@dataclass(frozen=True, slots=True)
class Difference:
    """One way in which two outcomes differ. A value that is not there is MISSING."""

    path: str  # "$.vms[2].name", "fault.code"
    control: Found
    candidate: Found
    why: str = ""  # what a rule says of it
    place: Place = ()  # the path without its root


@dataclass(frozen=True, slots=True)
class Comparison:
    """What came of it. `more`: there are more differences than are told here."""

    verdict: Verdict
    differences: tuple[Difference, ...] = ()
    ignored: tuple[Difference, ...] = ()
    noisy: tuple[Difference, ...] = ()  # the two answers of the control
    more: bool = False


def compare(control: Outcome, candidate: Outcome, rules: Rules = NO_RULES) -> Comparison:
    """In what the candidate differs from the control."""
    return _judged(_walk(control, candidate, rules, MOST))


def blame(control: Outcome, again: Outcome, candidate: Outcome, rules: Rules = NO_RULES) -> Comparison:
    """The same, but for the places in which the control differs from its own second answer."""
    noise = [each for each in _walk(control, again, rules, MOST_NOISE).differences if each.why != TOO_LARGE]
    found = _walk(control, candidate, rules, MOST_NOISE)
    unstable = {(_root(each), each.place) for each in noise}
    blamed = [each for each in found.differences if not _below(each, unstable)]
    excused = len(blamed) < len(found.differences)
    found.differences, found.more = blamed, found.more or len(blamed) > MOST
    judged = _judged(found)
    verdict = Verdict.IGNORED if excused and judged.verdict is Verdict.EQUAL else judged.verdict
    return replace(judged, verdict=verdict, noisy=tuple(noise[:MOST]))


def _judged(walk: _Walk) -> Comparison:
    if any(_root(each) == FAULT for each in walk.differences):
        verdict = Verdict.ERROR_DIFFERENT
    elif walk.differences:
        verdict = Verdict.DIFFERENT
    else:
        verdict = Verdict.IGNORED if walk.ignored else Verdict.EQUAL
    return Comparison(verdict, tuple(walk.differences[:MOST]), tuple(walk.ignored[:MOST]), more=walk.more)


def _root(difference: Difference) -> str:
    return RESULT if difference.path.startswith(RESULT) else FAULT


def _below(difference: Difference, unstable: set[tuple[str, Place]]) -> bool:
    """Whether it is at or inside an unstable place."""
    place, root = difference.place, _root(difference)
    return any((root, place[:length]) in unstable for length in range(len(place) + 1))


# What of two outcomes is compared


def _walk(control: Outcome, candidate: Outcome, rules: Rules, most: int) -> _Walk:
    walk = _Walk(rules, most)
    if isinstance(control, Reply) and isinstance(candidate, Reply):
        walk.run(RESULT, control.value, candidate.value)
    else:
        walk.run(FAULT, *_faults(control, candidate, rules))
    return walk


def _faults(control: Outcome, candidate: Outcome, rules: Rules) -> tuple[Found, Found]:
    """What of each fault is compared; MISSING for a reply."""
    if not (isinstance(control, Fault) and isinstance(candidate, Fault)):
        return _told(control), _told(candidate)
    both = control.code is candidate.code is FaultCode.APPLICATION
    names = {*(("name", "data") if both else ("code", "name")), *_asked(rules)}
    ours, theirs = fault_members(control), fault_members(candidate)
    return {name: ours[name] for name in ours if name in names}, {
        name: theirs[name] for name in theirs if name in names
    }


def _told(outcome: Outcome) -> Found:
    return fault_members(outcome) if isinstance(outcome, Fault) else MISSING


def fault_members(fault: Fault) -> dict[str, Value]:
    """A fault as a struct; `wire` is the same once more in a dialect's words, and is left out."""
    return {"code": fault.code.value, "name": fault.name, "message": fault.message, "data": fault.data}


def _asked(rules: Rules) -> Iterator[str]:
    """Members of faults that are compared because a rule says how."""
    for rule in rules.rules:
        if rule.path.root == FAULT and not isinstance(rule.how, Ignore):
            yield from (str(step) for step in rule.path.steps[:1])


# The walk through two values

_Trail: TypeAlias = "tuple[_Trail, str | int] | None"  # a place while one is on the way: cheap to lengthen
_Going: TypeAlias = "Cursor[How]"


@dataclass(slots=True)
class _Walk:
    """Goes through two values at once, place by place, without recursion; notes in what they differ."""

    rules: Rules
    most: int = MOST
    budget: Budget = field(default_factory=Budget)
    differences: list[Difference] = field(default_factory=list)
    ignored: list[Difference] = field(default_factory=list)
    more: bool = False
    root: str = RESULT
    ahead: list[tuple[_Trail, Found, Found, _Going]] = field(default_factory=list)

    def run(self, root: str, control: Found, candidate: Found) -> None:
        """Compare two values and everything in them."""
        self.root = root
        going = json_path.start_cursor((rule.path, rule.how) for rule in self.rules.rules if rule.path.root == root)
        try:
            if self.rules.always_asked or not equal(control, candidate, Budget(MOST_SAME)):
                self.go(control, candidate, going)
        except ComparisonBudgetError:
            self._differ(None, control, candidate, TOO_LARGE)
            self.more = True

    def go(self, control: Found, candidate: Found, going: _Going, trail: _Trail = None) -> None:
        """From one place on inwards."""
        self.ahead.append((trail, control, candidate, going))
        while self.ahead and not self.more:
            self.budget.spend()
            self._visit(*self.ahead.pop())

    def _visit(self, trail: _Trail, control: Found, candidate: Found, going: _Going) -> None:
        how = json_path.cursor_value(going)
        if isinstance(how, Ignore):
            if not equal(control, candidate, self.budget):
                self._note(self.ignored, trail, control, candidate, "")
        elif control is MISSING or candidate is MISSING:
            if control is not candidate:
                self._differ(trail, control, candidate, "")
        elif isinstance(how, Near) and not (holds_others(control) and holds_others(candidate)):
            self._differ_if(how.apart(control, candidate), trail, control, candidate)
        elif isinstance(how, Expression):
            self._express(how, trail, control, candidate)
        else:
            self._enter(how, trail, control, candidate, going)

    def _enter(self, how: How | None, trail: _Trail, control: Value, candidate: Value, going: _Going) -> None:
        if isinstance(control, dict) and isinstance(candidate, dict):
            self._ahead_of(trail, going, _members(control, candidate))
        elif isinstance(control, list) and isinstance(candidate, list):
            unordered = how if isinstance(how, Unordered) else None
            self._ahead_of(trail, going, self._items(unordered, control, candidate, going))
        elif type(control) is not type(candidate) or not leaves_equal(control, candidate):
            self._differ(trail, control, candidate, "")

    def _ahead_of(self, trail: _Trail, going: _Going, inside: Iterable[tuple[str | int, Found, Found]]) -> None:
        """Put what is inside a value next in turn, first things first."""
        steps = [((trail, step), ours, theirs, json_path.advance_cursor(going, step)) for step, ours, theirs in inside]
        self.ahead += reversed(steps)

    def _items(
        self, how: Unordered | None, control: list[Value], candidate: list[Value], going: _Going
    ) -> Iterator[tuple[str | int, Found, Found]]:
        """The items of two lists, each with the one that it is compared with, at the control's index."""
        if how is None:
            for index in range(max(len(control), len(candidate))):
                yield index, _at(control, index), _at(candidate, index)
            return

        def agree(one: int, other: int) -> bool:
            apart = _Walk(self.rules, 0, self.budget)
            apart.go(control[one], candidate[other], json_path.advance_cursor(going, one))
            return not apart.more

        inner = any(len(steps) > 0 for steps, _ in going)  # rules inside the list: items may agree and not be the same
        for ours, theirs in align(control, candidate, how.by, self.budget, agree if inner else None):
            yield (theirs or 0) if ours is None else ours, _at(control, ours), _at(candidate, theirs)

    def _express(self, how: Expression, trail: _Trail, control: Value, candidate: Value) -> None:
        try:
            holds = how.holds(control, candidate)
        except ExpressionError as error:
            self._differ(trail, control, candidate, f"expression {how.text}: {error}")
            return
        if not holds:
            self._differ(trail, control, candidate, f"not {how.text}")
        elif not equal(control, candidate, self.budget):
            self._note(self.ignored, trail, control, candidate, how.text)

    def _differ_if(self, why: str, trail: _Trail, control: Value, candidate: Value) -> None:
        if why:
            self._differ(trail, control, candidate, why)

    def _differ(self, trail: _Trail, control: Found, candidate: Found, why: str) -> None:
        if len(self.differences) == self.most:
            self.more = True
        else:
            self._note(self.differences, trail, control, candidate, why)

    def _note(self, where: list[Difference], trail: _Trail, control: Found, candidate: Found, why: str) -> None:
        if len(where) < self.most:
            place = _place(trail)
            where.append(Difference(json_path.show(place, self.root), control, candidate, why, place))


def _members(control: Mapping[str, Value], candidate: Mapping[str, Value]) -> Iterator[tuple[str | int, Found, Found]]:
    for name, member in control.items():
        yield name, member, candidate.get(name, MISSING)
    for name, member in candidate.items():
        if name not in control:
            yield name, MISSING, member


def _at(items: list[Value], index: int | None) -> Found:
    return items[index] if index is not None and index < len(items) else MISSING


def _place(trail: _Trail) -> Place:
    steps: list[str | int] = []
    while trail is not None:
        trail, step = trail
        steps.append(step)
    return tuple(reversed(steps))
