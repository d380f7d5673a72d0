"""Which of several settings holds, until when, and how it says where it comes from."""

from __future__ import annotations

from dataclasses import replace

from gateway.core.migration.modes import Migration, Mode, Setting
from gateway.core.routing.overrides import Override
from gateway.migration.active_overrides import ActiveOverrides, EffectiveSetting, moment
from tests.kit.mappings import route

READ = route("VM.stat", migration=Migration(Setting(Mode.LEGACY), upstream="old"))


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def override(pattern: str, mode: Mode, **more: object) -> Override:
    return replace(Override(pattern, Setting(mode), "alice", 990.0), **more)  # type: ignore[arg-type]


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
