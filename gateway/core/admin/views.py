"""Answers of the admin service as plain values, for the HTTP API and the D-Bus API.

Times are seconds since 1970, durations seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypedDict

import msgspec
from msgspec import Struct, field

from gateway.core.admin import counters
from gateway.core.admin.records import Counts, MethodId
from gateway.core.comparison.compare import Verdict
from gateway.core.migration.limits import SideCounts, assess
from gateway.core.migration.modes import BUCKETS, Key, Mode, Setting, Side, percent, share
from gateway.core.migration.statistics import quantile
from gateway.core.routing.overrides import Override
from gateway.core.routing.policy import CallPlan, bucket
from gateway.core.routing.route import Route
from gateway.core.rpc.units import short


class SettingView(TypedDict):
    """A mode with its options. `percent`: of the canary keys, "12.5"; `control`: the side that shadow serves from."""

    mode: str
    percent: str
    control: str
    observe: bool
    noise: bool


class SideSummary(Struct, frozen=True):
    """Calls of one side, served to clients or only observed."""

    answered: int  # calls that it served
    calls: int  # calls that it has run
    errors: int
    client_errors: int  # faults that the mapping lists as the client's; they are not among `calls` and `errors`
    error_rate: float | None  # 0 to 1; None: no calls
    p50: float | None
    p99: float | None


class MethodRow(Struct, frozen=True):
    """One mapped method: mode, call statistics, assessment."""

    service: str
    method: str
    group: str
    effect: str
    upstream: str | None
    key: str | None  # the canary key
    may_shadow: bool
    client_errors: Sequence[str]  # codes of faults that are the client's
    mode: str  # for people: "canary 12.5% observed"
    setting: SettingView
    source: str  # for people: the origin of the setting
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
    compared_share: float | None  # the share of the comparable calls that was compared, 0 to 1
    equal_share: float | None  # equal and ignored among the comparisons, 0 to 1
    verdict: str
    rollout: str  # the state of its rollout; empty: none


class Explanation(Struct, frozen=True):
    """The side that would serve one call, and the reasons."""

    service: str
    method: str
    answers: str  # "legacy", "dbus" or "nobody"
    observed: str  # the side that would run the call too; empty: none
    sampling: str  # which part of the calls it runs: "10%, at most 200/s"
    why: str
    mode: str
    source: str
    mapping: str  # file and line
    group: str
    upstream: str | None
    key: str | None  # the canary key
    value: str | None  # the key of this call
    bucket: int | None  # of the key
    buckets: int  # those below are served by D-Bus
    of: int  # buckets in all
    list: str  # "always" or "never" where the mapping lists the value
    fallback: bool  # legacy serves a call that D-Bus certainly did not execute
    client_errors: Sequence[str]  # codes of faults that are the client's, and count for neither side


class MethodMoved(Struct, frozen=True):
    """One method of a change."""

    service: str
    method: str
    before: str
    after: str
    stays: str = ""  # why it keeps its mode: a more specific one, and who set it
    set_by: str = "mapping"  # who has set the mode after the change
    until: float | None = None  # when that mode ends
    changed: bool = True  # the mode, its end or its source has changed


class ModeResult(Struct, frozen=True):
    """The result of a change. `held`: why it applies to this process only, for now; empty: it is stored.

    `notes`: workers that are replaced, since they did not answer.
    """

    pattern: str
    mode: str
    methods: tuple[MethodMoved, ...]
    held: str = ""
    notes: list[str] = field(default_factory=list)


class ModeRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A mode for the methods of a pattern, and the reason for the audit. `seconds`: None: until it is changed.

    `guarded`: a breach of the limits of the method's rollout, which must be under way, ends the mode.
    """

    pattern: str
    mode: str
    percent: str | float | None = None
    control: str = ""
    observe: bool = False
    noise: bool = False
    seconds: float | None = None
    why: str = ""
    guarded: bool = False


class ModeChange(Struct, frozen=True):
    """The setting in force of a method has changed."""

    service: str
    method: str
    before: str
    after: str
    setting: SettingView
    set_by: str
    source: str
    until: float | None


class RollbackDone(Struct, frozen=True):
    """A rollout has rolled back, or a person has rolled back everything."""

    subject: str  # the rollout's name, or "*"
    who: str
    why: str


class MappingsReloaded(Struct, frozen=True):
    """A reload has added or removed methods."""

    added: tuple[MethodId, ...]
    removed: tuple[MethodId, ...]


Notification: TypeAlias = ModeChange | RollbackDone | MappingsReloaded
Listener: TypeAlias = Callable[[Notification], object]


def setting_view(setting: Setting) -> SettingView:
    """A setting in the form in which an operator sets it."""
    return SettingView(
        mode=setting.mode.value,
        percent=percent(setting.buckets).removesuffix("%"),
        control=setting.control.value,
        observe=setting.observe,
        noise=setting.noise,
    )


def setting_of(view: Mapping[str, Any]) -> Setting:
    """The setting of which this is the view."""
    buckets, control = share(view["percent"]), Side(view["control"])
    return Setting(Mode(view["mode"]), buckets, control, view["observe"], view["noise"])


def set_by(override: Override | None) -> str:
    """The person or rollout that has set the mode in force, or "mapping"."""
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
    """Make the row of a method. `until`: by the wall clock."""
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
        client_errors=sorted(migration.client_errors),
        mode=str(setting),
        setting=setting_view(setting),
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
        client_errors=counts.counters.get(counters.client_errors(side), 0),
        error_rate=one.errors / one.calls if one.calls else None,
        p50=quantile(one.latency, 0.5) if any(one.latency) else None,
        p99=quantile(one.latency, 0.99) if any(one.latency) else None,
    )


def explanation(route: Route, setting: Setting, source: str, plan: CallPlan, value: str | None) -> Explanation:
    """Explain a plan; `value` is the canary key of the call."""
    migration = route.migration
    subject = migration.group or f"{route.service}/{route.method}"
    canary = setting.mode is Mode.CANARY
    listed = {"never": migration.never, "always": migration.always}
    tasks = ""  # those that the mode does not govern
    if plan.answer is Side.DBUS and migration.tasks == "legacy":
        tasks = f"; in a form that returns a task (Async.) '{migration.upstream}' answers it (async: legacy)"
    return Explanation(
        service=route.service,
        method=route.method,
        answers=plan.answer.value if plan.answer is not None else "nobody",
        observed=plan.candidate.value if plan.candidate is not None else "",
        sampling=str(migration.sampling),
        why=plan.why + tasks,
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
        list=next((name for name, values in listed.items() if value in values), ""),
        fallback=plan.fallback,
        client_errors=sorted(migration.client_errors),
    )


def numbers_in_words(numbers: Mapping[str, Any], moment: Callable[[float], str]) -> str:
    """The numbers of a decision in one line, without empty ones; `moment` writes a time."""

    def written(name: str, value: Any) -> str:
        if name == "until":
            return moment(value)
        if isinstance(value, Mapping):
            return str(value.get("mode", value))
        if isinstance(value, list):
            return " ".join(map(str, value))
        return short(value) if isinstance(value, float) else "yes" if value is True else str(value)

    return ", ".join(
        f"{name} {written(name, each)}" for name, each in numbers.items() if each not in (False, None, "", [])
    )


def with_key(key: Key | None, value: str | None) -> Key | None:
    """A canary key that has this value for every call."""
    return key if value is None else Key(key.name if key is not None else "key", lambda _: value)
