"""Deadlines that share a timer: in order, each for its own task, and nothing left of those that were lifted."""

from __future__ import annotations

import asyncio

import pytest

from gateway.core.interfaces import DEADLINE_PASSED
from gateway.pipeline.dispatcher import Deadlines


async def wait(deadlines: Deadlines, seconds: float) -> str:
    """Wait for ever, or until the deadline."""
    deadline = deadlines.start(seconds)
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        if deadline.was_the_reason():
            return f"late after {seconds:g}"
        raise
    finally:
        deadline.lift()
    return "never"


async def test_past_its_time_a_task_is_cancelled_and_knows_why() -> None:
    assert await wait(Deadlines(), 0.01) == "late after 0.01"


async def test_each_task_has_its_own_time_in_whatever_order_they_began() -> None:
    deadlines = Deadlines()
    done: list[str] = []

    async def one(seconds: float) -> None:
        done.append(await wait(deadlines, seconds))

    async with asyncio.TaskGroup() as group:
        for seconds in (0.05, 0.01, 0.03, 0.01):
            group.create_task(one(seconds))
    assert done == ["late after 0.01", "late after 0.01", "late after 0.03", "late after 0.05"]
    assert len(deadlines) == 0


async def test_one_timer_serves_those_that_begin_later_too() -> None:
    deadlines = Deadlines()
    loop = asyncio.get_running_loop()
    first = asyncio.ensure_future(wait(deadlines, 0.03))
    await asyncio.sleep(0)
    began = loop.time()
    second = asyncio.ensure_future(wait(deadlines, 0.03))
    assert await first == await second == "late after 0.03"
    assert loop.time() - began >= 0.03


async def test_nothing_is_left_of_ten_thousand_that_were_in_time() -> None:
    deadlines = Deadlines()
    for _ in range(10_000):
        deadlines.start(3600.0).lift()
    assert len(deadlines) == 0


async def test_a_lifted_deadline_cancels_nobody() -> None:
    deadlines = Deadlines()
    deadlines.start(0.0).lift()
    async with asyncio.timeout(60):
        assert await wait(deadlines, 0.01) == "late after 0.01"
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_cancellation_from_outside_stays_one() -> None:
    task = asyncio.ensure_future(wait(Deadlines(), 3600.0))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_the_cancellation_itself_says_why() -> None:
    """A backend learns so that the callee was late, and not that the caller has left."""
    Deadlines().start(0.0)
    with pytest.raises(asyncio.CancelledError, match=DEADLINE_PASSED):
        await asyncio.Event().wait()
    task = asyncio.current_task()
    assert task is not None
    task.uncancel()
