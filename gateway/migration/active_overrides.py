"""Which setting each method has now: the mapping's, or an override's. Knows no file; told of every change."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from gateway.core.migration.modes import Setting
from gateway.core.routing.overrides import Override
from gateway.core.routing.route import Route
from gateway.state import clock

FOREVER = float("inf")


@dataclass(frozen=True, slots=True)
class EffectiveSetting:
    """The setting of a method and where it comes from."""

    setting: Setting
    override: Override | None = None

    def source(self, route: Route) -> str:
        """In words: "the mapping", or "set by alice 2026-11-26 14:02 (the mapping says legacy): WHY"."""
        override = self.override
        if override is None:
            return "the mapping"
        when = moment(override.when)
        until = f" until {moment(clock.wall(override.until))}" if override.until is not None else ""
        why = f": {override.why}" if override.why else ""
        return f"set by {override.who} {when}{until} (the mapping says {route.migration.setting}){why}"


class ActiveOverrides:
    """The overrides that hold in this process. `now`: by the clock by which they end."""

    def __init__(self, now: Callable[[], float] = clock.steady) -> None:
        self._now = self.now = now
        self._overrides: tuple[Override, ...] = ()  # the strongest first
        self._listeners: list[Callable[[], object]] = []
        self._found: dict[tuple[str, str], tuple[Route, Setting, float]] = {}  # what holds, for which route, until when

    @property
    def overrides(self) -> tuple[Override, ...]:
        """Those whose time is not over, the strongest first."""
        now = self._now()
        return tuple(override for override in self._overrides if not override.expired(now))

    def replace(self, overrides: Iterable[Override]) -> None:
        """These hold from now on, and no others."""
        self._overrides = tuple(sorted(overrides, key=lambda override: override.rank, reverse=True))
        self._found = {}
        for listener in self._listeners:
            listener()

    def tell(self, listener: Callable[[], object]) -> None:
        """Have somebody told whenever overrides may be others."""
        self._listeners.append(listener)

    def setting(self, route: Route) -> Setting:
        """What holds for a call that has just come; looked up once for each method and change."""
        known = self._found.get((route.service, route.method))
        if known is not None and known[0] is route and (known[2] == FOREVER or self._now() < known[2]):
            return known[1]
        effective = self.effective(route)
        self._found[route.service, route.method] = route, effective.setting, self._changes_at(route)
        return effective.setting

    def effective(self, route: Route) -> EffectiveSetting:
        """What holds, and why."""
        now = self._now()
        for override in self._overrides:
            if not override.expired(now) and override.concerns(route):
                return EffectiveSetting(override.setting, override)
        return EffectiveSetting(route.migration.setting)

    def _changes_at(self, route: Route) -> float:
        """When time alone may change what holds."""
        now = self._now()
        ends = (o.until for o in self._overrides if o.until is not None and o.until > now and o.concerns(route))
        return min(ends, default=FOREVER)


def ends(override: Override | None) -> float | None:
    """Until when it holds, as the wall clock will show it."""
    return None if override is None or override.until is None else clock.wall(override.until)


def moment(when: float) -> str:
    """A moment as people read it, in local time."""
    return datetime.fromtimestamp(when).astimezone().strftime("%Y-%m-%d %H:%M")
