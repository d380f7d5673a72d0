"""Circuit breakers by destination: whether a service that keeps failing is called.

A breaker opens after `limit` transport failures in a row. While it is open, calls are refused at once. After a pause
the next call sends a probe; a probe that fails doubles the pause. Any answer of the destination closes the breaker.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from enum import Enum

from msgspec import Struct

from gateway.core.admin.status import BreakerState

LONGEST_PAUSE = 30.0  # seconds; the longest pause between two probes


class BreakerEvent(Enum):
    """What happened to a destination."""

    FAILED = "failed"  # the destination did not answer a call or a probe
    FAILED_ONCE_TOO_OFTEN = "failed once too often"
    PROBED = "probed"  # the pause is over and a probe was sent
    GIVEN_UP = "given up"  # the probe was cancelled before it had a result


# A pair that is not listed changes nothing (a failure of a call made before the breaker opened, for example). An answer
# of the destination removes its breaker, in every state.
MOVES: Mapping[tuple[BreakerState, BreakerEvent], BreakerState] = {
    (BreakerState.CLOSED, BreakerEvent.FAILED_ONCE_TOO_OFTEN): BreakerState.OPEN,
    (BreakerState.OPEN, BreakerEvent.PROBED): BreakerState.HALF_OPEN,
    (BreakerState.HALF_OPEN, BreakerEvent.FAILED): BreakerState.OPEN,
    (BreakerState.HALF_OPEN, BreakerEvent.GIVEN_UP): BreakerState.OPEN,
}


class CircuitBreaker(Struct):
    """One destination. Opens after `limit` failures in a row; each failed probe doubles the pause before the next."""

    limit: int
    pause: float  # seconds
    state: BreakerState = BreakerState.CLOSED
    failures: int = 0
    probe_at: float = 0.0  # of the clock

    def failed(self, now: float) -> bool:
        """Record a failed call or probe; returns whether that opened the breaker."""
        self.failures += 1
        before, pause = self.state, self.pause
        too_often = before is BreakerState.CLOSED and self.failures >= self.limit
        self._move(BreakerEvent.FAILED_ONCE_TOO_OFTEN if too_often else BreakerEvent.FAILED)
        if self.state is before:
            return False
        self.probe_at = now + pause
        self.pause = min(pause * 2, max(LONGEST_PAUSE, pause))
        return True

    def may_probe(self, now: float) -> bool:
        """Return whether to send a probe now; the caller then reports its result."""
        if self.state is not BreakerState.OPEN or now < self.probe_at:
            return False
        self._move(BreakerEvent.PROBED)
        return True

    def given_up(self) -> None:
        """Record a cancelled probe: the next call may send another."""
        self._move(BreakerEvent.GIVEN_UP)

    def _move(self, event: BreakerEvent) -> None:
        self.state = MOVES.get((self.state, event), self.state)


class CircuitBreakers:
    """The breakers of one bus. A destination without failures has none, so a good call costs one look-up."""

    def __init__(self, limit: int, pause: float, clock: Callable[[], float]) -> None:
        self._limit = limit  # 0: breakers never open
        self._pause = pause
        self._clock = clock
        self._breakers: dict[str, CircuitBreaker] = {}
        self.known: Collection[str] = self._breakers.keys()  # destinations that have a breaker

    def __contains__(self, destination: str) -> bool:
        return destination in self._breakers

    def __bool__(self) -> bool:
        return bool(self._breakers)

    def open(self) -> list[str]:
        """The destinations whose calls are refused."""
        return [name for name, breaker in self._breakers.items() if breaker.state.refuses]

    def failed(self, destination: str) -> bool:
        """Record a transport failure; returns whether the breaker opened."""
        if not self._limit:
            return False
        breaker = self._breakers.get(destination)
        if breaker is None:
            breaker = self._breakers[destination] = CircuitBreaker(self._limit, self._pause)
        return breaker.failed(self._clock())

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

    def refuse(self, destination: str) -> bool:
        """Return whether calls to a destination are refused."""
        return self.state(destination).refuses

    def may_probe(self, destination: str) -> bool:
        """Return whether to probe now; the caller then calls `answered`, `failed` or `given_up`."""
        return self._breakers[destination].may_probe(self._clock())

    def given_up(self, destination: str) -> None:
        """Record a probe without a result."""
        if destination in self._breakers:
            self._breakers[destination].given_up()

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
