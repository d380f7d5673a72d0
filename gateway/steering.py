"""What an operator may ask and change of moving methods, in plain values. Knows no socket, no bus and no protocol.

Every change is one decision of the state, with its line of the audit: all of it comes about, or nothing does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from gateway.core import choosing, policy, steering
from gateway.core.kept import EVERYTHING, Change, Counts, Entry, Held, Json, MethodId, Pair, Refused, Rejected
from gateway.core.migration import Mode, Setting, percent
from gateway.core.model import Call, Value
from gateway.core.override import GROUP, By, Override, matches
from gateway.core.ports import Operator
from gateway.core.route import Route
from gateway.core.steering import Changed, Explanation, Listener, Moved, Row, Wish
from gateway.news import News
from gateway.promoting import Promoting
from gateway.rollout.orders import Orders
from gateway.rollout.subjects import subject_of
from gateway.state.state import State
from gateway.toggles import Toggles, ends, moment

_Apart: TypeAlias = Callable[[Override], bool]

NO_COUNTS = Counts()
LONGEST = 10 * 365 * 86_400.0  # seconds that a mode can be set for


class Steering(Operator):
    """One for the running gateway. `routes`: those of the mapping that is live. `now`: seconds since 1970.

    `steady`: by the clock by which modes end.
    """

    def __init__(
        self,
        routes: Callable[[], Sequence[Route]],
        toggles: Toggles,
        state: State,
        rollouts: Orders,
        digests: Callable[[], Mapping[str, str]] = dict,  # of the mapping files that are live
        *,
        now: Callable[[], float] = time.time,
        steady: Callable[[], float] | None = None,
    ) -> None:
        self._routes = routes
        self._toggles = toggles
        self._state = state
        self.rollouts = rollouts
        self.news = News(routes, toggles, rollouts.states)
        self.promoting = Promoting(routes, digests, toggles, state, rollouts.states, now)
        self._now = now
        self._steady = steady or now

    # Asking

    def names(self) -> Sequence[MethodId]:
        """Every mapped method, in the order of the files."""
        return tuple(dict.fromkeys(map(MethodId.of, self._routes())))

    def tell(self, listener: Listener) -> Callable[[], None]:
        """Have somebody told of all that changes from now on; what is returned ends it."""
        return self.news.tell(listener)

    async def methods(self, pattern: str = "*") -> Sequence[Row] | Refused:
        """A row for each mapped method that a pattern means."""
        routes = self._routes()
        means = choosing.chosen(routes, pattern)
        if routes and not means:
            return Rejected(choosing.nothing(routes, pattern))
        counts = await self._state.evidence()
        known = {} if isinstance(counts, Refused) else counts  # modes are shown whatever the file's trouble is
        rollouts = self.rollouts.states()
        return [self._row(route, known, rollouts.get(subject_of(route), "")) for route in _once(means)]

    def explain(
        self, name: str, params: Sequence[Value] = (), named: Mapping[str, Value] | None = None, key: str | None = None
    ) -> Sequence[Explanation] | Refused:
        """Who would answer a call, for each method of this name. `key`: in place of what the call has for a key."""
        routes = self._routes()
        means = choosing.called(routes, name)
        if not means:
            return Rejected(choosing.nothing(routes, name))
        call = Call(name, tuple(params), named or {})
        return [self._explained(route, call, key) for route in means]

    def overrides(self) -> Sequence[Override]:
        """What is set at run time and whose time is not over, the strongest first."""
        return self._toggles.overrides

    async def audit(
        self, limit: int = 100, since: float = 0.0, subject: str | None = None
    ) -> Sequence[Entry] | Refused:
        """The newest decisions, newest first."""
        about = None if subject is None else choosing.canonical(self._routes(), subject)
        return await self._state.audit(limit, since, about)

    async def diff(self, name: str | None = None, limit: int = 50) -> Sequence[Pair] | Refused:
        """The newest pairs of outcomes that differ, newest first."""
        if name is None:
            return await self._state.pairs(None, limit)
        means = choosing.called(self._routes(), name)
        if not means:
            return Rejected(choosing.nothing(self._routes(), name))
        found: list[Pair] = []
        for route in means:
            pairs = await self._state.pairs(MethodId.of(route), limit)
            if isinstance(pairs, Refused):
                return pairs
            found += pairs
        return sorted(found, key=lambda pair: pair.when, reverse=True)[:limit]

    # Changing

    async def set_mode(self, wish: Wish, who: str) -> Changed | Refused:
        """Set a mode for all methods of a pattern, or for none and say why."""
        try:
            wanted = choosing.setting(
                wish.mode, wish.percent, wish.control, observe=wish.observe, noise=wish.noise
            )  # fmt: skip
        except ValueError as error:
            return Rejected(str(error))
        wrong = choosing.refusals(self._routes(), wish.pattern, wanted)
        if wish.seconds is not None and not 0 < wish.seconds <= LONGEST:
            wrong.append("a mode holds for some time, ten years at most, or until it is changed")
        if wrong:
            return Rejected("; ".join(wrong))
        now = self._now()
        until = None if wish.seconds is None else self._steady() + wish.seconds
        pattern = choosing.canonical(self._routes(), wish.pattern)
        override = Override(pattern, wanted, who, now, wish.why, until)
        drop = self._of_person(self._spelled(pattern))
        return await self._decided(pattern, str(wanted), Change((_entry(override),), (override,), drop))

    async def clear_mode(self, pattern: str, who: str, why: str = "") -> Changed | Refused:
        """Back to what holds without the override of exactly this pattern."""
        pattern = choosing.canonical(self._routes(), pattern)
        mine = self._spelled(pattern)
        drop = self._of_person(mine)
        if not drop:
            return Rejected(self._nothing_set(pattern, mine))
        entry = Entry(self._now(), who, "mode", pattern, why, {"mode": "mapping"})
        return await self._decided(pattern, "mapping", Change((entry,), drop=drop))

    async def rollback_all(self, who: str, why: str = "") -> Changed | Refused:
        """Every method to its old service at once, whatever bus and file are like; what a person set `off` stays."""
        before = self._settings(EVERYTHING)
        ended = await self.rollouts.rollback_all(who, why)
        if isinstance(ended, Refused):
            return ended
        self._toggles.replace(self._state.overrides)
        moved = self._moved(before, EVERYTHING, lambda override: override.setting.mode is Mode.OFF)
        return Changed(EVERYTHING, "legacy", moved, ended.why if isinstance(ended, Held) else "")

    async def clear_evidence(self, pattern: str, who: str, why: str = "") -> Sequence[MethodId] | Refused:
        """Forget what was counted and kept of all methods of a pattern."""
        means = choosing.chosen(self._routes(), pattern)
        if not means:
            return Rejected(choosing.nothing(self._routes(), pattern))
        methods = tuple(dict.fromkeys(map(MethodId.of, means)))
        entry = Entry(self._now(), who, "clear evidence", pattern, why, {"methods": len(methods)})
        refused = await self._state.decide(Change((entry,), clear=methods))
        return refused or methods

    async def note(self, who: str, what: str, subject: str, numbers: Mapping[str, Json], why: str = "") -> None:
        """A line of the audit for what was decided elsewhere: a reload. Where it cannot be written it is not."""
        await self._state.decide(Change((Entry(self._now(), who, what, subject, why, numbers),)))

    # How

    def _row(self, route: Route, known: Mapping[MethodId, Counts], rollout: str) -> Row:
        effective = self._toggles.effective(route)
        counts = known.get(MethodId.of(route), NO_COUNTS)
        until, source = ends(effective.override), effective.source(route)
        return steering.row(route, effective.setting, effective.override, source, counts, rollout, until)

    def _explained(self, route: Route, call: Call, value: str | None) -> Explanation:
        migration = replace(route.migration, key=steering.with_key(route.migration.key, value))
        asked = replace(route, migration=migration)
        effective = self._toggles.effective(route)
        plan = policy.plan(asked, effective.setting, call)
        value = migration.key.take(call) if migration.key is not None else None
        return steering.explanation(route, effective.setting, effective.source(route), plan, value)

    async def _decided(self, pattern: str, mode: str, change: Change) -> Changed | Refused:
        before = self._settings(pattern)
        refused = await self._state.decide(change)
        if refused is not None:
            return refused
        self._toggles.replace(self._state.overrides)
        return Changed(pattern, mode, self._moved(before, pattern, lambda override: override.pattern != pattern))

    def _spelled(self, pattern: str) -> Sequence[Override]:
        """What is set for a pattern, however it was written when it was set."""
        routes = self._routes()
        return [each for each in self._state.overrides if choosing.canonical(routes, each.pattern) == pattern]

    def _of_person(self, overrides: Iterable[Override]) -> tuple[tuple[str, By], ...]:
        return tuple((each.pattern, each.by) for each in overrides if each.by == "person")

    def _settings(self, pattern: str) -> dict[MethodId, Setting]:
        means = choosing.chosen(self._routes(), pattern)
        return {MethodId.of(route): self._toggles.effective(route).setting for route in means}

    def _moved(self, before: Mapping[MethodId, Setting], pattern: str, apart: _Apart) -> tuple[Moved, ...]:
        """`apart`: whether an override that holds was there already, and the change did not touch it."""
        return tuple(
            self._one_moved(route, before.get(MethodId.of(route)), apart)
            for route in _once(choosing.chosen(self._routes(), pattern))
        )

    def _one_moved(self, route: Route, before: Setting | None, apart: _Apart) -> Moved:
        effective = self._toggles.effective(route)
        stays = ""
        if effective.override is not None and apart(effective.override):
            stays = f"'{effective.override.pattern}' is set to {effective.setting} by {effective.override.who}"
        after = str(effective.setting)
        return Moved(route.service, route.method, str(before) if before is not None else after, after, stays)

    def _nothing_set(self, pattern: str, mine: Iterable[Override]) -> str:
        if any(override.by == "rollout" for override in mine):
            return f"what is set for '{pattern}' is a rollout's: pause or abort the rollout"
        means = choosing.chosen(self._routes(), pattern)
        if not means and not pattern.startswith(GROUP):
            return choosing.nothing(self._routes(), pattern)
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


def _entry(override: Override) -> Entry:
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
    return Entry(override.when, override.who, "mode", override.pattern, override.why, numbers)
