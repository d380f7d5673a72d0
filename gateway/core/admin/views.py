"""What an operator is told of moving methods, in plain values. Knows no file, no socket and no bus.

Moments are seconds since 1970, durations seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from gateway.core.admin import counters
from gateway.core.admin.records import Counts, MethodId
from gateway.core.comparison.compare import Verdict
from gateway.core.migration.limits import SideCounts, assess
from gateway.core.migration.modes import BUCKETS, Key, Migration, Mode, Setting, Side, percent
from gateway.core.migration.statistics import quantile
from gateway.core.routing.overrides import Override
from gateway.core.routing.policy import CallPlan, bucket
from gateway.core.routing.route import Route


@dataclass(frozen=True, slots=True)
class SideSummary:
    """What one side did, whether clients got its answers or it was only observed."""

    answered: int  # calls whose answer a client got
    calls: int  # all that it has run
    errors: int
    error_rate: float | None  # from 0 to 1; None: no calls
    p50: float | None
    p99: float | None


@dataclass(frozen=True, slots=True)
class MethodRow:
    """One mapped method."""

    service: str
    method: str
    group: str
    effect: str
    upstream: str | None
    key: str | None  # what a canary divides
    may_shadow: bool
    mode: str  # for people: "canary 12.5% observed"
    setting: Mapping[str, str | bool]
    source: str  # for people: where the setting comes from
    set_by: str  # "mapping", a person or "rollout NAME"
    until: float | None
    legacy: SideSummary
    dbus: SideSummary
    comparisons: int
    equal: int
    ignored: int
    different: int
    error_different: int
    dropped: int
    not_compared: Mapping[str, int]  # calls that could have been compared and were not, by reason
    compared_share: float | None  # of the calls that could have been compared, from 0 to 1
    equal_share: float | None  # of the comparisons, from 0 to 1; those that only ignoring makes equal are in it
    verdict: str
    rollout: str  # the state of the rollout that moves it; empty: none does


@dataclass(frozen=True, slots=True)
class Explanation:
    """Who would answer one call, and why."""

    service: str
    method: str
    answers: str  # "legacy", "dbus" or "nobody"
    observed: str  # the side that would be asked afterwards; empty: none
    why: str
    mode: str
    source: str
    mapping: str  # file and line
    group: str
    upstream: str | None
    key: str | None  # what a canary divides
    value: str | None  # this call's
    bucket: int | None  # where that falls
    buckets: int  # those below are answered by D-Bus
    of: int  # buckets in all
    list: str  # "always" or "never" where the mapping lists the value
    fallback: bool  # what D-Bus certainly did not execute goes to the legacy service


@dataclass(frozen=True, slots=True)
class MethodMoved:
    """One method whose setting a change was about."""

    service: str
    method: str
    before: str
    after: str
    stays: str = ""  # why the change makes no difference: what is set more precisely, and by whom


@dataclass(frozen=True, slots=True)
class ModeResult:
    """What a change came to. `held`: why it holds in this process only, for the time being."""

    pattern: str
    mode: str
    methods: tuple[MethodMoved, ...]
    held: str = ""


@dataclass(frozen=True, slots=True)
class ModeRequest:
    """A mode that somebody wants for the methods of a pattern."""

    pattern: str
    mode: str
    percent: str | float | None = None
    control: str = ""
    observe: bool = False
    noise: bool = False
    seconds: float | None = None  # for so long; None: until it is changed
    why: str = ""


@dataclass(frozen=True, slots=True)
class ModeChange:
    """A method has another setting now, whoever set it and wherever."""

    service: str
    method: str
    before: str
    after: str
    setting: Mapping[str, str | bool]
    set_by: str
    source: str
    until: float | None


@dataclass(frozen=True, slots=True)
class RollbackDone:
    """A rollout went back by itself, or somebody has given everything back."""

    subject: str  # the rollout's name, or "*"
    who: str
    why: str


@dataclass(frozen=True, slots=True)
class MappingsReloaded:
    """A reload has brought or taken methods."""

    added: tuple[MethodId, ...]
    removed: tuple[MethodId, ...]


Notification: TypeAlias = ModeChange | RollbackDone | MappingsReloaded
Listener: TypeAlias = Callable[[Notification], object]


def written(setting: Setting) -> dict[str, str | bool]:
    """A setting in the words in which it is set."""
    return {
        "mode": setting.mode.value,
        "percent": percent(setting.buckets).removesuffix("%"),
        "control": setting.control.value,
        "observe": setting.observe,
        "noise": setting.noise,
    }


def set_by(override: Override | None) -> str:
    """Who has set what holds."""
    return "mapping" if override is None else override.who


def row(
    route: Route,
    setting: Setting,
    override: Override | None,
    source: str,
    counts: Counts,
    rollout: str = "",
    until: float | None = None,
) -> MethodRow:
    """A method with what is set, what was counted, and what that says. `until`: as the wall clock will show it."""
    migration, counted = route.migration, counts.counters
    equal, ignored, different, failed = (counted.get(verdict.value, 0) for verdict in _VERDICTS)
    compared = equal + ignored + different + failed
    not_compared = {reason: counted[reason] for reason in counters.NOT_COMPARED if counted.get(reason)}
    comparable = compared + sum(not_compared.values())
    sides = counters.sides(counts)
    verdict = "no legacy service" if migration.upstream is None else assess(sides, ignored).value
    return MethodRow(
        service=route.service,
        method=route.method,
        group=migration.group,
        effect=route.effect.value,
        upstream=migration.upstream,
        key=migration.key.name if migration.key is not None else None,
        may_shadow=migration.may_shadow,
        mode=str(setting),
        setting=written(setting),
        source=source,
        set_by=set_by(override),
        until=until,
        legacy=_ran(Side.LEGACY, sides.control, counts),
        dbus=_ran(Side.DBUS, sides.candidate, counts),
        comparisons=compared,
        equal=equal,
        ignored=ignored,
        different=different,
        error_different=failed,
        dropped=counted.get(counters.DROPPED, 0),
        not_compared=not_compared,
        compared_share=compared / comparable if comparable else None,
        equal_share=(equal + ignored) / compared if compared else None,
        verdict=verdict,
        rollout=rollout,
    )


_VERDICTS = (Verdict.EQUAL, Verdict.IGNORED, Verdict.DIFFERENT, Verdict.ERROR_DIFFERENT)


def _ran(side: Side, one: SideCounts, counts: Counts) -> SideSummary:
    return SideSummary(
        answered=counts.counters.get(counters.answered(side), 0),
        calls=one.calls,
        errors=one.errors,
        error_rate=one.errors / one.calls if one.calls else None,
        p50=quantile(one.latency, 0.5) if any(one.latency) else None,
        p99=quantile(one.latency, 0.99) if any(one.latency) else None,
    )


def explanation(route: Route, setting: Setting, source: str, plan: CallPlan, value: str | None) -> Explanation:
    """A plan in words; `value` is what this call has for the key of a canary."""
    migration = route.migration
    subject = migration.group or f"{route.service}/{route.method}"
    canary = setting.mode is Mode.CANARY
    return Explanation(
        service=route.service,
        method=route.method,
        answers=plan.answer.value if plan.answer is not None else "nobody",
        observed=plan.candidate.value if plan.candidate is not None else "",
        why=plan.why + _about_tasks(migration, plan),
        mode=str(setting),
        source=source,
        mapping=route.source,
        group=migration.group,
        upstream=migration.upstream,
        key=migration.key.name if migration.key is not None else None,
        value=value,
        bucket=bucket(subject, value) if canary and value is not None else None,
        buckets=setting.buckets if canary else 0,
        of=BUCKETS,
        list=_list(route, value),
        fallback=plan.fallback,
    )


def _about_tasks(migration: Migration, plan: CallPlan) -> str:
    """Where the mode does not govern calls in a form that returns a task."""
    if plan.answer is Side.DBUS and migration.tasks == "legacy":
        return f"; in a form that returns a task (Async.) '{migration.upstream}' answers it (async: legacy)"
    return ""


def _list(route: Route, value: str | None) -> str:
    if value is None:
        return ""
    listed = {"never": route.migration.never, "always": route.migration.always}
    return next((name for name, values in listed.items() if value in values), "")


def with_key(key: Key | None, value: str | None) -> Key | None:
    """The key of a canary, taken from every call as this value; for asking who would answer a value."""
    return key if value is None else Key(key.name if key is not None else "key", lambda _: value)
