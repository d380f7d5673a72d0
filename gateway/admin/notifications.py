"""Notifications of changed modes, rollbacks and reloads, whatever caused them.

`Notifier.update` is called whenever overrides or routes may have changed. It compares the modes in force with those
of its last call, and passes each difference to the subscribed listeners.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from gateway.core.admin.records import EVERYTHING, MethodId
from gateway.core.admin.views import (
    Listener,
    MappingsReloaded,
    ModeChange,
    Notification,
    RollbackDone,
    set_by,
    setting_view,
)
from gateway.core.logger import Logger
from gateway.core.migration.modes import Mode
from gateway.core.migration.rollout_plan import RolloutState
from gateway.core.routing.overrides import Override
from gateway.core.routing.route import Route
from gateway.migration.active_overrides import ActiveOverrides, EffectiveSetting, ends

_log = Logger()


class Notifier:
    """One for the running gateway. `rollouts`: the state of each, by name."""

    def __init__(
        self, routes: Callable[[], Sequence[Route]], toggles: ActiveOverrides, rollouts: Callable[[], Mapping[str, str]]
    ) -> None:
        self._routes = routes
        self._toggles = toggles
        self._rollouts = rollouts
        self._listeners: list[Listener] = []
        self._last = _Snapshot({}, {}, None)
        toggles.subscribe(self.update)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` for every change from now on; the returned function ends that."""
        if not self._listeners:
            self._last = self._snapshot()
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def update(self) -> None:
        """Notify of the changes since the last call."""
        if not self._listeners:
            return
        before, self._last = self._last, self._snapshot()
        for notification in _changes(before, self._last):
            for listener in tuple(self._listeners):
                try:
                    listener(notification)
                except Exception:  # noqa: BLE001 - a bug costs this listener this notification
                    _log.exception("unexpected error in a listener", notification=notification)

    def _snapshot(self) -> _Snapshot:
        effective = {MethodId.of(route): (route, self._toggles.effective(route)) for route in self._routes()}
        everything = (each for each in self._toggles.overrides if each.pattern == EVERYTHING)
        return _Snapshot(effective, dict(self._rollouts()), next(everything, None))


class _Snapshot(NamedTuple):
    """The modes in force, the states of rollouts, and a mode for everything."""

    effective: Mapping[MethodId, tuple[Route, EffectiveSetting]]
    rollouts: Mapping[str, str]
    everything: Override | None


def _changes(before: _Snapshot, after: _Snapshot) -> Iterator[Notification]:
    added = tuple(method for method in after.effective if method not in before.effective)
    removed = tuple(method for method in before.effective if method not in after.effective)
    if added or removed:
        yield MappingsReloaded(added, removed)
    back = after.everything
    if back is not None and back != before.everything and back.setting.mode is Mode.LEGACY:
        yield RollbackDone(EVERYTHING, back.who, back.why)
    for name, state in after.rollouts.items():
        if state == RolloutState.ROLLED_BACK.value and before.rollouts.get(name) not in (None, state):
            overrides = (now.override for _, now in after.effective.values() if now.override is not None)
            cause = next((each for each in overrides if (each.pattern, each.by) == (name, "rollout")), None)
            yield RollbackDone(name, cause.who, cause.why) if cause else RollbackDone(name, "rollout", "")
    for method, (route, now) in after.effective.items():
        was = before.effective.get(method)
        if was is not None and was[1] != now:
            yield ModeChange(
                service=route.service,
                method=route.method,
                before=str(was[1].setting),
                after=str(now.setting),
                setting=setting_view(now.setting),
                set_by=set_by(now.override),
                source=now.source(route),
                until=ends(now.override),
            )
