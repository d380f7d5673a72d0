"""Rollouts on a real state file with a clock of the test's, for tests of everything that moves methods."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from gateway.core.admin.records import AuditEntry, Change, Counts, CountsBatch, MethodId
from gateway.core.migration.limits import LIMITS
from gateway.core.migration.modes import Key, Migration, Mode, Setting, Side
from gateway.core.migration.rollout_plan import RolloutPlan, RolloutStep
from gateway.core.migration.statistics import bucket_of, empty_histogram
from gateway.core.routing.overrides import Override
from gateway.core.routing.route import Route
from gateway.migration.rollout_commands import RolloutCommands
from gateway.migration.rollout_controller import LocalCounts, RolloutController
from gateway.state.store import StateStore
from tests.kit.routes import route

START = 1_000_000.0  # when every test begins
USUAL = 0.02  # seconds that a call takes
PLAN = RolloutPlan(
    "careful",
    (
        RolloutStep(Setting(Mode.SHADOW), least=200),
        RolloutStep(Setting(Mode.CANARY, 10_000, observe=True), least=200, gate=True),
        RolloutStep(Setting(Mode.CANARY, 50_000, observe=True), least=200),
        RolloutStep(Setting(Mode.DBUS)),
    ),
    LIMITS,
    watch=60.0,
)
KEY = Key("vm", lambda _: None)


def movable(method: str = "VM.start", group: str = "", *, plan: RolloutPlan = PLAN, **changes: object) -> Route:
    """A method of the service "xenopsd" with a legacy service and a key."""
    migration = Migration(Setting(Mode.LEGACY), upstream="old", key=KEY, group=group, may_shadow=True)
    return route(method, **{"service": "xenopsd", "migration": migration, "rollout": plan, **changes})


@dataclass(slots=True)
class Clock:
    """Time that passes when a test says so."""

    now: float = START
    changed: asyncio.Event = field(default_factory=asyncio.Event)  # a state has taken something over

    def __call__(self) -> float:
        return self.now


@dataclass(slots=True)
class World:
    """One process: its state, its mapping, its rollouts."""

    state: StateStore
    clock: Clock
    routes: list[Route]
    holder: str = "one"
    here: LocalCounts = field(default_factory=LocalCounts)
    engine: RolloutController = field(init=False)
    orders: RolloutCommands = field(init=False)
    set_by: float = 0.0  # seconds that somebody has set the wall clock forward

    def __post_init__(self) -> None:
        self.engine = RolloutController(
            self.state, lambda: self.routes, self.here.of, self.holder, self.wall, steady=self.clock
        )
        self.orders = RolloutCommands(self.state, lambda: self.routes, self.wall, self.clock)

    def wall(self) -> float:
        """The clock of the host, which somebody may set."""
        return self.clock() + self.set_by

    async def look(self, seconds: float = 0.2) -> None:
        """Time passes, and the engine looks."""
        self.clock.now += seconds
        await self.engine.look()

    async def begin(self, name: str = "VM.start") -> None:
        """Start a rollout and let its counts begin."""
        view = await self.orders.start(name, "alice")
        assert not hasattr(view, "conflict"), view
        await self.settle()

    async def settle(self) -> None:
        """The counts of the step before come in."""
        await self.look(0.6)

    async def see(self, method: str = "VM.start", *, seconds: float = USUAL, **counts: int) -> None:
        """Calls of this process; see `counted`."""
        batch = CountsBatch({MethodId("xenopsd", method): counted(seconds=seconds, **counts)})
        self.here.add(batch.evidence)
        assert await self.state.flush(batch) is None

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for what this process or another one takes over."""
        async with asyncio.timeout(60):
            while not holds():
                self.clock.changed.clear()
                await self.clock.changed.wait()

    async def lose_the_file(self) -> None:
        """Something else stands where the state file was."""
        assert self.state.path is not None
        for each in self.state.path.parent.glob(f"{self.state.path.name}*"):
            each.unlink()
        self.state.path.mkdir()
        await self.until(lambda: bool(self.state.trouble))

    async def good(self, method: str = "VM.start", calls: int = 1000) -> None:
        """Both sides do well."""
        await self.see(method, equal=calls, calls_legacy=calls, calls_dbus=calls)

    async def bad(self, method: str = "VM.start", calls: int = 1000) -> None:
        """D-Bus fails."""
        await self.see(method, error_different=calls, calls_legacy=calls, calls_dbus=calls, errors_dbus=calls)

    async def set(self, pattern: str, mode: Mode, seconds: float | None = None) -> None:
        """A person sets a mode."""
        until = None if seconds is None else self.clock.now + seconds
        override = Override(pattern, Setting(mode), "bob", self.clock.now, "a trial", until)
        entry = AuditEntry(self.clock.now, "bob", "mode", pattern)
        assert await self.state.decide(Change((entry,), (override,))) is None

    async def unset(self, pattern: str) -> None:
        """And takes it back."""
        entry = AuditEntry(self.clock.now, "bob", "mode", pattern)
        assert await self.state.decide(Change((entry,), drop=((pattern, "person"),))) is None

    def now_at(self, name: str = "xenopsd/VM.start") -> tuple[str, str]:
        """A rollout's state, and what it has set."""
        kept = self.state.rollouts[name].document
        assert isinstance(kept, dict)
        rows = [each.setting for each in self.state.overrides if (each.pattern, each.by) == (name, "rollout")]
        return kept["progress"]["state"], str(rows[0]) if rows else "nothing"

    async def said(self, name: str = "xenopsd/VM.start") -> list[AuditEntry]:
        """The audit of a rollout, newest first."""
        entries = await self.state.audit(subject=name)
        assert isinstance(entries, list)
        return entries


@asynccontextmanager
async def world(
    path: Path | None, *routes: Route, clock: Clock | None = None, holder: str = "one"
) -> AsyncIterator[World]:
    """A process on this state file."""
    clock = clock or Clock()
    async with StateStore(path, clock.changed.set, now=clock, clock=clock, patience=60.0) as state:
        yield World(state, clock, list(routes or (movable(),)), holder)


def counted(*, seconds: float = USUAL, **counters: int) -> Counts:
    """Counts by name: equal=5, calls_dbus=7 ...; `seconds`: how long each call by D-Bus took."""
    histograms = {}
    for side, took in ((Side.LEGACY, USUAL), (Side.DBUS, seconds)):
        buckets = empty_histogram()
        buckets[bucket_of(took)] = counters.get(f"calls_{side.value}", 0)
        histograms[side.value] = buckets
    return Counts(counters, histograms)
