"""What an operator may ask and change of moving methods, in plain values. Knows no socket, no bus and no protocol.

Every change is one decision of the state, with its line of the audit: all of it comes about, or nothing does.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from gateway.admin.notifications import Notifier
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
from gateway.core.admin.views import Explanation, Listener, MethodMoved, MethodRow, ModeRequest, ModeResult
from gateway.core.interfaces import AdminOperations
from gateway.core.migration.modes import Mode, Setting, percent
from gateway.core.routing import policy, selection
from gateway.core.routing.overrides import GROUP, By, Override, matches
from gateway.core.routing.route import Route
from gateway.core.rpc.model import Call, Value
from gateway.migration.active_overrides import ActiveOverrides, ends, moment
from gateway.migration.promote import PromotionPlanner
from gateway.migration.rollout_commands import RolloutCommands
from gateway.migration.rollout_storage import subject_of
from gateway.state.store import StateStore

_Apart: TypeAlias = Callable[[Override], bool]

NO_COUNTS = Counts()
LONGEST = 10 * 365 * 86_400.0  # seconds that a mode can be set for


class AdminService(AdminOperations):
    """One for the running gateway. `routes`: those of the mapping that is live. `now`: seconds since 1970.

    `steady`: by the clock by which modes end.
    """

    def __init__(
        self,
        routes: Callable[[], Sequence[Route]],
        toggles: ActiveOverrides,
        state: StateStore,
        rollouts: RolloutCommands,
        digests: Callable[[], Mapping[str, str]] = dict,  # of the mapping files that are live
        *,
        now: Callable[[], float] = time.time,
        steady: Callable[[], float] | None = None,
        flush: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._routes = routes
        self._toggles = toggles
        self._state = state
        self.rollouts = rollouts
        self.news = Notifier(routes, toggles, rollouts.states)
        self.promoting = PromotionPlanner(routes, digests, toggles, state, rollouts.states, now)
        self._now = now
        self._steady = steady or now
        self._flush = flush  # writes down what was counted until now

    # Asking

    def names(self) -> Sequence[MethodId]:
        """Every mapped method, in the order of the files."""
        return tuple(dict.fromkeys(map(MethodId.of, self._routes())))

    def tell(self, listener: Listener) -> Callable[[], None]:
        """Have somebody told of all that changes from now on; what is returned ends it."""
        return self.news.tell(listener)

    async def methods(self, pattern: str = "*") -> Sequence[MethodRow] | StateRefused:
        """A row for each mapped method that a pattern means."""
        routes = self._routes()
        means = selection.select(routes, pattern)
        if routes and not means:
            return Rejected(selection.no_match(routes, pattern))
        counts = await self._state.evidence()
        known = {} if isinstance(counts, StateRefused) else counts  # modes are shown whatever the file's trouble is
        rollouts = self.rollouts.states()
        return [self._row(route, known, rollouts.get(subject_of(route), "")) for route in _once(means)]

    def explain(
        self, name: str, params: Sequence[Value] = (), named: Mapping[str, Value] | None = None, key: str | None = None
    ) -> Sequence[Explanation] | StateRefused:
        """Who would answer a call, for each method of this name. `key`: in place of what the call has for a key."""
        routes = self._routes()
        means = selection.routes_named(routes, name)
        if not means:
            return Rejected(selection.no_match(routes, name))
        call = Call(name, tuple(params), named or {})
        return [self._explained(route, call, key) for route in means]

    def overrides(self) -> Sequence[Override]:
        """What is set at run time and whose time is not over, the strongest first."""
        return self._toggles.overrides

    async def audit(
        self, limit: int = 100, since: float = 0.0, subject: str | None = None
    ) -> Sequence[AuditEntry] | StateRefused:
        """The newest decisions, newest first."""
        about = None if subject is None else selection.canonical(self._routes(), subject)
        return await self._state.audit(limit, since, about)

    async def diff(self, name: str | None = None, limit: int = 50) -> Sequence[MismatchRecord] | StateRefused:
        """The newest pairs of outcomes that differ, newest first."""
        if name is None:
            return await self._state.pairs(None, limit)
        means = selection.routes_named(self._routes(), name)
        if not means:
            return Rejected(selection.no_match(self._routes(), name))
        found: list[MismatchRecord] = []
        for route in means:
            pairs = await self._state.pairs(MethodId.of(route), limit)
            if isinstance(pairs, StateRefused):
                return pairs
            found += pairs
        return sorted(found, key=lambda pair: pair.when, reverse=True)[:limit]

    # Changing

    async def set_mode(self, wish: ModeRequest, who: str) -> ModeResult | StateRefused:
        """Set a mode for all methods of a pattern, or for none and say why."""
        try:
            wanted = selection.setting(
                wish.mode, wish.percent, wish.control, observe=wish.observe, noise=wish.noise
            )  # fmt: skip
        except ValueError as error:
            return Rejected(str(error))
        wrong = selection.setting_problems(self._routes(), wish.pattern, wanted)
        if wish.seconds is not None and not 0 < wish.seconds <= LONGEST:
            wrong.append("a mode holds for some time, ten years at most, or until it is changed")
        if wrong:
            return Rejected("; ".join(wrong))
        now = self._now()
        until = None if wish.seconds is None else self._steady() + wish.seconds
        pattern = selection.canonical(self._routes(), wish.pattern)
        override = Override(pattern, wanted, who, now, wish.why, until)
        drop = self._of_person(self._spelled(pattern))
        return await self._decided(pattern, str(wanted), Change((_entry(override),), (override,), drop))

    async def clear_mode(self, pattern: str, who: str, why: str = "") -> ModeResult | StateRefused:
        """Back to what holds without the override of exactly this pattern."""
        pattern = selection.canonical(self._routes(), pattern)
        mine = self._spelled(pattern)
        drop = self._of_person(mine)
        if not drop:
            return Rejected(self._nothing_set(pattern, mine))
        entry = AuditEntry(self._now(), who, "mode", pattern, why, {"mode": "mapping"})
        return await self._decided(pattern, "mapping", Change((entry,), drop=drop))

    async def rollback_all(self, who: str, why: str = "") -> ModeResult | StateRefused:
        """Every method to its legacy service at once, whatever bus and file are like; what a person set `off` stays."""
        before = self._settings(EVERYTHING)
        ended = await self.rollouts.rollback_all(who, why)
        if isinstance(ended, StateRefused):
            return ended
        self._toggles.replace(self._state.overrides)
        moved = self._moved(before, EVERYTHING, lambda override: override.setting.mode is Mode.OFF)
        return ModeResult(EVERYTHING, "legacy", moved, ended.why if isinstance(ended, PendingDecision) else "")

    async def clear_evidence(self, pattern: str, who: str, why: str = "") -> Sequence[MethodId] | StateRefused:
        """Forget what was counted and kept of all methods of a pattern."""
        means = selection.select(self._routes(), pattern)
        if not means:
            return Rejected(selection.no_match(self._routes(), pattern))
        methods = tuple(dict.fromkeys(map(MethodId.of, means)))
        if self._flush is not None:
            await self._flush()  # what is not yet written would come back
        entry = AuditEntry(self._now(), who, "clear evidence", pattern, why, {"methods": len(methods)})
        refused = await self._state.decide(Change((entry,), clear=methods))
        return refused or methods

    async def note(self, who: str, what: str, subject: str, numbers: Mapping[str, Json], why: str = "") -> None:
        """A line of the audit for what was decided elsewhere: a reload. Where it cannot be written it is not."""
        await self._state.decide(Change((AuditEntry(self._now(), who, what, subject, why, numbers),)))

    # How

    def _row(self, route: Route, known: Mapping[MethodId, Counts], rollout: str) -> MethodRow:
        effective = self._toggles.effective(route)
        counts = known.get(MethodId.of(route), NO_COUNTS)
        until, source = ends(effective.override), effective.source(route)
        return views.row(route, effective.setting, effective.override, source, counts, rollout, until)

    def _explained(self, route: Route, call: Call, value: str | None) -> Explanation:
        migration = replace(route.migration, key=views.with_key(route.migration.key, value))
        asked = replace(route, migration=migration)
        effective = self._toggles.effective(route)
        plan = policy.plan_call(asked, effective.setting, call)
        value = migration.key.take(call) if migration.key is not None else None
        return views.explanation(route, effective.setting, effective.source(route), plan, value)

    async def _decided(self, pattern: str, mode: str, change: Change) -> ModeResult | StateRefused:
        before = self._settings(pattern)
        refused = await self._state.decide(change)
        if refused is not None:
            return refused
        self._toggles.replace(self._state.overrides)
        return ModeResult(pattern, mode, self._moved(before, pattern, lambda override: override.pattern != pattern))

    def _spelled(self, pattern: str) -> Sequence[Override]:
        """What is set for a pattern, however it was written when it was set."""
        routes = self._routes()
        return [each for each in self._state.overrides if selection.canonical(routes, each.pattern) == pattern]

    def _of_person(self, overrides: Iterable[Override]) -> tuple[tuple[str, By], ...]:
        return tuple((each.pattern, each.by) for each in overrides if each.by == "person")

    def _settings(self, pattern: str) -> dict[MethodId, Setting]:
        means = selection.select(self._routes(), pattern)
        return {MethodId.of(route): self._toggles.effective(route).setting for route in means}

    def _moved(self, before: Mapping[MethodId, Setting], pattern: str, apart: _Apart) -> tuple[MethodMoved, ...]:
        """`apart`: whether an override that holds was there already, and the change did not touch it."""
        return tuple(
            self._one_moved(route, before.get(MethodId.of(route)), apart)
            for route in _once(selection.select(self._routes(), pattern))
        )

    def _one_moved(self, route: Route, before: Setting | None, apart: _Apart) -> MethodMoved:
        effective = self._toggles.effective(route)
        stays = ""
        if effective.override is not None and apart(effective.override):
            stays = f"'{effective.override.pattern}' is set to {effective.setting} by {effective.override.who}"
        after = str(effective.setting)
        return MethodMoved(route.service, route.method, str(before) if before is not None else after, after, stays)

    def _nothing_set(self, pattern: str, mine: Iterable[Override]) -> str:
        if any(override.by == "rollout" for override in mine):
            return f"what is set for '{pattern}' is a rollout's: pause or abort the rollout"
        means = selection.select(self._routes(), pattern)
        if not means and not pattern.startswith(GROUP):
            return selection.no_match(self._routes(), pattern)
        of_these = [o for o in self._toggles.overrides if any(matches(o.pattern, route) for route in means)]
        if not of_these:
            return f"nothing is set for '{pattern}': the mapping holds"
        others = ", ".join(f"'{o.pattern}' ({o.setting}, {o.who} {moment(o.when)})" for o in of_these)
        return f"nothing is set for exactly '{pattern}'; what holds there is set for {others}"


def _once(routes: Iterable[Route]) -> Iterable[Route]:
    """A method that several files map is one method here."""
    found: dict[MethodId, Route] = {}
    for route in routes:
        found.setdefault(MethodId.of(route), route)
    return found.values()


def _entry(override: Override) -> AuditEntry:
    setting, numbers = override.setting, dict[str, Json](mode=override.setting.mode.value)
    if setting.mode is Mode.CANARY:
        numbers["share"] = percent(setting.buckets)
    if setting.mode is Mode.SHADOW:
        numbers["control"] = setting.control.value
    for name in ("observe", "noise"):
        if getattr(setting, name):
            numbers[name] = True
    if override.until is not None:
        numbers["until"] = ends(override)
    return AuditEntry(override.when, override.who, "mode", override.pattern, override.why, numbers)
