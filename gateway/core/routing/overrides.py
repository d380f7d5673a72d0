"""Run-time changes of a mode: which methods a pattern matches, and which of several overrides wins."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Literal, TypeAlias

from msgspec import Struct

from gateway.core.migration.modes import Mode, Setting
from gateway.core.routing.route import Route

By: TypeAlias = Literal["person", "rollout"]

GROUP = "group:"  # a pattern that starts so names a group
NEEDS_LEGACY = frozenset({Mode.LEGACY, Mode.SHADOW, Mode.CANARY})


class Override(Struct, frozen=True):
    """A mode set by a person or a rollout. Moments are seconds since 1970."""

    pattern: str  # "VM.start", "xenopsd/VM.start", "VM.*", "group:vm-lifecycle", "*"
    setting: Setting
    who: str
    when: float
    why: str = ""
    until: float | None = None  # by state/clock.py: the override ends then
    by: By = "person"
    guarded: bool = False  # a person's, under the limits of the method's rollout: a breach ends it

    @property
    def rank(self) -> tuple[bool, bool, int, float]:
        """The highest wins: a person before a rollout, a name before a pattern, a long pattern first, the later one."""
        literal = sum(character not in "*?[]" for character in self.pattern)
        return self.by == "person", is_exact(self.pattern), literal, self.when

    def expired(self, now: float) -> bool:
        """Whether the override has ended; `now` by state/clock.py."""
        return self.until is not None and self.until <= now

    def applies_to(self, route: Route) -> bool:
        """Whether it matches the method and is possible for it: some modes need a legacy service."""
        if self.setting.mode in NEEDS_LEGACY and route.migration.upstream is None:
            return False
        if self.pattern == "*" and self.setting.mode is Mode.LEGACY and route.migration.setting.mode is Mode.OFF:
            return False  # a rollback of everything switches nothing on
        return matches(self.pattern, route)


def is_exact(pattern: str) -> bool:
    """Whether a pattern names one method, without wildcards."""
    return not any(wildcard in pattern for wildcard in "*?[") and not pattern.startswith(GROUP)


def matches(pattern: str, route: Route) -> bool:
    """Whether a pattern names this method: by method, by "service/method", or by its group."""
    if pattern.startswith(GROUP):
        return route.migration.group == pattern.removeprefix(GROUP)
    return fnmatchcase(route.method, pattern) or fnmatchcase(f"{route.service}/{route.method}", pattern)
