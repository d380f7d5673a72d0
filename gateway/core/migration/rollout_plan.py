"""A rollout: its plan, its progress, and the decision that comes next. Pure functions of counts and moments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from types import MappingProxyType

from msgspec import Struct, field
from msgspec.structs import replace

from gateway.core.migration.limits import (
    ALPHA,
    LIMITS,
    BothSides,
    Part,
    RolloutLimits,
    SideCounts,
    control_of,
    duration,
    find_breaches,
    near_limit,
    numbers,
    summary,
)
from gateway.core.migration.modes import Mode, Setting, share

# The plan


class RolloutStep(Struct, frozen=True):
    """How far the method has moved, and what must have been seen before it moves on."""

    setting: Setting
    least: int = 0  # in shadow: comparisons; later: calls that D-Bus answered; never fewer than Limits.samples
    at_least: float = 0.0  # seconds
    gate: bool = False  # and then a person must let it go on

    def __str__(self) -> str:
        return str(replace(self.setting, observe=False))


class OnBreach(Enum):
    """What a breach does with the method."""

    ROLLBACK = "rollback"  # to the legacy service
    FREEZE = "freeze"  # it stays where it is; a person decides
    STEP_DOWN = "step-down"  # one step back, and up again only when a person says so


class RolloutPlan(Struct, frozen=True):
    """Steps upwards. After the last one the limits still hold for `watch` seconds."""

    name: str
    steps: tuple[RolloutStep, ...]
    limits: RolloutLimits = LIMITS
    on_breach: OnBreach = OnBreach.ROLLBACK
    watch: float = 1800.0

    def __str__(self) -> str:
        return f"{self.name} ({', '.join(f'{step}, gate' if step.gate else str(step) for step in self.steps)})"


# What is remembered


class RolloutState(Enum):
    """Where a rollout is. In each of the first four a breach acts: none of them is a place to be stuck in."""

    RUNNING = "running"
    WAITING = "waiting"  # at a gate, for a person
    PAUSED = "paused"  # by a person, or after a step down
    OVERRIDDEN = "overridden"  # by what a person has set for one of its methods
    BREACHED = "breached"  # while what a person has set holds; it goes back as soon as that has ended
    FROZEN = "frozen"  # by a breach, where the plan says so
    DONE = "done"
    ROLLED_BACK = "rolled back"
    ABORTED = "aborted"
    ENDED = "ended"  # its methods are no longer mapped


GUARDED = frozenset({RolloutState.RUNNING, RolloutState.WAITING, RolloutState.PAUSED, RolloutState.OVERRIDDEN})
OVER = frozenset({RolloutState.DONE, RolloutState.ROLLED_BACK, RolloutState.ABORTED, RolloutState.ENDED})


class Progress(Struct, frozen=True):
    """How far a rollout has come. Moments are of the steady clock (state/clock.py)."""

    state: RolloutState = RolloutState.RUNNING
    step: int = 0
    since: float = 0.0  # when this step began
    approved: bool = False  # a person has let it through this step's gate
    baseline: SideCounts | None = None  # of the control, from an earlier step: for when it answers too little
    why: str = ""  # the words of what made it so


class Command(Enum):
    """What a person, or what a person has done elsewhere, makes of a rollout."""

    PAUSE = "pause"
    RESUME = "resume"
    APPROVE = "approve"
    ABORT = "abort"
    OVERRIDE = "override"
    END = "end"


_ACTIVE = frozenset(RolloutState) - OVER

# In which states a command means something, and what it makes of them.
COMMANDS: Mapping[Command, tuple[frozenset[RolloutState], RolloutState]] = {
    Command.PAUSE: (frozenset({RolloutState.RUNNING, RolloutState.WAITING}), RolloutState.PAUSED),
    Command.RESUME: (
        frozenset({RolloutState.PAUSED, RolloutState.OVERRIDDEN, RolloutState.BREACHED, RolloutState.FROZEN}),
        RolloutState.RUNNING,
    ),
    Command.APPROVE: (frozenset({RolloutState.WAITING}), RolloutState.RUNNING),
    Command.ABORT: (_ACTIVE | {RolloutState.DONE}, RolloutState.ABORTED),
    Command.OVERRIDE: (_ACTIVE - {RolloutState.OVERRIDDEN, RolloutState.BREACHED}, RolloutState.OVERRIDDEN),
    Command.END: (_ACTIVE, RolloutState.ENDED),
}


def apply_command(progress: Progress, command: Command, why: str) -> Progress:
    """What a command makes of a rollout; raises ValueError where it means nothing."""
    states, becomes = COMMANDS[command]
    if progress.state not in states:
        *others, last = (state.value for state in RolloutState if state in states)
        expected = f"{', '.join(others)} or {last}" if others else last
        raise ValueError(f"cannot {command.value} a rollout that is {progress.state.value}; expected {expected}")
    return replace(progress, state=becomes, approved=command is Command.APPROVE, why=why)


def begins_anew(before: RolloutState, command: Command) -> bool:
    """Whether what was seen so far says nothing about what comes: the step's counts begin at zero."""
    return command is Command.RESUME and before in (RolloutState.FROZEN, RolloutState.OVERRIDDEN, RolloutState.BREACHED)


def evidence_lost(progress: Progress, now: float, why: str) -> Progress:
    """The same step from its beginning: what was counted says nothing of what D-Bus does now."""
    waits = progress.state is RolloutState.WAITING
    state = RolloutState.RUNNING if waits else progress.state
    held = "" if state is RolloutState.RUNNING else f"{progress.why}; "
    return replace(progress, state=state, since=now, approved=False, why=f"{held}{why}")


def setting(plan: RolloutPlan, progress: Progress) -> Setting | None:
    """What a rollout sets for its methods; None: nothing, the mapping holds."""
    if progress.state is RolloutState.ENDED:
        return None
    if progress.state is RolloutState.BREACHED:
        return setting(plan, breach_acts(plan, progress, progress.since, progress.why))
    if progress.state in (RolloutState.ROLLED_BACK, RolloutState.ABORTED):
        return Setting(Mode.LEGACY)
    step = plan.steps[progress.step].setting
    return replace(step, observe=False) if progress.state is RolloutState.DONE else step


# What to do next

NO_PARTS: Mapping[str, Part] = MappingProxyType({})


class Action(Enum):
    """What a look at the counts comes to."""

    HOLD = "hold"
    PROMOTE = "promote"
    BREACH = "breach"
    WAIT = "wait"  # for a person
    DONE = "done"


class Decision(Struct, frozen=True):
    """What to do, in words why, and the numbers that made it."""

    action: Action
    why: str
    numbers: Mapping[str, float] = field(default_factory=dict)


def decide(
    plan: RolloutPlan, progress: Progress, counts: BothSides, now: float, parts: Mapping[str, Part] = NO_PARTS
) -> Decision:
    """What comes next. `counts`: since the step began.

    `parts`: some of the counts, which are tested by themselves too, by their names in messages: "in the last 60 s".
    """
    action, why = _decide(plan, progress, counts, now, parts)
    return Decision(action, why, numbers(counts, now - progress.since))


def _decide(
    plan: RolloutPlan, progress: Progress, counts: BothSides, now: float, parts: Mapping[str, Part]
) -> tuple[Action, str]:
    if progress.state not in GUARDED:
        return Action.HOLD, progress.state.value
    exceeded = [*find_breaches(plan.limits, progress.baseline, counts, ALPHA * 3 / 8)]
    in_parts = [
        replace(over, words=f"{where} {over.words}")
        for where, part in parts.items()
        for over in find_breaches(plan.limits, progress.baseline, part.counts, part.alpha)
    ]
    broken = [over.words for over in exceeded if over.broken] or [over.words for over in in_parts if over.broken][:1]
    if broken:
        return Action.BREACH, "; ".join(broken)
    if progress.state in (RolloutState.PAUSED, RolloutState.OVERRIDDEN):
        return Action.HOLD, progress.why or progress.state.value
    doubtful = [*exceeded, *(over for over in in_parts if over.likely)]
    missing = [*_missing(plan, progress, counts, now), *(f"{over.words}: {over.doubt}" for over in doubtful)]
    if missing:
        return Action.HOLD, "waits: " + "; ".join(missing)
    seen = ", ".join(filter(None, [summary(counts), near_limit(plan.limits, counts)]))
    step = plan.steps[progress.step]
    if progress.step == len(plan.steps) - 1:
        return Action.DONE, f"{step} has held: {seen}"
    following = plan.steps[progress.step + 1]
    if step.gate and not progress.approved:
        return Action.WAIT, f"a person must approve {following}: {seen}"
    return Action.PROMOTE, f"{step} -> {following}: {seen}"


def _missing(plan: RolloutPlan, progress: Progress, counts: BothSides, now: float) -> Iterator[str]:
    """What must still be seen before the rollout may move on."""
    step, samples = plan.steps[progress.step], plan.limits.samples
    last = progress.step == len(plan.steps) - 1
    shadow = step.setting.mode is Mode.SHADOW
    seen, what = (counts.compared, "comparisons") if shadow else (counts.candidate.calls, "calls by D-Bus")
    least = step.least if last else max(step.least, samples)
    if seen < least:
        yield f"{seen} of {least} {what}"
    if not last and not shadow and control_of(samples, counts, progress.baseline) is None:
        yield f"{counts.control.calls} of {samples} calls by the legacy service to compare with"
    left = max(step.at_least, plan.watch if last else 0.0) - (now - progress.since)
    if left > 0:
        yield f"{duration(left)} to go"


def apply(plan: RolloutPlan, progress: Progress, decision: Decision, counts: BothSides, now: float) -> Progress:
    """What a decision makes of a rollout."""
    match decision.action:
        case Action.HOLD:
            return progress
        case Action.WAIT:
            waits = progress.state is RolloutState.WAITING  # once is enough for the audit
            return progress if waits else replace(progress, state=RolloutState.WAITING, why=decision.why)
        case Action.DONE:
            return replace(progress, state=RolloutState.DONE, why=decision.why)
        case Action.PROMOTE:
            known = counts.control if counts.control.calls >= plan.limits.samples else progress.baseline
            return Progress(RolloutState.RUNNING, progress.step + 1, now, baseline=known, why=decision.why)
        case Action.BREACH:
            return breach_acts(plan, progress, now, decision.why)


def breach_held(progress: Progress, why: str, holder: str) -> Progress:
    """A breach while what a person has set holds: `holder` says who has set what."""
    return replace(progress, state=RolloutState.BREACHED, why=f"breached: {why}; {holder}, and that holds")


def breach_acts(plan: RolloutPlan, progress: Progress, now: float, why: str) -> Progress:
    """What the plan says that a breach does."""
    if plan.on_breach is OnBreach.FREEZE:
        return replace(progress, state=RolloutState.FROZEN, why=why)
    if plan.on_breach is OnBreach.STEP_DOWN and progress.step > 0:
        return replace(progress, state=RolloutState.PAUSED, step=progress.step - 1, since=now, approved=False, why=why)
    return replace(progress, state=RolloutState.ROLLED_BACK, why=why)


# Without a plan of one's own. Methods that may not run twice begin with the canary.
_CANARIES = (
    RolloutStep(Setting(Mode.CANARY, share(1), observe=True), least=200, at_least=600.0),
    RolloutStep(Setting(Mode.CANARY, share(10), observe=True), least=500, at_least=600.0),
    RolloutStep(Setting(Mode.CANARY, share(50), observe=True), least=1000, at_least=600.0),
    RolloutStep(Setting(Mode.DBUS)),
)
DEFAULT = RolloutPlan("default", (RolloutStep(Setting(Mode.SHADOW), least=1000), *_CANARIES))
DEFAULT_FOR_WRITES = RolloutPlan("default", _CANARIES)
