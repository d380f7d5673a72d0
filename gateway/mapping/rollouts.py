"""`rollouts`, `rollout` and `groups` -> the plan by which each method moves, and with whom. Knows no other key."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from gateway.core.migration.limits import LIMITS, RolloutLimits
from gateway.core.migration.modes import BUCKETS, Key, Mode, Setting, share
from gateway.core.migration.rollout_plan import DEFAULT, DEFAULT_FOR_WRITES, OnBreach, RolloutPlan, RolloutStep
from gateway.core.routing.route import Effect, Route
from gateway.core.rpc.units import seconds
from gateway.mapping.load import Scope
from gateway.mapping.migration import CALLERS, SESSION
from gateway.mapping.problem import did_you_mean, one_of

# What belongs to which kind of step.
_STEP_KEYS: Mapping[str, frozenset[str]] = {
    "shadow": frozenset({"at_least"}),
    "canary": frozenset({"at_least", "calls", "observe"}),
    "gate": frozenset(),
}


def may_shadow(said: Mapping[str, Any]) -> bool:
    """Whether running a call of this method twice does no harm: it only reads, or the mapping says so."""
    effect = Effect(said["effect"])
    return effect is Effect.READ or (effect is Effect.IDEMPOTENT and said.get("shadow") is True)


@dataclass(frozen=True, slots=True)
class RolloutPlanner:
    """How one method moves."""

    group: str
    plan: RolloutPlan


class Rollouts:
    """The plans and groups of one file. `twice`: for each of its methods whether it may run twice."""

    def __init__(self, root: Scope, twice: Mapping[str, bool]) -> None:
        self._root = root
        self._twice = twice
        named = root.at("rollouts")
        self._named = {name: read_plan(named.at(name), name) for name in named.data or ()}
        self._members = self._read_groups(root.at("groups"))
        self._group_of = {method: group for group, methods in self._members.items() for method in methods}
        groups = root.at("groups")
        self._plans = {
            group: self._plan(groups.at(group, "rollout"), group, methods) for group, methods in self._members.items()
        }

    def of(self, entry: Scope) -> RolloutPlanner:
        """How a method moves; problems are noted."""
        name = str(entry.path[-1])
        group = self._group_of.get(name, "")
        own = entry.at("rollout")
        if not group:
            return RolloutPlanner("", self._plan(own, name, [name]))
        if own.data is not None:
            own.fail(f"'{name}' moves with its group '{group}': the group says how", level="schema", key=True)
        return RolloutPlanner(group, self._plans[group])

    # Groups

    def _read_groups(self, groups: Scope) -> dict[str, list[str]]:
        """Group -> its methods, in the order of the file."""
        members: dict[str, list[str]] = {group: [] for group in groups.data or ()}
        owner: dict[str, str] = {}
        for group in members:
            for index, pattern in enumerate(groups.at(group, "methods").data or ()):
                self._join(group, groups.at(group, "methods", index), pattern, owner)
        for method in self._twice:
            self._join_itself(method, members, owner)
        for method, group in owner.items():
            members[group].append(method)
        for group in [group for group, methods in members.items() if not methods]:
            if self._root.document.complete:
                groups.at(group).fail(f"no method is in the group '{group}'", level="schema", key=True)
            del members[group]
        return members

    def _join(self, group: str, place: Scope, pattern: str, owner: dict[str, str]) -> None:
        found = [method for method in self._twice if fnmatchcase(method, pattern)]
        if not found and self._root.document.complete:
            place.fail(f"'{pattern}' is no method of this file{did_you_mean(pattern, self._twice)}", level="schema")
        for method in found:
            if owner.setdefault(method, group) != group:
                place.fail(f"'{method}' is in the group '{owner[method]}' already", level="schema")

    def _join_itself(self, method: str, members: dict[str, list[str]], owner: dict[str, str]) -> None:
        place = self._root.at("methods", method, "group")
        group = place.data
        if group is None:
            return
        if self._root.says("groups") and group not in members:
            hint = did_you_mean(group, members) or f" (there are: {one_of(members)})"
            place.fail(f"'{group}' is no group of this file{hint}", level="schema")
            return
        members.setdefault(group, [])
        if owner.setdefault(method, group) != group:
            place.fail(f"'{method}' is in the group '{owner[method]}' already", level="schema")

    # Plans

    def _plan(self, own: Scope, name: str, methods: Collection[str]) -> RolloutPlan:
        """What the method or group says itself, or what stands for all: then without steps that it may not take."""
        writes = [method for method in methods if not self._twice[method]]
        if own.data is not None and not self._is_built_in(own.data):
            plan = self._said(own, name)
            _refuse_shadow(own, plan, writes)
            return plan
        common = self._root.at("defaults", "rollout")
        if own.data is not None or common.data is None:
            return DEFAULT_FOR_WRITES if writes else DEFAULT
        plan = self._said(common, "defaults")
        careful = tuple(step for step in plan.steps if step.setting.mode is not Mode.SHADOW) if writes else plan.steps
        if not careful:
            common.fail(f"nothing is left for '{writes[0]}', which may not run twice: a canary must follow")
        return replace(plan, steps=careful or plan.steps)

    def _is_built_in(self, said: object) -> bool:
        return said == DEFAULT.name and DEFAULT.name not in self._named

    def _said(self, scope: Scope, name: str) -> RolloutPlan:
        if isinstance(scope.data, dict):
            return read_plan(scope, name) or DEFAULT
        if scope.data in self._named:
            return self._named[scope.data] or DEFAULT  # its problems are noted where it stands
        if self._is_built_in(scope.data):
            return DEFAULT
        known = [*self._named, DEFAULT.name]
        hint = did_you_mean(scope.data, known) or f" (there are: {one_of(known)})"
        scope.fail(f"'{scope.data}' is no rollout{hint}", level="schema")
        return DEFAULT_FOR_WRITES


def _refuse_shadow(scope: Scope, plan: RolloutPlan, writes: Collection[str]) -> None:
    if writes and any(step.setting.mode is Mode.SHADOW for step in plan.steps):
        method = next(iter(writes))
        text = f"a shadow step is refused: '{method}' would run twice and is no read; begin with a canary"
        scope.fail(text, level="schema")


def read_plan(scope: Scope, name: str) -> RolloutPlan | None:
    """A plan; None with problems noted."""
    before = len(scope.problems)
    steps = _steps(scope.at("steps"))
    limits = _limits(scope.at("limits").data or {})
    if len(scope.problems) > before:
        return None
    data = scope.data
    watch = {"watch": seconds(data["watch"])} if "watch" in data else {}
    return RolloutPlan(name, steps, limits, OnBreach(data.get("on_breach", "rollback")), **watch)


def _limits(data: Mapping[str, Any]) -> RolloutLimits:
    said: dict[str, Any] = dict(data)
    said |= {key: share(data[key]) / BUCKETS for key in ("mismatches", "errors") if key in data}
    said |= {key: seconds(data[key]) for key in ("slow_from", "window") if key in data}
    return replace(LIMITS, **said)


def _steps(scope: Scope) -> tuple[RolloutStep, ...]:
    steps: list[RolloutStep] = []
    for index, data in enumerate(scope.data):
        place = scope.at(index)
        if isinstance(data, dict) and "gate" in data:
            _close_gate(place, steps, last=index == len(scope.data) - 1)
        else:
            _add(place, steps)
    return tuple(steps)


def _close_gate(place: Scope, steps: list[RolloutStep], *, last: bool) -> None:
    _only(place, "gate")
    if last:
        place.fail("a gate has a step behind it", level="schema")
    elif not steps or steps[-1].gate:
        place.fail("a gate follows a step: until it is approved, that step holds", level="schema")
    else:
        steps[-1] = replace(steps[-1], gate=True)


def _add(place: Scope, steps: list[RolloutStep]) -> None:
    step = _step(place)
    if step is None:
        return
    if steps and _height(step) <= _height(steps[-1]):
        place.fail(f"{step} goes no further than {steps[-1]}, the step before", level="schema")
    steps.append(step)


def _height(step: RolloutStep) -> int:
    heights = {Mode.SHADOW: 0, Mode.CANARY: step.setting.buckets}
    return heights.get(step.setting.mode, BUCKETS)


def _step(place: Scope) -> RolloutStep | None:
    data = place.data
    if data == "dbus":
        return RolloutStep(Setting(Mode.DBUS))
    at_least = seconds(data.get("at_least", "0s"))
    if "shadow" in data:
        _only(place, "shadow")
        return RolloutStep(Setting(Mode.SHADOW), data["shadow"], at_least)
    _only(place, "canary")
    buckets = place.at("canary").attempt(share, data["canary"], level="schema")
    if buckets in (0, BUCKETS):
        place.at("canary").fail("a canary is a share between 0% and 100%; all of it is `dbus`", level="schema")
    if buckets is None:
        return None
    setting = Setting(Mode.CANARY, buckets, observe=data.get("observe", True))
    return RolloutStep(setting, data.get("calls", 0), at_least)


def _only(place: Scope, kind: str) -> None:
    for key in place.data:
        if key != kind and key not in _STEP_KEYS[kind]:
            place.at(key).fail(f"does not go with `{kind}`", level="schema", key=True)


# Over all files


def check_rollouts(methods: Iterable[tuple[Route, Scope]]) -> None:
    """Note canaries without a key, and methods that cannot move with their group."""
    first: dict[str, Route] = {}
    for route, entry in methods:
        group = route.migration.group
        if (group or entry.says("rollout")) and _lacks_key(route):
            entry.fail("its rollout has a canary, and no 'key' says what its share is a share of", key=True)
        leader = first.setdefault(group, route) if group else route
        for what, ours, theirs in _differences(route, leader):
            text = f"'{route.method}' has {what} {ours}; '{leader.method}' of its group '{group}' has {theirs}"
            entry.fail(f"{text} ({leader.source})", key=True)


def _lacks_key(route: Route) -> bool:
    canary = any(step.setting.mode is Mode.CANARY for step in route.rollout.steps)
    return canary and route.migration.upstream is not None and route.migration.key is None


def _differences(route: Route, leader: Route) -> Iterable[tuple[str, str, str]]:
    """In what two methods of one group differ and must not. Parameters may have several names for one thing."""
    ours, theirs = route.migration, leader.migration
    if ours.setting != theirs.setting:
        yield "the mode", str(ours.setting), str(theirs.setting)
    kinds = [_kind(key) for key in (ours.key, theirs.key)]
    if kinds[0] != kinds[1]:
        yield "the key", kinds[0], kinds[1]
    for name, our_list, their_list in (
        ("always", ours.always, theirs.always),
        ("never", ours.never, theirs.never),
    ):
        if our_list != their_list:
            yield f"the list '{name}'", one_of(sorted(our_list)), one_of(sorted(their_list))
    if route.rollout != leader.rollout:
        other = " with other limits" if str(route.rollout) == str(leader.rollout) else ""
        yield "the rollout", str(route.rollout), f"{leader.rollout}{other}"


def _kind(key: Key | None) -> str:
    if key is None:
        return "none"
    return f"'{key.name}'" if key.name in (*CALLERS, SESSION) else "a parameter"
