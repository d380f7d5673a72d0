from __future__ import annotations

from gateway.core.admin.records import Counts, MethodId
from gateway.migration.rollout_controller import MARKS, CountsWindow, LocalCounts, joined, together
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


def test_a_track_knows_all_and_the_last_window() -> None:
    track = CountsWindow({"a": counts()}, window=60.0)
    for minute in range(11):
        seen = {"a": counts(compared=minute * 100)}
        assert track.lately(seen, minute * 60.0).compared == min(minute, 1) * 100
    assert track.since_start(seen).compared == 1000


def test_a_track_remembers_no_more_than_its_window() -> None:
    track = CountsWindow({}, window=60.0)
    for look in range(10_000):
        track.lately({"a": counts(compared=look)}, look * 0.2)
    assert len(track.marks) <= MARKS + 2
