"""Rollout plans and groups."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

from gateway.core.migration.limits import LIMITS, RolloutLimits
from gateway.core.migration.modes import Mode, Setting
from gateway.core.migration.rollout_plan import DEFAULT, DEFAULT_FOR_WRITES, OnBreach, RolloutPlan, RolloutStep
from tests.kit.cases import each_case, present
from tests.kit.mappings import HEAD, Built, build_files, build_methods

READ, WRITE = "{property: PowerState}", "{member: Stat, effect: write}"
TWO = f"r: {READ}\nw: {WRITE}"


def _build(directory: Path, file: str, methods: str = TWO) -> Built:
    """A file with these keys above its methods."""
    return build_methods(directory, methods, HEAD.replace("methods:\n", f"{dedent(file).strip()}\nmethods:\n"))


def test_a_plan_is_read_as_it_is_written(tmp_path: Path) -> None:
    plan = """
    rollouts:
      careful:
        steps:
          - {shadow: 1000, at_least: 1h}
          - {canary: 0.5%, calls: 200, at_least: 10m, observe: false}
          - {gate: person}
          - {canary: 50%}
          - dbus
        limits: {mismatches: 0.2%, errors: 1%, latency: 2, slow_from: 50ms, samples: 30, window: 10s}
        on_breach: step-down
        watch: 2h
    """
    assert _build(tmp_path, plan, "r: {property: PowerState, rollout: careful}").route("r").rollout == RolloutPlan(
        "careful",
        (
            RolloutStep(Setting(Mode.SHADOW), 1000, 3600.0),
            RolloutStep(Setting(Mode.CANARY, 500), 200, 600.0, gate=True),
            RolloutStep(Setting(Mode.CANARY, 50_000, observe=True)),
            RolloutStep(Setting(Mode.DBUS)),
        ),
        RolloutLimits(mismatches=0.002, errors=0.01, latency=2, slow_from=0.05, samples=30, window=10.0),
        OnBreach.STEP_DOWN,
        7200.0,
    )


def test_a_plan_has_defaults(tmp_path: Path) -> None:
    file = _build(tmp_path, "rollouts: {p: {steps: [dbus], limits: {samples: 5}}}", "r: {member: Stat, rollout: p}")
    plan = file.route("r").rollout
    assert (plan.limits.mismatches, plan.limits.samples) == (LIMITS.mismatches, 5)
    assert (plan.on_breach, plan.watch) == (OnBreach.ROLLBACK, 1800.0)


NAMED = "r: {property: PowerState, rollout: default}\nw: {member: Stat, rollout: default}"
GROUPED = "r: {property: PowerState, group: life}\nw: {member: Stat, group: life}"
OWN = f"r: {{property: PowerState, rollout: {{steps: [{{canary: 3%}}, {{gate: person}}, dbus]}}}}\nw: {WRITE}"


@each_case(
    ("file", "methods", "plan_of_read", "plan_of_write"),
    [
        ("", TWO, str(DEFAULT), str(DEFAULT_FOR_WRITES)),  # that of writes begins with a canary
        (
            "defaults: {rollout: {steps: [{shadow: 10}, {canary: 1%}, dbus]}}",
            TWO,
            "defaults (shadow, canary 1%, dbus)",
            "defaults (canary 1%, dbus)",
        ),
        ("", OWN, "r (canary 3%, gate, dbus)", str(DEFAULT_FOR_WRITES)),
        ("defaults: {rollout: {steps: [{canary: 1%}, dbus]}}", NAMED, str(DEFAULT), str(DEFAULT_FOR_WRITES)),
        ("", GROUPED, str(DEFAULT_FOR_WRITES), str(DEFAULT_FOR_WRITES)),  # one of them may not run twice
        (
            "groups: {life: {methods: [r], rollout: {steps: [{shadow: 3}, dbus]}}}",
            TWO,
            "life (shadow, dbus)",
            str(DEFAULT_FOR_WRITES),
        ),
    ],
)
def test_a_method_has_its_plan_or_that_of_its_group_or_of_the_file(
    tmp_path: Path, file: str, methods: str, plan_of_read: str, plan_of_write: str
) -> None:
    built = _build(tmp_path, file, methods)
    assert [str(built.route(name).rollout) for name in "rw"] == [plan_of_read, plan_of_write]


def test_the_methods_of_a_group_have_one_plan(tmp_path: Path) -> None:
    built = _build(
        tmp_path, 'groups: {life: {methods: ["VM.*", w]}}', f"VM.a: {READ}\nVM.b: {WRITE}\nw: {WRITE}\nr: {READ}"
    )
    names = ("VM.a", "VM.b", "w", "r")
    assert [built.route(name).migration.group for name in names] == ["life", "life", "life", ""]
    assert [built.route(name).rollout for name in names] == [*[DEFAULT_FOR_WRITES] * 3, DEFAULT]


def test_a_method_of_a_group_may_have_its_own_key_and_needs_one_only_with_a_rollout_of_its_own(tmp_path: Path) -> None:
    old, methods = "legacy: {upstream: old}\n", "a: {member: Add, params: [name, memory]}\nb: {member: Add, %s}"
    assert _build(tmp_path, old, methods % "params: [name, {name: kib, to: memory}]").problems == []
    methods %= "params: [name, {name: kib, to: memory}], key: kib"
    built = _build(tmp_path, f"{old}groups: {{g: {{methods: [a, b], key: memory}}}}", methods)
    assert [present(built.route(name).migration.key).name for name in "ab"] == ["memory", "kib"]


def test_a_group_over_several_files_has_one_rollout(tmp_path: Path) -> None:
    group = "groups: {life: {methods: [w]}}\nmethods:\n"
    first = HEAD.replace("methods:\n", group) + f"  w: {WRITE}\n"
    other = HEAD.replace("/rpc,", "/other,").replace("methods:\n", group) + f"  w: {WRITE}\n"
    assert build_files(tmp_path, a=first, b=other).problems == []
    other = other.replace("[w]", "[w], rollout: {steps: [{canary: 2%}, dbus]}")
    assert build_files(tmp_path, a=first, b=other).problems == [
        (
            "b.yaml:14:3: methods.w: rollout differs within group 'life': life (canary 2%, dbus) here, "
            "default (canary 1%, canary 10%, canary 50%, dbus) for 'w' (a.yaml:14)"
        )
    ]
