"""Decides whether a destination that keeps failing is asked at all; knows no bus, and no clock of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

from gateway.core.admin.status import BreakerState

LONGEST_PAUSE = 30.0  # seconds between two probes, never more


class BreakerEvent(Enum):
    """What a breaker is told."""

    FAILED = "failed"  # a call, or the probe, was not answered by the destination
    FAILED_ONCE_TOO_OFTEN = "failed once too often"
    PROBED = "probed"  # the pause is over and somebody asks
    GIVEN_UP = "given up"  # the probe was, before it could tell anything


# What is not here changes nothing: a failure of a call from before it opened, say. That a destination has answered is
# not here either: it closes the breaker in every state, and a closed one without failures is forgotten.
MOVES: Mapping[tuple[BreakerState, BreakerEvent], BreakerState] = {
    (BreakerState.CLOSED, BreakerEvent.FAILED_ONCE_TOO_OFTEN): BreakerState.OPEN,
    (BreakerState.OPEN, BreakerEvent.PROBED): BreakerState.HALF_OPEN,
    (BreakerState.HALF_OPEN, BreakerEvent.FAILED): BreakerState.OPEN,
    (BreakerState.HALF_OPEN, BreakerEvent.GIVEN_UP): BreakerState.OPEN,
}


@dataclass(slots=True)
class CircuitBreaker:
    """One destination. Opens after `limit` failures in a row; each failed probe doubles the pause before the next."""

    limit: int
    pause: float  # seconds
    state: BreakerState = BreakerState.CLOSED
    failures: int = 0
    probe_at: float = 0.0  # of the clock

    def failed(self, now: float) -> bool:
        """A call, or the probe, failed; tells whether that has opened it."""
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
        """Whether to ask the destination now; who hears yes must tell what came of it."""
        if self.state is not BreakerState.OPEN or now < self.probe_at:
            return False
        self._move(BreakerEvent.PROBED)
        return True

    def given_up(self) -> None:
        """The probe was cancelled: the next call may make another."""
        self._move(BreakerEvent.GIVEN_UP)

    def _move(self, event: BreakerEvent) -> None:
        self.state = MOVES.get((self.state, event), self.state)


class CircuitBreakers:
    """Those of one bus, by destination. A destination that answers has none, so a good call pays for one look-up."""

    def __init__(self, limit: int, pause: float, clock: Callable[[], float]) -> None:
        self._limit = limit  # 0: never open
        self._pause = pause
        self._clock = clock
        self._breakers: dict[str, CircuitBreaker] = {}

    def __contains__(self, destination: str) -> bool:
        return destination in self._breakers

    def __bool__(self) -> bool:
        return bool(self._breakers)

    def open(self) -> list[str]:
        """The destinations whose calls are refused."""
        return [name for name, breaker in self._breakers.items() if breaker.state.refuses]

    def failed(self, destination: str) -> bool:
        """A transport failure; tells whether the breaker has opened."""
        if not self._limit:
            return False
        breaker = self._breakers.get(destination)
        if breaker is None:
            breaker = self._breakers[destination] = CircuitBreaker(self._limit, self._pause)
        return breaker.failed(self._clock())

    def answered(self, destination: str) -> None:
        """The destination lives: whatever was against it is forgotten."""
        self._breakers.pop(destination, None)

    def forget(self) -> None:
        """The bus is another one."""
        self._breakers.clear()

    def state(self, destination: str) -> BreakerState:
        """How it stands."""
        breaker = self._breakers.get(destination)
        return BreakerState.CLOSED if breaker is None else breaker.state

    def refuse(self, destination: str) -> bool:
        """Whether calls to it are refused."""
        return self.state(destination).refuses

    def may_probe(self, destination: str) -> bool:
        """Whether to ask the destination now; who hears yes tells `answered`, `failed` or `given_up`."""
        return self._breakers[destination].may_probe(self._clock())

    def given_up(self, destination: str) -> None:
        """The probe told nothing."""
        if destination in self._breakers:
            self._breakers[destination].given_up()

    def seconds_to_probe(self, destination: str) -> float:
        """Until a call may make the next probe; 0 while one is on its way."""
        breaker = self._breakers.get(destination)
        return 0.0 if breaker is None else max(0.0, breaker.probe_at - self._clock())

    def describe(self, destination: str) -> str:
        """How it stands, in words."""
        breaker = self._breakers.get(destination)
        if breaker is None or breaker.state is BreakerState.CLOSED:
            return "is asked as always"
        left = self.seconds_to_probe(destination)
        if breaker.state is BreakerState.HALF_OPEN:
            when = "a probe is on its way"
        else:
            when = f"it is probed in {left:.1f} s" if left else "the next call probes it"
        return f"has failed {breaker.failures} times in a row: its breaker is open, {when}"
