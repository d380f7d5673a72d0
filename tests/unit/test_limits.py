from __future__ import annotations

import asyncio

from adapters.limits import ConcurrencyLimiter, Quota
from gateway.core.interfaces import always


def test_a_room_is_full_when_either_of_its_limits_is_reached() -> None:
    assert not Quota(max_calls=1, max_buffered=1).is_full
    calls, buffered = Quota(max_calls=1), Quota(max_buffered=10)
    calls.calls = 1
    buffered.buffered = 10
    assert calls.is_full
    assert buffered.is_full


# Calls of one upstream


async def started(limiter: ConcurrencyLimiter, wanted: bool = True) -> asyncio.Task[bool]:
    """A call that has asked for its turn."""
    task = asyncio.get_running_loop().create_task(limiter.acquire(lambda: wanted))
    await asyncio.sleep(0)
    return task


async def test_so_many_have_a_turn_and_so_many_wait_the_first_first() -> None:
    limiter = ConcurrencyLimiter(1, 2)
    assert await limiter.acquire(always)
    assert not limiter.is_full
    first, second = await started(limiter), await started(limiter)
    assert (limiter.is_full, limiter.waiting) == (True, 2)
    limiter.release()
    assert await first
    assert (second.done(), limiter.waiting) == (False, 1)
    limiter.release()
    assert await second
    limiter.release()
    assert not limiter.is_full
    assert await limiter.acquire(always)


async def test_who_is_not_wanted_any_more_is_sent_away_at_once() -> None:
    limiter = ConcurrencyLimiter(1, 2)
    await limiter.acquire(always)
    unwanted, wanted = await started(limiter, wanted=False), await started(limiter)
    limiter.review()
    assert not await unwanted
    limiter.release()
    assert await wanted


async def test_a_turn_that_comes_or_goes_in_the_moment_of_a_cancellation_is_not_lost() -> None:
    limiter = ConcurrencyLimiter(1, 2)
    await limiter.acquire(always)
    leaves, stays = await started(limiter), await started(limiter)
    limiter.release()
    leaves.cancel()
    assert await stays
    assert limiter.waiting == 0
    leaves = await started(limiter, wanted=False)
    limiter.review()
    leaves.cancel()
    await asyncio.wait([leaves])
    limiter.release()
    assert await limiter.acquire(always)
    assert not limiter.is_full
