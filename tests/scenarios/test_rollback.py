"""A rollout with its file and its own timers: from the first bad call to the rollback it is less than a second.

Seconds as the gateway counts them, in looks: how long a look takes on a busy machine says nothing of the gateway.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from gateway.core.migration.limits import RolloutLimits
from gateway.core.migration.modes import Mode, Setting, Side
from gateway.core.migration.rollout_plan import RolloutPlan, RolloutStep
from gateway.core.rpc.model import Call, Fault, FaultCode, Outcome, Reply
from gateway.migration.manager import FLUSH, MigrationManager
from gateway.migration.rollout_commands import RolloutCommands, RolloutView
from gateway.migration.rollout_controller import EVERY, SETTLE
from tests.kit.cases import expect
from tests.kit.mappings import noting
from tests.kit.migrations import movable

CANARY = Setting(Mode.CANARY, 50_000)
SAMPLES = 50
PLAN = RolloutPlan(
    "quick", (RolloutStep(CANARY, least=10_000), RolloutStep(Setting(Mode.DBUS))), RolloutLimits(samples=SAMPLES)
)
START = movable(plan=PLAN)
GOOD, BAD = Reply("ok"), Fault(FaultCode.TIMEOUT, "late")


class _Watched:
    """The running gateway's rollouts: its calls, and its looks at them."""

    def __init__(self, moving: MigrationManager) -> None:
        self._note = noting(moving.evidence.count)
        self._toggles = moving.toggles
        self._looked = asyncio.Condition()
        self.looks = 0
        moving.rollouts.pause = self._pause

    @property
    def mode(self) -> Mode:
        return self._toggles.setting(START).mode

    def calls(self, by_dbus: Outcome) -> None:
        """As many on both sides as are enough to judge by."""
        for _ in range(SAMPLES):
            self._note("xenopsd", "VM.start", Call("VM.start"), GOOD, 0.01, Side.LEGACY)
            self._note("xenopsd", "VM.start", Call("VM.start"), by_dbus, 0.01, Side.DBUS)

    async def next_look(self) -> None:
        async with self._looked:
            await self._looked.wait()

    async def _pause(self, seconds: float) -> None:
        self.looks += 1
        async with self._looked:
            self._looked.notify_all()
        await asyncio.sleep(seconds)


async def test_a_rollback_comes_within_a_second_of_the_breach(tmp_path: Path) -> None:
    async with MigrationManager(tmp_path / "state.db", lambda: [START]) as moving, asyncio.timeout(60):
        watched = _Watched(moving)
        expect(RolloutView, await RolloutCommands(moving.state, lambda: [START]).start("VM.start", "alice"))
        for _ in range(round(SETTLE / EVERY) + 5):
            watched.calls(GOOD)
            await watched.next_look()
            assert watched.mode is Mode.CANARY
        watched.calls(BAD)
        breach = watched.looks
        while watched.mode is Mode.CANARY:
            await watched.next_look()
        assert FLUSH + EVERY * (watched.looks - breach) <= 1.0
        assert watched.mode is Mode.LEGACY
        assert moving.toggles.effective(START).source(START).startswith("set by rollout quick ")
