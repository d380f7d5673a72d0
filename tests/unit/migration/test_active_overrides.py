"""Overrides in force, and what changes with them."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from gateway.core.migration.modes import Migration, Mode, Setting
from gateway.core.routing.overrides import Override
from gateway.migration.active_overrides import ActiveOverrides, EffectiveSetting, moment
from tests.kit.mappings import route
from tests.kit.migrations import Clock

READ = route("VM.stat", migration=Migration(Setting(Mode.LEGACY), upstream="old"))


def override(pattern: str, mode: Mode, **more: object) -> Override:
    return replace(Override(pattern, Setting(mode), "alice", 990.0), **more)


def test_the_mapping_holds_until_an_override_is_set_and_the_most_specific_wins_in_any_order() -> None:
    toggles = ActiveOverrides(lambda: 1_000.0)
    wide, narrow = override("VM.*", Mode.OFF), override("VM.stat", Mode.DBUS)
    dbus, legacy = Mode.DBUS, Mode.LEGACY
    cases: Sequence[tuple[list[Override], Mode]] = (
        ([], legacy),
        ([wide], Mode.OFF),
        ([wide, narrow], dbus),
        ([narrow, wide], dbus),
        ([], legacy),
    )
    for overrides, mode in cases:
        toggles.replace(overrides)
        assert toggles.setting(READ).mode is mode
    assert toggles.setting(replace(READ, migration=Migration(Setting(Mode.DBUS)))).mode is Mode.DBUS  # reloaded
    toggles.replace([override("*", Mode.LEGACY)])
    assert toggles.effective(route("new.method")) == EffectiveSetting(Setting(Mode.DBUS))  # it has no legacy service


def test_an_override_that_ends_leaves_what_stands_below_it() -> None:
    clock = Clock(1_000.0)
    toggles = ActiveOverrides(clock)
    weaker = override("*", Mode.SHADOW, until=1_005.0)
    toggles.replace([override("VM.*", Mode.OFF), override("VM.stat", Mode.DBUS, until=1_010.0), weaker])
    for now, mode in ((1_000.0, Mode.DBUS), (1_009.9, Mode.DBUS), (1_010.0, Mode.OFF)):
        clock.now = now
        assert toggles.setting(READ).mode is mode
    assert [each.pattern for each in toggles.overrides] == ["VM.*"]


def test_where_a_setting_comes_from_is_said_in_words() -> None:
    toggles = ActiveOverrides(lambda: 1_000.0)
    assert toggles.effective(READ).source(READ) == "the mapping"
    toggles.replace([override("VM.stat", Mode.DBUS, until=2_000.0, why="ticket 7")])
    words = f"set by alice {moment(990.0)} until {moment(2_000.0)} (the mapping says legacy): ticket 7"
    assert toggles.effective(READ).source(READ) == words
