"""What a change makes of what is kept, and how counts add up."""

from __future__ import annotations

from dataclasses import replace

from gateway.core.admin.records import (
    Change,
    Counts,
    PutRollout,
    Rollout,
    StoredState,
    all_to_legacy,
    applied,
    unconditional,
)
from gateway.core.migration.modes import Mode
from tests.kit.migrations import entry, mode, override


def test_counts_add_up_by_name_and_bucket_even_when_one_side_knows_more() -> None:
    first = Counts({"equal": 1, "calls_dbus": 2}, {"dbus": [1, 2]})
    second = Counts({"equal": 10, "ignored": 1}, {"dbus": [1, 0, 5], "legacy": [7]})
    total = Counts({"equal": 11, "calls_dbus": 2, "ignored": 1}, {"dbus": [2, 2, 5], "legacy": [7]})
    assert first + second == total
    assert first == Counts({"equal": 1, "calls_dbus": 2}, {"dbus": [1, 2]})


def test_a_change_puts_drops_and_replaces() -> None:
    kept = applied(StoredState(), mode("VM.*", Mode.DBUS))
    kept = applied(kept, mode("SR.*", Mode.LEGACY))
    kept = applied(kept, Change((entry(),), (override("VM.*", Mode.OFF),), drop=(("SR.*", "person"), ("x", "rollout"))))
    assert kept.overrides == (override("VM.*", Mode.OFF),)


def test_what_was_set_for_a_time_is_dropped_when_it_is_over() -> None:
    short, long = replace(override("VM.a"), until=5.0), replace(override("VM.b", by="rollout"), until=5.5)
    kept = StoredState((short, long, override("VM.c")))
    assert applied(kept, Change((entry(),), expired_by=5.0)).overrides == (long, override("VM.c"))


def test_a_persons_and_a_rollouts_override_of_one_pattern_are_two() -> None:
    kept = StoredState((override("VM.*", by="person"), override("VM.*", by="rollout")))
    assert applied(kept, Change((entry(),), drop=(("VM.*", "rollout"),))).overrides == (override("VM.*"),)


def test_rollouts_are_put_with_a_new_version_and_removed() -> None:
    kept = applied(StoredState(), Change((entry(),), rollouts=(PutRollout("a", 1), PutRollout("b", [2]))))
    kept = applied(kept, Change((entry(),), rollouts=(PutRollout("a", 3), PutRollout("b", None))))
    assert kept.rollouts == {"a": Rollout(3, 2)}


def test_unconditional_leaves_only_rollouts_that_expect_nothing() -> None:
    sure, unsure = PutRollout("a", 1), PutRollout("b", 1, expected=3)
    change = unconditional(mode("VM.*", Mode.DBUS, sure, unsure))
    assert change == mode("VM.*", Mode.DBUS, sure)


def test_everything_back_leaves_one_override_whatever_there_was() -> None:
    kept = StoredState((override("VM.*", by="person"), override("*", by="rollout")))
    (only,) = applied(kept, all_to_legacy("bob", 5.0, "fire")).overrides
    assert (only.pattern, only.setting.mode, only.by, only.who, only.why) == ("*", Mode.LEGACY, "person", "bob", "fire")


def test_everything_back_leaves_off_what_a_person_has_switched_off() -> None:
    off = override("VM.*", Mode.OFF)
    kept = StoredState((off, override("VM.start"), override("SR.*", Mode.OFF, by="rollout")))
    left = {each.pattern: each for each in applied(kept, all_to_legacy("bob", 5.0, "fire")).overrides}
    assert left["VM.*"] == off
    assert {name: each.setting.mode for name, each in left.items()} == {
        "*": Mode.LEGACY, "VM.*": Mode.OFF, "VM.start": Mode.LEGACY  # which would be off without it
    }  # fmt: skip


def test_everything_that_a_person_has_switched_off_stays_off() -> None:
    kept = StoredState((override("*", Mode.OFF),))
    assert applied(kept, all_to_legacy("bob", 5.0, "fire")).overrides == (override("*", Mode.OFF),)
