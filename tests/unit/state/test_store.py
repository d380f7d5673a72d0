"""The state as the gateway sees it: copies that follow, answers that refuse, nothing that waits for ever."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from gateway.core.admin.records import (
    Change,
    PendingDecision,
    PutRollout,
    StateRefused,
    StoredState,
    all_to_legacy,
    applied,
)
from gateway.core.migration.modes import Mode
from gateway.state import file
from gateway.state.store import POLL, StateStore
from tests.kit.cases import expect
from tests.kit.migrations import VM_START, counts_batch, entry, mode, override

SOON = 60.0  # seconds in which what must come comes


class Watched(StateStore):
    """A state that can be waited for."""

    def __init__(self, path: Path | None, *, patience: float = SOON) -> None:
        super().__init__(path, self._changed, now=lambda: 1000.0, patience=patience)
        self.changes = asyncio.Event()
        self.told_in: set[int] = set()
        self.seeing: Callable[[], object] = lambda: None

    def _changed(self) -> None:
        self.told_in.add(threading.get_ident())
        self.seeing()
        self.changes.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(SOON):
            while not holds():
                self.changes.clear()
                await self.changes.wait()


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "LOCK_PATIENCE", SOON)
    monkeypatch.setattr(file, "RETRY", 0.05)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


async def test_what_was_decided_is_in_force_at_once_and_after_a_restart(path: Path) -> None:
    async with Watched(path) as state:
        assert await state.decide(mode("VM.*", Mode.LEGACY, PutRollout("r", {"step": 1}, 0))) is None
        assert state.overrides == (override("VM.*", Mode.LEGACY),)
        kept = state.kept
        assert state.place == str(path)
    async with Watched(path) as state:
        assert state.kept == kept
        assert state.rollouts["r"].document == {"step": 1}
        assert await state.audit() == [entry("VM.*")]


async def test_others_see_a_change_within_200_ms_and_are_told_on_the_loop(path: Path) -> None:
    assert POLL <= 0.1
    async with Watched(path) as one, Watched(path) as other:
        await one.decide(mode("VM.*", Mode.LEGACY))
        await other.until(lambda: other.overrides == one.overrides)
        await other.decide(mode("VM.*", Mode.DBUS))
        await one.until(lambda: one.overrides == (override("VM.*", Mode.DBUS),))
        assert one.told_in == other.told_in == {threading.get_ident()}


async def test_of_two_that_decide_on_one_rollout_at_once_exactly_one_does(path: Path) -> None:
    async with Watched(path) as one, Watched(path) as other:
        for version in range(10):
            changes = [mode(name, Mode.OFF, PutRollout("r", name, version)) for name in ("a", "b")]
            refused = await asyncio.gather(one.decide(changes[0]), other.decide(changes[1]))
            assert [bool(each and each.conflict) for each in refused].count(True) == 1
        audit = await one.audit()
        assert len(audit) == 10  # type: ignore[arg-type]


async def test_without_a_file_all_works_and_it_says_that_nothing_stays() -> None:
    async with Watched(None) as state:
        assert await state.decide(mode("VM.*", Mode.LEGACY)) is None
        await state.flush(counts_batch(equal=1))
        assert (state.trouble, state.lost) == ("", 0)
        assert list(await state.evidence()) == [VM_START]  # type: ignore[arg-type]
        assert "in memory only" in state.place
    async with Watched(None) as state:
        assert state.overrides == ()


async def test_a_damaged_file_keeps_nobody_from_starting_and_gets_well_when_it_is_moved_away(path: Path) -> None:
    path.write_bytes(b"junk" * 4096)
    async with Watched(path) as state:
        assert "is damaged" in state.trouble
        assert await state.decide(mode("VM.*")) == StateRefused(state.trouble)
        assert await state.audit() == await state.evidence() == StateRefused(state.trouble)
        assert not await state.hold_lease("driver", "one", 60)
        for lost in (1, 2):
            assert await state.flush(counts_batch(equal=1)) == StateRefused(state.trouble)
            assert state.lost == lost
        path.rename(path.with_name("damaged"))
        await state.until(lambda: not state.trouble)
        assert await state.decide(mode("VM.*")) is None
        assert await state.flush(counts_batch(equal=1)) is None


async def test_a_decision_that_was_outrun_is_refused_even_when_it_must_not_wait(path: Path) -> None:
    async with Watched(path) as state:
        await state.decide(mode("VM.*", Mode.DBUS))
        assert (
            await state.decide_anyway(all_to_legacy("alice", 1000.0, "fire")) is None
        )  # without trouble it is stored at once
        assert [each.pattern for each in state.overrides] == ["*"]
        refused = expect(
            StateRefused, await state.decide_anyway(Change((entry(),), rollouts=(PutRollout("r", 1, expected=3),)))
        )
        assert refused.conflict


@pytest.fixture
def hanging(path: Path) -> Iterator[Callable[[], None]]:
    """A file that answers no request until the yielded function is called."""
    asyncio.run(_made(path))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
        other.execute("BEGIN IMMEDIATE")
        yield other.close


async def _made(path: Path) -> None:
    async with StateStore(path) as state:
        await state.decide(mode("VM.*", Mode.DBUS))


@pytest.mark.parametrize("by", ["its operator", "another worker"])
async def test_a_file_that_hangs_holds_up_nobody(path: Path, hanging: Callable[[], None], by: str) -> None:
    rollback = all_to_legacy("alice", 1000.0, "fire")
    async with Watched(path, patience=0.05) as state:
        assert "has not answered for 0.05 s" in state.trouble
        assert await state.decide(mode("VM.*")) == StateRefused(state.trouble)
        assert isinstance(await state.flush(counts_batch(equal=1)), StateRefused)
        if by == "its operator":
            assert isinstance(await state.decide_anyway(rollback), PendingDecision)
        else:
            await state.adopt(applied(StoredState(), rollback), [rollback], seconds=0.05)
        assert [each.pattern for each in state.overrides] == ["*"]
        seen: list[tuple[str, ...]] = []
        state.seeing = lambda: seen.append(tuple(each.pattern for each in state.overrides))
        hanging()
        await state.until(lambda: not state.trouble and len(seen) > 1)
        assert set(seen) == {("*",)}  # at no moment the modes that were in the file
        assert [line.what for line in await state.audit()] == ["rollback", "mode"]  # type: ignore[union-attr]


async def test_of_a_change_that_is_under_way_when_the_file_falls_silent_nothing_is_pretended(path: Path) -> None:
    async with Watched(path) as state:
        state._patience = 0.05  # now that the file is open
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            refused = expect(StateRefused, await state.decide(mode("VM.*", Mode.DBUS)))
            assert refused.why.endswith("it is unknown whether this was written")
            assert state.overrides == ()
        await state.until(lambda: state.overrides == (override("VM.*", Mode.DBUS),))  # it was
        await state.until(lambda: not state.trouble)


async def test_a_start_that_is_given_up_leaves_no_thread(path: Path, hanging: Callable[[], None]) -> None:
    state = Watched(path)
    starting = asyncio.ensure_future(state.start())
    await asyncio.sleep(0)
    starting.cancel()
    hanging()
    with pytest.raises(asyncio.CancelledError):
        await starting
