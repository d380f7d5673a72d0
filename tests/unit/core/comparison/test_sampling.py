"""Sampling: a share of all calls, a rate, and no preference for quiet moments."""

from __future__ import annotations

import pytest

from gateway.core.comparison.sampling import EVERY_CALL, Sampler, Sampling, parse_rate
from gateway.core.rpc.model import Call

CALL = Call("VM.stat", ("vm",), {"force": True})


def chosen(sampling: Sampling, calls: int, rate: float, call: Call = CALL) -> list[bool]:
    sampler = Sampler()
    return [sampler.choose(sampling, "toy/VM.stat", call, number / rate) for number in range(calls)]


def test_without_a_sampling_every_call_is_compared() -> None:
    assert all(chosen(EVERY_CALL, 1_000, 1e6))


def test_a_share_is_chosen_whatever_the_rate() -> None:
    for rate in (1.0, 100.0, 10_000.0):
        assert 900 < sum(chosen(Sampling(share=0.1), 10_000, rate)) < 1_100
    assert not any(chosen(Sampling(share=0.0), 1_000, 100.0))


def test_one_call_that_is_made_again_and_again_is_chosen_at_times() -> None:
    taken = chosen(Sampling(share=0.5), 100, 1.0)
    assert 0 < sum(taken) < 100


def test_a_rate_is_kept_and_spread_over_the_second() -> None:
    taken = chosen(Sampling(at_most=200.0), 20_000, 2_000.0)
    seconds = [taken[start : start + 2_000] for start in range(0, 20_000, 2_000)]
    assert all(sum(second) <= 200 for second in seconds)
    assert all(sum(second) > 140 for second in seconds[1:])
    for second in seconds[1:]:
        assert sum(second[1_000:]) > 50, "the end of a second is sampled too"


def test_below_the_rate_every_call_is_compared() -> None:
    assert all(chosen(Sampling(at_most=200.0), 1_000, 100.0))


@pytest.mark.parametrize("text", ["200", "0/s", "-1/s", "200/m", "many/s", ""])
def test_a_rate_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a number of calls a second such as 200/s"):
        parse_rate(text)


def test_rates_are_calls_a_second() -> None:
    assert (parse_rate("200/s"), parse_rate("0.5/s")) == (200.0, 0.5)
