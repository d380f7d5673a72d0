"""Looks at every rollout several times a second, and moves it on or back.

Of the processes that share a state file one holds the lease and drives; each look prolongs the lease. When the driver
ends, another process takes the lease over. While the state file cannot be used, each process only guards: it rolls back
by its own counts and promotes nothing. An error here costs one look and no call of any client.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from time import time

from msgspec import Struct, field
from msgspec.structs import replace

from gateway.core.admin import counters
from gateway.core.admin.records import AuditEntry, Change, Counts, MethodId, PendingDecision, Rollout, StateRefused
from gateway.core.logger import Logger
from gateway.core.migration.limits import ALPHA, BothSides, Part, duration
from gateway.core.migration.rollout_plan import (
    Action,
    Command,
    Decision,
    Progress,
    RolloutState,
    apply,
    apply_command,
    breach_acts,
    breach_held,
    decide,
    evidence_lost,
    setting,
)
from gateway.core.migration.statistics import spent
from gateway.core.routing.overrides import Override
from gateway.core.routing.route import Route
from gateway.migration import rollout_storage
from gateway.migration.rollout_storage import RolloutDocument, in_words, members, set_by_persons, str_of
from gateway.state import clock
from gateway.state.store import StateStore as Store

STARTS = 2  # windows that begin in the time of one
LASTS = 2  # times its length that a window is tested, while it grows

WindowCounts = Mapping[str, BothSides]  # by method, "service/method"; all of it only grows


def together(seen: WindowCounts, start: WindowCounts) -> BothSides:
    """The sum over methods, each since its start; a method without a start is not counted yet."""
    total = BothSides()
    for method, counts in seen.items():
        if method in start:
            total += counts.since(start[method])
    return total


class CountsWindow(Struct):
    """The counts of one step, since its start and in windows of it; in memory only.

    A window begins `STARTS` times in `window` seconds and is tested until it is `LASTS` times as long: a change is in
    a window of nearly nothing else soon after it, and in none of what was good before. Window number n gets its share
    of the error probability (`spent`), so that all windows together keep to it, however long the step takes.
    """

    start: WindowCounts
    since: float  # when the step began
    window: float  # seconds
    starts: deque[tuple[float, WindowCounts]] = field(default_factory=deque)

    def since_start(self, seen: WindowCounts) -> BothSides:
        """All of the step's."""
        self.start = joined(seen, self.start) or self.start
        return together(seen, self.start)

    def parts(self, seen: WindowCounts, now: float, alpha: float, where: str = "") -> Mapping[str, Part]:
        """Every window that is not over, by what messages call it, with its share of `alpha`."""
        pause = self.window / STARTS
        if not self.starts or now - self.starts[-1][0] >= pause:
            self.starts.append((now, seen))
        while self.starts[0][0] < now - self.window * LASTS:
            self.starts.popleft()
        return {
            f"{where}in the last {duration(now - begun)}": Part(
                together(seen, start), spent(alpha, 1 + int(max(0.0, begun - self.since) / pause))
            )
            for begun, start in self.starts
            if begun < now
        }


def joined(seen: WindowCounts, start: WindowCounts) -> WindowCounts | None:
    """The start with those methods that have joined since; None when there are none."""
    return {**seen, **start} if seen.keys() - start.keys() else None


EVERY = 0.2  # seconds between two looks
SETTLE = 0.5  # seconds in which the counts of the step before come in; then the new step's begin
LEASE = 0.7  # seconds after which another process takes over from one that is gone; every look prolongs it
QUIET = 1.0  # seconds between two judgements of counts that have not changed

_log = Logger("rollout")


class _Tracks(Struct):
    """What this process remembers of one step of one rollout."""

    since: float
    start: WindowCounts | None
    everywhere: CountsWindow
    here: CountsWindow
    last: tuple[Progress, WindowCounts, WindowCounts] | None = None  # what was judged
    judged: float = 0.0


class RolloutController(Struct):
    """`routes`: the live mapping's; `here`: what this process has counted since it began, in the file or not."""

    state: Store
    routes: Callable[[], Sequence[Route]]
    here: Mapping[MethodId, Counts]
    holder: str
    now: Callable[[], float] = time
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep
    steady: Callable[[], float] = clock.steady  # of rollouts and of modes that end
    driving: bool = False
    _tracks: dict[str, _Tracks] = field(default_factory=dict)
    _read: dict[str, tuple[Rollout, RolloutDocument | str]] = field(default_factory=dict)  # while they stay the same

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            try:
                await self.look()
            except Exception:  # noqa: BLE001 - a bug costs this look; the next one may do better
                _log.exception("a bug ended this look at the rollouts")
            await self.pause(EVERY)

    async def look(self) -> None:
        """One look at everything that time and counts may have changed."""
        active, state = self._active(), self.state
        expired = [override for override in state.overrides if override.expired(self.steady())]
        self._tracks = {name: tracks for name, tracks in self._tracks.items() if name in active}
        if not active and not expired:
            return
        driving = await state.hold_lease("rollouts", self.holder, LEASE)
        if driving != self.driving:
            _log.info("this process drives the rollouts" if driving else "this process no longer drives the rollouts")
        self.driving = driving
        if driving and expired:
            now = self.now()
            ended = (AuditEntry(now, "gateway", "mode", each.pattern, f"{each.who}'s time is over") for each in expired)
            await state.decide(Change(tuple(ended), expired_by=self.steady()))
        counted = await state.evidence() if driving and active else None
        everywhere = None if isinstance(counted, StateRefused) else counted
        if everywhere is None and not state.trouble:
            return
        routes = [route for route in self.routes() if route.migration.upstream is not None]
        for name, (version, each) in active.items():
            await _Look(self, name, version, each, members(name, routes), everywhere, self.steady()).take()

    def breached(self) -> Mapping[str, str]:
        """The rollouts that have found a breach while what a person has set holds, and the words of it."""
        active = {name: each.progress for name, (_, each) in self._active().items()}
        return {name: progress.why for name, progress in active.items() if progress.state is RolloutState.BREACHED}

    def _active(self) -> dict[str, tuple[int, RolloutDocument]]:
        """The rollouts that are not over, with their versions."""
        before, self._read = self._read, {}
        active = {}
        for name, rollout in self.state.rollouts.items():
            known = before.get(name)
            if known is None or known[0] is not rollout:
                known = rollout, rollout_storage.read(rollout.document)
                if isinstance(known[1], str):
                    _log.error(f"a rollout {known[1]}", rollout=name)
            self._read[name] = known
            document = known[1]
            if isinstance(document, RolloutDocument) and not document.over:
                active[name] = rollout.version, document
        return active

    def tracks(self, name: str, each: RolloutDocument, everywhere: WindowCounts, here: WindowCounts) -> _Tracks:
        """What is remembered of this step; forgotten when another one begins."""
        known = self._tracks.get(name)
        since, window = each.progress.since, each.plan.limits.window
        if known is None or (known.since, known.start) != (since, each.start):
            everywhere_since = CountsWindow(each.start or everywhere, since, window)
            known = _Tracks(since, each.start, everywhere_since, CountsWindow(here, since, window))
            self._tracks[name] = known
        return known


class _Look(Struct):
    """One look at one rollout. `everywhere` None: no process drives, and this one guards by its own counts.

    `now` is a moment of the controller's steady clock.
    """

    engine: RolloutController
    name: str
    version: int
    document: RolloutDocument
    members: tuple[Route, ...]
    everywhere: Mapping[MethodId, Counts] | None
    now: float
    theirs: Sequence[Override] = ()  # what persons have set, which holds instead of the rollout's setting

    async def take(self) -> None:
        """Do what is to be done, if anything."""
        if not self.members:
            await self._command(Command.END, "its methods are mapped no more, or have no legacy service")
            return
        overrides, progress = self.engine.state.overrides, self.document.progress
        self.theirs = set_by_persons(self.members, overrides, self.now)
        wanted = setting(self.document.plan, progress)
        ours = [each for each in overrides if (each.pattern, each.by) == (self.name, "rollout")]
        taken = "" if any(each.setting == wanted for each in ours) else "what it had set was taken away"
        stopped = in_words(self.theirs[0]) if self.theirs else taken
        if progress.state is RolloutState.BREACHED:
            if not self.theirs and self.everywhere is not None:
                after = breach_acts(self.document.plan, progress, self.now, f"{progress.why} no more")
                await self._become(after, Decision(Action.BREACH, after.why))
        elif stopped and progress.state is not RolloutState.OVERRIDDEN:
            await self._command(Command.OVERRIDE, stopped)
        elif self.everywhere is not None and (changed := self.document.remapped(self.members)):
            why = f"the mapping of {', '.join(changed)} has changed: the counts of this step begin anew"
            await self._become(evidence_lost(self.document.progress, self.now, why), Decision(Action.HOLD, why))
        elif not taken and self.now - self.document.progress.since >= SETTLE:
            await self._judge()

    async def _judge(self) -> None:
        methods = {str_of(route): MethodId.of(route) for route in self.members}
        here = {name: counters.sides(self.engine.here.get(each, Counts())) for name, each in methods.items()}
        counted = self.everywhere
        if counted is None:  # only back: to promote, all processes must have been seen
            tracks = self.engine.tracks(self.name, self.document, {}, here)
            parts = tracks.here.parts(here, self.now, ALPHA / 2)
            await self._decide(tracks.here.since_start(here), parts, frozenset({Action.BREACH}))
            return
        everywhere = {name: counters.sides(counted.get(each, Counts())) for name, each in methods.items()}
        start = self.document.start
        begins = everywhere if start is None else joined(everywhere, start)
        if begins is not None:
            mapping = {str_of(route): route.fingerprint for route in self.members}
            after = replace(self.document, start=begins, mapping=mapping)
            await self._write(rollout_storage.counted(self.name, self.version, after))
            return
        tracks = self.engine.tracks(self.name, self.document, everywhere, here)
        judged = (self.document.progress, everywhere, here)
        if tracks.last == judged and self.now - tracks.judged < QUIET:
            return
        tracks.last, tracks.judged = judged, self.now
        parts = {
            **tracks.everywhere.parts(everywhere, self.now, ALPHA / 2),
            "in one process": Part(tracks.here.since_start(here), ALPHA / 16),
            **tracks.here.parts(here, self.now, ALPHA / 16, "in one process "),
        }
        await self._decide(tracks.everywhere.since_start(everywhere), parts, frozenset(Action))

    async def _decide(self, counts: BothSides, parts: Mapping[str, Part], may: frozenset[Action]) -> None:
        plan, progress = self.document.plan, self.document.progress
        decision = decide(plan, progress, counts, self.now, parts)
        after = apply(plan, progress, decision, counts, self.now)
        ended: Sequence[Override] = ()
        if decision.action is Action.BREACH and self.theirs:
            holding = next((each for each in self.theirs if not each.guarded), None)
            if holding is not None:
                after = breach_held(progress, decision.why, in_words(holding))
            elif after.state is not RolloutState.FROZEN:  # which leaves everything where it is
                ended = self.theirs
                after = replace(after, why=f"{after.why}; {in_words(ended[0])}, and that has ended")
        if decision.action in may and after != progress:
            await self._become(after, decision, ended)

    async def _command(self, command: Command, why: str) -> None:
        if self.everywhere is not None:
            await self._become(apply_command(self.document.progress, command, why), Decision(Action.HOLD, why))

    async def _become(self, progress: Progress, decision: Decision, ended: Sequence[Override] = ()) -> None:
        after = self.document.at(progress)
        change = rollout_storage.moved(
            self.name,
            self.version,
            self.document,
            after,
            who=f"rollout {after.plan.name}",
            when=self.engine.now(),
            numbers=decision.numbers,
            ended=ended,
        )
        if await self._write(change, anyway=decision.action is Action.BREACH):
            tell = _log.warning if decision.action is Action.BREACH else _log.info
            state, step = progress.state.value, str(after.step)
            tell(progress.why, rollout=self.name, state=state, step=step, **decision.numbers)

    async def _write(self, change: Change, *, anyway: bool = False) -> bool:
        store = self.engine.state
        refused = await (store.decide_anyway(change) if anyway else store.decide(change))
        if isinstance(refused, StateRefused) and not refused.conflict:
            _log.warning("a rollout's decision could not be written", rollout=self.name, why=refused.why)
        return refused is None or isinstance(refused, PendingDecision)
