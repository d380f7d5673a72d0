"""Tells who listens which methods have another mode now and what was rolled back, whoever did it. Knows no wire."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import structlog

from gateway.core.admin.records import EVERYTHING, MethodId
from gateway.core.admin.views import Listener, MappingsReloaded, ModeChange, RollbackDone, set_by, written
from gateway.core.admin.views import Notification as Told
from gateway.core.migration.modes import Mode
from gateway.core.migration.rollout_plan import RolloutState
from gateway.core.routing.overrides import Override
from gateway.core.routing.route import Route
from gateway.migration.active_overrides import ActiveOverrides, EffectiveSetting, ends

_log = structlog.get_logger("gateway")


class Notifier:
    """Looks whenever overrides or routes may be others, and compares. `rollouts`: the state of each."""

    def __init__(
        self, routes: Callable[[], Sequence[Route]], toggles: ActiveOverrides, rollouts: Callable[[], Mapping[str, str]]
    ) -> None:
        self._routes = routes
        self._toggles = toggles
        self._rollouts = rollouts
        self._listeners: list[Listener] = []
        self._before = _Seen({}, {}, None)
        toggles.subscribe(self.look)

    def tell(self, listener: Listener) -> Callable[[], None]:
        """Have somebody told of all that changes from now on; what is returned ends it."""
        if not self._listeners:
            self._before = self._seen()
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def look(self) -> None:
        """Tell what has changed since the last look."""
        if not self._listeners:
            return
        before, self._before = self._before, self._seen()
        for news in _changes(before, self._before):
            for listener in tuple(self._listeners):
                try:
                    listener(news)
                except Exception:  # noqa: BLE001 - a bug costs this listener this piece of news
                    _log.exception("a bug lost a piece of news", news=news)

    def _seen(self) -> _Seen:
        effective = {MethodId.of(route): (route, self._toggles.effective(route)) for route in self._routes()}
        everything = (each for each in self._toggles.overrides if each.pattern == EVERYTHING)
        return _Seen(effective, dict(self._rollouts()), next(everything, None))


class _Seen:
    """What a look has found."""

    def __init__(
        self,
        effective: Mapping[MethodId, tuple[Route, EffectiveSetting]],
        rollouts: Mapping[str, str],
        everything: Override | None,
    ) -> None:
        self.effective = effective
        self.rollouts = rollouts
        self.everything = everything


def _changes(before: _Seen, after: _Seen) -> Iterator[Told]:
    added = tuple(method for method in after.effective if method not in before.effective)
    removed = tuple(method for method in before.effective if method not in after.effective)
    if added or removed:
        yield MappingsReloaded(added, removed)
    yield from _rollbacks(before, after)
    for method, (route, now) in after.effective.items():
        if method in before.effective and before.effective[method][1] != now:
            yield _mode_changed(route, before.effective[method][1], now)


def _rollbacks(before: _Seen, after: _Seen) -> Iterator[RollbackDone]:
    all_back = after.everything
    if all_back is not None and all_back != before.everything and all_back.setting.mode is Mode.LEGACY:
        yield RollbackDone(EVERYTHING, all_back.who, all_back.why)
    for name, state in after.rollouts.items():
        if state == RolloutState.ROLLED_BACK.value and before.rollouts.get(name) not in (None, state):
            yield RollbackDone(name, *_by(name, after))


def _by(name: str, seen: _Seen) -> tuple[str, str]:
    """Who has rolled back, and why: what the rollout has set says so."""
    overrides = (now.override for _, now in seen.effective.values() if now.override is not None)
    theirs = next((each for each in overrides if (each.pattern, each.by) == (name, "rollout")), None)
    return (theirs.who, theirs.why) if theirs is not None else ("rollout", "")


def _mode_changed(route: Route, before: EffectiveSetting, now: EffectiveSetting) -> ModeChange:
    return ModeChange(
        service=route.service,
        method=route.method,
        before=str(before.setting),
        after=str(now.setting),
        setting=written(now.setting),
        set_by=set_by(now.override),
        source=now.source(route),
        until=ends(now.override),
    )
