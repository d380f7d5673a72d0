"""The controller on a real state file, with a clock that the test sets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from gateway.core.admin.records import AuditEntry, Change, Rejected
from gateway.core.migration.modes import Mode
from gateway.core.migration.rollout_plan import OnBreach
from gateway.migration.manager import FLUSH
from gateway.migration.rollout_commands import RolloutView
from gateway.migration.rollout_controller import EVERY, LEASE, SETTLE
from tests.kit.cases import expect
from tests.kit.migrations import PLAN, START, Clock, World, counted, movable, world

NAME = "xenopsd/VM.start"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
async def one(path: Path) -> AsyncIterator[World]:
    async with world(path) as one:
        yield one


async def _to_the_canary(one: World) -> None:
    await one.begin()
    await one.serve_well()
    assert one.now_at() == ("running", "canary 10% observed")
    await one.settle()


@pytest.fixture
async def canary(one: World) -> World:
    """A process whose rollout has reached its first canary."""
    await _to_the_canary(one)
    return one


# Onwards


async def test_a_rollout_goes_from_shadow_to_dbus_and_ends_with_each_decision_in_the_audit(one: World) -> None:
    await one.begin()
    assert one.now_at() == ("running", "shadow")
    await one.serve_well()
    assert one.now_at() == ("running", "canary 10% observed")
    promoted, begun = await one.said()
    assert (begun.who, begun.what, begun.why) == ("alice", "rollout", "started by alice")
    assert (promoted.who, promoted.what) == ("rollout careful", "rollout")
    assert promoted.why.startswith("shadow -> canary 10%: 0 of 1000 differ")
    numbers = {"compared": 1000, "different": 0, "dbus_calls": 1000, "step": "canary 10%"}
    assert numbers.items() <= promoted.numbers.items()
    await one.settle()
    await one.serve_well()
    assert one.now_at()[0] == "waiting"
    approved = expect(RolloutView, await one.commands.approve(NAME, "alice"))
    assert "waits: 0 of" not in approved.why, "the calls that were counted before the gate"
    await one.advance()
    assert one.now_at() == ("running", "canary 50% observed")
    await one.settle()
    await one.serve_well()
    assert one.now_at() == ("running", "dbus")
    await one.settle()
    await one.advance(30.0)
    assert one.now_at() == ("running", "dbus")  # and still watched
    await one.advance(30.0)
    assert one.now_at() == ("done", "dbus")
    assert [entry.numbers["state"] for entry in await one.said()] == [
        "done", "running", "running", "running", "waiting", "running", "running"
    ]  # fmt: skip
    await one.serve_badly()  # it is not watched any longer
    assert one.now_at() == ("done", "dbus")


async def test_counts_from_before_a_step_are_not_its_own(one: World) -> None:
    await one.bad()  # before the rollout began
    await one.begin()
    await one.serve_well(calls=199)
    assert one.now_at() == ("running", "shadow")
    await one.serve_well(calls=1)
    assert one.now_at() == ("running", "canary 10% observed")
    await one.see(error_different=500, calls_dbus=500, calls_legacy=500, errors_dbus=500)  # late, from the step before
    await one.settle()
    await one.advance()
    assert one.now_at() == ("running", "canary 10% observed")


# Back


async def test_a_breach_rolls_back_within_a_second(canary: World) -> None:
    assert FLUSH + EVERY + SETTLE < 1.0
    await canary.bad()
    await canary.advance(EVERY)
    assert canary.now_at() == ("rolled back", "legacy")
    entry = (await canary.said())[0]
    assert entry.what == "rollback"
    assert entry.why.startswith("1000 of 1000 differ (100%, limit 0.1%); 1000 of 1000 calls by D-Bus failed")
    assert entry.numbers["dbus_errors"] == 1000


async def test_a_long_good_time_does_not_hide_a_bad_end(canary: World) -> None:
    for _ in range(20):
        await canary.good(calls=1_000_000)
        await canary.advance(10.0)
    await canary.advance(60.0)
    await canary.see(equal=700, different=300, calls_dbus=1000, calls_legacy=1000)  # 0.0015% of all there were
    await canary.advance()
    assert canary.now_at()[0] == "rolled back"
    assert "in the last 200 ms 300 of 1000 differ" in (await canary.said())[0].why


async def test_a_freeze_stays_until_a_person_resumes_and_then_counts_anew(path: Path) -> None:
    async with world(path, movable(plan=replace(PLAN, on_breach=OnBreach.FREEZE))) as one:
        await _to_the_canary(one)
        await one.set(NAME, Mode.DBUS, guarded=True)
        await one.advance()
        await one.serve_badly()
        assert one.now_at()[0] == "frozen"
        assert [each.guarded for each in one.state.overrides if each.by == "person"] == [True]  # it stays
        await one.unset(NAME)
        await one.bad()
        await one.advance(100.0)
        assert one.now_at() == ("frozen", "canary 10% observed")
        await one.commands.resume(NAME, "alice")
        await one.settle()
        await one.advance()
        assert one.now_at() == ("running", "canary 10% observed")
        await one.serve_well()
        assert one.now_at()[0] == "waiting"


# Persons


async def test_a_persons_override_wins_and_stops_the_rollout_until_it_is_resumed(canary: World) -> None:
    await canary.set("VM.*", Mode.LEGACY)
    await canary.advance()
    assert canary.now_at() == ("overridden", "canary 10% observed")
    assert (await canary.said())[0].why == "bob has set VM.* to legacy"
    await canary.good()
    await canary.advance(100.0)
    assert canary.now_at()[0] == "overridden"
    assert await canary.commands.resume(NAME, "alice") == Rejected(
        "bob has set VM.* to legacy, which has precedence over a rollout: "
        "clear that mode first, with `xcp-gateway mode clear 'VM.*'`"
    )
    await canary.unset("VM.*")
    await canary.advance()
    assert canary.now_at()[0] == "overridden"
    await canary.commands.resume(NAME, "alice")
    await canary.settle()
    await canary.serve_well()
    assert canary.now_at()[0] == "waiting"


async def test_a_breach_while_a_persons_mode_holds_is_told_as_such_and_acts_when_that_ends(canary: World) -> None:
    await canary.set("VM.start", Mode.DBUS)
    await canary.advance()
    assert (canary.now_at()[0], [*canary.engine.breached()]) == ("overridden", [])
    await canary.serve_badly()
    assert (canary.now_at(), [*canary.engine.breached()]) == (("breached", "legacy"), [NAME])
    entry = (await canary.said())[0]
    assert entry.what == "breach"
    assert entry.why.startswith("breached: 1000 of 1000 differ (100%, limit 0.1%); ")
    assert entry.why.endswith("; bob has set VM.start to dbus, and that holds")
    await canary.bad()
    await canary.advance(100.0)
    assert len(await canary.said()) == 4  # told once
    await canary.unset("VM.start")
    await canary.advance()
    assert (canary.now_at(), [*canary.engine.breached()]) == (("rolled back", "legacy"), [])
    assert (await canary.said())[0].what == "rollback"


async def test_a_breach_ends_a_guarded_mode(canary: World) -> None:
    await canary.set(NAME, Mode.DBUS, guarded=True)
    await canary.serve_badly()
    assert canary.now_at()[0] == "overridden"
    await canary.serve_badly()
    assert canary.now_at() == ("rolled back", "legacy")
    assert (await canary.said())[0].why.endswith("bob has set xenopsd/VM.start to dbus (guarded), and that has ended")
    assert [each.by for each in canary.state.overrides] == ["rollout"]


async def test_a_breach_does_not_end_a_guarded_mode_below_one_that_holds(canary: World) -> None:
    await canary.set(NAME, Mode.DBUS, guarded=True)
    await canary.set("VM.*", Mode.DBUS)
    await canary.serve_badly()
    await canary.serve_badly()
    assert canary.now_at()[0] == "breached"
    assert (await canary.said())[0].why.endswith("; bob has set VM.* to dbus, and that holds")
    assert len([each for each in canary.state.overrides if each.by == "person"]) == 2
    await canary.unset("VM.*")
    await canary.advance()
    assert canary.now_at()[0] == "breached"


async def test_when_a_persons_time_is_over_what_the_rollout_had_set_is_still_guarded(canary: World) -> None:
    await canary.set("VM.start", Mode.LEGACY, seconds=600.0)
    await canary.advance()
    await canary.advance(601.0)
    assert canary.now_at() == ("overridden", "canary 10% observed")
    assert not [each for each in canary.state.overrides if each.by == "person"]
    await canary.serve_badly()
    assert canary.now_at() == ("rolled back", "legacy")


async def test_what_a_rollout_had_set_and_somebody_took_away_is_not_set_again_but_by_a_resume(canary: World) -> None:
    await canary.state.decide(Change((AuditEntry(START, "bob", "mode", NAME),), drop=((NAME, "rollout"),)))
    await canary.advance()
    assert canary.now_at() == ("overridden", "nothing")
    await canary.serve_badly()
    assert canary.now_at() == ("overridden", "nothing")
    await canary.commands.resume(NAME, "alice")
    assert canary.now_at() == ("running", "canary 10% observed")


async def test_what_was_set_for_a_time_is_dropped_with_a_line_in_the_audit(one: World) -> None:
    await one.set("VM.*", Mode.OFF, seconds=600.0)
    await one.set("VM.stop", Mode.OFF)
    await one.advance(599.0)
    assert len(one.state.overrides) == 2
    await one.advance(2.0)
    assert [each.pattern for each in one.state.overrides] == ["VM.stop"]
    entry = (await one.said("VM.*"))[0]
    assert (entry.who, entry.what, entry.why) == ("gateway", "mode", "bob's time is over")


# Groups


async def test_the_counts_of_a_group_are_those_of_its_members_since_they_joined(path: Path) -> None:
    async with world(path, movable("VM.start", "life")) as one:
        await one.begin("group:life")
        await one.bad("VM.stop")
        one.routes.append(movable("VM.stop", "life"))
        await one.advance()
        await one.advance()
        await one.serve_well("VM.start", 100)
        assert one.now_at("group:life") == ("running", "shadow")
        await one.serve_well("VM.stop", 100)
        assert one.now_at("group:life") == ("running", "canary 10% observed")


async def test_a_rollout_whose_methods_are_gone_is_ended(canary: World) -> None:
    canary.routes.clear()
    await canary.advance()
    assert canary.now_at() == ("ended", "nothing")
    assert (await canary.said())[0].why == "its methods are mapped no more, or have no legacy service"


async def test_a_gate_is_not_opened_by_counts_of_an_older_mapping(path: Path) -> None:
    async with world(path, movable(fingerprint="old")) as one:
        await _to_the_canary(one)
        await one.serve_well()
        assert one.now_at()[0] == "waiting"
        one.routes[:] = [movable(fingerprint="new")]
        assert await one.commands.approve(NAME, "alice") == Rejected(
            "the mapping of VM.start has changed, its counts begin anew: wait for the gate"
        )


@pytest.mark.parametrize("also", [0.2, 600.0])
async def test_a_new_mapping_needs_new_evidence(path: Path, also: float) -> None:
    async with world(path, movable(fingerprint="old")) as one:
        await _to_the_canary(one)
        await one.serve_well(calls=199)
        one.routes[:] = [movable(fingerprint="new")]
        await one.advance(also)
        assert (await one.said())[0].why == "the mapping of VM.start has changed: the counts of this step begin anew"
        await one.good(calls=100)  # ended meanwhile, by the old mapping
        await one.settle()
        await one.good(calls=199)
        await one.advance(also)
        assert one.now_at() == ("running", "canary 10% observed")
        [view] = expect(list, await one.commands.list())
        assert (view.numbers["dbus_calls"], view.why) == (199, "waits: 199 of 200 calls by D-Bus")
        await one.serve_well(calls=1)
        assert one.now_at()[0] == "waiting"


# Restarts and several processes


async def test_a_rollout_goes_on_where_it_was_after_a_restart(path: Path) -> None:
    clock = Clock()
    async with world(path, clock=clock) as one:
        await _to_the_canary(one)
        await one.serve_well(calls=150)
    clock.now += 3600.0
    async with world(path, clock=clock, holder="after") as other:
        await other.advance()
        assert other.now_at() == ("running", "canary 10% observed")
        await other.serve_well(calls=50)
        assert other.now_at()[0] == "waiting"
        await other.serve_badly()
        assert other.now_at()[0] == "rolled back"


async def test_of_two_processes_exactly_one_drives_with_the_counts_of_both(path: Path) -> None:
    clock = Clock()
    async with world(path, clock=clock) as one, world(path, clock=clock, holder="two") as other:
        await one.begin()
        await one.until(lambda: one.state.kept == other.state.kept)
        await one.good(calls=100)
        await other.serve_well(calls=100)
        assert [one.engine.driving, other.engine.driving] == [True, False]
        assert other.now_at() == ("running", "shadow")
        await one.advance()
        assert one.now_at() == ("running", "canary 10% observed")
        await one.until(lambda: one.state.kept == other.state.kept)
        await one.settle()
        await other.bad()
        await one.advance()
        assert one.now_at() == ("rolled back", "legacy")
        assert len(await one.said()) == 3


async def test_another_process_takes_over_within_a_second_from_one_that_is_gone(path: Path) -> None:
    """By the product's own clock, in looks, so that it says the same on a busy machine."""
    clock = Clock()
    async with world(path, clock=clock, holder="two") as other:
        async with world(path, clock=clock) as one:
            await one.begin()
            await one.until(lambda: one.state.kept == other.state.kept)
            for _ in range(10):
                await one.advance(EVERY / 2)
                await other.advance(EVERY / 2)
            await one.good()
            assert [one.engine.driving, other.engine.driving] == [True, False]
        killed = clock.now  # nothing gives the lease back
        while not other.engine.driving:
            await other.advance(EVERY)
        assert clock.now - killed <= 1.0
        assert other.now_at() == ("running", "canary 10% observed")


async def test_one_that_lost_its_lease_decides_nothing_twice(path: Path) -> None:
    clock = Clock()
    async with world(path, clock=clock) as one, world(path, clock=clock, holder="two") as other:
        await one.begin()
        await one.good()
        await one.until(lambda: one.state.kept == other.state.kept)
        other.engine.driving = True  # it had the lease, and slept through its end
        await asyncio.gather(one.advance(), other.advance())
        await one.until(lambda: one.state.kept == other.state.kept)
        assert len(await one.said()) == 2
        assert one.now_at() == ("running", "canary 10% observed")


# Clocks


@pytest.mark.parametrize("by", [-1800.0, 1800.0, 1e9])
async def test_a_wall_clock_that_is_set_neither_blinds_nor_promotes(path: Path, by: float) -> None:
    plan = replace(PLAN, steps=(PLAN.steps[0], replace(PLAN.steps[1], at_least=600.0, gate=False), *PLAN.steps[2:]))
    async with world(path, movable(plan=plan)) as one:
        await _to_the_canary(one)
        await one.good()
        await one.advance(100.0)
        one.set_by = by
        await one.advance(100.0)
        assert one.now_at() == ("running", "canary 10% observed")
        [view] = expect(list, await one.commands.list())
        assert "waits: 6.6" in view.why
        await one.bad()
        await one.advance(EVERY)
        assert one.now_at() == ("rolled back", "legacy")


async def test_a_wall_clock_that_is_set_back_while_a_step_settles_does_not_stop_it(one: World) -> None:
    await one.commands.start(NAME, "alice")
    one.set_by = -1800.0
    await one.settle()
    await one.serve_well()
    assert one.now_at() == ("running", "canary 10% observed")


# Trouble


async def test_with_the_file_in_trouble_a_process_rolls_back_what_it_sees_and_promotes_nothing(canary: World) -> None:
    await canary.advance()
    await canary.lose_the_file()
    canary.see_here("VM.start", counted(equal=1000, calls_dbus=1000, calls_legacy=1000))
    await canary.advance(LEASE)
    assert not canary.engine.driving
    assert canary.now_at() == ("running", "canary 10% observed")
    bad = counted(error_different=1000, calls_dbus=1000, calls_legacy=1000, errors_dbus=1000)
    canary.see_here("VM.start", bad)
    for _ in range(2):
        await canary.advance()
        assert canary.now_at() == ("rolled back", "legacy")


async def test_a_bug_costs_one_look(one: World) -> None:
    looks = 0

    async def pause(_: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            raise asyncio.CancelledError

    one.engine.pause = pause
    await one.begin()
    one.engine.routes = lambda: 1 // 0  # type: ignore[assignment,return-value]
    with pytest.raises(asyncio.CancelledError):
        await one.engine.run()
    assert looks == 3
