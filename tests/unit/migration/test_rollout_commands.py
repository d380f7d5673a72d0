from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from gateway.core.admin.records import Change, PendingDecision, PutRollout, StateRefused
from gateway.core.admin.views import setting_view
from gateway.core.migration.modes import Mode, Setting
from gateway.core.routing.overrides import GROUP
from gateway.migration.rollout_commands import RolloutView
from tests.kit.cases import expect
from tests.kit.migrations import START, World, movable, world

NAME = "xenopsd/VM.start"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


def _why(answer: object) -> str:
    assert isinstance(answer, StateRefused)
    return answer.why


@pytest.fixture
async def one(path: Path) -> AsyncIterator[World]:
    async with world(path) as one:
        yield one


async def test_a_start_sets_the_first_step_and_says_what_comes(one: World) -> None:
    view = expect(RolloutView, await one.commands.start("VM.start", "alice", "ticket 5"))
    assert (view.name, view.plan, view.state, view.step, view.number) == (NAME, "careful", "running", "shadow", 1)
    assert view.steps == ("shadow", "canary 10%", "canary 50%", "dbus")
    assert (view.who, view.began, view.methods) == ("alice", START, (NAME,))
    assert view.setting == setting_view(Setting(Mode.SHADOW))
    assert one.now_at() == ("running", "shadow")
    assert (await one.said())[0].why == "ticket 5"


async def test_a_group_is_started_as_one_and_what_cannot_start_says_why(path: Path) -> None:
    alone = movable("VM.alone")
    alone = replace(alone, migration=replace(alone.migration, upstream=None))
    async with world(path, movable(), alone, movable("VM.stop", "life"), movable("VM.run", "life")) as one:
        assert _why(await one.commands.start("VM.stop", "alice")) == "VM.stop moves with its group: say group:life"
        view = expect(RolloutView, await one.commands.start("group:life", "alice"))
        assert view.methods == ("xenopsd/VM.stop", "xenopsd/VM.run")
        assert [each.pattern for each in one.state.overrides] == [f"{GROUP}life"]
        assert "no legacy service answers VM.alone" in _why(await one.commands.start("VM.alone", "alice"))
        await one.commands.start(NAME, "alice")
        words = "the rollout of xenopsd/VM.start is under way: running, at shadow"
        listed = "`xcp-gateway rollout list` shows every rollout"
        assert _why(await one.commands.start(NAME, "alice")) == f"{words}; {listed}"
        await one.commands.abort(NAME, "alice")
        await one.set("VM.*", Mode.DBUS)
        words = (
            "bob has set VM.* to dbus, which has precedence over a rollout: "
            "clear that mode first, with `xcp-gateway mode clear 'VM.*'`"
        )
        assert _why(await one.commands.start(NAME, "alice")) == words
        await one.unset("VM.*")
        assert isinstance(await one.commands.start(NAME, "alice"), RolloutView)


async def test_a_guarded_mode_needs_a_rollout_under_way_of_one_method_or_group(one: World) -> None:
    wanted, start = f"guarded: expected a rollout of {NAME} under way; it is ", f"`xcp-gateway rollout start {NAME}`"
    assert one.commands.unguarded(NAME) == (f"{wanted}not started: start it with {start}",)
    await one.begin()
    assert one.commands.unguarded("VM.start") == ()
    assert one.commands.unguarded("VM.*")[0].startswith("guarded: expected one method or group that a rollout moves")
    await one.commands.abort(NAME, "alice")
    assert one.commands.unguarded(NAME) == (f"{wanted}aborted: start it with {start}",)


async def test_of_two_commands_that_are_given_at_once_one_is_obeyed(one: World) -> None:
    for command in (one.commands.start, one.commands.pause):
        answers = await asyncio.gather(command(NAME, "alice"), command(NAME, "bob"))
        assert sorted(isinstance(answer, RolloutView) for answer in answers) == [False, True]


async def test_pause_and_resume_keep_what_was_counted(one: World) -> None:
    await one.begin()
    await one.good(calls=150)
    await one.advance()
    view = expect(RolloutView, await one.commands.pause("VM.start", "alice", "lunch"))
    assert (view.state, view.why) == ("paused", "lunch")
    await one.good(calls=50)
    await one.advance(100.0)
    assert one.now_at() == ("paused", "shadow")
    await one.commands.resume("VM.start", "alice")
    await one.advance()
    assert one.now_at()[1] == "canary 10% observed"


async def test_an_abort_gives_the_methods_to_the_old_service_also_when_all_was_done(path: Path) -> None:
    async with world(path) as one:
        await one.begin()
        await one.commands.abort(NAME, "alice", "no")
        assert one.now_at() == ("aborted", "legacy")
        await one.begin()
        assert one.now_at() == ("running", "shadow")
    done = replace(movable(), rollout=replace(movable().rollout, steps=movable().rollout.steps[-1:], watch=0.0))
    async with world(None, done) as one:
        await one.begin()
        await one.advance()
        await one.advance()
        assert one.now_at() == ("done", "dbus")
        assert _why(await one.commands.start(NAME, "alice")) == (
            f"the rollout of {NAME} is done, and its mode is in force: `xcp-gateway promote {NAME}` writes its mode "
            f"into the mapping, `xcp-gateway rollout abort {NAME}` sets its methods to legacy; then a new one can start"
        )
        await one.commands.abort(NAME, "alice")
        assert one.now_at() == ("aborted", "legacy")
        await one.begin()  # as the message says
        assert one.now_at() == ("running", "dbus")
        await one.advance()
        await one.advance()
        (held,) = one.state.overrides
        await one.state.decide(Change((), drop=((held.pattern, held.by),)))  # as `promote` clears what a file says
        await one.begin()
        assert one.now_at() == ("running", "dbus")


async def test_the_list_says_what_each_waits_for_and_the_numbers(path: Path) -> None:
    async with world(path, movable(), movable("VM.stop")) as one:
        await one.begin()
        await one.commands.start("VM.stop", "bob")
        await one.good(calls=150)
        start, stop = expect(list, await one.commands.list())
        assert (start.why, start.numbers["compared"]) == ("waits: 150 of 200 comparisons", 150)
        assert (stop.name, stop.why, stop.numbers["compared"]) == ("xenopsd/VM.stop", "waits: 0 of 200 comparisons", 0)


async def test_a_rollout_of_another_version_is_named_and_left_alone(one: World) -> None:
    await one.state.decide(Change((), rollouts=(PutRollout(NAME, {"plan": 5}),)))
    assert "cannot be read by this version of the gateway" in _why(await one.commands.pause(NAME, "alice"))
    assert await one.commands.list() == []
    await one.advance()
    assert one.state.rollouts[NAME].document == {"plan": 5}
    assert await one.commands.rollback_all("alice", "") is None
    assert NAME not in one.state.rollouts


# Everything back


@pytest.mark.parametrize("trouble", [False, True])
async def test_everything_goes_back_and_all_rollouts_end_also_with_the_state_file_in_trouble(
    path: Path, *, trouble: bool
) -> None:
    async with world(path, movable(), movable("VM.stop")) as one:
        await one.begin()
        await one.begin("VM.stop")
        await one.set("VM.x", Mode.DBUS)
        if trouble:
            await one.lose_the_file()
        answer = await one.commands.rollback_all("alice", "fire")
        assert str(path) in answer.why if isinstance(answer, PendingDecision) else answer is None
        assert isinstance(answer, PendingDecision) == trouble
        (override,) = one.state.overrides
        assert (override.pattern, override.setting.mode, override.by) == ("*", Mode.LEGACY, "person")
        assert [one.now_at(name)[0] for name in (NAME, "xenopsd/VM.stop")] == ["aborted", "aborted"]
        await one.advance()
        assert [each.pattern for each in one.state.overrides] == ["*"]
        expected = "expected running, waiting, paused, overridden, breached, frozen or done"
        assert _why(await one.commands.abort(NAME, "alice")) == (f"cannot abort a rollout that is aborted; {expected}")
