"""Whole plans of rollouts over the real decision functions, with calls that are drawn at random.

Time is simulated, so that an hour of a rollout takes a tenth of a second. Each look draws what both sides did since the
look before it, and passes the sums through `CountsWindow`, `decide` and `apply` as the controller does.

Two models: of reads both sides run all calls, until the last step; of writes each call belongs to a key, and the canary
gives each key to one side.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import erfc, inf, log, sqrt
from random import Random
from statistics import median

from gateway.core.migration.limits import ALPHA, BothSides, SideCounts
from gateway.core.migration.modes import BUCKETS, Mode
from gateway.core.migration.rollout_plan import (
    DEFAULT,
    DEFAULT_FOR_WRITES,
    OVER,
    Progress,
    RolloutPlan,
    RolloutState,
    RolloutStep,
    apply,
    decide,
)
from gateway.core.migration.statistics import BOUNDS, KEY_GROUPS
from gateway.migration.rollout_controller import CountsWindow

CALLS = 20.0  # a second
DENSE = 120.0  # seconds after a change that are looked at five times a second
BEGINNING = 8.0  # seconds of a step that are looked at often
PAUSE = 60.0  # seconds between the other looks
FIRST_LOOK = 4.8  # seconds of a step; earlier there are fewer calls than `samples`, and no limit is judged
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


@lru_cache
def drawn(latency: Lognormal | HeavyTail | Mixed) -> Sequence[int]:
    """The bucket of a call for each number of 16 bits."""
    weights = [1 - latency.longer(bound) for bound in BOUNDS]
    return [bisect_left(weights, (number + 0.5) / 65536) for number in range(65536)]


@dataclass(frozen=True)
class Keys:
    """Keys of writes. One of them always fails, on both sides."""

    number: int = 1000
    calls: float = 0.001  # the share of the calls that are of the failing key


@dataclass(frozen=True)
class Row:
    """One row of the table: equal sides, or D-Bus gets worse `after` this many seconds."""

    name: str
    usual: Behaviour = Behaviour()
    mismatches: float = 0.0
    worse: Behaviour | None = None
    worse_mismatches: float = 0.0
    after: float = 0.0
    most: float = inf  # seconds: the goal for the median time
    keys: Keys | None = None  # None: reads

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
    """The counts of one side. Of reads, calls are of each group of keys in turn."""

    behaviour: Behaviour
    random: Random
    width: int  # buckets that calls reach
    keyed: bool  # whether calls are counted by group of keys, which matters where some fail
    calls: int = 0
    errors: int = 0
    of_groups: list[int] = field(default_factory=lambda: [0] * KEY_GROUPS)  # calls, if they are not in turn
    failed: list[int] = field(default_factory=lambda: [0] * KEY_GROUPS)

    def __post_init__(self) -> None:
        self.buckets = [0] * self.width

    def run(self, calls: int) -> None:
        self._take(calls)
        for position in hits(self.random, calls, self.behaviour.errors):
            self.errors += 1
            self.failed[(self.calls + position) % KEY_GROUPS] += 1
        self.calls += calls

    def run_keys(self, groups: Sequence[int], failing: int) -> None:
        """Calls of these groups; the last `failing` ones fail."""
        self._take(len(groups))
        self.calls += len(groups)
        self.errors += failing
        for group in groups:
            self.of_groups[group] += 1
        for group in groups[len(groups) - failing :]:
            self.failed[group] += 1

    def _take(self, calls: int) -> None:
        buckets, bucket = self.buckets, drawn(self.behaviour.latency)
        numbers = memoryview(self.random.randbytes(2 * calls)).cast("H")
        for number, count in Counter(map(bucket.__getitem__, numbers)).items():
            buckets[number] += count

    def counts(self) -> SideCounts:
        if not self.keyed:
            return SideCounts(self.calls, 0, tuple(self.buckets))
        groups = self.of_groups
        if not any(groups):
            each, more = divmod(self.calls, KEY_GROUPS)
            groups = [each + 1] * more + [each] * (KEY_GROUPS - more)
        return SideCounts(self.calls, self.errors, tuple(self.buckets), (*groups, *self.failed))


class _Writes:
    """Calls of keys: each is on one side, by its place in the canary."""

    def __init__(self, keys: Keys, random: Random) -> None:
        self._random = random
        self._places = [(random.randrange(BUCKETS), random.randrange(KEY_GROUPS)) for _ in range(keys.number)]
        self._share = keys.calls

    def run(self, calls: int, step: RolloutStep, legacy: _Side, dbus: _Side) -> None:
        """Some calls, of keys by chance; the first key is the one that fails."""
        limit = BUCKETS if step.setting.mode is Mode.DBUS else step.setting.buckets
        (place, group), *others = self._places
        failing = sum(1 for _ in hits(self._random, calls, self._share))
        chosen = self._random.choices(others, k=calls - failing)
        for side, ours in ((dbus, True), (legacy, False)):
            groups = [number for where, number in chosen if (where < limit) is ours]
            bad = failing if (place < limit) is ours else 0
            side.run_keys([*groups, *[group] * bad], bad)


def hits(random: Random, trials: int, rate: float) -> Iterator[int]:
    """Which of the trials are hits, drawn by the gaps between them."""
    if rate <= 0:
        return
    position, scale = -1, log(1 - rate)
    while (position := position + 1 + int(log(1 - random.random()) / scale)) < trials:
        yield position


def looks(begun: float, pause: float, change: float) -> Iterator[float]:
    """Moments of a step, from its beginning: often in its first seconds, very often after a change, else rarely.

    Rare looks take less time and hide little: the tests hold at any looks.
    """
    moment = 0.0
    while True:
        since = begun + moment - change
        wait = 0.4 if moment < BEGINNING else pause
        if 0 <= since < DENSE:
            wait = 0.2
        elif since < 0:
            wait = min(wait, -since)
        moment = max(moment + wait, FIRST_LOOK)
        yield moment


@dataclass
class _Plan:
    """One plan of a row, as far as it has come."""

    row: Row
    random: Random
    compared: int = 0
    different: int = 0
    bad: bool = False

    def __post_init__(self) -> None:
        row = self.row
        latencies = [each.latency for each in (row.usual, row.worse) if each is not None]
        width = 1 + max(drawn(latency)[-1] for latency in latencies)
        keyed = row.keys is not None or any(each.errors for each in (row.usual, row.worse) if each is not None)
        self.legacy, self.dbus = (_Side(row.usual, self.random, width, keyed) for _ in range(2))
        self.writes = _Writes(row.keys, self.random) if row.keys is not None else None

    def begin_badly(self) -> None:
        self.bad = True
        self.dbus.behaviour = self.row.worse or self.row.usual

    def run(self, calls: int, step: RolloutStep) -> None:
        if self.writes is not None:
            self.writes.run(calls, step, self.legacy, self.dbus)
            return
        self.dbus.run(calls)
        if step.setting.mode is not Mode.DBUS:
            self.legacy.run(calls)
            self.compared += calls
            rate = self.row.worse_mismatches if self.bad else self.row.mismatches
            self.different += sum(1 for _ in hits(self.random, calls, rate))

    def counts(self) -> BothSides:
        return BothSides(self.compared, self.different, self.legacy.counts(), self.dbus.counts())


def simulate(row: Row, random: Random, pause: float = PAUSE, patience: float = 4.0) -> End:
    """One plan. It is stuck when it takes `patience` times as long as the plan says."""
    plan: RolloutPlan = DEFAULT if row.keys is None else DEFAULT_FOR_WRITES
    least = sum(max(step.at_least, step.least / CALLS / _part(step)) for step in plan.steps) + plan.watch
    run, progress, now = _Plan(row, random), Progress(), 0.0
    change = row.after if row.regression else inf
    if change == 0:
        run.begin_badly()
    while progress.state not in OVER and now < least * patience:
        step, begun, last = plan.steps[progress.step], progress.since, 0.0
        start = {"m": run.counts()}
        window = CountsWindow(start, begun, plan.limits.window)
        window.parts(start, begun, ALPHA)
        for moment in looks(begun, pause, change):
            now = begun + moment
            run.run(int(moment * CALLS) - int(last * CALLS), step)
            last = moment
            if now >= change and not run.bad:  # a look comes at the moment of the change
                run.begin_badly()
            seen = {"m": run.counts()}
            counts = window.since_start(seen)
            decision = decide(plan, progress, counts, now, window.parts(seen, now, ALPHA / 2))
            progress = apply(plan, progress, decision, counts, now)
            if progress.since != begun or progress.state in OVER or now >= least * patience:
                break
    return End(progress.state, now - row.after, progress.why)


def _part(step: RolloutStep) -> float:
    """The share of the writes that D-Bus runs in a step, or 1 for reads, which both sides run."""
    return step.setting.buckets / BUCKETS if step.setting.mode is Mode.CANARY and not step.setting.observe else 1.0


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


def simulate_number(row: Row, seed: int, number: int, pause: float = PAUSE) -> End:
    """Plan `number` of a row. The same seed gives the same plan."""
    return simulate(row, Random(f"{seed} {row.name} {number}"), pause)


BIMODAL = 10.0  # times as long: the slow mode
_RARE = Mixed(0.04, Lognormal(USUAL * 8.0, 0.3), Lognormal())  # p99 three times as long, p50 hardly
EQUAL = (
    Row("equal"),
    *(Row(f"equal, errors {rate * 100:g} %", Behaviour(rate)) for rate in (0.001, 0.01, 0.05)),
    Row("equal, heavy tail", Behaviour(latency=HeavyTail())),
    Row("equal, bimodal 90/10", Behaviour(latency=Mixed(0.1, Lognormal(USUAL * BIMODAL, 0.2), Lognormal(USUAL, 0.2)))),
    Row("equal, bimodal 50/50", Behaviour(latency=Mixed(0.5, Lognormal(USUAL * BIMODAL, 0.2), Lognormal(USUAL, 0.2)))),
    Row("one of 1,000 keys always fails", keys=Keys()),
    Row("the same key makes 10 % of all calls", keys=Keys(calls=0.1)),
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
