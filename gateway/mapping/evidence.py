"""`compare` and `mask` -> how answers are compared, and what of them is never kept. Knows no other key."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from gateway.core import mask
from gateway.core.mask import Masks
from gateway.core.paths import Pattern
from gateway.core.rules import Rule, RuleError, Rules, compile_rule
from gateway.mapping.problem import did_you_mean, one_of
from gateway.mapping.scope import Scope


class Evidence:
    """The rules and masks of one file: those of a method come first, then those of `defaults`, then the file's own."""

    def __init__(self, root: Scope, parameters: Collection[str]) -> None:
        """`parameters`: those of all methods of the file."""
        self._session: str | None = root.at("session", "parameter").data
        common = (root.at("defaults"), root)
        self._rules = [rule for scope in common for rule in _rules(scope.at("compare"))]
        masks = [found for scope in common for found in _masks(scope.at("mask"))]
        self._masks = [pattern for _, pattern in masks]
        if root.document.complete:
            for scope, pattern in masks:
                _check_name(scope, pattern, parameters)

    def rules(self, entry: Scope) -> Rules:
        """How the answers of this method are compared; problems are noted."""
        return Rules((*_rules(entry.at("compare")), *self._rules))

    def masks(self, entry: Scope, parameters: Sequence[str]) -> Masks:
        """What is secret in calls of this method; the session always is, also as the result of a login."""
        own = list(_masks(entry.at("mask")))
        for scope, pattern in own:
            _check_name(scope, pattern, parameters)
            _check_index(scope, pattern, parameters)
        sessions = [mask.named(self._session)] if self._session in parameters and self._session is not None else []
        sessions += [mask.parse(f"$.{mask.RESULT_OF}")] if entry.says("login") else []
        return Masks((*sessions, *(pattern for _, pattern in own), *self._masks), tuple(parameters))


def _rules(scope: Scope) -> Iterator[Rule]:
    for index in range(len(scope.data or ())):
        rule = _rule(scope.at(index))
        if rule is not None:
            yield rule


def _rule(scope: Scope) -> Rule | None:
    said: Mapping[str, Any] = scope.data
    try:
        return compile_rule(said)
    except RuleError as error:
        (scope.at(error.key) if error.key else scope).fail(str(error), level="schema")
        return None


def _masks(scope: Scope) -> Iterator[tuple[Scope, Pattern]]:
    for index in range(len(scope.data or ())):
        place = scope.at(index)
        pattern = place.attempt(mask.parse, place.data, level="schema")
        if pattern is not None:
            yield place, pattern


def _check_name(scope: Scope, pattern: Pattern, parameters: Collection[str]) -> None:
    """A mask that leads to no parameter would hide nothing."""
    root, step = (*pattern.steps, None)[:2]
    if root == mask.NAMED and isinstance(step, str) and step not in parameters:
        hint = did_you_mean(step, parameters) or f" (there are: {one_of(parameters)})"
        scope.fail(f"'{step}' is no parameter{hint}", level="schema")


def _check_index(scope: Scope, pattern: Pattern, parameters: Collection[str]) -> None:
    root, step = (*pattern.steps, None)[:2]
    if root == mask.PARAMS and isinstance(step, int) and step >= len(parameters):
        has = f"{len(parameters)} parameters" if len(parameters) != 1 else "1 parameter"
        scope.fail(f"there is no parameter {step}: the method has {has}, counted from 0", level="schema")
