"""Access rules, counters, stored records, and views of what is moving."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from gateway.core.admin import counters as counting
from gateway.core.admin import views
from gateway.core.admin.access import AccessRules, Caller, Principals, Right, denial
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
from gateway.core.migration.limits import BothSides, SideCounts
from gateway.core.migration.modes import Key, Migration, Mode, Setting
from gateway.core.migration.statistics import BOUNDS, BUCKETS
from gateway.core.routing.overrides import Override
from gateway.core.routing.policy import bucket, plan_call
from gateway.core.rpc.model import Call
from tests.kit.mappings import route
from tests.kit.migrations import entry, mode, override

# Access


ALICE, BOB, CAROL = Caller(1001, frozenset({100}), "alice"), Caller(1002, frozenset({200})), Caller(1003)
RIGHTS = AccessRules(own=990, read=Principals(uids=frozenset({1001})), change=Principals(gids=frozenset({200})))


def test_root_and_the_gateway_may_do_everything_and_lists_name_others() -> None:
    for right in Right:
        assert RIGHTS.have(Caller(0), right)
        assert RIGHTS.have(Caller(990), right)
        assert RIGHTS.have(BOB, right)
        assert not RIGHTS.have(CAROL, right)
    assert [RIGHTS.have(ALICE, right) for right in (Right.READ, Right.CHANGE)] == [True, False]
    assert RIGHTS.shared
    assert not AccessRules(own=990).shared
    assert not AccessRules(own=990).have(ALICE, Right.READ)


def test_a_refusal_says_who_was_refused_what_and_where_that_is_said() -> None:
    assert denial(ALICE, Right.CHANGE) == (
        "alice (uid 1001) may not change anything here: neither root, nor the gateway's user, nor in admin.change"
    )
    assert denial(BOB, Right.READ).startswith("uid 1002 may not read here")


# Records


def test_counts_add_up_and_become_what_both_sides_did() -> None:
    first = Counts({"equal": 1, "calls_dbus": 2}, {"dbus": [1, 2]})
    second = Counts({"equal": 10, "ignored": 1}, {"dbus": [1, 0, 5], "legacy": [7]})
    total = Counts({"equal": 11, "calls_dbus": 2, "ignored": 1}, {"dbus": [2, 2, 5], "legacy": [7]})
    assert first + second == total
    assert first == Counts({"equal": 1, "calls_dbus": 2}, {"dbus": [1, 2]})
    counters = {
        "equal": 5, "ignored": 2, "different": 1, "error_different": 3, "dropped": 9,
        "calls_legacy": 20, "errors_legacy": 1, "calls_dbus": 11, "errors_dbus": 4,
    }  # fmt: skip
    assert counting.sides(Counts(counters, {"dbus": [1, 2]})) == BothSides(
        11, 4, SideCounts(20, 1), SideCounts(11, 4, (1, 2))
    )
    assert counting.sides(Counts()) == BothSides()


def test_a_change_puts_drops_and_replaces() -> None:
    kept = applied(StoredState(), mode("VM.*", Mode.DBUS))
    kept = applied(kept, mode("SR.*", Mode.LEGACY))
    kept = applied(kept, Change((entry(),), (override("VM.*", Mode.OFF),), drop=(("SR.*", "person"), ("x", "rollout"))))
    assert kept.overrides == (override("VM.*", Mode.OFF),)
    short, long = replace(override("VM.a"), until=5.0), replace(override("VM.b", by="rollout"), until=5.5)
    kept = StoredState((short, long, override("VM.c")))
    assert applied(kept, Change((entry(),), expired_by=5.0)).overrides == (long, override("VM.c"))
    kept = StoredState((override("VM.*", by="person"), override("VM.*", by="rollout")))
    assert applied(kept, Change((entry(),), drop=(("VM.*", "rollout"),))).overrides == (override("VM.*"),)


def test_rollouts_are_put_with_a_new_version_and_removed() -> None:
    kept = applied(StoredState(), Change((entry(),), rollouts=(PutRollout("a", 1), PutRollout("b", [2]))))
    kept = applied(kept, Change((entry(),), rollouts=(PutRollout("a", 3), PutRollout("b", None))))
    assert kept.rollouts == {"a": Rollout(3, 2)}
    sure, unsure = PutRollout("a", 1), PutRollout("b", 1, expected=3)
    change = unconditional(mode("VM.*", Mode.DBUS, sure, unsure))
    assert change == mode("VM.*", Mode.DBUS, sure)


def test_everything_back_leaves_one_override_and_off_what_a_person_has_switched_off() -> None:
    kept = StoredState((override("VM.*", by="person"), override("*", by="rollout")))
    (only,) = applied(kept, all_to_legacy("bob", 5.0, "fire")).overrides
    assert (only.pattern, only.setting.mode, only.by, only.who, only.why) == ("*", Mode.LEGACY, "person", "bob", "fire")
    off = override("VM.*", Mode.OFF)
    kept = StoredState((off, override("VM.start"), override("SR.*", Mode.OFF, by="rollout")))
    left = {each.pattern: each for each in applied(kept, all_to_legacy("bob", 5.0, "fire")).overrides}
    assert left["VM.*"] == off
    assert {name: each.setting.mode for name, each in left.items()} == {
        "*": Mode.LEGACY, "VM.*": Mode.OFF, "VM.start": Mode.LEGACY  # which would be off without it
    }  # fmt: skip
    kept = StoredState((override("*", Mode.OFF),))
    assert applied(kept, all_to_legacy("bob", 5.0, "fire")).overrides == (override("*", Mode.OFF),)


# Views


KEY = Key("vm", lambda call: str(call.params[0]) if call.params else None)
START = replace(route("VM.start", migration=Migration(upstream="old", key=KEY)), service="xenopsd")
CANARY = Setting(Mode.CANARY, 12_500)


def latency(calls: int, bucket: int) -> list[int]:
    return [calls if number == bucket else 0 for number in range(BUCKETS)]


COUNTS = Counts(
    {
        "equal": 190, "ignored": 4, "different": 5, "error_different": 1, "dropped": 7,
        "not_sampled": 40, "too_large": 3,
        "calls_legacy": 300, "errors_legacy": 3, "answered_legacy": 250,
        "calls_dbus": 200, "errors_dbus": 2, "answered_dbus": 50,
    },
    {"legacy": latency(300, 20), "dbus": latency(200, 21)},
)  # fmt: skip


def test_a_row_adds_up() -> None:
    row = views.row(START, CANARY, None, "the mapping", COUNTS)
    assert (row.comparisons, row.equal, row.ignored, row.different, row.error_different) == (200, 190, 4, 5, 1)
    assert row.equal_share == pytest.approx(0.97)
    assert row.not_compared == {"not_sampled": 40, "dropped": 7, "too_large": 3}
    assert row.compared_share == pytest.approx(0.8)
    assert (row.legacy.answered, row.legacy.calls, row.legacy.error_rate) == (250, 300, 0.01)
    assert (row.dbus.answered, row.dbus.calls, row.dbus.error_rate) == (50, 200, 0.01)
    assert row.legacy.p50 is not None
    assert BOUNDS[19] <= row.legacy.p50 <= BOUNDS[20]
    assert (row.mode, row.setting["percent"], row.set_by, row.verdict) == ("canary 12.5%", "12.5", "mapping", "differs")


def test_what_was_never_counted_is_no_zero_and_who_has_set_a_mode_is_told() -> None:
    override = Override("VM.start", CANARY, "alice", 10.0, until=70.0)
    row = views.row(START, Setting(Mode.LEGACY), override, "set by alice", Counts(), until=70.0)
    assert {row.compared_share, row.equal_share, row.legacy.error_rate, row.legacy.p50, row.dbus.p99} == {None}
    assert (row.verdict, row.set_by, row.until) == ("no evidence", "alice", 70.0)
    assert views.row(route("new"), Setting(), None, "the mapping", COUNTS).verdict == "no legacy service"


def explained(setting: Setting, value: str | None, migration: Migration = START.migration) -> views.Explanation:
    asked = replace(START, migration=replace(migration, key=views.with_key(migration.key, value)))
    return views.explanation(asked, setting, "the mapping", plan_call(asked, setting, Call("VM.start")), value)


def test_an_explanation_has_the_bucket_that_decided_the_list_or_the_missing_key() -> None:
    told = explained(CANARY, "vm-7")
    assert told.bucket == bucket("xenopsd/VM.start", "vm-7")
    assert told.answers == ("dbus" if told.bucket < 12_500 else "legacy")
    assert (told.buckets, told.of, told.key, told.value) == (12_500, 100_000, "vm", "vm-7")
    assert str(told.bucket) in told.why
    told = explained(CANARY, "vm-7", replace(START.migration, group="vm-lifecycle"))
    assert told.bucket == bucket("vm-lifecycle", "vm-7")
    told = explained(CANARY, "vm-7", replace(START.migration, never=frozenset({"vm-7"})))
    assert (told.answers, told.list) == ("legacy", "never")
    told = explained(CANARY, None)
    assert (told.answers, told.bucket) == ("legacy", None)
    assert "the call has no vm" in told.why
    assert explained(Setting(Mode.OFF), None).answers == "nobody"
    staying = replace(START.migration, upstream="old", tasks="legacy")
    dbus = Setting(Mode.DBUS)
    assert "'old' answers it (async: legacy)" in explained(dbus, "vm-7", staying).why
    assert "async" not in explained(dbus, "vm-7").why
    assert "async" not in explained(Setting(Mode.OFF), "vm-7", staying).why
