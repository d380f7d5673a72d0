from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from gateway.core.admin import views
from gateway.core.admin.records import Counts
from gateway.core.migration.modes import Key, Migration, Mode, Setting
from gateway.core.migration.statistics import BOUNDS, BUCKETS
from gateway.core.routing.overrides import Override
from gateway.core.routing.policy import bucket, plan_call
from gateway.core.rpc.model import Call
from tests.kit.mappings import route

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


def test_what_was_never_counted_is_no_zero() -> None:
    row = views.row(START, Setting(Mode.LEGACY), None, "the mapping", Counts())
    assert (row.compared_share or row.equal_share, row.legacy.error_rate, row.legacy.p50, row.dbus.p99) == (
        None,
        None,
        None,
        None,
    )
    assert row.verdict == "no evidence"


def test_a_method_without_an_old_service_is_not_judged() -> None:
    assert views.row(route("new"), Setting(), None, "the mapping", COUNTS).verdict == "no legacy service"


def test_who_has_set_a_mode_and_until_when_is_told() -> None:
    override = Override("VM.start", CANARY, "alice", 10.0, until=70.0)
    row = views.row(START, CANARY, override, "set by alice", Counts(), until=70.0)
    assert (row.set_by, row.until) == ("alice", 70.0)


def explained(setting: Setting, value: str | None, migration: Migration = START.migration) -> views.Explanation:
    asked = replace(START, migration=replace(migration, key=views.with_key(migration.key, value)))
    return views.explanation(asked, setting, "the mapping", plan_call(asked, setting, Call("VM.start")), value)


def test_an_explanation_has_the_bucket_that_decided() -> None:
    told = explained(CANARY, "vm-7")
    assert told.bucket == bucket("xenopsd/VM.start", "vm-7")
    assert told.answers == ("dbus" if told.bucket < 12_500 else "legacy")
    assert (told.buckets, told.of, told.key, told.value) == (12_500, 100_000, "vm", "vm-7")
    assert str(told.bucket) in told.why


def test_an_explanation_says_where_tasks_are_not_governed() -> None:
    staying = replace(START.migration, upstream="old", tasks="legacy")
    dbus = Setting(Mode.DBUS)
    assert "'old' answers it (async: legacy)" in explained(dbus, "vm-7", staying).why
    assert "async" not in explained(dbus, "vm-7").why
    assert "async" not in explained(Setting(Mode.OFF), "vm-7", staying).why


def test_methods_of_a_group_are_explained_by_the_groups_bucket() -> None:
    told = explained(CANARY, "vm-7", replace(START.migration, group="vm-lifecycle"))
    assert told.bucket == bucket("vm-lifecycle", "vm-7")


def test_a_listed_value_is_explained_by_its_list() -> None:
    told = explained(CANARY, "vm-7", replace(START.migration, never=frozenset({"vm-7"})))
    assert (told.answers, told.list) == ("legacy", "never")


def test_a_call_without_a_key_is_explained_so() -> None:
    told = explained(CANARY, None)
    assert (told.answers, told.bucket) == ("legacy", None)
    assert "the call has no vm" in told.why


def test_mode_off_is_answered_by_nobody() -> None:
    assert explained(Setting(Mode.OFF), None).answers == "nobody"


def test_everything_told_is_json() -> None:
    row = views.row(START, CANARY, None, "the mapping", COUNTS)
    assert msgspec.json.decode(msgspec.json.encode(row))["legacy"]["calls"] == 300
    assert msgspec.json.decode(msgspec.json.encode(explained(CANARY, "x")))["service"] == "xenopsd"
