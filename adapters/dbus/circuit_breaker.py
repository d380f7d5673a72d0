"""Circuit breakers by destination: whether a service that keeps failing is called.

A breaker opens after `limit` transport failures in a row. While it is open, calls are refused at once. After a pause
the next call sends a probe; a probe that fails doubles the pause. Any answer of the destination closes the breaker.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from msgspec import Struct

from gateway.core.admin.status import BreakerState

LONGEST_PAUSE = 30.0  # seconds; the longest pause between two probes


class _Breaker(Struct):
    """One destination."""

    pause: float  # seconds
    state: BreakerState = BreakerState.CLOSED
    failures: int = 0
    probe_at: float = 0.0  # of the clock


class CircuitBreakers:
    """The breakers of one bus. A destination without failures has none, so a good call costs one look-up."""

    def __init__(self, limit: int, pause: float, clock: Callable[[], float]) -> None:
        self._limit = limit  # 0: breakers never open
        self._pause = pause
        self._clock = clock
        self._breakers: dict[str, _Breaker] = {}
        self.failing: Collection[str] = self._breakers.keys()  # destinations that have failed since their last answer

    def open(self) -> list[str]:
        """The destinations whose calls are refused."""
        return [name for name, breaker in self._breakers.items() if breaker.state.refuses]

    def failed(self, destination: str) -> bool:
        """Record a failed call or probe; returns whether that opened the breaker.

        A failure of a call that was made before the breaker opened changes nothing but the count.
        """
        if not self._limit:
            return False
        breaker = self._breakers.get(destination)
        if breaker is None:
            breaker = self._breakers[destination] = _Breaker(self._pause)
        breaker.failures += 1
        is_enough = breaker.state is BreakerState.CLOSED and breaker.failures >= self._limit
        if not is_enough and breaker.state is not BreakerState.HALF_OPEN:
            return False
        breaker.state = BreakerState.OPEN
        breaker.probe_at = self._clock() + breaker.pause
        breaker.pause = min(breaker.pause * 2, max(LONGEST_PAUSE, breaker.pause))
        return True

    def answered(self, destination: str) -> None:
        """Record an answer: the destination's failures are forgotten."""
        self._breakers.pop(destination, None)

    def forget(self) -> None:
        """Drop all breakers, after a reconnect."""
        self._breakers.clear()

    def state(self, destination: str) -> BreakerState:
        """Return the state of a destination's breaker."""
        breaker = self._breakers.get(destination)
        return BreakerState.CLOSED if breaker is None else breaker.state

    def may_probe(self, destination: str) -> bool:
        """Return whether to probe now; the caller then calls `answered`, `failed` or `given_up`."""
        breaker = self._breakers[destination]
        if breaker.state is not BreakerState.OPEN or self._clock() < breaker.probe_at:
            return False
        breaker.state = BreakerState.HALF_OPEN
        return True

    def given_up(self, destination: str) -> None:
        """Record a probe that was cancelled before it had a result: the next call may send another."""
        if self.state(destination) is BreakerState.HALF_OPEN:
            self._breakers[destination].state = BreakerState.OPEN

    def seconds_to_probe(self, destination: str) -> float:
        """Return the seconds until the next probe; 0 while one is under way."""
        breaker = self._breakers.get(destination)
        return 0.0 if breaker is None else max(0.0, breaker.probe_at - self._clock())

    def describe(self, destination: str) -> str:
        """Describe a breaker for an error message."""
        breaker = self._breakers.get(destination)
        if breaker is None or breaker.state is BreakerState.CLOSED:
            return "circuit breaker closed"
        left = self.seconds_to_probe(destination)
        if breaker.state is BreakerState.HALF_OPEN:
            when = "a probe is under way"
        else:
            when = f"next probe in {left:.1f} s" if left else "the next call probes it"
        return f"circuit breaker open after {breaker.failures} failures in a row; {when}"
