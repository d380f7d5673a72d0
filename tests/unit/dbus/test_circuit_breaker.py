"""When a destination is asked, when it is not, and when it is tried again."""

from __future__ import annotations

import pytest

from adapters.dbus.circuit_breaker import LONGEST_PAUSE, CircuitBreakers
from gateway.core.admin.status import BreakerState
from tests.kit.cases import each_case

ONE = "org.example.One"


class Clock:
    """Time in a test's hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def opened(clock: Clock, limit: int = 3, pause: float = 1.0) -> CircuitBreakers:
    breakers = CircuitBreakers(limit, pause, clock)
    assert [breakers.failed(ONE) for _ in range(limit)] == [False] * (limit - 1) + [True]
    return breakers


def test_it_opens_after_so_many_failures_in_a_row_and_says_nothing_of_another(clock: Clock) -> None:
    breakers = opened(clock)
    assert (breakers.state(ONE), breakers.open()) == (BreakerState.OPEN, [ONE])
    assert breakers.seconds_to_probe(ONE) == 1.0
    assert breakers.state("org.example.Two") is BreakerState.CLOSED
    breakers.forget()  # a new bus has no past
    assert breakers.state(ONE) is BreakerState.CLOSED
    never = CircuitBreakers(0, 1.0, clock)
    assert not any(never.failed(ONE) for _ in range(100))
    assert not never.failing


def test_an_answer_between_failures_begins_the_count_anew(clock: Clock) -> None:
    breakers = CircuitBreakers(3, 1.0, clock)
    for _ in range(5):
        assert not breakers.failed(ONE)
        assert not breakers.failed(ONE)
        assert breakers.state(ONE) is BreakerState.CLOSED
        breakers.answered(ONE)
        assert not breakers.failing


def test_after_the_pause_one_probe_is_made_and_no_second(clock: Clock) -> None:
    breakers = opened(clock)
    assert breakers.describe(ONE).endswith("3 failures in a row; next probe in 1.0 s")
    assert not breakers.may_probe(ONE)
    clock.now += 1.0
    assert breakers.describe(ONE).endswith("the next call probes it")
    assert breakers.may_probe(ONE)
    assert breakers.state(ONE) is BreakerState.HALF_OPEN
    assert breakers.describe(ONE).endswith("a probe is under way")
    assert not breakers.may_probe(ONE)
    breakers.answered(ONE)
    breakers.given_up(ONE)
    assert not breakers.failing
    assert breakers.describe(ONE) == "circuit breaker closed"


@each_case(
    ("pause", "pauses"),
    [(1.0, [1.0, 2.0, 4.0, 8.0, 16.0, LONGEST_PAUSE, LONGEST_PAUSE]), (60.0, [60.0, 60.0])],
)
def test_each_failed_probe_doubles_the_pause_up_to_a_cap_or_what_is_configured(
    pause: float, pauses: list[float]
) -> None:
    clock = Clock()
    breakers = opened(clock, pause=pause)
    for seconds in pauses:
        assert breakers.seconds_to_probe(ONE) == seconds
        clock.now += seconds
        assert breakers.may_probe(ONE)
        assert breakers.failed(ONE)


def test_a_probe_that_is_given_up_may_be_made_again_at_once(clock: Clock) -> None:
    breakers = opened(clock)
    breakers.given_up(ONE)
    assert breakers.state(ONE) is BreakerState.OPEN
    clock.now += 1.0
    assert breakers.may_probe(ONE)
    breakers.given_up(ONE)
    assert breakers.state(ONE) is BreakerState.OPEN
    assert breakers.may_probe(ONE)


def test_calls_from_before_do_not_make_the_pause_longer_and_their_answer_closes_it(clock: Clock) -> None:
    breakers = opened(clock)
    assert not breakers.failed(ONE)
    assert breakers.seconds_to_probe(ONE) == 1.0
    assert breakers.describe(ONE) == "circuit breaker open after 4 failures in a row; next probe in 1.0 s"
    breakers.answered(ONE)
    assert breakers.state(ONE) is BreakerState.CLOSED
