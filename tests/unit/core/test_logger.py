"""What repeats is logged once in an interval, with the number of times."""

from __future__ import annotations

from itertools import repeat

from gateway.core.logger import MOST_KEYS, LogLimiter


def test_the_first_is_logged_and_the_next_after_the_interval_with_their_number() -> None:
    times = iter([*repeat(0.0, 5), *repeat(60.0, 3)])
    limiter = LogLimiter(60.0, lambda: next(times))
    assert [limiter.occurred(key) for key in "aaaab"] == [1, 0, 0, 0, 1]
    assert [limiter.occurred(key) for key in "aab"] == [4, 0, 1]


def test_many_keys_take_no_more_room_and_a_forgotten_one_is_logged_again() -> None:
    limiter = LogLimiter(60.0, lambda: 0.0)
    assert {limiter.occurred(number) for number in range(MOST_KEYS + 1)} == {1}
    assert [limiter.occurred(MOST_KEYS), limiter.occurred(0)] == [0, 1]
