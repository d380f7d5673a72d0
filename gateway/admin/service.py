"""The admin service: the operations on modes, statistics and rollouts, for the HTTP API and the D-Bus API.

Every change is one decision of the state with its audit entry, and is made completely or not at all. A refusal is
returned as `StateRefused`, or as `Rejected` if the request itself is wrong.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from msgspec.structs import replace

from gateway.core.admin import views
from gateway.core.admin.records import (
    EVERYTHING,
    AuditEntry,
    Change,
    Counts,
    Json,
    MethodId,
    MismatchRecord,
    PendingDecision,
    Rejected,
    StateRefused,
)
from gateway.core.admin.views import (
    Explanation,
    Listener,
    MappingsReloaded,
    MethodMoved,
    MethodRow,
    ModeChange,
    ModeRequest,
    ModeResult,
    Notification,
    RollbackDone,
)
from gateway.core.interfaces import AdminOperations
from gateway.core.logger import Logger
from gateway.core.migration.modes import Mode, percent
from gateway.core.migration.rollout_plan import RolloutState
from gateway.core.routing import policy, selection
from gateway.core.routing.overrides import GROUP, By, Override, matches
from gateway.core.routing.route import Route
from gateway.core.rpc.model import Call, Value
from gateway.migration.active_overrides import ActiveOverrides, EffectiveSetting, ends, moment
from gateway.migration.promote import PromotionPlanner
from gateway.migration.rollout_commands import RolloutCommands
from gateway.migration.rollout_storage import subject_of
from gateway.state.store import StateStore, noted

_log = Logger()
_IsSeparate: TypeAlias = Callable[[Override], bool]

NO_COUNTS = Counts()
MAX_ENTRIES = 100_000  # that the audit keeps
MODES_BEFORE = "modes before rollback"  # audit entry with the overrides that a rollback of everything has replaced
MAX_SECONDS = 10 * 365 * 86_400.0  # of a mode with a duration


class AdminService(AdminOperations):
    """One for the running gateway.

    `routes`: of the live mapping. `digests`: of the live mapping files. `now`: seconds since 1970. `steady`: seconds of
    the clock by which modes end.
    """

    def __init__(
        self,
        routes: Callable[[], Sequence[Route]],
        toggles: ActiveOverrides,
        state: StateStore,
        rollouts: RolloutCommands,
        digests: Callable[[], Mapping[str, str]] = dict,
        *,
        now: Callable[[], float] = time.time,
        steady: Callable[[], float] | None = None,
        flush: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._routes = routes
        self._toggles = toggles
        self._state = state
        self.rollouts = rollouts
        self.notifier = Notifier(routes, toggles, rollouts.states)
        self.promoting = PromotionPlanner(routes, digests, toggles, state, rollouts.states, now)
        self._now = now
        self._steady = steady or now
        self._flush = flush  # writes down what was counted until now

    def names(self) -> Sequence[MethodId]:
        """Return every mapped method, in the order of the files."""
        return tuple(dict.fromkeys(map(MethodId.of, self._routes())))

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` for every change from now on; the returned function ends that."""
        return self.notifier.subscribe(listener)

    async def methods(self, pattern: str = "*") -> Sequence[MethodRow] | StateRefused:
        """Return a row for each method of a pattern, also while the state cannot be read (without statistics)."""
        routes = self._routes()
        selected = selection.select(routes, pattern)
        if routes and not selected:
            return Rejected(selection.no_match(routes, pattern))
        counts = await self._state.evidence()
        known = {} if isinstance(counts, StateRefused) else counts  # the modes in force are known without the file
        rollouts = self.rollouts.states()
        rows = []
        for route in _unique(selected):
            effective, counted = self._toggles.effective(route), known.get(MethodId.of(route), NO_COUNTS)
            override, rollout = effective.override, rollouts.get(subject_of(route), "")
            source = effective.source(route)
            rows.append(views.row(route, effective.setting, override, source, counted, rollout, ends(override)))
        return rows

    def explain(
        self, name: str, params: Sequence[Value] = (), named: Mapping[str, Value] | None = None, key: str | None = None
    ) -> Sequence[Explanation] | StateRefused:
        """Explain for each method of this name which side would serve a call. `key` replaces its canary key."""
        routes = self._routes()
        selected = selection.routes_named(routes, name)
        if not selected:
            return Rejected(selection.no_match(routes, name))
        call = Call(name, tuple(params), named or {})
        explained = []
        for route in selected:
            migration = replace(route.migration, key=views.with_key(route.migration.key, key))
            effective = self._toggles.effective(route)
            plan = policy.plan_call(replace(route, migration=migration), effective.setting, call)
            value = migration.key.take(call) if migration.key is not None else None
            explained.append(views.explanation(route, effective.setting, effective.source(route), plan, value))
        return explained

    def overrides(self) -> Sequence[Override]:
        """Return the overrides in force, the strongest first."""
        return self._toggles.overrides

    async def audit(
        self, limit: int = 100, since: float = 0.0, subject: str | None = None
    ) -> Sequence[AuditEntry] | StateRefused:
        """Return decisions, the newest first."""
        about = None if subject is None else selection.canonical(self._routes(), subject)
        return await self._state.audit(limit, since, about)

    async def diff(self, name: str | None = None, limit: int = 50) -> Sequence[MismatchRecord] | StateRefused:
        """Return mismatches, the newest first."""
        if name is None:
            return await self._state.pairs(None, limit)
        selected = selection.routes_named(self._routes(), name)
        if not selected:
            return Rejected(selection.no_match(self._routes(), name))
        found: list[MismatchRecord] = []
        for route in selected:
            pairs = await self._state.pairs(MethodId.of(route), limit)
            if isinstance(pairs, StateRefused):
                return pairs
            found += pairs
        return sorted(found, key=lambda pair: pair.when, reverse=True)[:limit]

    async def set_mode(self, request: ModeRequest, who: str) -> ModeResult | StateRefused:
        """Set a mode for all methods of a pattern, or for none."""
        try:
            wanted = selection.setting(
                request.mode, request.percent, request.control, observe=request.observe, noise=request.noise
            )  # fmt: skip
        except ValueError as error:
            return Rejected(str(error))
        wrong = selection.setting_problems(self._routes(), request.pattern, wanted)
        if request.seconds is not None and not 0 < request.seconds <= MAX_SECONDS:
            wrong.append(f"seconds: expected more than 0 and at most {MAX_SECONDS:,.0f}, got {request.seconds:g}")
        pattern = selection.canonical(self._routes(), request.pattern)
        if request.guarded and not wrong:
            wrong += self.rollouts.unguarded(pattern)
        if wrong:
            return Rejected("; ".join(wrong))
        now = self._now()
        until = None if request.seconds is None else self._steady() + request.seconds
        override = Override(pattern, wanted, who, now, request.why, until, guarded=request.guarded)
        drop = _of_person(self._spelled(pattern))
        change = Change((_entry(override),), (override,), drop)
        return await self._decided(pattern, str(wanted), change, lambda other: other.pattern != pattern)

    async def clear_mode(self, pattern: str, who: str, why: str = "") -> ModeResult | StateRefused:
        """Remove what a person has set for exactly this pattern, else what a rollout that is over has left there."""
        pattern = selection.canonical(self._routes(), pattern)
        mine = self._spelled(pattern)
        drop = _of_person(mine) or self._left(pattern)
        if not drop:
            return Rejected(self._nothing_set(pattern, mine))
        entry = AuditEntry(self._now(), who, "mode", pattern, why, {"mode": "mapping"})
        change = Change((entry,), drop=drop)
        return await self._decided(pattern, "mapping", change, lambda other: other.pattern != pattern)

    async def rollback_all(self, who: str, why: str = "") -> ModeResult | StateRefused:
        """Set every method to legacy and end all rollouts. It needs no bus and no file; `off` set by a person stays."""
        before, overrides = self._settings(EVERYTHING), self._toggles.overrides
        with noted() as notes:
            ended = await self.rollouts.rollback_all(who, why)
        if isinstance(ended, StateRefused):
            return ended
        self._toggles.replace(self._state.overrides)
        if ended is None and overrides:
            modes: dict[str, Json] = {each.pattern: _override_json(each) for each in reversed(overrides)}
            await self.note(who, MODES_BEFORE, EVERYTHING, modes)
        moved = self._moved(before, EVERYTHING, lambda override: override.setting.mode is Mode.OFF)
        held = ended.why if isinstance(ended, PendingDecision) else ""
        return ModeResult(EVERYTHING, "legacy", moved, held, notes)

    async def undo_rollback(self, who: str, why: str = "") -> ModeResult | StateRefused:
        """Restore the modes that were set before the rollback of everything in force. Rollouts stay ended."""
        entries = await self._state.audit(MAX_ENTRIES, 0.0, EVERYTHING)
        if isinstance(entries, StateRefused):
            return entries
        at = next((index for index, entry in enumerate(entries) if entry.what == "rollback"), len(entries))
        made = [each for each in self._toggles.overrides if at < len(entries) and each.when == entries[at].when]
        if EVERYTHING not in (each.pattern for each in made):
            return Rejected("there is nothing to undo: no rollback of everything is in force")
        since = {each.pattern for each in self._toggles.overrides if each not in made}  # set or kept by persons
        modes = _modes_before(entries, at)
        restored = [self._restored(pattern, mode) for pattern, mode in modes.items() if pattern not in since]
        put = tuple(each for each in restored if each is not None)
        numbers: dict[str, Json] = {each.pattern: str(each.setting) for each in put}
        entry = AuditEntry(self._now(), who, "undo rollback", EVERYTHING, why, numbers)
        change = Change((entry,), put, _of_person(made))
        return await self._decided(EVERYTHING, "before the rollback", change, lambda _: False)

    def _restored(self, pattern: str, written: Json) -> Override | None:
        """An override as it was before a rollback; None if its time is over."""
        assert isinstance(written, Mapping)  # written by _override_json
        now, until = self._now(), written["until"]
        left = None if until is None else float(str(until)) - now
        if left is not None and left <= 0:
            return None
        end = None if left is None else self._steady() + left
        return Override(pattern, views.setting_of(written), str(written["who"]), now, str(written["why"]), end)

    async def reset_statistics(self, pattern: str, who: str, why: str = "") -> Sequence[MethodId] | StateRefused:
        """Delete call statistics and mismatches of all methods of a pattern."""
        selected = selection.select(self._routes(), pattern)
        if not selected:
            return Rejected(selection.no_match(self._routes(), pattern))
        methods = tuple(dict.fromkeys(map(MethodId.of, selected)))
        if self._flush is not None:
            await self._flush()  # statistics that are not yet written would come back
        entry = AuditEntry(self._now(), who, "reset statistics", pattern, why, {"methods": len(methods)})
        refused = await self._state.decide(Change((entry,), clear=methods))
        return refused or methods

    async def note(self, who: str, what: str, subject: str, numbers: Mapping[str, Json], why: str = "") -> None:
        """Add an audit entry for a decision made elsewhere (a reload). It is lost while the state cannot be written."""
        await self._state.decide(Change((AuditEntry(self._now(), who, what, subject, why, numbers),)))

    async def _decided(
        self, pattern: str, mode: str, change: Change, is_separate: _IsSeparate
    ) -> ModeResult | StateRefused:
        before = self._settings(pattern)
        with noted() as notes:
            refused = await self._state.decide(change)
        if refused is not None:
            return refused
        self._toggles.replace(self._state.overrides)
        return ModeResult(pattern, mode, self._moved(before, pattern, is_separate), notes=notes)

    def _spelled(self, pattern: str) -> Sequence[Override]:
        """The overrides of a canonical pattern, in whatever spelling they were set."""
        routes = self._routes()
        return [each for each in self._state.overrides if selection.canonical(routes, each.pattern) == pattern]

    def _left(self, pattern: str) -> tuple[tuple[str, By], ...]:
        """What rollouts that are over have left: that of this pattern, or with `*` all of it."""
        left = (
            each for each in self._state.overrides if each.by == "rollout" and pattern in (each.pattern, EVERYTHING)
        )
        return tuple((each.pattern, each.by) for each in left if not self.rollouts.holds(each.pattern))

    def _settings(self, pattern: str) -> dict[MethodId, EffectiveSetting]:
        selected = selection.select(self._routes(), pattern)
        return {MethodId.of(route): self._toggles.effective(route) for route in selected}

    def _moved(
        self, before: Mapping[MethodId, EffectiveSetting], pattern: str, is_separate: _IsSeparate
    ) -> tuple[MethodMoved, ...]:
        """`is_separate`: whether an override in force is not part of the change."""
        moved = []
        for route in _unique(selection.select(self._routes(), pattern)):
            effective = self._toggles.effective(route)
            old, override, stays = before.get(MethodId.of(route), effective), effective.override, ""
            if override is not None and is_separate(override):
                stays = f"'{override.pattern}' is set to {effective.setting} by {override.who}"
            moved.append(
                MethodMoved(
                    route.service,
                    route.method,
                    str(old.setting),
                    str(effective.setting),
                    stays,
                    views.set_by(override),
                    ends(override),
                    changed=_in_force(old) != _in_force(effective),
                )
            )
        return tuple(moved)

    def _nothing_set(self, pattern: str, mine: Iterable[Override]) -> str:
        if any(override.by == "rollout" for override in mine):
            return f"what is set for '{pattern}' is a rollout's: {self.rollouts.holds(pattern)}"
        selected = selection.select(self._routes(), pattern)
        if not selected and not pattern.startswith(GROUP):
            return selection.no_match(self._routes(), pattern)
        of_these = [o for o in self._toggles.overrides if any(matches(o.pattern, route) for route in selected)]
        if not of_these:
            return f"nothing is set for '{pattern}': the mapping holds"
        others = ", ".join(f"'{o.pattern}' ({o.setting}, {o.who} {moment(o.when)})" for o in of_these)
        return f"nothing is set for exactly '{pattern}'; what holds there is set for {others}"


def _of_person(overrides: Iterable[Override]) -> tuple[tuple[str, By], ...]:
    return tuple((each.pattern, each.by) for each in overrides if each.by == "person")


def _unique(routes: Iterable[Route]) -> Iterable[Route]:
    """Drop further routes of a method that several files map."""
    found: dict[MethodId, Route] = {}
    for route in routes:
        found.setdefault(MethodId.of(route), route)
    return found.values()


def _in_force(effective: EffectiveSetting) -> tuple[object, ...]:
    """What makes a difference to an operator."""
    override = effective.override
    if override is None:
        return (effective.setting,)
    return effective.setting, override.pattern, override.by, override.until, override.guarded


def _modes_before(entries: Sequence[AuditEntry], at: int, newest: int = 0) -> Mapping[str, Json]:
    """The modes before the rollback `entries[at]`; if it has replaced an earlier rollback, those before that one.

    `entries` are the newest first. The entry with these modes is between `newest` and `at`.
    """
    modes = next((entry.numbers for entry in reversed(entries[newest:at]) if entry.what == MODES_BEFORE), {})
    replaced = modes.get(EVERYTHING)
    earlier = next((index for index in range(at + 1, len(entries)) if entries[index].what == "rollback"), None)
    if earlier is None or not isinstance(replaced, Mapping) or replaced.get("when") != entries[earlier].when:
        return modes
    since = {pattern: mode for pattern, mode in modes.items() if pattern != EVERYTHING}
    return {**_modes_before(entries, earlier, at), **since}


def _entry(override: Override) -> AuditEntry:
    setting, numbers = override.setting, dict[str, Json](mode=override.setting.mode.value)
    if setting.mode is Mode.CANARY:
        numbers["share"] = percent(setting.buckets)
    if setting.mode is Mode.SHADOW:
        numbers["control"] = setting.control.value
    for name in ("observe", "noise"):
        if getattr(setting, name):
            numbers[name] = True
    if override.guarded:
        numbers["guarded"] = True
    if override.until is not None:
        numbers["until"] = ends(override)
    return AuditEntry(override.when, override.who, "mode", override.pattern, override.why, numbers)


def _override_json(override: Override) -> dict[str, Json]:
    """An override for the audit, from which it can be restored."""
    setting: Mapping[str, Json] = {**views.setting_view(override.setting)}  # type: ignore[dict-item]
    return {**setting, "who": override.who, "why": override.why, "when": override.when, "until": ends(override)}


class Notifier:
    """Notifies of changed modes, rollbacks and reloads, whatever caused them. `rollouts`: the state of each, by name.

    `update` is called whenever overrides or routes may have changed. It compares the modes in force with those of its
    last call, and passes each difference to the subscribed listeners.
    """

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
                setting=views.setting_view(now.setting),
                set_by=views.set_by(now.override),
                source=now.source(route),
                until=ends(now.override),
            )
