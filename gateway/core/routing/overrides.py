"""A run-time change of a mode: which methods it speaks of, and which of several wins. Knows no file and no clock."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, TypeAlias

from gateway.core.migration.modes import Mode, Setting
from gateway.core.routing.route import Route

By: TypeAlias = Literal["person", "rollout"]

GROUP = "group:"  # a pattern that starts so names a group
NEEDS_LEGACY = frozenset({Mode.LEGACY, Mode.SHADOW, Mode.CANARY})


@dataclass(frozen=True, slots=True)
class Override:
    """One row of what operators and rollouts have set. Moments are seconds since 1970."""

    pattern: str  # "VM.start", "xenopsd/VM.start", "VM.*", "group:vm-lifecycle", "*"
    setting: Setting
    who: str
    when: float
    why: str = ""
    until: float | None = None  # by gateway.clock; then it is as if it had never been set
    by: By = "person"

    @property
    def rank(self) -> tuple[bool, bool, int, float]:
        """The highest wins: a person before a rollout, a name before a pattern, a long pattern first, the later one."""
        literal = sum(character not in "*?[]" for character in self.pattern)
        return self.by == "person", is_exact(self.pattern), literal, self.when

    def expired(self, now: float) -> bool:
        """Whether its time is over; `now` by gateway.clock."""
        return self.until is not None and self.until <= now

    def concerns(self, route: Route) -> bool:
        """Whether it speaks of this method, and can hold for it: without a legacy service nothing goes back to one."""
        if self.setting.mode in NEEDS_LEGACY and route.migration.upstream is None:
            return False
        if self.pattern == "*" and self.setting.mode is Mode.LEGACY and route.migration.setting.mode is Mode.OFF:
            return False  # a rollback of everything switches nothing on
        return matches(self.pattern, route)


def is_exact(pattern: str) -> bool:
    """Whether a pattern is the name of a method."""
    return not any(wildcard in pattern for wildcard in "*?[") and not pattern.startswith(GROUP)


def matches(pattern: str, route: Route) -> bool:
    """Whether a pattern names this method: by method, by "service/method", or by its group."""
    if pattern.startswith(GROUP):
        return route.migration.group == pattern.removeprefix(GROUP)
    return fnmatchcase(route.method, pattern) or fnmatchcase(f"{route.service}/{route.method}", pattern)
