"""Migrations for tests: rollouts on a real state file with a clock of the test, counts of both sides, records."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from gateway.core.admin.records import (
    AuditEntry,
    Change,
    ClientKey,
    ClientRecord,
    Counts,
    CountsBatch,
    MethodId,
    MismatchRecord,
    PutRollout,
)
from gateway.core.migration.limits import LIMITS, BothSides, SideCounts
from gateway.core.migration.modes import Key, Migration, Mode, Setting, Side
from gateway.core.migration.rollout_plan import RolloutPlan, RolloutStep
from gateway.core.migration.statistics import KEY_GROUPS, bucket_of, empty_histogram
from gateway.core.routing.overrides import By, Override
from gateway.core.routing.route import Route
from gateway.migration.rollout_commands import RolloutCommands
from gateway.migration.rollout_controller import RolloutController
from gateway.state.store import StateStore
from tests.kit.mappings import route
from tests.kit.programs import TIMEOUT

START = 1_000_000.0  # the beginning of every test
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
    """A clock that a test sets."""

    now: float = START
    changed: asyncio.Event = field(default_factory=asyncio.Event)  # a state has loaded a change

    def __call__(self) -> float:
        return self.now


@dataclass(slots=True)
class World:
    """One process: its state, its mapping, its rollouts."""

    state: StateStore
    clock: Clock
    routes: list[Route]
    holder: str = "one"
    here: dict[MethodId, Counts] = field(default_factory=dict)  # what it has counted itself
    engine: RolloutController = field(init=False)
    commands: RolloutCommands = field(init=False)
    set_by: float = 0.0  # seconds that somebody has set the wall clock forward

    def __post_init__(self) -> None:
        self.engine = RolloutController(
            self.state, lambda: self.routes, self.here, self.holder, self.wall, steady=self.clock
        )
        self.commands = RolloutCommands(self.state, lambda: self.routes, self.wall, self.clock)

    def wall(self) -> float:
        """The clock of the host, which somebody may set."""
        return self.clock() + self.set_by

    async def advance(self, seconds: float = 0.2) -> None:
        """Let time pass, and let the controller look."""
        self.clock.now += seconds
        await self.engine.look()

    async def begin(self, name: str = "VM.start") -> None:
        """Start a rollout and let its counting begin."""
        view = await self.commands.start(name, "alice")
        assert not hasattr(view, "conflict"), view
        await self.settle()

    async def settle(self) -> None:
        """Let the counts of the step before arrive."""
        await self.advance(0.6)

    async def see(self, method: str = "VM.start", *, seconds: float = USUAL, **counts: int) -> None:
        """Calls of this process; see `counted`."""
        found = counted(seconds=seconds, **counts)
        self.see_here(method, found)
        assert await self.state.flush(CountsBatch({MethodId("xenopsd", method): found})) is None

    def see_here(self, method: str, found: Counts) -> None:
        """Calls of this process that are not in the file."""
        key = MethodId("xenopsd", method)
        self.here[key] = self.here.get(key, Counts()) + found

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for a change that this process loads."""
        async with asyncio.timeout(TIMEOUT):
            while not holds():
                self.clock.changed.clear()
                await self.clock.changed.wait()

    async def lose_the_file(self) -> None:
        """Replace the state file by a folder."""
        assert self.state.path is not None
        for each in self.state.path.parent.glob(f"{self.state.path.name}*"):
            each.unlink()
        self.state.path.mkdir()
        await self.until(lambda: bool(self.state.trouble))

    async def good(self, method: str = "VM.start", calls: int = 1000) -> None:
        """Record calls that both sides serve equally."""
        await self.see(method, equal=calls, calls_legacy=calls, calls_dbus=calls)

    async def bad(self, method: str = "VM.start", calls: int = 1000) -> None:
        """Record calls that fail on D-Bus."""
        await self.see(method, error_different=calls, calls_legacy=calls, calls_dbus=calls, errors_dbus=calls)

    async def serve_well(self, method: str = "VM.start", calls: int = 1000) -> None:
        """Record good calls, and let the controller look."""
        await self.good(method, calls)
        await self.advance()

    async def serve_badly(self, method: str = "VM.start", calls: int = 1000) -> None:
        """Record bad calls, and let the controller look."""
        await self.bad(method, calls)
        await self.advance()

    async def set(self, pattern: str, mode: Mode, seconds: float | None = None, *, guarded: bool = False) -> None:
        until = None if seconds is None else self.clock.now + seconds
        override = Override(pattern, Setting(mode), "bob", self.clock.now, "a trial", until, guarded=guarded)
        entry = AuditEntry(self.clock.now, "bob", "mode", pattern)
        assert await self.state.decide(Change((entry,), (override,))) is None

    async def unset(self, pattern: str) -> None:
        """Clear a mode as a person."""
        entry = AuditEntry(self.clock.now, "bob", "mode", pattern)
        assert await self.state.decide(Change((entry,), drop=((pattern, "person"),))) is None

    def now_at(self, name: str = "xenopsd/VM.start") -> tuple[str, str]:
        """Return the state of a rollout and its override."""
        kept = self.state.rollouts[name].document
        assert isinstance(kept, dict)
        rows = [each.setting for each in self.state.overrides if (each.pattern, each.by) == (name, "rollout")]
        return kept["progress"]["state"], str(rows[0]) if rows else "nothing"

    async def said(self, name: str = "xenopsd/VM.start") -> list[AuditEntry]:
        """Return the audit of a rollout, newest first."""
        entries = await self.state.audit(subject=name)
        assert isinstance(entries, list)
        return entries


@asynccontextmanager
async def world(
    path: Path | None, *routes: Route, clock: Clock | None = None, holder: str = "one"
) -> AsyncIterator[World]:
    """A process on this state file."""
    clock = clock or Clock()
    async with StateStore(path, clock.changed.set, now=clock, clock=clock, patience=TIMEOUT) as state:
        yield World(state, clock, list(routes or (movable(),)), holder)


def counted(*, seconds: float = USUAL, **counters: int) -> Counts:
    """Counts by name: equal=5, calls_dbus=7 ...; `seconds`: how long each call by D-Bus took."""
    histograms = {}
    for side, took in ((Side.LEGACY, USUAL), (Side.DBUS, seconds)):
        buckets = empty_histogram()
        buckets[bucket_of(took)] = counters.get(f"calls_{side.value}", 0)
        histograms[side.value] = buckets
    return Counts(counters, histograms)


# Counts of both sides


def side(calls: int, *, errors: int = 0, seconds: float | None = None) -> SideCounts:
    if seconds is None:
        return SideCounts(calls, errors)
    latency = empty_histogram()
    latency[bucket_of(seconds)] = calls
    return SideCounts(calls, errors, tuple(latency))


def of_keys(calls: Sequence[int], errors: Sequence[int]) -> SideCounts:
    missing = [0] * (KEY_GROUPS - len(calls))
    return SideCounts(sum(calls), sum(errors), keys=(*calls, *missing, *errors, *missing))


def counts(
    *,
    compared: int = 0,
    different: int = 0,
    calls: int = 0,
    errors: int = 0,
    seconds: float | None = None,
    control: SideCounts | None = None,
) -> BothSides:
    """Return counts of the candidate, and of a control without noise."""
    return BothSides(
        compared,
        different,
        control=SideCounts(100) if control is None else control,
        candidate=side(calls, errors=errors, seconds=seconds),
    )


# Records of the state


VM_START, VM_STOP = MethodId("xenopsd", "VM.start"), MethodId("xenopsd", "VM.stop")


def override(pattern: str = "VM.*", mode: Mode = Mode.DBUS, *, why: str = "", by: By = "person") -> Override:
    return Override(pattern, Setting(mode), "alice", 1.0, why, None, by)


def entry(subject: str = "VM.*", what: str = "mode", *, when: float = 1.0, why: str = "") -> AuditEntry:
    return AuditEntry(when, "alice", what, subject, why, {"calls": 3})


def mode(pattern: str, mode: Mode = Mode.DBUS, *rollouts: PutRollout, why: str = "") -> Change:
    """Set a mode as a person."""
    return Change((entry(pattern, why=why),), (override(pattern, mode, why=why),), rollouts=rollouts)


def counts_batch(method: MethodId = VM_START, **counters: int) -> CountsBatch:
    return CountsBatch({method: Counts(counters, {"dbus": [1, 2]})})


def mismatch(number: int, method: MethodId = VM_START) -> MismatchRecord:
    return MismatchRecord(float(number), method, {"number": number})


def client_batch(peer: str, last: float = 2.0, *, method: MethodId = VM_START, domid: int | None = None) -> CountsBatch:
    """Return the record of one client, seen once."""
    return CountsBatch(
        clients={ClientKey(method, "xmlrpc", peer, "curl", "root", domid): ClientRecord(1, last - 1.0, last)}
    )
