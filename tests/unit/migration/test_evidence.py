from __future__ import annotations

from gateway.core.admin.records import Counts, MethodId
from gateway.core.migration.statistics import spent
from gateway.migration.rollout_controller import LASTS, STARTS, CountsWindow, LocalCounts, joined, together
from tests.kit.migrations import counts

METHOD = MethodId("xenopsd", "VM.start")


def test_this_process_adds_its_batches_up() -> None:
    here = LocalCounts()
    here.add({METHOD: Counts({"equal": 1}, {"dbus": [1]})})
    here.add({METHOD: Counts({"equal": 2, "different": 1}, {"dbus": [0, 1]})})
    assert here.of(METHOD) == Counts({"equal": 3, "different": 1}, {"dbus": [1, 1]})
    assert here.of(MethodId("xenopsd", "VM.stop")) == Counts()


def test_together_all_methods_count_each_since_its_start() -> None:
    start = {"a": counts(compared=5), "b": counts(compared=1)}
    seen = {"a": counts(compared=7), "b": counts(compared=4), "new": counts(compared=100)}
    assert together(seen, start).compared == 5


def test_a_method_that_joins_starts_where_it_is() -> None:
    start = {"a": counts(compared=5)}
    assert joined({"a": counts(compared=9)}, start) is None
    assert joined({"a": counts(compared=9), "b": counts(compared=3)}, start) == {
        "a": counts(compared=5),
        "b": counts(compared=3),
    }


def test_windows_hold_the_last_counts_and_share_the_error_probability() -> None:
    window = CountsWindow({"a": counts()}, since=0.0, window=60.0)
    for minute in range(11):
        seen = {"a": counts(compared=minute * 100)}
        parts = window.parts(seen, minute * 60.0, alpha=0.01)
    assert {where: part.counts.compared for where, part in parts.items()} == {
        "in the last 60 s": 100,
        "in the last 2 min": 200,
    }
    assert window.since_start(seen).compared == 1000
    assert [part.alpha for part in parts.values()] == [spent(0.01, 17), spent(0.01, 19)]


def test_windows_of_long_ago_are_forgotten() -> None:
    window = CountsWindow({}, since=0.0, window=60.0)
    for look in range(10_000):
        parts = window.parts({"a": counts(compared=look)}, look * 0.2, alpha=0.01)
    assert len(parts) <= STARTS * LASTS + 1
