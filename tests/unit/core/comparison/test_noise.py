"""Noise: what the control itself varies in is not a difference, and nothing else is excused."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.core.comparison.compare import MAX_DIFFERENCES, Comparison, Verdict
from gateway.core.comparison.noise import compare_with_noise
from gateway.core.rpc.model import Fault, FaultCode, Outcome, Reply

AWAY = Fault(FaultCode.UNAVAILABLE, "nobody owns org.example")


def values(control: Any, again: Any, candidate: Any) -> Comparison:
    return compare_with_noise(Reply(control), Reply(again), Reply(candidate))


def told(comparison: Comparison) -> list[tuple[str, object, object]]:
    return [(each.path, each.control, each.candidate) for each in comparison.differences]


def test_only_what_the_control_does_not_vary_in_is_blamed() -> None:
    found = values({"time": 1, "name": "a", "n": 1}, {"time": 2, "name": "a", "n": 1}, {"time": 3, "name": "b", "n": 1})
    assert told(found) == [("$.name", "a", "b")]
    assert [(each.path, each.control, each.candidate) for each in found.noisy] == [("$.time", 1, 2)]
    assert found.verdict is Verdict.DIFFERENT


def test_a_candidate_that_differs_in_noise_alone_is_not_called_equal() -> None:
    found = values({"time": 1}, {"time": 2}, {"time": 3})
    assert (found.verdict, found.differences) == (Verdict.IGNORED, ())
    assert values({"time": 1}, {"time": 2}, {"time": 1}).verdict is Verdict.EQUAL
    assert values({"time": 1}, {"time": 1}, {"time": 1}).verdict is Verdict.EQUAL


@pytest.mark.parametrize(
    ("control", "again", "candidate", "blamed"),
    [
        # a value that varies excuses no other type and no absence
        ({"a": 1}, {"a": 2}, {"a": "3"}, ["$.a"]),
        ({"a": 1}, {"a": 2}, {"a": None}, ["$.a"]),
        ({"a": 1}, {"a": 2}, {}, ["$.a"]),
        ({"a": [1]}, {"a": [2]}, {"a": []}, ["$.a[0]"]),
        ({"a": [1]}, {"a": [2]}, {"a": [3, 4]}, ["$.a[1]"]),
        # what varies in type or presence excuses the same
        ({"a": 1}, {"a": "2"}, {"a": "3"}, []),
        ({"a": 1}, {}, {}, []),
        ({}, {"a": 1}, {"a": 2}, []),
        ({"a": 1}, {}, {"a": "1"}, ["$.a"]),
        # inside and around an unstable place
        ({"a": {"b": 1}, "c": {"d": 1}}, {"a": 5, "c": {"d": 2}}, {"a": {"b": 2}, "c": 1}, ["$.c"]),
        ({"a": {"b": 1}}, {}, {"a": {}}, []),
        ({"a": {"b": 1}}, {}, {"a": {"b": "1"}}, ["$.a.b"]),
        # lengths
        ([1, 2], [1, 2, 3], [1, 2, 3, 4], []),
        ([1, 2, 3], [1, 2], [1, 2], []),
        ([1, 2, 3], [1, 2], [1], ["$[1]"]),
        ({"a": [1, 2]}, {}, {"a": [1]}, []),
    ],
)
def test_noise_excuses_what_the_control_itself_varies_in(
    control: Any, again: Any, candidate: Any, blamed: list[str]
) -> None:
    found = values(control, again, candidate)
    assert [each.path for each in found.differences] == blamed
    assert found.verdict is (Verdict.DIFFERENT if blamed else Verdict.IGNORED)


def test_a_control_that_fails_only_at_times_makes_faults_noise_and_nothing_else() -> None:
    def verdict(control: Outcome, again: Outcome, candidate: Outcome) -> Verdict:
        return compare_with_noise(control, again, candidate).verdict

    assert verdict(AWAY, Reply(1), Reply(1)) is Verdict.IGNORED
    assert verdict(Reply(1), AWAY, AWAY) is Verdict.IGNORED
    assert verdict(Reply(1), AWAY, Reply(2)) is Verdict.DIFFERENT
    assert verdict(Reply(1), Reply(2), AWAY) is Verdict.ERROR_DIFFERENT


def test_noise_that_was_not_found_blames_nothing() -> None:
    huge: list[Any] = [0] * 3_000
    control, again = Reply(huge), Reply([*huge[:-1], 1])
    assert compare_with_noise(control, again, Reply([1]), max_values=1_000).verdict is Verdict.TOO_LARGE
    assert compare_with_noise(control, again, control, max_values=1_000).verdict is Verdict.EQUAL


def test_much_noise_hides_no_difference() -> None:
    found = values([0] * 500 + [1], [2] * 500 + [1], [3] * 500 + [4])
    assert told(found) == [("$[500]", 1, 4)]
    assert len(found.noisy) == MAX_DIFFERENCES
