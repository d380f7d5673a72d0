from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.core.migration.limits import BothSides, Part, RolloutLimits, SideCounts, near_limit
from gateway.core.migration.modes import Mode, Setting
from gateway.core.migration.rollout_plan import (
    COMMANDS,
    DEFAULT,
    DEFAULT_FOR_WRITES,
    GUARDED,
    OVER,
    Action,
    Command,
    OnBreach,
    Progress,
    RolloutPlan,
    RolloutState,
    RolloutStep,
    apply,
    apply_command,
    begins_anew,
    decide,
    setting,
)
from tests.kit.cases import each_case
from tests.kit.migrations import counts, side

SHADOW, CANARY, HALF, DBUS = 0, 1, 2, 3  # the steps of PLAN
PLAN = RolloutPlan(
    "careful",
    (
        RolloutStep(Setting(Mode.SHADOW), least=1000),
        RolloutStep(Setting(Mode.CANARY, 1_000, observe=True), least=200, at_least=60.0, gate=True),
        RolloutStep(Setting(Mode.CANARY, 50_000, observe=True), least=20),
        RolloutStep(Setting(Mode.DBUS, observe=True)),
    ),
    RolloutLimits(mismatches=0.001, errors=0.005, latency=1.5, samples=100),
    watch=1800.0,
)
GOOD = counts(compared=5000, calls=5000, control=SideCounts(5000))
BAD = counts(compared=5000, calls=5000, errors=500, control=SideCounts(5000))


def _at(step: int, state: RolloutState = RolloutState.RUNNING, *, baseline: SideCounts | None = None) -> Progress:
    return Progress(state, step, since=0.0, baseline=baseline)


def _action(progress: Progress, seen: BothSides, now: float = 100.0, **parts: BothSides) -> Action:
    return decide(PLAN, progress, seen, now, {where: Part(each) for where, each in parts.items()}).action


# where it is, what was seen since the step began, when, what comes of it, a part of the words
HOLD, PROMOTE, BREACH, WAIT, DONE = Action.HOLD, Action.PROMOTE, Action.BREACH, Action.WAIT, Action.DONE
WAITING, PAUSED, OVERRIDDEN = RolloutState.WAITING, RolloutState.PAUSED, RolloutState.OVERRIDDEN
CASES: list[tuple[Progress, BothSides, float, Action, str]] = [
    (_at(SHADOW), BothSides(), 1e9, HOLD, "0 of 1000 comparisons"),
    (_at(SHADOW), counts(compared=1000), 1.0, PROMOTE, "shadow -> canary 1%: 0 of 1000 differ"),
    (_at(SHADOW), counts(compared=100, different=1), 1.0, HOLD, "may be chance"),
    (_at(SHADOW), counts(compared=120_000, different=121), 1.0, PROMOTE, ", but 0.13% is ruled out"),
    (_at(SHADOW), counts(compared=100, different=30), 1.0, BREACH, "30 of 100 differ (30%"),
    (_at(CANARY), GOOD, 20.0, HOLD, "waits: 40 s to go"),
    (_at(CANARY), GOOD, 60.0, WAIT, "a person must approve canary 50%"),
    (replace(_at(CANARY), approved=True), GOOD, 60.0, PROMOTE, "canary 1% -> canary 50%"),
    (_at(CANARY, WAITING), BAD, 60.0, BREACH, "500 of 5000 calls by D-Bus failed"),
    (_at(CANARY, RolloutState.FROZEN), BAD, 60.0, HOLD, "frozen"),
    (_at(CANARY, RolloutState.ROLLED_BACK), BAD, 60.0, HOLD, "rolled back"),
    (_at(HALF, PAUSED), GOOD, 60.0, HOLD, "paused"),
    (_at(HALF, OVERRIDDEN), GOOD, 60.0, HOLD, "overridden"),
    (_at(HALF), counts(calls=50), 60.0, HOLD, "50 of 100 calls by D-Bus"),
    (_at(HALF), replace(GOOD, control=side(5)), 9.0, HOLD, "5 of 100 calls by the legacy"),
    (_at(DBUS), GOOD, 100.0, HOLD, "waits: 28.3 min to go"),
    (_at(DBUS), GOOD, 1800.0, DONE, "dbus has held"),
    (_at(DBUS), BothSides(), 1800.0, DONE, "nothing compared"),
]


@each_case(("progress", "seen", "now", "action", "words"), CASES)
def test_what_comes_next(progress: Progress, seen: BothSides, now: float, action: Action, words: str) -> None:
    decision = decide(PLAN, progress, seen, now)
    assert (decision.action, words in decision.why) == (action, True), decision.why
    assert decision.numbers["dbus_calls"] == seen.candidate.calls


def test_a_breach_is_found_against_an_earlier_control_and_in_the_last_window() -> None:
    baseline = side(5000, errors=50, seconds=0.02)
    for action, errors, seconds in ((Action.HOLD, 50, 0.02), (Action.BREACH, 500, 0.02), (Action.BREACH, 50, 0.2)):
        seen = counts(calls=5000, errors=errors, seconds=seconds, control=side(0))
        assert _action(_at(DBUS, baseline=baseline), seen) is action
    long = counts(compared=1_000_000, different=300, calls=5000, control=side(5000))
    end = counts(compared=1_000, different=300)
    assert _action(_at(CANARY, RolloutState.WAITING), long, recent=counts(compared=1_000)) is Action.WAIT
    decision = decide(PLAN, _at(CANARY, RolloutState.WAITING), long, 100.0, {"in the last 60 s": Part(end)})
    assert decision.action is Action.BREACH
    assert decision.why == "in the last 60 s 300 of 1000 differ (30%, limit 0.1%)"


# What a decision makes of it


def _after(progress: Progress, seen: BothSides, plan: RolloutPlan = PLAN, now: float = 1900.0) -> Progress:
    return apply(plan, progress, decide(plan, progress, seen, now), seen, now)


def test_a_decision_makes_progress_that_remembers_the_control() -> None:
    after = _after(replace(_at(CANARY), approved=True), GOOD)
    assert (after.state, after.step, after.since, after.approved) == (RolloutState.RUNNING, HALF, 1900.0, False)
    assert after.baseline == GOOD.control
    few = replace(GOOD, control=side(5))
    assert _after(_at(HALF, baseline=side(700)), few).baseline == side(700)
    assert _after(_at(SHADOW), BothSides()) == _at(SHADOW)
    waiting = _after(_at(CANARY), GOOD)
    assert waiting.state is RolloutState.WAITING
    assert _after(waiting, GOOD).state is RolloutState.WAITING
    done = _after(_at(DBUS), GOOD)
    assert done.state is RolloutState.DONE
    assert setting(PLAN, done) == Setting(Mode.DBUS)


BREACHES = [
    (OnBreach.ROLLBACK, CANARY, RolloutState.ROLLED_BACK, CANARY, Setting(Mode.LEGACY)),
    (OnBreach.FREEZE, CANARY, RolloutState.FROZEN, CANARY, PLAN.steps[CANARY].setting),
    (OnBreach.STEP_DOWN, HALF, RolloutState.PAUSED, CANARY, PLAN.steps[CANARY].setting),
    (OnBreach.STEP_DOWN, SHADOW, RolloutState.ROLLED_BACK, SHADOW, Setting(Mode.LEGACY)),
    (OnBreach.ROLLBACK, DBUS, RolloutState.ROLLED_BACK, DBUS, Setting(Mode.LEGACY)),
]


@each_case(("on_breach", "step", "state", "then", "expected"), BREACHES)
def test_what_a_breach_does_is_for_the_plan_to_say(
    on_breach: OnBreach, step: int, state: RolloutState, then: int, expected: Setting
) -> None:
    plan = replace(PLAN, on_breach=on_breach)
    after = _after(_at(step), BAD, plan)
    assert (after.state, after.step) == (state, then)
    assert setting(plan, after) == expected
    assert "500 of 5000 calls by D-Bus failed" in after.why


def test_one_step_down_a_breach_goes_further_down_and_health_does_not_go_up_again() -> None:
    plan = replace(PLAN, on_breach=OnBreach.STEP_DOWN)
    down = _after(_at(DBUS, baseline=side(5000)), BAD, plan)
    assert (down.state, down.step, down.since, down.baseline) == (RolloutState.PAUSED, HALF, 1900.0, side(5000))
    assert _after(down, GOOD, plan) == down
    assert _after(down, BAD, plan).step == CANARY
    assert _after(apply_command(down, Command.RESUME, "mended"), GOOD, plan, now=4000.0).step == DBUS


# What persons do


def test_commands_lead_out_of_every_state_and_only_an_approval_opens_the_gate() -> None:
    for state in set(RolloutState) - OVER:
        assert state in COMMANDS[Command.ABORT][0]
        assert state in GUARDED or state in COMMANDS[Command.RESUME][0]
    waiting = _at(CANARY, RolloutState.WAITING)
    assert _action(apply_command(waiting, Command.APPROVE, "looks good"), GOOD) is Action.PROMOTE
    paused = apply_command(waiting, Command.PAUSE, "lunch")
    assert _action(apply_command(paused, Command.RESUME, "back"), GOOD) is Action.WAIT
    for state in (RolloutState.FROZEN, RolloutState.OVERRIDDEN):
        assert begins_anew(state, Command.RESUME)
    assert not begins_anew(RolloutState.PAUSED, Command.RESUME)
    assert not begins_anew(RolloutState.WAITING, Command.APPROVE)
    assert setting(PLAN, _at(HALF, RolloutState.ABORTED)) == Setting(Mode.LEGACY)
    assert setting(PLAN, _at(HALF, RolloutState.ENDED)) is None
    for state, command, expected in (
        (RolloutState.RUNNING, Command.RESUME, "paused, overridden, breached or frozen"),
        (RolloutState.FROZEN, Command.PAUSE, "running or waiting"),
        (RolloutState.RUNNING, Command.APPROVE, "waiting"),
    ):
        with pytest.raises(
            ValueError, match=f"cannot {command.value} a rollout that is {state.value}; expected {expected}$"
        ):
            apply_command(_at(HALF, state), command, "")


# The built-in plans


def test_the_built_in_plans_rise_and_one_begins_without_calling_twice() -> None:
    for plan in (DEFAULT, DEFAULT_FOR_WRITES):
        shares = [step.setting.buckets for step in plan.steps if step.setting.mode is Mode.CANARY]
        assert shares == sorted(set(shares))
        assert plan.steps[-1].setting.mode is Mode.DBUS
    assert DEFAULT.steps[0].setting.mode is Mode.SHADOW
    assert DEFAULT_FOR_WRITES.steps[0].setting.mode is Mode.CANARY


# Laws

SIDES = st.builds(
    lambda calls, errors, latency: SideCounts(calls, min(errors, calls), tuple(latency)),
    st.integers(0, 3000),
    st.integers(0, 3000),
    st.lists(st.integers(0, 200), max_size=40),
)
SEEN = st.builds(
    lambda compared, different, control, candidate: BothSides(compared, min(different, compared), control, candidate),
    st.integers(0, 3000),
    st.integers(0, 3000),
    SIDES,
    SIDES,
)
PLANS = st.builds(
    lambda limits, on_breach: replace(PLAN, limits=limits, on_breach=on_breach),
    st.builds(
        RolloutLimits,
        mismatches=st.floats(0, 0.5),
        errors=st.floats(0, 0.5),
        latency=st.floats(1, 5),
        samples=st.integers(1, 500),
    ),
    st.sampled_from(OnBreach),
)
PROGRESS = st.builds(
    Progress, st.sampled_from(RolloutState), st.integers(0, 3), st.just(0.0), st.booleans(), st.none() | SIDES
)


@given(PLANS, PROGRESS, SEEN, st.floats(0, 1e6), SEEN)
def test_too_few_samples_neither_promote_nor_roll_back(
    plan: RolloutPlan, progress: Progress, seen: BothSides, now: float, recent: BothSides
) -> None:
    most = max(max(one.compared, one.candidate.calls) for one in (seen, recent))
    plan = replace(plan, limits=replace(plan.limits, samples=most + 1))
    assert decide(plan, progress, seen, now, {"of late": Part(recent)}).action in (Action.HOLD, Action.DONE)


@given(PLANS, PROGRESS, SEEN, st.floats(0, 1e6))
def test_nothing_over_a_limit_is_ever_promoted(
    plan: RolloutPlan, progress: Progress, seen: BothSides, now: float
) -> None:
    if decide(plan, progress, seen, now).action not in (Action.PROMOTE, Action.WAIT, Action.DONE):
        return
    assert progress.state in (RolloutState.RUNNING, RolloutState.WAITING)
    if seen.compared >= plan.limits.samples:  # near the limit: 1.3 times the limit has been ruled out, and it says so
        near = 1.3 if near_limit(plan.limits, seen) else 1.0
        assert seen.different <= seen.compared * plan.limits.mismatches * near
    if min(seen.candidate.calls, seen.control.calls) >= plan.limits.samples:
        more = seen.candidate.errors / seen.candidate.calls - seen.control.errors / seen.control.calls
        assert more <= plan.limits.errors


@given(PLANS, PROGRESS, SEEN, st.floats(0, 1e6), SEEN)
def test_a_breach_acts_wherever_a_rollout_may_be_stuck(
    plan: RolloutPlan, progress: Progress, seen: BothSides, now: float, recent: BothSides
) -> None:
    broken = replace(recent, compared=plan.limits.samples + 100, different=plan.limits.samples + 100)
    decision = decide(plan, progress, seen, now, {"of late": Part(broken)})
    assert (decision.action is Action.BREACH) == (progress.state in GUARDED)
    after = apply(plan, progress, decision, seen, now)
    assert after.step <= progress.step
    assert progress.state not in GUARDED or after.state in (
        RolloutState.ROLLED_BACK,
        RolloutState.FROZEN,
        RolloutState.PAUSED,
    )
