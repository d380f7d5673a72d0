"""Settings, evidence and the file behind them, together."""

from __future__ import annotations

from pathlib import Path

from gateway.admin.service import AdminService
from gateway.core.admin.records import MethodId, StateRefused
from gateway.core.migration.modes import Side
from gateway.core.rpc.model import Call, Reply
from gateway.migration.manager import MigrationManager
from gateway.migration.rollout_commands import RolloutCommands
from tests.kit.mappings import noting, route
from tests.kit.side_by_side import until

HELD = MethodId("toy", "echo")
ECHO = route("echo", service="toy")


async def test_evidence_that_is_forgotten_takes_along_what_was_not_yet_written(tmp_path: Path) -> None:
    async with MigrationManager(tmp_path / "state.db", lambda: [ECHO]) as moving:
        orders = RolloutCommands(moving.state, lambda: [ECHO])
        admin = AdminService(lambda: [ECHO], moving.toggles, moving.state, orders, flush=moving.flush)
        noting(moving.evidence.count)("toy", "echo", Call("echo"), Reply(1), 0.1, Side.DBUS)
        assert await admin.reset_statistics("echo", "alice") == (HELD,)
        await moving.flush()
        assert await moving.state.evidence() == {}


async def test_what_was_seen_is_written_while_it_runs_and_at_its_end(tmp_path: Path) -> None:
    async with MigrationManager(tmp_path / "state.db", tuple) as moving:
        note = noting(moving.evidence.count)
        note("toy", "echo", Call("echo"), Reply(1), 0.1, Side.DBUS)

        async def seen() -> bool:
            return HELD in moving.here

        await until(seen)
        note("toy", "echo", Call("echo"), Reply(1), 0.1, Side.DBUS)
        await moving.flush()
        assert moving.here[HELD].counters["calls_dbus"] == 2
        note("toy", "echo", Call("echo"), Reply(1), 0.1, Side.DBUS)
    async with MigrationManager(tmp_path / "state.db", tuple) as moving:
        counts = await moving.state.evidence()
        assert not isinstance(counts, StateRefused)
        assert counts[HELD].counters["calls_dbus"] == 3
