"""The setting of each method now: that of the mapping, or of the strongest override that applies."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import TypeAlias

from msgspec import Struct

from gateway.core.migration.modes import Setting
from gateway.core.routing import policy
from gateway.core.routing.overrides import Override
from gateway.core.routing.policy import CallPlan
from gateway.core.routing.route import Route
from gateway.core.rpc.model import Call
from gateway.state import clock

FOREVER = float("inf")

_Found: TypeAlias = tuple[Route, Setting, CallPlan | None, float]  # standing plan, and when both may change


class EffectiveSetting(Struct, frozen=True):
    """The setting of a method and its source."""

    setting: Setting
    override: Override | None = None

    def source(self, route: Route) -> str:
        """The source in words: "the mapping", or "set by alice 2026-11-26 14:02 (the mapping says legacy): WHY"."""
        override = self.override
        if override is None:
            return "the mapping"
        when = moment(override.when)
        until = f" until {moment(clock.wall(override.until))}" if override.until is not None else ""
        why = f": {override.why}" if override.why else ""
        guarded = ", guarded" if override.guarded else ""
        return f"set by {override.who} {when}{until}{guarded} (the mapping says {route.migration.setting}){why}"


class ActiveOverrides:
    """The overrides of this process. `now`: seconds of state/clock.py, by which they end."""

    def __init__(self, now: Callable[[], float] = clock.steady) -> None:
        self._now = self.now = now
        self._overrides: tuple[Override, ...] = ()  # the strongest first
        self._listeners: list[Callable[[], object]] = []
        self._found: dict[tuple[str, str], _Found] = {}  # by service and method

    @property
    def overrides(self) -> tuple[Override, ...]:
        """The overrides that have not ended, the strongest first."""
        now = self._now()
        return tuple(override for override in self._overrides if not override.expired(now))

    def replace(self, overrides: Iterable[Override]) -> None:
        """Replace all overrides, and call the listeners."""
        self._overrides = tuple(sorted(overrides, key=lambda override: override.rank, reverse=True))
        self._found = {}
        for listener in self._listeners:
            listener()

    def subscribe(self, listener: Callable[[], object]) -> None:
        """Call the listener after every change of the overrides."""
        self._listeners.append(listener)

    def setting(self, route: Route) -> Setting:
        """The setting for a call that arrives now; cached until it may change."""
        return self._look_up(route)[1]

    def plan(self, route: Route, call: Call) -> CallPlan:
        """The plan of a call that arrives now; one look-up, except in a canary."""
        known = self._found.get((route.service, route.method))
        if known is None or known[0] is not route or known[3] != FOREVER:
            known = self._look_up(route)
        plan = known[2]
        return policy.plan_call(route, known[1], call) if plan is None else plan

    def _look_up(self, route: Route) -> _Found:
        known = self._found.get((route.service, route.method))
        if known is None or known[0] is not route or (known[3] != FOREVER and self._now() >= known[3]):
            setting = self.effective(route).setting
            known = route, setting, policy.standing_plan(route, setting), self._changes_at(route)
            self._found[route.service, route.method] = known
        return known

    def effective(self, route: Route) -> EffectiveSetting:
        """The setting and its source."""
        now = self._now()
        for override in self._overrides:
            if not override.expired(now) and override.applies_to(route):
                return EffectiveSetting(override.setting, override)
        return EffectiveSetting(route.migration.setting)

    def _changes_at(self, route: Route) -> float:
        """When the setting may change without a new override."""
        now = self._now()
        ends = (o.until for o in self._overrides if o.until is not None and o.until > now and o.applies_to(route))
        return min(ends, default=FOREVER)


def ends(override: Override | None) -> float | None:
    """When the override ends, in seconds since 1970."""
    return None if override is None or override.until is None else clock.wall(override.until)


def moment(when: float) -> str:
    """A moment in local time: 2026-11-26 14:02."""
    return datetime.fromtimestamp(when).astimezone().strftime("%Y-%m-%d %H:%M")
