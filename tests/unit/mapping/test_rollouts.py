from __future__ import annotations

from pathlib import Path
from textwrap import dedent, indent

import pytest

from gateway.core.migration.limits import LIMITS, RolloutLimits
from gateway.core.migration.modes import Mode, Setting
from gateway.core.migration.rollout_plan import DEFAULT, DEFAULT_FOR_WRITES, OnBreach, RolloutPlan, RolloutStep
from tests.kit.mappings import HEAD, Built, build_files, build_methods

READ = "{property: PowerState}"
WRITE = "{member: Stat, effect: write}"
TWICE = "a shadow step is refused: 'w' would run twice and is no read; begin with a canary"
TWO = f"r: {READ}\nw: {WRITE}"


def _build(directory: Path, file: str, methods: str = TWO) -> Built:
    """A file with these keys above its methods."""
    return build_methods(directory, methods, HEAD.replace("methods:\n", f"{dedent(file).strip()}\nmethods:\n"))


def _steps(directory: Path, steps: str) -> list[str]:
    """The problems of a plan of these steps, without the place of the file."""
    problems = _build(directory, f"rollouts: {{p: {{steps: {steps}}}}}").problems
    return [problem.partition("rollouts.p.")[2] for problem in problems]


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


def test_what_a_plan_does_not_say_is_careful(tmp_path: Path) -> None:
    plan = _build(tmp_path, "rollouts: {p: {steps: [dbus], limits: {samples: 5}}}", "r: {member: Stat, rollout: p}")
    route = plan.route("r")
    assert (route.rollout.limits.mismatches, route.rollout.limits.samples) == (LIMITS.mismatches, 5)
    assert (route.rollout.on_breach, route.rollout.watch) == (OnBreach.ROLLBACK, 1800.0)


def test_without_a_word_a_built_in_plan_stands_and_writes_begin_with_a_canary(tmp_path: Path) -> None:
    built = build_methods(tmp_path, TWO)
    assert built.route("r").rollout == DEFAULT
    assert built.route("w").rollout == DEFAULT_FOR_WRITES


def test_the_plan_of_the_file_leaves_out_its_shadow_steps_where_a_call_may_not_run_twice(tmp_path: Path) -> None:
    built = _build(tmp_path, "defaults: {rollout: {steps: [{shadow: 10}, {canary: 1%}, dbus]}}")
    assert str(built.route("r").rollout) == "defaults (shadow, canary 1%, dbus)"
    assert str(built.route("w").rollout) == "defaults (canary 1%, dbus)"


def test_a_method_may_say_its_own_plan(tmp_path: Path) -> None:
    own = "r: {property: PowerState, rollout: {steps: [{canary: 3%}, {gate: person}, dbus]}}"
    assert str(build_methods(tmp_path, own).route("r").rollout) == "r (canary 3%, gate, dbus)"


def test_the_built_in_plan_has_a_name_and_knows_what_may_not_run_twice(tmp_path: Path) -> None:
    methods = "r: {property: PowerState, rollout: default}\nw: {member: Stat, rollout: default}"
    built = _build(tmp_path, "defaults: {rollout: {steps: [{canary: 1%}, dbus]}}", methods)
    assert built.route("r").rollout == DEFAULT
    assert built.route("w").rollout == DEFAULT_FOR_WRITES


# what stands in a file, the problem it makes
PROBLEMS = [
    (
        "",
        "w: {member: Stat, rollout: {steps: [{shadow: 10}, dbus]}}",
        f"x.yaml:13:30: methods.w.rollout: {TWICE}",
    ),
    (
        "",
        "w: {member: Stat, effect: idempotent, rollout: {steps: [{shadow: 10}, dbus]}}",
        f"x.yaml:13:50: methods.w.rollout: {TWICE}",
    ),
    (
        "rollouts: {careful: {steps: [dbus]}}",
        "r: {member: Stat, rollout: carefull}",
        "x.yaml:14:30: methods.r.rollout: 'carefull' is no rollout (did you mean 'careful'?)",
    ),
    (
        "",
        "r: {member: Stat, rollout: x}",
        "x.yaml:13:30: methods.r.rollout: 'x' is no rollout (there are: default)",
    ),
    (
        "defaults: {rollout: {steps: [{shadow: 10}]}}",
        TWO,
        "x.yaml:12:21: defaults.rollout: nothing is left for 'w', which may not run twice: a canary must follow",
    ),
    ("", "r: {member: Stat, rollout: {}}", "x.yaml:13:21: methods.r.rollout: 'steps' is missing"),
    ("", "r: {member: Stat, rollout: 5}", "x.yaml:13:30: methods.r.rollout: expected text or a struct, got 5"),
]


@pytest.mark.parametrize(("file", "methods", "problem"), PROBLEMS)
def test_a_wrong_reference_to_a_plan_is_a_problem(tmp_path: Path, file: str, methods: str, problem: str) -> None:
    assert (_build(tmp_path, file, methods) if file else build_methods(tmp_path, methods)).problems == [problem]


STEPS = [
    ("[dbuss]", "steps[0]: expected dbus, got \"dbuss\" (did you mean 'dbus'?)"),
    ("[5]", "steps[0]: expected dbus, got 5"),
    ("[]", "steps: must not be empty"),
    ("[{calls: 3}]", "steps[0]: expected exactly one of shadow, canary, gate, got none"),
    (
        "[{shadow: 0}]",
        "steps[0].shadow: got 0, expected: The legacy service answers; so many answers of D-Bus are compared",
    ),
    ("[{canary: 5}]", "steps[0].canary: expected text, got 5"),
    ("[{canary: 101%}]", "steps[0].canary: expected a share from 0% to 100% with at most three decimals, got '101%'"),
    ("[{canary: 100%}]", "steps[0].canary: a canary is a share between 0% and 100%; all of it is `dbus`"),
    ("[{canary: 0%}]", "steps[0].canary: a canary is a share between 0% and 100%; all of it is `dbus`"),
    ("[{shadow: 1, calls: 3}]", "steps[0].calls: does not go with `shadow`"),
    ("[{canary: 1%}, {gate: person, at_least: 1m}, dbus]", "steps[1].at_least: does not go with `gate`"),
    ("[{gate: person}, dbus]", "steps[0]: a gate follows a step: until it is approved, that step holds"),
    ("[{canary: 1%}, {gate: person}]", "steps[1]: a gate has a step behind it"),
    (
        "[{canary: 1%}, {gate: person}, {gate: person}, dbus]",
        "steps[2]: a gate follows a step: until it is approved, that step holds",
    ),
    ("[{canary: 10%}, {canary: 10%}]", "steps[1]: canary 10% goes no further than canary 10%, the step before"),
    ("[dbus, {shadow: 5}]", "steps[1]: shadow goes no further than dbus, the step before"),
]


@pytest.mark.parametrize(("steps", "problem"), STEPS)
def test_a_wrong_step_is_a_problem(tmp_path: Path, steps: str, problem: str) -> None:
    [found] = _steps(tmp_path, steps)
    assert found.startswith(problem)


def test_a_plan_that_is_wrong_is_told_once_where_it_stands(tmp_path: Path) -> None:
    file = "rollouts: {p: {steps: [{gate: person}, dbus]}}\ndefaults: {rollout: p}"
    [problem] = _build(tmp_path, file).problems
    assert problem.startswith("x.yaml:12:24: rollouts.p.steps[0]: a gate follows a step")


# Groups


def test_the_methods_of_a_group_have_one_plan(tmp_path: Path) -> None:
    built = _build(
        tmp_path, 'groups: {life: {methods: ["VM.*", w]}}', f"VM.a: {READ}\nVM.b: {WRITE}\nw: {WRITE}\nr: {READ}"
    )
    assert [built.route(name).migration.group for name in ("VM.a", "VM.b", "w", "r")] == ["life", "life", "life", ""]
    assert built.route("VM.a").rollout == DEFAULT_FOR_WRITES  # one of them may not run twice
    assert built.route("r").rollout == DEFAULT


def test_a_group_may_say_its_own_plan(tmp_path: Path) -> None:
    built = _build(tmp_path, "groups: {life: {methods: [r], rollout: {steps: [{shadow: 3}, dbus]}}}")
    assert str(built.route("r").rollout) == "life (shadow, dbus)"


def test_a_method_may_say_its_group_itself(tmp_path: Path) -> None:
    methods = "r: {property: PowerState, group: life}\nw: {member: Stat, group: life}"
    built = build_methods(tmp_path, methods)
    assert {built.route(name).migration.group for name in ("r", "w")} == {"life"}
    assert {built.route(name).rollout for name in ("r", "w")} == {DEFAULT_FOR_WRITES}


GROUPS = [
    (
        "groups: {life: {methods: [r, w], rollout: {steps: [{shadow: 3}, dbus]}}}",
        TWO,
        f"groups.life.rollout: {TWICE}",
    ),
    (
        "groups: {life: {methods: [rr]}, x: {methods: [r]}}",
        TWO,
        "groups.life: no method is in the group 'life'",
    ),
    ("groups: {a: {methods: [r]}, b: {methods: ['*']}}", TWO, "groups.b.methods[0]: 'r' is in the group 'a' already"),
    (
        "groups: {a: {methods: [r]}}",
        f"r: {READ}\nw: {{member: Stat, group: aa}}",
        "methods.w.group: 'aa' is no group of this file (did you mean 'a'?)",
    ),
    (
        "groups: {a: {methods: [r]}, b: {methods: [w]}}",
        f"r: {{property: PowerState, group: b}}\nw: {WRITE}",
        "methods.r.group: 'r' is in the group 'a' already",
    ),
    (
        "groups: {a: {methods: [r]}}",
        f"r: {{property: PowerState, rollout: default}}\nw: {WRITE}",
        "methods.r.rollout: 'r' moves with its group 'a': the group says how",
    ),
    (
        "groups: {a: {methods: [r, w]}}",
        f"r: {READ}\nw: {{member: Stat, mode: 'off'}}",
        "methods.w: 'w' has the mode off; 'r' of its group 'a' has dbus (DIR/x.yaml:14)",
    ),
]


OLD = "legacy: {upstream: old}\n"
NO_KEY = (
    "'memory' is no parameter, and nothing that is known of a caller (there are: name, kib, user, peer, domid, session)"
)
ADD = "a: {member: Add, params: [name, memory]}\nb: {member: Add, params: [name, {name: kib, to: memory}]}"


def test_a_group_says_the_key_of_its_methods_and_a_method_its_own_name_for_it(tmp_path: Path) -> None:
    methods = ADD.replace("memory}]", "memory}], key: kib")
    built = _build(tmp_path, OLD + "groups: {g: {methods: [a, b], key: memory}}", methods)
    assert [key and key.name for key in (built.route(name).migration.key for name in "ab")] == ["memory", "kib"]


KEYS = [
    (
        OLD + "groups: {g: {methods: [a, b], key: memory}}",
        ADD,
        f"groups.g.key: {NO_KEY}",
    ),
    (
        OLD + "groups: {g: {methods: [a, b], key: name}}",
        ADD.replace("memory]}", "memory], key: user}"),
        "methods.b: 'b' has the key a parameter; 'a' of its group 'g' has 'user' (x.yaml:15)",
    ),
    (
        OLD + "groups: {g: {methods: [a, b], key: name}}",
        ADD.replace("memory]}", "memory], always: [x]}"),
        "methods.b: 'b' has the list 'always' none; 'a' of its group 'g' has x (x.yaml:15)",
    ),
    (
        OLD + "groups: {g: {methods: [a]}}",
        ADD,
        "methods.a: its rollout has a canary, and no 'key' says what its share is a share of",
    ),
    (
        OLD,
        "a: {property: PowerState, rollout: default}",
        "methods.a: its rollout has a canary, and no 'key' says what its share is a share of",
    ),
]


@pytest.mark.parametrize(("file", "methods", "problem"), KEYS)
def test_what_has_no_key_of_one_kind_cannot_move_together(
    tmp_path: Path, file: str, methods: str, problem: str
) -> None:
    assert [text.partition(": ")[2] for text in _build(tmp_path, file, methods).problems] == [problem]


def test_what_no_rollout_was_asked_for_needs_no_key(tmp_path: Path) -> None:
    assert _build(tmp_path, OLD, ADD).problems == []


@pytest.mark.parametrize(("file", "methods", "problem"), GROUPS)
def test_a_wrong_group_is_a_problem(tmp_path: Path, file: str, methods: str, problem: str) -> None:
    found = _build(tmp_path, file, methods).problems
    assert problem.replace("DIR/", "") in [text.partition(": ")[2] for text in found]


def test_a_group_may_reach_over_files_when_they_say_the_same(tmp_path: Path) -> None:
    other = HEAD.replace("/rpc,", "/other,") + indent(f"w: {WRITE}\n", "  ")
    group = "groups: {life: {methods: [w]}}\nmethods:\n"
    same = build_files(
        tmp_path, a=HEAD.replace("methods:\n", group) + f"  w: {WRITE}\n", b=other.replace("methods:\n", group)
    )
    assert same.problems == []
    [problem] = build_files(
        tmp_path, b=other.replace("methods:\n", group.replace("[w]", "[w], rollout: default2"))
    ).problems
    assert "'default2' is no rollout" in problem
    third = group.replace("[w]", "[w], rollout: {steps: [{canary: 2%}, dbus]}")
    [problem] = build_files(tmp_path, b=other.replace("methods:\n", third)).problems
    assert problem.endswith(
        "b.yaml:14:3: methods.w: 'w' has the rollout life (canary 2%, dbus); 'w' of its group 'life' has "
        "default (canary 1%, canary 10%, canary 50%, dbus) (a.yaml:14)"
    )
