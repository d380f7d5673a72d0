"""Overrides in force, and what changes with them."""

from __future__ import annotations

from msgspec.structs import replace

from gateway.core.admin.records import Change
from gateway.core.migration.modes import Migration, Mode, Setting
from gateway.core.migration.rollout_plan import Progress, RolloutState
from gateway.core.routing.overrides import Override
from gateway.migration.active_overrides import ActiveOverrides, EffectiveSetting, moment
from gateway.migration.rollout_storage import RolloutDocument, counted, moved, read
from tests.kit.mappings import route
from tests.kit.migrations import PLAN

READ = route("VM.stat", migration=Migration(Setting(Mode.LEGACY), upstream="old"))


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def override(pattern: str, mode: Mode, **more: object) -> Override:
    return replace(Override(pattern, Setting(mode), "alice", 990.0), **more)


def test_the_mapping_gives_the_start_and_an_override_wins() -> None:
    toggles = ActiveOverrides(Clock())
    assert toggles.setting(READ).mode is Mode.LEGACY
    toggles.replace([override("VM.*", Mode.DBUS)])
    assert toggles.setting(READ).mode is Mode.DBUS
    toggles.replace([])
    assert toggles.setting(READ).mode is Mode.LEGACY


def test_the_most_specific_override_wins_in_whatever_order_they_came() -> None:
    wide, narrow = override("VM.*", Mode.OFF), override("VM.stat", Mode.DBUS)
    for order in ([wide, narrow], [narrow, wide]):
        toggles = ActiveOverrides(Clock())
        toggles.replace(order)
        assert toggles.setting(READ).mode is Mode.DBUS


def test_an_override_that_ends_leaves_what_stands_below_it() -> None:
    clock = Clock()
    toggles = ActiveOverrides(clock)
    toggles.replace([override("VM.*", Mode.OFF), override("VM.stat", Mode.DBUS, until=1_010.0)])
    assert toggles.setting(READ).mode is Mode.DBUS
    clock.now = 1_009.9
    assert toggles.setting(READ).mode is Mode.DBUS
    clock.now = 1_010.0
    assert toggles.setting(READ).mode is Mode.OFF
    assert [each.pattern for each in toggles.overrides] == ["VM.*"]


def test_the_weaker_override_that_ends_meanwhile_does_not_matter() -> None:
    clock = Clock()
    toggles = ActiveOverrides(clock)
    toggles.replace([override("VM.stat", Mode.DBUS), override("VM.*", Mode.OFF, until=1_010.0)])
    assert toggles.setting(READ).mode is Mode.DBUS
    clock.now = 2_000.0
    assert toggles.setting(READ).mode is Mode.DBUS


def test_a_reloaded_route_is_looked_up_again() -> None:
    toggles = ActiveOverrides(Clock())
    assert toggles.setting(READ).mode is Mode.LEGACY
    assert toggles.setting(replace(READ, migration=Migration(Setting(Mode.DBUS)))).mode is Mode.DBUS


def test_everything_to_legacy_leaves_out_what_has_no_old_service() -> None:
    toggles = ActiveOverrides(Clock())
    toggles.replace([override("*", Mode.LEGACY)])
    alone = route("new.method")
    assert toggles.effective(alone) == EffectiveSetting(Setting(Mode.DBUS))


def test_where_a_setting_comes_from_is_said_in_words() -> None:
    toggles = ActiveOverrides(Clock())
    assert toggles.effective(READ).source(READ) == "the mapping"
    toggles.replace([override("VM.stat", Mode.DBUS, until=2_000.0, why="ticket 7")])
    words = f"set by alice {moment(990.0)} until {moment(2_000.0)} (the mapping says legacy): ticket 7"
    assert toggles.effective(READ).source(READ) == words


# Changes


NAME = "xenopsd/VM.start"


def _document(state: RolloutState = RolloutState.RUNNING, step: int = 0) -> RolloutDocument:
    return RolloutDocument(PLAN, Progress(state, step, 1.0, why="for a reason"), "alice", 1.0)


def _moved(before: RolloutDocument | None, after: RolloutDocument) -> Change:
    return moved(NAME, 7, before, after, who="alice", when=5.0, numbers={"compared": 3})


def test_a_beginning_sets_its_first_step_and_says_so() -> None:
    change = _moved(None, _document())
    [put], [entry], [rollout] = change.put, change.audit, change.rollouts
    assert (put.pattern, put.setting, put.by, put.who) == (NAME, Setting(Mode.SHADOW), "rollout", "rollout careful")
    assert (entry.when, entry.who, entry.what, entry.subject, entry.why) == (
        5.0,
        "alice",
        "rollout",
        NAME,
        "for a reason",
    )
    assert entry.numbers == {"state": "running", "step": "shadow", "compared": 3}
    assert (rollout.name, rollout.expected, read(rollout.document)) == (NAME, 7, _document())


def test_what_stays_set_is_not_set_again() -> None:
    assert _moved(_document(), _document(RolloutState.PAUSED)).put == ()
    assert [put.setting.mode for put in _moved(_document(), _document(step=3)).put] == [Mode.DBUS]


def test_who_resumes_after_an_override_wants_it_set() -> None:
    assert len(_moved(_document(RolloutState.OVERRIDDEN), _document()).put) == 1
    assert _moved(_document(RolloutState.PAUSED), _document()).put == ()


def test_a_rollback_goes_to_the_old_service_under_its_own_word() -> None:
    change = _moved(_document(step=2), _document(RolloutState.ROLLED_BACK, 2))
    assert [put.setting for put in change.put] == [Setting(Mode.LEGACY)]
    assert change.audit[0].what == "rollback"


def test_what_is_ended_is_left_to_the_mapping() -> None:
    change = _moved(_document(), _document(RolloutState.ENDED))
    assert (change.put, change.drop) == ((), ((NAME, "rollout"),))


def test_where_counts_are_read_from_is_no_decision() -> None:
    change = counted(NAME, 7, replace(_document(), start={}))
    assert (change.audit, change.put, change.drop, len(change.rollouts)) == ((), (), (), 1)
