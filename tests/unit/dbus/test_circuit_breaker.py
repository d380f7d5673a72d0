"""When a destination is asked, when it is not, and when it is tried again."""

from __future__ import annotations

import itertools

import pytest

from adapters.dbus.circuit_breaker import LONGEST_PAUSE, MOVES, BreakerEvent, CircuitBreaker, CircuitBreakers
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


def test_it_opens_after_so_many_failures_in_a_row(clock: Clock) -> None:
    breakers = opened(clock)
    assert breakers.state(ONE) is BreakerState.OPEN
    assert breakers.open() == [ONE]
    assert breakers.seconds_to_probe(ONE) == 1.0


def test_an_answer_between_failures_begins_the_count_anew(clock: Clock) -> None:
    breakers = CircuitBreakers(3, 1.0, clock)
    for _ in range(5):
        assert not breakers.failed(ONE)
        assert not breakers.failed(ONE)
        assert breakers.state(ONE) is BreakerState.CLOSED
        breakers.answered(ONE)
        assert ONE not in breakers


def test_one_destination_says_nothing_of_another(clock: Clock) -> None:
    breakers = opened(clock)
    assert breakers.state("org.example.Two") is BreakerState.CLOSED
    assert "org.example.Two" not in breakers


def test_after_the_pause_one_probe_is_made_and_no_second(clock: Clock) -> None:
    breakers = opened(clock)
    assert not breakers.may_probe(ONE)
    clock.now += 1.0
    assert breakers.may_probe(ONE)
    assert breakers.state(ONE) is BreakerState.HALF_OPEN
    assert not breakers.may_probe(ONE)
    breakers.answered(ONE)
    assert breakers.state(ONE) is BreakerState.CLOSED
    assert not breakers


def test_each_failed_probe_doubles_the_pause_up_to_a_cap(clock: Clock) -> None:
    breakers = opened(clock)
    pauses = []
    for _ in range(7):
        pauses.append(breakers.seconds_to_probe(ONE))
        clock.now += pauses[-1]
        assert breakers.may_probe(ONE)
        assert breakers.failed(ONE)
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, LONGEST_PAUSE, LONGEST_PAUSE]


def test_a_pause_that_is_configured_longer_than_the_cap_is_kept(clock: Clock) -> None:
    breakers = opened(clock, pause=60.0)
    for _ in range(2):
        assert breakers.seconds_to_probe(ONE) == 60.0
        clock.now += 60.0
        assert breakers.may_probe(ONE)
        breakers.failed(ONE)


def test_a_probe_that_is_given_up_may_be_made_again_at_once(clock: Clock) -> None:
    breakers = opened(clock)
    clock.now += 1.0
    assert breakers.may_probe(ONE)
    breakers.given_up(ONE)
    assert breakers.state(ONE) is BreakerState.OPEN
    assert breakers.may_probe(ONE)


def test_failures_of_calls_from_before_do_not_make_the_pause_longer(clock: Clock) -> None:
    breakers = opened(clock)
    assert not breakers.failed(ONE)
    assert breakers.seconds_to_probe(ONE) == 1.0
    assert breakers.describe(ONE) == "circuit breaker open after 4 failures in a row; next probe in 1.0 s"


def test_the_answer_to_a_call_from_before_closes_it(clock: Clock) -> None:
    breakers = opened(clock)
    breakers.answered(ONE)
    assert breakers.state(ONE) is BreakerState.CLOSED


def test_a_probe_given_up_after_it_was_closed_changes_nothing(clock: Clock) -> None:
    breakers = opened(clock)
    clock.now += 1.0
    assert breakers.may_probe(ONE)
    breakers.answered(ONE)
    breakers.given_up(ONE)
    assert not breakers


def test_a_limit_of_nought_never_opens(clock: Clock) -> None:
    breakers = CircuitBreakers(0, 1.0, clock)
    assert not any(breakers.failed(ONE) for _ in range(100))
    assert not breakers


def test_it_tells_when_it_asks_again(clock: Clock) -> None:
    breakers = opened(clock)
    assert breakers.describe(ONE).endswith("3 failures in a row; next probe in 1.0 s")
    clock.now += 1.0
    assert breakers.describe(ONE).endswith("the next call probes it")
    assert breakers.may_probe(ONE)
    assert breakers.describe(ONE).endswith("a probe is under way")
    breakers.answered(ONE)
    assert breakers.describe(ONE) == "circuit breaker closed"


def test_a_new_bus_has_no_past(clock: Clock) -> None:
    breakers = opened(clock)
    breakers.forget()
    assert breakers.state(ONE) is BreakerState.CLOSED


@each_case(("state", "event"), list(itertools.product(BreakerState, BreakerEvent)))
def test_what_the_table_does_not_name_changes_nothing(state: BreakerState, event: BreakerEvent) -> None:
    breaker = CircuitBreaker(3, 1.0, state)
    breaker._move(event)
    assert breaker.state is MOVES.get((state, event), state)
