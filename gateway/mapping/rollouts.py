"""`rollouts`, `rollout` and `groups` -> the rollout plan and the group of each method.

The plan of a method is its group's, else its own, else that of `defaults`, else the built-in one. A plan that is named
explicitly must not have shadow steps for a method that may not be executed twice; from the plan of `defaults` such
steps are removed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase

from msgspec import Struct
from msgspec.structs import replace

from gateway.core.migration.limits import LIMITS
from gateway.core.migration.modes import BUCKETS, Mode, Setting, share
from gateway.core.migration.rollout_plan import DEFAULT, DEFAULT_FOR_WRITES, OnBreach, RolloutPlan, RolloutStep
from gateway.core.routing.route import Route
from gateway.core.rpc.units import seconds
from gateway.mapping.load import Scope
from gateway.mapping.migration import CALLERS, SESSION
from gateway.mapping.problem import one_of, unknown

# Kind of step -> its further keys.
_STEP_KEYS: Mapping[str, frozenset[str]] = {
    "shadow": frozenset({"at_least"}),
    "canary": frozenset({"at_least", "calls", "observe"}),
    "gate": frozenset(),
}


class MethodRollout(Struct, frozen=True):
    """The group of a method ("" for none) and its plan."""

    group: str
    plan: RolloutPlan


class Rollouts:
    """The plans and groups of one file.

    `may_shadow`: for each method whether its calls may be executed twice. `defaults`: of methods that have other ones
    than the file.
    """

    def __init__(self, root: Scope, may_shadow: Mapping[str, bool], defaults: Mapping[str, Scope]) -> None:
        self._root = root
        self._may_shadow = may_shadow
        self._defaults = defaults
        named, groups = root.at("rollouts"), root.at("groups")
        self._named = {name: read_plan(named.at(name), name) for name in named.data or ()}
        self._group_of: dict[str, str] = {}
        members = self._read_groups(groups)
        self._plans = {
            group: self._plan(groups.at(group, "rollout"), group, methods) for group, methods in members.items()
        }

    def of(self, entry: Scope) -> MethodRollout:
        """The group and the plan of a method."""
        name = str(entry.path[-1])
        group = self._group_of.get(name, "")
        own = entry.at("rollout")
        if not group:
            return MethodRollout("", self._plan(own, name, [name]))
        if own.data is not None:
            text = f"a method of group '{group}' has the rollout of its group: move the key to `groups.{group}`"
            own.fail(text, level="schema", key=True)
        return MethodRollout(group, self._plans[group])

    def _read_groups(self, groups: Scope) -> dict[str, list[str]]:
        """Group -> its methods, in the order of the file."""
        for place, method, group in [*self._of_patterns(groups), *self._of_methods(groups)]:
            owner = self._group_of.setdefault(method, group)
            if owner != group:
                place.fail(f"method '{method}' is already in group '{owner}'", level="schema")
        members: dict[str, list[str]] = {}
        for method, group in self._group_of.items():
            members.setdefault(group, []).append(method)
        for group in groups.data or ():
            if group not in members and self._root.document.complete:
                groups.at(group).fail(f"group '{group}' has no methods", level="schema", key=True)
        return members

    def _of_patterns(self, groups: Scope) -> Iterator[tuple[Scope, str, str]]:
        """Place, method and group."""
        for group in groups.data or ():
            for place in groups.at(group, "methods").items():
                matching = [method for method in self._may_shadow if fnmatchcase(method, place.data)]
                yield from ((place, method, group) for method in matching)
                if not matching and self._root.document.complete:
                    place.fail(unknown("method or pattern", place.data, self._may_shadow), level="schema")

    def _of_methods(self, groups: Scope) -> Iterator[tuple[Scope, str, str]]:
        for method in self._may_shadow:
            place = self._root.at("methods", method, "group")
            if place.data is not None and groups.data is not None and place.data not in groups.data:
                place.fail(unknown("group", place.data, groups.data), level="schema")
            elif place.data is not None:
                yield place, method, place.data

    def _plan(self, own: Scope, name: str, methods: Collection[str]) -> RolloutPlan:
        """The plan of a method or group: its own, or the common one without the steps that it may not take."""
        writes = [method for method in methods if not self._may_shadow[method]]
        if own.data is not None and not self._is_built_in(own.data):
            plan = self._resolve(own, name)
            if writes and any(step.setting.mode is Mode.SHADOW for step in plan.steps):
                twice = f"it would execute calls of '{writes[0]}' twice"
                own.fail(f"a shadow step is not allowed: {twice}; begin with a canary", level="schema")
            return plan
        common = self._defaults.get(name, self._root.at("defaults")).at("rollout")
        if own.data is not None or common.data is None:
            return DEFAULT_FOR_WRITES if writes else DEFAULT
        plan = self._resolve(common, "defaults")
        allowed = tuple(step for step in plan.steps if step.setting.mode is not Mode.SHADOW) if writes else plan.steps
        if not allowed:
            text = f"no step is possible for '{writes[0]}', whose calls may not be executed twice: add a canary step"
            common.fail(text)
        return replace(plan, steps=allowed or plan.steps)

    def _is_built_in(self, name: object) -> bool:
        return name == DEFAULT.name and DEFAULT.name not in self._named

    def _resolve(self, scope: Scope, name: str) -> RolloutPlan:
        """The plan that a `rollout` key names or contains."""
        if isinstance(scope.data, dict):
            return read_plan(scope, name) or DEFAULT
        if scope.data in self._named:
            return self._named[scope.data] or DEFAULT  # its problems are reported at `rollouts`
        if self._is_built_in(scope.data):
            return DEFAULT
        scope.fail(unknown("rollout", scope.data, [*self._named, DEFAULT.name]), level="schema")
        return DEFAULT_FOR_WRITES


def read_plan(scope: Scope, name: str) -> RolloutPlan | None:
    """A plan; None, with the problems reported, when it has one."""
    before = len(scope.problems)
    steps: list[RolloutStep] = []
    places = scope.at("steps").items()
    for place in places:
        if isinstance(place.data, dict) and "gate" in place.data:
            _add_gate(place, steps, last=place is places[-1])
        elif (step := _step(place)) is not None:
            if steps and _share(step) <= _share(steps[-1]):
                place.fail(f"{step} must be further than the previous step, {steps[-1]}", level="schema")
            steps.append(step)
    if len(scope.problems) > before:
        return None
    limits = dict(scope.data.get("limits", {}))
    limits |= {key: share(limits[key]) / BUCKETS for key in ("mismatches", "errors") if key in limits}
    limits |= {key: seconds(limits[key]) for key in ("slow_from", "window") if key in limits}
    watch = {"watch": seconds(scope.data["watch"])} if "watch" in scope.data else {}
    on_breach = OnBreach(scope.data.get("on_breach", "rollback"))
    return RolloutPlan(name, tuple(steps), replace(LIMITS, **limits), on_breach, **watch)


def _add_gate(place: Scope, steps: list[RolloutStep], *, last: bool) -> None:
    """A gate is a property of the step before it: the step lasts until a person approves."""
    _check_keys(place, "gate")
    if last:
        place.fail("a gate must be followed by a step", level="schema")
    elif not steps or steps[-1].gate:
        place.fail("a gate must follow a step, which lasts until a person approves", level="schema")
    else:
        steps[-1] = replace(steps[-1], gate=True)


def _share(step: RolloutStep) -> int:
    """The share of the keys that D-Bus serves, in buckets."""
    shares = {Mode.SHADOW: 0, Mode.CANARY: step.setting.buckets}
    return shares.get(step.setting.mode, BUCKETS)


def _step(place: Scope) -> RolloutStep | None:
    data = place.data
    if data == "dbus":
        return RolloutStep(Setting(Mode.DBUS))
    at_least = seconds(data.get("at_least", "0s"))
    if "shadow" in data:
        _check_keys(place, "shadow")
        return RolloutStep(Setting(Mode.SHADOW), data["shadow"], at_least)
    _check_keys(place, "canary")
    buckets = place.at("canary").attempt(share, data["canary"], level="schema")
    if buckets in (0, BUCKETS):
        text = f"expected a share above 0% and below 100%, got {data['canary']}; the step for 100% is `dbus`"
        place.at("canary").fail(text, level="schema")
    if buckets is None:
        return None
    setting = Setting(Mode.CANARY, buckets, observe=data.get("observe", True))
    return RolloutStep(setting, data.get("calls", 0), at_least)


def _check_keys(place: Scope, kind: str) -> None:
    for key in place.data:
        if key != kind and key not in _STEP_KEYS[kind]:
            place.at(key).fail(f"'{key}' cannot be combined with '{kind}'", level="schema", key=True)


# Checks over all files


def check_rollouts(methods: Iterable[tuple[Route, Scope]]) -> None:
    """Report canaries without a key, and methods that differ from their group."""
    first: dict[str, Route] = {}
    for route, entry in methods:
        group = route.migration.group
        canary = any(step.setting.mode is Mode.CANARY for step in route.rollout.steps)
        lacks_key = canary and route.migration.upstream is not None and route.migration.key is None
        if (group or entry.has("rollout")) and lacks_key:
            entry.fail("the rollout has a canary step, which needs a key: add `key: PARAMETER`", key=True)
        leader = first.setdefault(group, route) if group else route
        if leader is route:
            continue
        rollout = str(leader.rollout)
        if route.rollout != leader.rollout and str(route.rollout) == rollout:
            rollout += " with other limits"
        ours, theirs = _settings(route, str(route.rollout)), _settings(leader, rollout)
        for what, value in ours.items():
            if value != theirs[what]:
                text = f"{what} differs within group '{group}': {value} here, {theirs[what]} for '{leader.method}'"
                entry.fail(f"{text} ({leader.source})", key=True)


def _settings(route: Route, rollout: str) -> dict[str, str]:
    """The settings in which the methods of a group must agree.

    Keys need only be of the same kind: the parameter may have another name in each method.
    """
    migration, key = route.migration, route.migration.key
    kind = "none" if key is None else f"'{key.name}'" if key.name in (*CALLERS, SESSION) else "a parameter"
    return {
        "mode": str(migration.setting),
        "key": kind,
        "'always'": one_of(sorted(migration.always)),
        "'never'": one_of(sorted(migration.never)),
        "rollout": rollout,
    }
