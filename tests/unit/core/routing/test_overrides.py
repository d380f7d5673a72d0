from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.core.migration.modes import Migration, Mode, Setting
from gateway.core.routing.overrides import Override, matches
from tests.kit.routes import route

OLD = Migration(upstream="old", group="vm-lifecycle")
START = replace(route("VM.start", migration=OLD), service="xenopsd")


def override(pattern: str, mode: Mode = Mode.LEGACY, **more: object) -> Override:
    return replace(Override(pattern, Setting(mode), "alice", 0.0), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("pattern", ["VM.start", "xenopsd/VM.start", "VM.*", "xenopsd/*", "*", "group:vm-lifecycle"])
def test_a_pattern_names_methods_by_name_by_service_or_by_group(pattern: str) -> None:
    assert matches(pattern, START)


@pytest.mark.parametrize("pattern", ["VM", "vm.start", "VM.stop", "xapi/*", "group:vm", "group:*", ""])
def test_a_pattern_names_nothing_else(pattern: str) -> None:
    assert not matches(pattern, START)


def test_the_most_specific_wins_and_a_person_before_a_rollout() -> None:
    weakest_first = [
        override("VM.start", by="rollout"),
        override("*"),
        override("VM.*"),
        override("group:vm-lifecycle"),
        override("VM.start"),
        override("xenopsd/VM.start"),
    ]
    strongest_first = sorted(weakest_first, key=lambda each: each.rank, reverse=True)
    assert strongest_first == weakest_first[::-1]


@pytest.mark.parametrize("mode", [Mode.LEGACY, Mode.SHADOW, Mode.CANARY])
def test_without_an_old_service_nothing_goes_back_to_one(mode: Mode) -> None:
    alone = replace(START, migration=Migration())
    assert override("*", mode).concerns(START)
    assert not override("*", mode).concerns(alone)
    assert override("*", Mode.OFF).concerns(alone)


def test_an_override_with_an_end_ends() -> None:
    assert not override("*").expired(1e12)
    assert not override("*", until=10.0).expired(9.9)
    assert override("*", until=10.0).expired(10.0)


def test_of_two_patterns_of_one_rank_the_later_one_wins() -> None:
    earlier, later = override("VM.*t", when=1.0), override("VM.s*", when=2.0)
    assert max(later, earlier, key=lambda each: each.rank) is later


def test_everything_to_legacy_switches_nothing_on_that_the_mapping_has_switched_off() -> None:
    off = replace(START, migration=replace(OLD, setting=Setting(Mode.OFF)))
    assert not override("*").concerns(off)
    assert override("VM.start").concerns(off)
    assert override("*", Mode.OFF).concerns(off)
