"""Comparison of the two outcomes of one call, place by place: control is the legacy side, candidate the D-Bus side.

Types count: 1, true, 1.0 and "1" are four values, nil is not an absent member, lists have an order, NaN equals NaN.
Rules relax this at places. Of two faults only the parts for programs are compared: `name` and `data` of an APPLICATION
fault, `code` and `name` of any other. Messages are compared only where a rule asks for it (`fault.message`, `exact`).

A comparison visits at most `equality.MAX_VALUES` values. When the budget ends before a difference is found, the
verdict is TOO_LARGE, never equal. The walk calls the checkpoint of its caller regularly, so that a thread can yield.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping
from enum import Enum
from typing import TypeAlias

from msgspec import Struct, field

from gateway.core.comparison import json_path
from gateway.core.comparison.equality import (
    MAX_VALUES,
    MISSING,
    Agreement,
    Budget,
    Checkpoint,
    ComparisonBudgetError,
    MaybeValue,
    align,
    equal,
    hash_key,
    leaves_equal,
    no_checkpoint,
)
from gateway.core.comparison.json_path import Cursor, Place
from gateway.core.comparison.rules import FAULT, NO_RULES, RESULT, How, Ignore, Near, Rules, Unordered
from gateway.core.rpc.model import Fault, FaultCode, Outcome, Reply, Value

MAX_DIFFERENCES = 100  # of one pair that are kept, and as many ignored ones
EQUALITY_BUDGET = 4  # times the budget: the quick test for equality comes first and visits more values
TOO_LARGE = f"the comparison ended after {MAX_VALUES} values without a result"


class Verdict(Enum):
    """The result of comparing two outcomes; also the name of its counter."""

    EQUAL = "equal"
    IGNORED = "ignored"  # different only where a rule or the noise of the control allows it
    DIFFERENT = "different"
    ERROR_DIFFERENT = "error_different"  # one is a fault and the other is not, or they are different faults
    TOO_LARGE = "too_large"  # the budget ended before a difference was found; neither equal nor different


class Difference(Struct, frozen=True):
    """One difference between two outcomes. An absent value is MISSING."""

    path: str  # "$.vms[2].name", "fault.code"
    control: MaybeValue
    candidate: MaybeValue
    why: str = ""  # the explanation of a rule
    place: Place = ()  # the path without its root

    @property
    def root(self) -> str:
        """RESULT or FAULT."""
        return RESULT if self.path.startswith(RESULT) else FAULT


class Comparison(Struct, frozen=True):
    """A verdict and its reasons. `more`: there are differences beyond those listed."""

    verdict: Verdict
    differences: tuple[Difference, ...] = ()
    ignored: tuple[Difference, ...] = ()
    noisy: tuple[Difference, ...] = ()  # between the two answers of the control
    more: bool = False


def compare(
    control: Outcome,
    candidate: Outcome,
    rules: Rules = NO_RULES,
    checkpoint: Checkpoint = no_checkpoint,
    max_values: int = MAX_VALUES,
) -> Comparison:
    """The differences between control and candidate."""
    walk = walk_outcomes(control, candidate, rules, MAX_DIFFERENCES, Budget(max_values, checkpoint))
    return conclude(walk.differences, walk.ignored, exhausted=walk.exhausted, more=walk.more)


def conclude(
    differences: list[Difference], ignored: list[Difference], *, exhausted: bool, more: bool, excused: bool = False
) -> Comparison:
    """The verdict on the differences that were found. `excused`: there were others, which are noise."""
    if any(each.root == FAULT for each in differences):
        verdict = Verdict.ERROR_DIFFERENT
    elif differences:
        verdict = Verdict.DIFFERENT
    elif exhausted:
        verdict = Verdict.TOO_LARGE
    else:
        verdict = Verdict.IGNORED if ignored or excused else Verdict.EQUAL
    more = more or exhausted or len(differences) > MAX_DIFFERENCES
    return Comparison(verdict, tuple(differences[:MAX_DIFFERENCES]), tuple(ignored[:MAX_DIFFERENCES]), more=more)


def fault_members(fault: Fault) -> dict[str, Value]:
    """A fault as a struct; `wire` repeats it in the words of a dialect and is left out."""
    return {"code": fault.code.value, "name": fault.name, "message": fault.message, "data": fault.data}


def walk_outcomes(control: Outcome, candidate: Outcome, rules: Rules, limit: int, budget: Budget) -> Walk:
    """All differences up to `limit`. A fault beside a reply is one difference at the root of faults."""
    walk = Walk(rules, limit, budget)
    if isinstance(control, Reply) and isinstance(candidate, Reply):
        walk.run(RESULT, control.value, candidate.value)
    elif isinstance(control, Fault) and isinstance(candidate, Fault):
        applications = control.code is candidate.code is FaultCode.APPLICATION
        names = {"name", "data"} if applications else {"code", "name"}
        names |= {
            str(rule.path.steps[0])
            for rule in rules.rules
            if rule.path.root == FAULT and rule.path.steps and not isinstance(rule.how, Ignore)
        }
        ours, theirs = (
            {name: member for name, member in fault_members(fault).items() if name in names}
            for fault in (control, candidate)
        )
        walk.run(FAULT, ours, theirs)
    else:
        walk.run(FAULT, *(fault_members(each) if isinstance(each, Fault) else MISSING for each in (control, candidate)))
    return walk


_Trail: TypeAlias = "tuple[_Trail, str | int] | None"  # the reversed place of a value: lengthening it costs no copy
_Cursor: TypeAlias = "Cursor[How]"
_Visit: TypeAlias = "tuple[_Trail, MaybeValue, MaybeValue, _Cursor]"
_Inside: TypeAlias = tuple[str | int, MaybeValue, MaybeValue]  # the step to two values, and both


class Walk(Struct):
    """Visits two values in parallel, depth first and without recursion, and lists their differences."""

    rules: Rules
    limit: int = MAX_DIFFERENCES
    budget: Budget = field(default_factory=Budget)
    differences: list[Difference] = field(default_factory=list)
    ignored: list[Difference] = field(default_factory=list)
    more: bool = False  # differences beyond the limit
    exhausted: bool = False  # the budget ended first
    root: str = RESULT

    def run(self, root: str, control: MaybeValue, candidate: MaybeValue) -> None:
        """Compare two values and everything in them."""
        self.root = root
        cursor = json_path.start_cursor((rule.path, rule.how) for rule in self.rules.rules if rule.path.root == root)
        try:
            if equal(control, candidate, Budget(EQUALITY_BUDGET * self.budget.left, self.budget.checkpoint)):
                return
        except ComparisonBudgetError:
            pass  # the walk may still find a difference within its own budget
        try:
            self._walk(control, candidate, cursor)
        except (ComparisonBudgetError, RecursionError):  # unordered lists inside each other are compared recursively
            self.exhausted = True

    def _walk(self, control: MaybeValue, candidate: MaybeValue, cursor: _Cursor) -> None:
        pending: list[Iterator[_Visit]] = [iter([(None, control, candidate, cursor)])]
        while pending and not self.more:
            visit = next(pending[-1], None)
            if visit is None:
                pending.pop()
                continue
            self.budget.spend()
            trail, _, _, cursor = visit
            inside = self._visit(*visit)
            if inside is not None:
                pending.append(_visits(trail, cursor, inside))

    def _visit(
        self, trail: _Trail, control: MaybeValue, candidate: MaybeValue, cursor: _Cursor
    ) -> Iterator[_Inside] | None:
        """Compare two values by the rule for their place; returns the pairs of values inside them."""
        how = json_path.cursor_value(cursor)
        if isinstance(how, Ignore):
            if not equal(control, candidate, self.budget):
                self._note(self.ignored, trail, control, candidate)
        elif control is MISSING or candidate is MISSING:
            if control is not candidate:
                self._note(self.differences, trail, control, candidate)
        elif isinstance(how, Near) and not (isinstance(control, list | dict) and isinstance(candidate, list | dict)):
            why = how.apart(control, candidate)
            if why:
                self._note(self.differences, trail, control, candidate, why)
        elif isinstance(control, dict) and isinstance(candidate, dict):
            return _members(control, candidate)
        elif isinstance(control, list) and isinstance(candidate, list):
            return self._items(how if isinstance(how, Unordered) else None, control, candidate, cursor)
        elif type(control) is not type(candidate) or not leaves_equal(control, candidate):
            self._note(self.differences, trail, control, candidate)
        return None

    def _items(
        self, how: Unordered | None, control: list[Value], candidate: list[Value], cursor: _Cursor
    ) -> Iterator[_Inside]:
        """The items of two lists, each with its partner, at the control's index."""
        if how is None:
            for index in range(max(len(control), len(candidate))):
                yield index, _at(control, index), _at(candidate, index)
            return

        def agree(one: int, other: int) -> bool:
            inner = Walk(self.rules, 0, self.budget)
            inner._walk(control[one], candidate[other], json_path.advance_cursor(cursor, one))
            return not inner.more

        def key(item: Value) -> Hashable:
            return agreement_key(item, json_path.advance_cursor(cursor, 0), self.budget)

        deeper = [steps[0] for steps, _ in cursor if steps]
        by_index = any(isinstance(step, int) for step in deeper)  # such a rule means an index of the control
        agreement = Agreement(agree, (lambda _: None) if by_index else key) if deeper else None
        for ours, theirs in align(control, candidate, how.by, self.budget, agreement):
            yield (theirs or 0) if ours is None else ours, _at(control, ours), _at(candidate, theirs)

    def _note(
        self, where: list[Difference], trail: _Trail, control: MaybeValue, candidate: MaybeValue, why: str = ""
    ) -> None:
        if len(where) == self.limit:
            self.more = self.more or where is self.differences
            return
        steps: list[str | int] = []
        while trail is not None:
            trail, step = trail
            steps.append(step)
        place = tuple(reversed(steps))
        where.append(Difference(json_path.show(place, self.root), control, candidate, why, place))


def _visits(trail: _Trail, cursor: _Cursor, values: Iterator[_Inside]) -> Iterator[_Visit]:
    for step, ours, theirs in values:
        yield (trail, step), ours, theirs, json_path.advance_cursor(cursor, step)


def _members(control: Mapping[str, Value], candidate: Mapping[str, Value]) -> Iterator[_Inside]:
    for name, member in control.items():
        yield name, member, candidate.get(name, MISSING)
    for name, member in candidate.items():
        if name not in control:
            yield name, MISSING, member


def _at(items: list[Value], index: int | None) -> MaybeValue:
    return items[index] if index is not None and index < len(items) else MISSING


_ANY_VALUE = "any value"  # stands for every value that a rule may accept


def agreement_key(value: Value, cursor: _Cursor, budget: Budget) -> Hashable:
    """A key that two values share if they agree by the rules; values that differ may share it too."""
    if not cursor:
        return hash_key(value, budget)
    budget.spend()
    how = json_path.cursor_value(cursor)
    if isinstance(how, Ignore | Near):
        return _ANY_VALUE
    if not isinstance(value, list | dict):
        return hash_key(value, budget)
    if isinstance(how, Unordered) and isinstance(value, list):
        if any(isinstance(steps[0], int) for steps, _ in cursor if steps):
            return "list"
        keys = _keys_inside(((0, item) for item in value), cursor, budget)
        return "list", frozenset(Counter(key for _, key in keys).items())
    if isinstance(value, list):
        return "list", tuple(_keys_inside(enumerate(value), cursor, budget))
    return "struct", frozenset(_keys_inside(value.items(), cursor, budget))


def _keys_inside(
    values: Iterable[tuple[str | int, Value]], cursor: _Cursor, budget: Budget
) -> Iterator[tuple[str | int, Hashable]]:
    for step, value in values:
        inner = json_path.advance_cursor(cursor, step)
        if not isinstance(json_path.cursor_value(inner), Ignore):
            yield step, agreement_key(value, inner, budget)
