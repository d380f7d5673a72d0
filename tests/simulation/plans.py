"""Whole plans of rollouts over the real decision functions, with calls that are drawn at random.

Time is simulated, so that an hour of a rollout takes milliseconds. Each look draws what both sides did since the look
before it, and passes the sums through `CountsWindow`, `decide` and `apply` as the controller does.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import erfc, inf, log, sqrt
from random import Random
from statistics import median

from gateway.core.migration.limits import ALPHA, BothSides, SideCounts
from gateway.core.migration.modes import Mode
from gateway.core.migration.rollout_plan import DEFAULT, OVER, Progress, RolloutPlan, RolloutState, apply, decide
from gateway.core.migration.statistics import BOUNDS, BUCKETS
from gateway.migration.rollout_controller import CountsWindow

CALLS = 20.0  # a second
DENSE = 120.0  # seconds after a change that are looked at closely
USUAL = 0.02  # seconds that the median call takes


@dataclass(frozen=True)
class Lognormal:
    """How long calls of most services take: a spread of half a natural logarithm."""

    middle: float = USUAL
    deviation: float = 0.5

    def longer(self, seconds: float) -> float:
        """The probability that a call takes longer."""
        return erfc(log(seconds / self.middle) / self.deviation / sqrt(2)) / 2


@dataclass(frozen=True)
class HeavyTail:
    """Pareto's distribution: it has a mean and no variance."""

    least: float = USUAL / 1.6
    power: float = 1.5

    def longer(self, seconds: float) -> float:
        """The probability that a call takes longer."""
        return min(1.0, float((self.least / seconds) ** self.power))


@dataclass(frozen=True)
class Mixed:
    """A share of the calls is slow."""

    share: float
    slow: Lognormal
    fast: Lognormal

    def longer(self, seconds: float) -> float:
        """The probability that a call takes longer."""
        return self.share * self.slow.longer(seconds) + (1 - self.share) * self.fast.longer(seconds)


@dataclass(frozen=True)
class Behaviour:
    """What one side does, and how often both differ."""

    errors: float = 0.0
    latency: Lognormal | HeavyTail | Mixed = Lognormal()

    def weights(self) -> Sequence[float]:
        """Cumulated probabilities of the buckets."""
        return [1 - self.latency.longer(bound) for bound in BOUNDS] + [1.0]


@dataclass(frozen=True)
class Row:
    """One line of the table: equal sides, or D-Bus gets worse `after` so many seconds."""

    name: str
    usual: Behaviour = Behaviour()
    mismatches: float = 0.0
    worse: Behaviour | None = None
    worse_mismatches: float = 0.0
    after: float = 0.0
    most: float = inf  # seconds: the goal for the median time

    @property
    def regression(self) -> bool:
        """Whether D-Bus is worse at all."""
        return self.worse is not None or self.worse_mismatches > 0


@dataclass(frozen=True)
class End:
    """How one plan ended."""

    state: RolloutState
    seconds: float
    why: str


@dataclass
class _Side:
    behaviour: Behaviour
    random: Random
    calls: int = 0
    errors: int = 0

    def __post_init__(self) -> None:
        self.buckets = [0] * BUCKETS
        self.weights = self.behaviour.weights()

    def run(self, calls: int) -> None:
        self.calls += calls
        self.errors += hits(self.random, calls, self.behaviour.errors)
        buckets, weights, draw = self.buckets, self.weights, self.random.random
        for _ in range(calls):
            buckets[bisect_left(weights, draw())] += 1

    def becomes(self, behaviour: Behaviour) -> None:
        self.behaviour, self.weights = behaviour, behaviour.weights()

    def counts(self) -> SideCounts:
        return SideCounts(self.calls, self.errors, tuple(self.buckets))


def hits(random: Random, trials: int, rate: float) -> int:
    """A binomial number, drawn by the gaps between hits."""
    if rate <= 0:
        return 0
    count, position, scale = 0, 0, log(1 - rate)
    while (position := position + 1 + int(log(1 - random.random()) / scale)) <= trials:
        count += 1
    return count


def looks(begun: float, dense: float, change: float) -> Iterator[float]:
    """Moments of a step, from its beginning: five times a second in the first `dense` seconds of it and after a change.

    At other times once in 10 s, which takes less time and hides little: the tests hold at any looks.
    """
    moment = 0.0
    while True:
        often = moment < dense or 0 <= begun + moment - change < DENSE
        moment += 0.2 if often else 10.0
        yield moment


def simulate(row: Row, random: Random, plan: RolloutPlan = DEFAULT, dense: float = 10.0, patience: float = 4.0) -> End:
    """One plan. It is stuck when it takes `patience` times as long as the plan says."""
    least = sum(max(step.at_least, step.least / CALLS) for step in plan.steps) + plan.watch
    legacy, dbus = _Side(row.usual, random), _Side(row.usual, random)
    compared = different = 0
    progress, now, bad = Progress(), 0.0, not row.regression
    while progress.state not in OVER and now < least * patience:
        step = plan.steps[progress.step]
        begun, last = progress.since, 0.0
        both = BothSides(compared, different, legacy.counts(), dbus.counts())
        start = {"m": both}
        window = CountsWindow(start, begun, plan.limits.window)
        window.parts(start, begun, ALPHA)
        for moment in looks(begun, dense, row.after if row.regression else inf):
            now = begun + moment
            if not bad and now >= row.after:
                bad = True
                dbus.becomes(row.worse or row.usual)
            calls = int(moment * CALLS) - int(last * CALLS)
            last = moment
            dbus.run(calls)
            if step.setting.mode is not Mode.DBUS:
                legacy.run(calls)
                compared += calls
                rate = row.worse_mismatches if bad and row.regression else row.mismatches
                different += hits(random, calls, rate)
            seen = {"m": BothSides(compared, different, legacy.counts(), dbus.counts())}
            counts = window.since_start(seen)
            decision = decide(plan, progress, counts, now, window.parts(seen, now, ALPHA / 2))
            progress = apply(plan, progress, decision, counts, now)
            if progress.since != begun or progress.state in OVER or now >= least * patience:
                break
    return End(progress.state, now - row.after, progress.why)


@dataclass(frozen=True)
class Outcome:
    """What came of all plans of a row, as shares of them."""

    row: Row
    back: float  # rolled back; of a regression: after it began
    early: float  # rolled back before anything was wrong
    stuck: float  # neither rolled back nor done
    median: float  # seconds from the beginning, or from the change, to the rollback

    @property
    def good(self) -> bool:
        """Whether the row reaches the goals of docs/evidence.md."""
        if self.row.regression:
            return self.back >= 0.99 - self.early and self.early <= 0.01 and self.median <= self.row.most
        return self.back <= 0.01 and self.stuck <= 0.02

    def __str__(self) -> str:
        """A line of a table in Markdown."""
        if not self.row.regression:
            return f"| {self.row.name} | {self.back:.2%} | {self.stuck:.2%} | | at most 1 %, 2 % |"
        return f"| {self.row.name} | {self.back:.2%} | | {self.median:.1f} s | at least 99 %, {self.row.most:g} s |"


def outcome(row: Row, ends: Sequence[End]) -> Outcome:
    """Sum up the plans of a row."""
    back = [end.seconds for end in ends if end.state is RolloutState.ROLLED_BACK]
    right = [seconds for seconds in back if seconds >= 0]
    done = sum(end.state is RolloutState.DONE for end in ends)
    stuck = len(ends) - len(back) - done
    runs = len(ends)
    return Outcome(row, len(right) / runs, (len(back) - len(right)) / runs, stuck / runs, median(right or [0.0]))


def simulate_number(row: Row, seed: int, number: int) -> End:
    """Plan `number` of a row. The same seed gives the same plan."""
    return simulate(row, Random(f"{seed} {row.name} {number}"))


BIMODAL = 10.0  # times as long: the slow mode
_RARE = Mixed(0.04, Lognormal(USUAL * 8.0, 0.3), Lognormal())  # p99 three times as long, p50 hardly
EQUAL = (
    Row("equal"),
    *(Row(f"equal, errors {rate * 100:g} %", Behaviour(rate)) for rate in (0.001, 0.01, 0.05)),
    Row("equal, heavy tail", Behaviour(latency=HeavyTail())),
    Row("equal, bimodal 90/10", Behaviour(latency=Mixed(0.1, Lognormal(USUAL * BIMODAL, 0.2), Lognormal(USUAL, 0.2)))),
    Row("equal, bimodal 50/50", Behaviour(latency=Mixed(0.5, Lognormal(USUAL * BIMODAL, 0.2), Lognormal(USUAL, 0.2)))),
    Row("mismatches at half the limit", mismatches=0.0005),
    Row("mismatches at nine tenths of the limit", mismatches=0.0009),
)
WORSE = (
    Row("errors +2 %", worse=Behaviour(0.02), most=46.0),
    Row("errors +10 %", worse=Behaviour(0.10), most=12.0),
    Row("p50 x1.75", worse=Behaviour(latency=Lognormal(USUAL * 1.75)), most=72.0),
    Row("p50 x3", worse=Behaviour(latency=Lognormal(USUAL * 3)), most=12.0),
    Row("p99 x3", worse=Behaviour(latency=_RARE), most=70.0),
    Row("mismatches 1 %", worse_mismatches=0.01, most=32.0),
    Row("errors +2 % after 10 good minutes", worse=Behaviour(0.02), after=600.0, most=82.0),
    Row("errors +10 % after 10 good minutes", worse=Behaviour(0.10), after=600.0, most=82.0),
    Row("mismatches 1 % after 10 good minutes", worse_mismatches=0.01, after=600.0, most=82.0),
)
ROWS = EQUAL + WORSE
