"""Plans `promote`: the run-time modes that mapping files can hold, and the overrides that are needless after that.

Files are known by name and digest; the caller writes them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from gateway.core.admin import views
from gateway.core.admin.records import AuditEntry, Change, Rejected, StateRefused
from gateway.core.migration.rollout_plan import OVER
from gateway.core.migration.rollout_plan import RolloutState as Stage
from gateway.core.routing import selection
from gateway.core.routing.overrides import Override
from gateway.core.routing.route import Route
from gateway.migration.active_overrides import ActiveOverrides, EffectiveSetting, moment
from gateway.state import clock
from gateway.state.store import StateStore

_MOVING = frozenset(stage.value for stage in Stage) - {stage.value for stage in OVER}


class Promoted(Struct, frozen=True):
    """A method that the mapping file is to give another mode."""

    service: str
    method: str
    before: str
    after: str
    setting: views.SettingView
    now: views.SettingView
    has_key: bool


class MappingFileModes(Struct, frozen=True):
    """A mapping file as this gateway has loaded it."""

    file: str
    sha256: str
    methods: tuple[Promoted, ...]


class KeptOverride(Struct, frozen=True):
    """A method whose mode is not for a file, and why."""

    service: str
    method: str
    mode: str
    why: str


class Promotion(Struct, frozen=True):
    """What could be written where."""

    files: tuple[MappingFileModes, ...]
    stays: tuple[KeptOverride, ...]


class PromotionPlanner:
    """One for the running gateway. `digests`: of the mapping files that are live, by the names that routes have."""

    def __init__(
        self,
        routes: Callable[[], Sequence[Route]],
        digests: Callable[[], Mapping[str, str]],
        toggles: ActiveOverrides,
        state: StateStore,
        rollouts: Callable[[], Mapping[str, str]],
        now: Callable[[], float],
    ) -> None:
        self._routes = routes
        self._digests = digests
        self._toggles = toggles
        self._state = state
        self._rollouts = rollouts
        self._now = now

    def plan(self, pattern: str = "*") -> Promotion | StateRefused:
        """The methods of a pattern whose mode is not the one that their file says."""
        means = selection.select(self._routes(), pattern)
        if not means and pattern != "*":
            return Rejected(selection.no_match(self._routes(), pattern))
        by_file: dict[str, list[Promoted]] = {}
        staying: list[KeptOverride] = []
        for route in means:
            effective, before = self._toggles.effective(route), route.migration.setting
            setting, why = effective.setting, self._stays(effective)
            if setting == before:
                continue
            if why:
                staying.append(KeptOverride(route.service, route.method, str(setting), why))
                continue
            promoted = Promoted(
                route.service,
                route.method,
                str(before),
                str(setting),
                views.setting_view(setting),
                views.setting_view(before),
                route.migration.key is not None,
            )
            by_file.setdefault(route.source.rpartition(":")[0], []).append(promoted)
        digests = self._digests()
        files = (MappingFileModes(str(Path(file).resolve()), digests[file], tuple(m)) for file, m in by_file.items())
        return Promotion(tuple(files), tuple(staying))

    async def settle(self, pattern: str, who: str, why: str = "") -> Sequence[str] | StateRefused:
        """Take back what is set at run time and is what the files say anyway; the patterns that were."""
        needless = self._needless(self._toggles.overrides)
        drop = tuple((override.pattern, override.by) for override in needless)
        patterns = tuple(dict.fromkeys(override.pattern for override in needless))
        entry = AuditEntry(self._now(), who, "promote", pattern, why, {"cleared": patterns})
        refused = await self._state.decide(Change((entry,), drop=drop))
        if refused is None:
            self._toggles.replace(self._state.overrides)
        return refused or patterns

    def _stays(self, effective: EffectiveSetting) -> str:
        override = effective.override
        if override is None:
            return ""
        if override.until is not None:
            return f"it is set until {moment(clock.wall(override.until))} only"
        if override.by == "rollout" and self._rollouts().get(override.pattern) in _MOVING:
            return f"the rollout of {override.pattern} is {self._rollouts()[override.pattern]}"
        return ""

    def _needless(self, overrides: Sequence[Override]) -> Sequence[Override]:
        """Those without which, together, every method has the setting that it has; no more than that takes."""
        now = self._holding(overrides)
        going = [each for each in overrides if not self._stays(EffectiveSetting(each.setting, each))]
        while needed := self._needed(overrides, going, now):
            going = [override for override in going if override not in needed]
        for override in [each for each in going if each not in [effective.override for effective in now]]:
            rest = [other for other in going if other is not override]
            if not self._needed(overrides, rest, now):
                going = rest  # it is hidden by others, and harmless where it is
        return going

    def _needed(
        self, overrides: Sequence[Override], going: Sequence[Override], now: Sequence[EffectiveSetting]
    ) -> list[Override]:
        """What makes the methods what they are that would be something else without all that is going."""
        then = self._holding([override for override in overrides if override not in going])
        pairs = zip(now, then, strict=True)
        return [was.override for was, would in pairs if was.setting != would.setting and was.override is not None]

    def _holding(self, overrides: Sequence[Override]) -> Sequence[EffectiveSetting]:
        toggles = ActiveOverrides(self._toggles.now)
        toggles.replace(overrides)
        return [toggles.effective(route) for route in self._routes()]
