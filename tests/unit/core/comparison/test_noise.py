"""Noise: a control that differs from itself; and sampling: which calls are compared."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.core.comparison.compare import MAX_DIFFERENCES, Comparison, Verdict
from gateway.core.comparison.noise import compare_with_noise
from gateway.core.comparison.sampling import EVERY_CALL, Sampler, Sampling, parse_rate
from gateway.core.rpc.model import Call, Fault, FaultCode, Outcome, Reply
from tests.kit.cases import each_case

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
    found = values({"time": 1}, {"time": 2}, {"time": 3})
    assert (found.verdict, found.differences) == (Verdict.IGNORED, ())
    assert values({"time": 1}, {"time": 2}, {"time": 1}).verdict is Verdict.EQUAL
    assert values({"time": 1}, {"time": 1}, {"time": 1}).verdict is Verdict.EQUAL


@each_case(
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


def test_noise_that_was_not_found_blames_nothing_and_much_noise_hides_nothing() -> None:
    huge: list[Any] = [0] * 3_000
    control, again = Reply(huge), Reply([*huge[:-1], 1])
    assert compare_with_noise(control, again, Reply([1]), max_values=1_000).verdict is Verdict.TOO_LARGE
    assert compare_with_noise(control, again, control, max_values=1_000).verdict is Verdict.EQUAL
    found = values([0] * 500 + [1], [2] * 500 + [1], [3] * 500 + [4])
    assert told(found) == [("$[500]", 1, 4)]
    assert len(found.noisy) == MAX_DIFFERENCES


# Sampling


CALL = Call("VM.stat", ("vm",), {"force": True})


def chosen(sampling: Sampling, calls: int, rate: float, call: Call = CALL) -> list[bool]:
    sampler = Sampler()
    return [sampler.choose(sampling, "toy/VM.stat", call, number / rate) for number in range(calls)]


def test_a_share_is_chosen_whatever_the_rate() -> None:
    for rate in (1.0, 100.0, 10_000.0):
        assert 900 < sum(chosen(Sampling(share=0.1), 10_000, rate)) < 1_100
    assert not any(chosen(Sampling(share=0.0), 1_000, 100.0))
    assert 0 < sum(chosen(Sampling(share=0.5), 100, 1.0)) < 100  # one call that is made again and again
    assert all(chosen(EVERY_CALL, 1_000, 1e6))
    assert all(chosen(Sampling(at_most=200.0), 1_000, 100.0))  # below the rate


def test_a_rate_is_kept_and_spread_over_the_second() -> None:
    taken = chosen(Sampling(at_most=200.0), 20_000, 2_000.0)
    seconds = [taken[start : start + 2_000] for start in range(0, 20_000, 2_000)]
    assert all(sum(second) <= 200 for second in seconds)
    assert all(sum(second) > 140 for second in seconds[1:])
    for second in seconds[1:]:
        assert sum(second[1_000:]) > 50, "the end of a second is sampled too"


@each_case("text", ["200", "0/s", "-1/s", "200/m", "many/s", ""])
def test_a_rate_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a number of calls a second such as 200/s"):
        parse_rate(text)
    assert (parse_rate("200/s"), parse_rate("0.5/s")) == (200.0, 0.5)
    assert str(Sampling(0.005, 200.0)) == "0.5%, at most 200/s"
