"""What a rollout moves: a method, or a group of them. Knows the live mapping and no rollout."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gateway.core.migration import Mode
from gateway.core.override import GROUP, Override, matches
from gateway.core.rollout import RolloutPlan
from gateway.core.route import Route
from gateway.mapping.problem import did_you_mean


@dataclass(frozen=True, slots=True)
class Subject:
    """`name` is the pattern of its override: "xenopsd/VM.start", "group:vm-lifecycle"."""

    name: str
    members: tuple[Route, ...]

    @property
    def plan(self) -> RolloutPlan:
        """What the mapping says; the same for all members."""
        return self.members[0].rollout


def subject_of(route: Route) -> str:
    """What a method moves with."""
    return f"{GROUP}{route.migration.group}" if route.migration.group else f"{route.service}/{route.method}"


def members(name: str, routes: Iterable[Route]) -> tuple[Route, ...]:
    """The methods that a rollout of this name moves now."""
    return tuple(route for route in routes if subject_of(route) == name)


def find(name: str, routes: Sequence[Route]) -> Subject | str:
    """What a person means: "VM.start", "xenopsd/VM.start", "group:NAME"; or in words why that is nothing to move."""
    exact = members(name, routes)
    if exact:
        return Subject(name, exact)
    meant = [route for route in routes if name in (route.method, f"{route.service}/{route.method}", *route.aliases)]
    if not meant:
        known = [*{subject_of(route) for route in routes}, *{route.method for route in routes}]
        return f"'{name}' is no mapped method and no group{did_you_mean(name, known)}"
    if any(route.migration.group for route in meant):
        return f"{name} moves with its group: say {subject_of(meant[0])}"
    subjects = sorted({subject_of(route) for route in meant})
    if len(subjects) > 1:
        return f"{name} is a method of several services: say {' or '.join(subjects)}"
    return Subject(subjects[0], members(subjects[0], routes))


def unmovable(subject: Subject) -> str:
    """In words why these methods cannot begin to move; nothing when they can."""
    for route in subject.members:
        moving = route.migration
        if moving.upstream is None:
            return f"no old service answers {route.method}: there is nothing to move it from"
        if moving.setting.mode is Mode.OFF:
            return f"{route.method} is switched off ({route.source})"
        if moving.key is None and any(step.setting.mode is Mode.CANARY for step in subject.plan.steps):
            return f"a canary of {route.method} has no key to divide by: the mapping must say `key:` ({route.source})"
    return ""


def overridden(subject: Subject | Sequence[Route], overrides: Iterable[Override], now: float) -> Override | None:
    """What a person has set for one of these methods: it comes before whatever a rollout sets."""
    routes = subject.members if isinstance(subject, Subject) else subject
    for override in sorted(overrides, key=lambda each: each.rank, reverse=True):
        if override.by == "person" and not override.expired(now) and any(map(override.concerns, routes)):
            return override
    return None


def names(pattern: str, routes: Iterable[Route]) -> list[str]:
    """Everything that a pattern ("VM.*", "*") names and that can move by itself."""
    return sorted({subject_of(route) for route in routes if matches(pattern, route) and route.migration.upstream})
