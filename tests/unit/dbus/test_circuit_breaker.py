"""When a destination is asked, when it is not, and when it is tried again; on a bus: test_pool.py."""

from __future__ import annotations

from adapters.dbus.circuit_breaker import LONGEST_PAUSE, CircuitBreakers
from gateway.core.admin.status import BreakerState
from tests.kit.cases import each_case

ONE = "org.example.One"


def test_only_failures_in_a_row_open_it_unless_it_never_opens() -> None:
    breakers, never = CircuitBreakers(3, 1.0, lambda: 100.0), CircuitBreakers(0, 1.0, lambda: 100.0)
    for _ in range(5):
        assert not breakers.failed(ONE)
        assert not breakers.failed(ONE)
        breakers.answered(ONE)
        assert not breakers.failing
    assert [breakers.failed(ONE) for _ in range(3)] == [False, False, True]
    assert (breakers.open(), breakers.state("org.example.Two")) == ([ONE], BreakerState.CLOSED)
    assert not any(never.failed(ONE) for _ in range(100))
    assert not never.failing


@each_case(
    ("pause", "pauses"),
    [(1.0, [1.0, 2.0, 4.0, 8.0, 16.0, LONGEST_PAUSE, LONGEST_PAUSE]), (60.0, [60.0, 60.0])],
)
def test_after_each_pause_one_probe_is_made_and_its_failure_doubles_the_pause_up_to_a_cap(
    pause: float, pauses: list[float]
) -> None:
    now = 100.0
    breakers = CircuitBreakers(1, pause, lambda: now)
    assert breakers.failed(ONE)
    for seconds in pauses:
        assert not breakers.failed(ONE), "a call from before makes the pause no longer"
        assert breakers.describe(ONE).endswith(f"failures in a row; next probe in {seconds:.1f} s")
        assert not breakers.may_probe(ONE)
        now += seconds
        assert breakers.describe(ONE).endswith("the next call probes it")
        assert breakers.may_probe(ONE)
        breakers.given_up(ONE)  # its caller has left: another may probe at once
        assert breakers.may_probe(ONE)
        assert not breakers.may_probe(ONE), "a second one beside it"
        assert breakers.describe(ONE).endswith("a probe is under way")
        assert breakers.failed(ONE)
    breakers.answered(ONE)  # a call from before
    breakers.given_up(ONE)
    assert (breakers.describe(ONE), [*breakers.failing]) == ("circuit breaker closed", [])
