from __future__ import annotations

import asyncio

from adapters.limits import WaitingLine
from gateway.core.interfaces import NOT_SENT, always


async def started(turns: WaitingLine, wanted: bool = True) -> asyncio.Task[bool]:
    """A call that has asked for its turn."""
    task = asyncio.get_running_loop().create_task(turns.take(lambda: wanted))
    await asyncio.sleep(0)
    return task


async def test_so_many_have_a_turn_and_so_many_wait_the_first_first() -> None:
    turns = WaitingLine(1, 2)
    assert await turns.take(always)
    assert not turns.is_full
    first, second = await started(turns), await started(turns)
    assert (turns.is_full, turns.waiting) == (True, 2)
    turns.give_back()
    assert await first
    assert (second.done(), turns.waiting) == (False, 1)
    turns.give_back()
    assert await second
    turns.give_back()
    assert not turns.is_full
    assert await turns.take(always)


async def test_who_is_not_wanted_any_more_is_sent_away_at_once() -> None:
    turns = WaitingLine(1, 2)
    await turns.take(always)
    unwanted, wanted = await started(turns, wanted=False), await started(turns)
    turns.review()
    assert not await unwanted
    turns.give_back()
    assert await wanted


async def test_a_turn_that_comes_in_the_moment_of_a_cancellation_goes_to_the_next() -> None:
    turns = WaitingLine(1, 2)
    await turns.take(always)
    leaves, stays = await started(turns), await started(turns)
    turns.give_back()
    leaves.cancel()
    assert await stays
    assert leaves.cancelled() or (await asyncio.wait([leaves]))[0]
    assert turns.waiting == 0
    turns.give_back()
    assert await turns.take(always)


async def test_a_turn_that_is_taken_away_in_the_moment_of_a_cancellation_is_nobodys() -> None:
    turns = WaitingLine(1, 2)
    await turns.take(always)
    leaves = await started(turns, wanted=False)
    turns.review()
    leaves.cancel()
    await asyncio.wait([leaves])
    turns.give_back()
    assert await turns.take(always)
    assert not turns.is_full


async def test_a_cancelled_call_in_line_says_that_it_was_not_sent() -> None:
    turns = WaitingLine(1, 2)
    await turns.take(always)

    async def asks() -> tuple[object, ...]:
        try:
            await turns.take(always)
        except asyncio.CancelledError as error:
            return error.args
        raise AssertionError("unreachable")

    task = asyncio.get_running_loop().create_task(asks())
    await asyncio.sleep(0)
    task.cancel()
    assert NOT_SENT in await task
