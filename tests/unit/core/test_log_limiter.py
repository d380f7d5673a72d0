"""What repeats is logged once in an interval, with the number of times."""

from __future__ import annotations

from gateway.core.log_limiter import MOST_KEYS, LogLimiter


class Clock:
    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


def test_the_first_is_logged_and_the_next_after_the_interval_with_their_number() -> None:
    clock = Clock()
    limiter = LogLimiter(60.0, clock)
    assert [limiter.occurred("a") for _ in range(4)] == [1, 0, 0, 0]
    assert limiter.occurred("b") == 1
    clock.time = 60.0
    assert [limiter.occurred("a"), limiter.occurred("a"), limiter.occurred("b")] == [4, 0, 1]


def test_many_keys_take_no_more_room_and_a_forgotten_one_is_logged_again() -> None:
    limiter = LogLimiter(60.0, Clock())
    for number in range(MOST_KEYS + 1):
        assert limiter.occurred(number) == 1
    assert [limiter.occurred(MOST_KEYS), limiter.occurred(0)] == [0, 1]
