"""The engine on a real state file, with a clock that the test turns."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.core.admin.records import AuditEntry, Change, MethodId, PutRollout, Rejected, StateRefused
from gateway.core.migration.modes import Mode
from gateway.core.migration.rollout_plan import OnBreach
from gateway.core.routing.route import Route
from gateway.migration.rollout_commands import RolloutView
from gateway.migration.rollout_controller import EVERY, LEASE, SETTLE
from tests.kit.migrations import PLAN, START, Clock, World, counted, movable, world

NAME = "xenopsd/VM.start"
START_VM = MethodId("xenopsd", "VM.start")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


async def _to_the_canary(one: World) -> None:
    await one.begin()
    await one.good()
    await one.look()
    assert one.now_at() == ("running", "canary 10% observed")
    await one.settle()


# Onwards


async def test_a_rollout_goes_from_shadow_to_dbus_and_ends(path: Path) -> None:
    async with world(path) as one:
        await one.begin()
        assert one.now_at() == ("running", "shadow")
        await one.good()
        await one.look()
        assert one.now_at() == ("running", "canary 10% observed")
        await one.settle()
        await one.good()
        await one.look()
        assert one.now_at()[0] == "waiting"
        await one.orders.approve(NAME, "alice")
        await one.look()
        assert one.now_at() == ("running", "canary 50% observed")
        await one.settle()
        await one.good()
        await one.look()
        assert one.now_at() == ("running", "dbus")
        await one.settle()
        await one.look(30.0)
        assert one.now_at() == ("running", "dbus")
        await one.look(30.0)
        assert one.now_at() == ("done", "dbus")
        assert [entry.numbers["state"] for entry in await one.said()] == [
            "done", "running", "running", "running", "waiting", "running", "running"
        ]  # fmt: skip


async def test_every_decision_is_in_the_audit_with_the_numbers_that_made_it(path: Path) -> None:
    async with world(path) as one:
        await _to_the_canary(one)
        promoted, begun = await one.said()
        assert (begun.who, begun.what, begun.why) == ("alice", "rollout", "started by alice")
        assert (promoted.who, promoted.what) == ("rollout careful", "rollout")
        assert promoted.why.startswith("shadow -> canary 10%: 0 of 1000 differ")
        assert {
            "compared": 1000,
            "different": 0,
            "dbus_calls": 1000,
            "step": "canary 10%",
        }.items() <= promoted.numbers.items()


async def test_almost_no_traffic_moves_nothing_in_either_direction(path: Path) -> None:
    async with world(path) as one:
        await _to_the_canary(one)
        await one.see(error_different=1, calls_legacy=3, calls_dbus=1, errors_dbus=1)
        for _ in range(50):
            await one.look(3600.0)
        assert one.now_at() == ("running", "canary 10% observed")
        assert len(await one.said()) == 2


async def test_counts_from_before_a_step_are_not_its_own(path: Path) -> None:
    async with world(path) as one:
        await one.bad()  # before the rollout began
        await one.begin()
        await one.good(calls=199)
        await one.look()
        assert one.now_at() == ("running", "shadow")
        await one.good(calls=1)
        await one.look()
        assert one.now_at() == ("running", "canary 10% observed")
        await one.see(
            error_different=500, calls_dbus=500, calls_legacy=500, errors_dbus=500
        )  # late, from the step before
        await one.settle()
        await one.look()
        assert one.now_at() == ("running", "canary 10% observed")


# Back


async def test_a_breach_rolls_back_within_a_second(path: Path) -> None:
    assert EVERY + SETTLE < 1.0
    async with world(path) as one:
        await _to_the_canary(one)
        await one.bad()
        await one.look(EVERY)
        assert one.now_at() == ("rolled back", "legacy")
        entry = (await one.said())[0]
        assert entry.what == "rollback"
        assert entry.why.startswith("1000 of 1000 differ (100%, limit 0.1%); 1000 of 1000 calls by D-Bus failed")
        assert entry.numbers["dbus_errors"] == 1000


async def test_latency_alone_rolls_back(path: Path) -> None:
    async with world(path) as one:
        await _to_the_canary(one)
        await one.see(seconds=0.3, equal=300, calls_dbus=300, calls_legacy=300)
        await one.look()
        assert one.now_at() == ("rolled back", "legacy")
        assert (await one.said())[0].why.startswith("p50 of D-Bus is ")


async def test_waiting_at_a_gate_still_rolls_back(path: Path) -> None:
    async with world(path) as one:
        await _to_the_canary(one)
        await one.good()
        await one.look()
        assert one.now_at()[0] == "waiting"
        await one.bad()
        await one.look()
        assert one.now_at() == ("rolled back", "legacy")


async def test_a_paused_rollout_still_rolls_back(path: Path) -> None:
    async with world(path) as one:
        await _to_the_canary(one)
        await one.orders.pause(NAME, "alice")
        await one.good()
        await one.look()
        assert one.now_at() == ("paused", "canary 10% observed")
        await one.bad()
        await one.look()
        assert one.now_at() == ("rolled back", "legacy")


async def _to_dbus(one: World) -> None:
    await _to_the_canary(one)
    for step in ("canary 50% observed", "dbus"):
        await one.good()
        await one.look()
        if one.now_at()[0] == "waiting":
            await one.orders.approve(NAME, "alice")
            await one.look()
        assert one.now_at() == ("running", step)
        await one.settle()


async def test_after_promotion_a_breach_still_rolls_back_while_it_is_watched(path: Path) -> None:
    async with world(path) as one:
        await _to_dbus(one)
        await one.see(calls_dbus=1000, errors_dbus=200)  # the legacy service answers nothing any more
        await one.look()
        assert one.now_at() == ("rolled back", "legacy")


async def test_when_it_is_no_longer_watched_nothing_happens(path: Path) -> None:
    async with world(path) as one:
        await _to_dbus(one)
        await one.look(60.0)
        await one.bad()
        await one.look()
        assert one.now_at() == ("done", "dbus")


async def test_a_long_good_time_does_not_hide_a_bad_end(path: Path) -> None:
    async with world(path) as one:
        await _to_the_canary(one)
        for _ in range(20):
            await one.good(calls=1_000_000)
            await one.look(10.0)
        await one.look(60.0)
        await one.see(equal=700, different=300, calls_dbus=1000, calls_legacy=1000)  # 0.0015% of all there were
        await one.look()
        assert one.now_at()[0] == "rolled back"
        assert "in the last 200 ms 300 of 1000 differ" in (await one.said())[0].why


async def test_a_freeze_stays_until_a_person_resumes_and_then_counts_anew(path: Path) -> None:
    plan = replace(PLAN, on_breach=OnBreach.FREEZE)
    async with world(path, movable(plan=plan)) as one:
        await _to_the_canary(one)
        await one.bad()
        await one.look()
        assert one.now_at() == ("frozen", "canary 10% observed")
        await one.bad()
        await one.look(100.0)
        assert one.now_at() == ("frozen", "canary 10% observed")
        await one.orders.resume(NAME, "alice")
        await one.settle()
        await one.look()
        assert one.now_at() == ("running", "canary 10% observed")
        await one.good()
        await one.look()
        assert one.now_at()[0] == "waiting"


async def test_a_step_down_is_one_step_and_not_a_fall(path: Path) -> None:
    plan = replace(PLAN, on_breach=OnBreach.STEP_DOWN)
    async with world(path, movable(plan=plan)) as one:
        await _to_dbus(one)
        await one.see(calls_dbus=1000, errors_dbus=200)
        await one.look()
        assert one.now_at() == ("paused", "canary 50% observed")
        await one.see(calls_dbus=300, errors_dbus=100)  # calls that were under way
        await one.settle()
        await one.look()
        assert one.now_at() == ("paused", "canary 50% observed")
        await one.bad()
        await one.look()
        assert one.now_at() == ("paused", "canary 10% observed")


# Persons


async def test_a_persons_override_wins_and_stops_the_rollout_until_it_is_resumed(path: Path) -> None:
    async with world(path) as one:
        await _to_the_canary(one)
        await one.set("VM.*", Mode.LEGACY)
        await one.look()
        assert one.now_at() == ("overridden", "canary 10% observed")
        assert (await one.said())[0].why == "bob has set VM.* to legacy"
        await one.good()
        await one.look(100.0)
        assert one.now_at()[0] == "overridden"
        assert await one.orders.resume(NAME, "alice") == Rejected(
            "bob has set VM.* to legacy, which comes first: take that back before"
        )
        await one.unset("VM.*")
        await one.look()
        assert one.now_at()[0] == "overridden"
        await one.orders.resume(NAME, "alice")
        await one.settle()
        await one.good()
        await one.look()
        assert one.now_at()[0] == "waiting"


async def test_a_breach_while_a_persons_mode_holds_is_told_as_such_and_acts_when_that_ends(path: Path) -> None:
    async with world(path) as one:
        await _to_the_canary(one)
        await one.set("VM.start", Mode.DBUS)
        await one.look()
        assert (one.now_at()[0], one.engine.breached()) == ("overridden", 0)
        await one.bad()
        await one.look()
        assert (one.now_at(), one.engine.breached()) == (("breached", "legacy"), 1)
        entry = (await one.said())[0]
        assert entry.what == "breach"
        assert entry.why.startswith("breached: 1000 of 1000 differ (100%, limit 0.1%); ")
        assert entry.why.endswith("; bob has set VM.start to dbus, and that holds")
        await one.bad()
        await one.look(100.0)
        assert len(await one.said()) == 4  # told once
        await one.unset("VM.start")
        await one.look()
        assert (one.now_at(), one.engine.breached()) == (("rolled back", "legacy"), 0)
        assert (await one.said())[0].what == "rollback"


async def test_when_a_persons_time_is_over_what_the_rollout_had_set_is_still_guarded(path: Path) -> None:
    async with world(path) as one:
        await _to_the_canary(one)
        await one.set("VM.start", Mode.LEGACY, seconds=600.0)
        await one.look()
        await one.look(601.0)
        assert one.now_at() == ("overridden", "canary 10% observed")
        assert not [each for each in one.state.overrides if each.by == "person"]
        await one.bad()
        await one.look()
        assert one.now_at() == ("rolled back", "legacy")


async def test_what_a_rollout_had_set_and_somebody_took_away_is_not_set_again_but_by_a_resume(path: Path) -> None:
    async with world(path) as one:
        await _to_the_canary(one)
        await one.state.decide(Change((AuditEntry(START, "bob", "mode", NAME),), drop=((NAME, "rollout"),)))
        await one.look()
        assert one.now_at() == ("overridden", "nothing")
        await one.bad()
        await one.look()
        assert one.now_at() == ("overridden", "nothing")
        await one.orders.resume(NAME, "alice")
        assert one.now_at() == ("running", "canary 10% observed")


async def test_what_was_set_for_a_time_is_dropped_with_a_line_in_the_audit(path: Path) -> None:
    async with world(path) as one:
        await one.set("VM.*", Mode.OFF, seconds=600.0)
        await one.set("VM.stop", Mode.OFF)
        await one.look(599.0)
        assert len(one.state.overrides) == 2
        await one.look(2.0)
        assert [each.pattern for each in one.state.overrides] == ["VM.stop"]
        entry = (await one.said("VM.*"))[0]
        assert (entry.who, entry.what, entry.why) == ("gateway", "mode", "bob's time is over")


# Groups


async def test_the_counts_of_a_group_are_those_of_its_members(path: Path) -> None:
    async with world(path, movable("VM.start", "life"), movable("VM.stop", "life")) as one:
        await one.begin("group:life")
        await one.good("VM.start", 100)
        await one.look()
        assert one.now_at("group:life") == ("running", "shadow")
        await one.good("VM.stop", 100)
        await one.look()
        assert one.now_at("group:life") == ("running", "canary 10% observed")


async def test_a_method_that_joins_a_group_brings_no_counts_along(path: Path) -> None:
    async with world(path, movable("VM.start", "life")) as one:
        await one.begin("group:life")
        await one.bad("VM.stop")
        one.routes.append(movable("VM.stop", "life"))
        await one.look()
        await one.look()
        assert one.now_at("group:life") == ("running", "shadow")
        await one.good("VM.stop", 200)
        await one.look()
        assert one.now_at("group:life") == ("running", "canary 10% observed")


async def test_a_rollout_whose_methods_are_gone_is_ended(path: Path) -> None:
    async with world(path) as one:
        await _to_the_canary(one)
        one.routes.clear()
        await one.look()
        assert one.now_at() == ("ended", "nothing")
        assert (await one.said())[0].why == "its methods are mapped no more, or have no legacy service"


@pytest.mark.parametrize("also", [0.2, 600.0])
async def test_a_new_mapping_needs_new_evidence(path: Path, also: float) -> None:
    async with world(path, movable(fingerprint="old")) as one:
        await _to_the_canary(one)
        await one.good(calls=199)
        await one.look()
        one.routes[:] = [movable(fingerprint="new")]
        await one.look(also)
        assert (await one.said())[0].why == "the mapping of VM.start has changed: the counts of this step begin anew"
        await one.good(calls=100)  # ended meanwhile, by the old mapping
        await one.settle()
        await one.good(calls=199)
        await one.look(also)
        assert one.now_at() == ("running", "canary 10% observed")
        [view] = await _views(one)
        assert (view.numbers["dbus_calls"], view.why) == (199, "waits: 199 of 200 calls by D-Bus")
        await one.good(calls=1)
        await one.look()
        assert one.now_at()[0] == "waiting"


async def test_a_gate_is_not_opened_by_the_evidence_of_an_old_mapping(path: Path) -> None:
    async with world(path, movable(fingerprint="old")) as one:
        await _to_the_canary(one)
        await one.good()
        await one.look()
        assert one.now_at()[0] == "waiting"
        one.routes[:] = [movable(fingerprint="new")]
        refused = await one.orders.approve(NAME, "alice")
        assert refused == Rejected("the mapping of VM.start has changed, its counts begin anew: wait for the gate")
        await one.look()
        assert one.now_at() == ("running", "canary 10% observed")
        await one.settle()
        await one.good()
        await one.look()
        assert one.now_at()[0] == "waiting"
        await one.orders.approve(NAME, "alice")
        await one.look()
        assert one.now_at() == ("running", "canary 50% observed")


# Restarts and several processes


async def test_a_rollout_goes_on_where_it_was_after_a_restart(path: Path) -> None:
    clock = Clock()
    async with world(path, clock=clock) as one:
        await _to_the_canary(one)
        await one.good(calls=150)
        await one.look()
    clock.now += 3600.0
    async with world(path, clock=clock, holder="after") as other:
        await other.look()
        assert other.now_at() == ("running", "canary 10% observed")
        await other.good(calls=50)
        await other.look()
        assert other.now_at()[0] == "waiting"
        await other.bad()
        await other.look()
        assert other.now_at()[0] == "rolled back"


async def _until_equal(one: World, other: World) -> None:
    await one.until(lambda: one.state.kept == other.state.kept)


def _drives(one: World) -> bool:
    return one.engine.driving


async def test_of_two_processes_exactly_one_drives_with_the_counts_of_both(path: Path) -> None:
    clock = Clock()
    async with world(path, clock=clock) as one, world(path, clock=clock, holder="two") as other:
        await one.begin()
        await _until_equal(one, other)
        await one.good(calls=100)
        await other.good(calls=100)
        await other.look()
        assert [_drives(one), _drives(other)] == [True, False]
        assert other.now_at() == ("running", "shadow")
        await one.look()
        assert one.now_at() == ("running", "canary 10% observed")
        await _until_equal(one, other)
        await one.settle()
        await other.bad()
        await one.look()
        assert one.now_at() == ("rolled back", "legacy")
        assert len(await one.said()) == 3


async def test_another_process_takes_over_within_a_second_from_one_that_is_gone(path: Path) -> None:
    """By the product's own clock, in looks, so that it says the same on a busy machine."""
    clock = Clock()
    async with world(path, clock=clock, holder="two") as other:
        async with world(path, clock=clock) as one:
            await one.begin()
            await _until_equal(one, other)
            for _ in range(10):
                await one.look(EVERY / 2)
                await other.look(EVERY / 2)
            await one.good()
            assert [_drives(one), _drives(other)] == [True, False]
        killed = clock.now  # nothing gives the lease back
        while not _drives(other):
            await other.look(EVERY)
        assert clock.now - killed <= 1.0
        assert other.now_at() == ("running", "canary 10% observed")


async def test_one_that_lost_its_lease_decides_nothing_twice(path: Path) -> None:
    clock = Clock()
    async with world(path, clock=clock) as one, world(path, clock=clock, holder="two") as other:
        await one.begin()
        await one.good()
        await _until_equal(one, other)
        other.engine.driving = True  # it had the lease, and slept through its end
        await asyncio.gather(one.look(), other.look())
        await _until_equal(one, other)
        assert len(await one.said()) == 2
        assert one.now_at() == ("running", "canary 10% observed")


# Clocks


@pytest.mark.parametrize("by", [-1800.0, 1800.0, 1e9])
async def test_a_wall_clock_that_is_set_neither_blinds_nor_promotes(path: Path, by: float) -> None:
    plan = replace(PLAN, steps=(PLAN.steps[0], replace(PLAN.steps[1], at_least=600.0, gate=False), *PLAN.steps[2:]))
    async with world(path, movable(plan=plan)) as one:
        await _to_the_canary(one)
        await one.good()
        await one.look(100.0)
        one.set_by = by
        await one.look(100.0)
        assert one.now_at() == ("running", "canary 10% observed")
        [view] = await _views(one)
        assert "waits: 6.6" in view.why
        await one.bad()
        await one.look(EVERY)
        assert one.now_at() == ("rolled back", "legacy")


async def test_a_wall_clock_that_is_set_back_while_a_step_settles_does_not_stop_it(path: Path) -> None:
    async with world(path) as one:
        await one.orders.start(NAME, "alice")
        one.set_by = -1800.0
        await one.settle()
        await one.good()
        await one.look()
        assert one.now_at() == ("running", "canary 10% observed")


async def _views(one: World) -> Sequence[RolloutView]:
    views = await one.orders.list()
    assert not isinstance(views, StateRefused)
    return views


# Trouble


async def test_with_the_file_in_trouble_a_breach_still_rolls_back_what_this_process_sees(path: Path) -> None:
    async with world(path) as one:
        await _to_the_canary(one)
        await one.look()
        await one.lose_the_file()
        one.here.add({START_VM: counted(error_different=1000, calls_dbus=1000, calls_legacy=1000, errors_dbus=1000)})
        await one.look(LEASE)
        assert not _drives(one)
        assert one.now_at() == ("rolled back", "legacy")
        await one.look()
        assert one.now_at() == ("rolled back", "legacy")


async def test_with_the_file_in_trouble_nothing_is_promoted(path: Path) -> None:
    async with world(path) as one:
        await one.begin()
        await one.look()
        await one.lose_the_file()
        one.here.add({START_VM: counted(equal=1000, calls_dbus=1000, calls_legacy=1000)})
        await one.look(LEASE)
        assert one.now_at() == ("running", "shadow")


async def test_without_a_file_everything_works_until_a_restart() -> None:
    async with world(None) as one:
        await _to_the_canary(one)
        await one.bad()
        await one.look()
        assert one.now_at() == ("rolled back", "legacy")


async def test_a_rollout_of_another_version_is_left_alone(path: Path) -> None:
    async with world(path) as one:
        document = {"plan": 5}
        await one.state.decide(Change((), rollouts=(PutRollout(NAME, document),)))
        await one.look()
        assert one.state.rollouts[NAME].document == document


def _broken() -> Sequence[Route]:
    raise AssertionError("a bug")


async def test_a_bug_costs_one_look(path: Path) -> None:
    async with world(path) as one:
        looks = 0

        async def pause(_: float) -> None:
            nonlocal looks
            looks += 1
            if looks == 3:
                raise asyncio.CancelledError

        one.engine.pause = pause
        await one.begin()
        one.engine.routes = _broken
        with pytest.raises(asyncio.CancelledError):
            await one.engine.run()
        assert looks == 3
