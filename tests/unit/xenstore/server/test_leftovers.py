"""Answers that nobody takes away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from adapters.limits import Quota
from adapters.xenstore.server import state
from adapters.xenstore.server.caller import Admission, StoreLimits
from adapters.xenstore.server.state import SharedContext
from adapters.xenstore.styles import STYLES
from gateway.core.xenstore.exposure import Exposure
from gateway.core.xenstore.paths import template
from tests.kit.memory_store import MemoryStore

REQUESTS, RESPONSES = "/svc/rpc/request/read", "/svc/rpc/response/read"


class Looks:
    """Somebody who looks when he is told to."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.told: list[str] = []
        self._next = asyncio.Semaphore(0)
        self.asleep = asyncio.Semaphore(0)
        limits = StoreLimits()
        shared = SharedContext(self.store, limits, Admission(limits, Quota()), self.told.append, sleep=self._sleep)
        style = STYLES["tree"](Exposure("tree", template("/svc")))
        self.task = asyncio.get_running_loop().create_task(state.remove_expired_responses(style, shared, 3600.0))

    async def _sleep(self, seconds: float) -> None:
        assert seconds == 3600.0
        self.asleep.release()
        await self._next.acquire()

    async def look(self) -> None:
        """Have one look taken, to its end."""
        self._next.release()
        await self.asleep.acquire()

    def answered(self, key: str) -> None:
        self.store.put(f"{REQUESTS}/{key}/a", "x")
        self.store.put(f"{RESPONSES}/{key}/a", "x")

    @property
    def nodes(self) -> set[str]:
        return {path for path in self.store.tree if path.startswith((f"{REQUESTS}/", f"{RESPONSES}/"))}


@pytest.fixture
async def looks() -> AsyncIterator[Looks]:
    made = Looks()
    await made.asleep.acquire()
    yield made
    made.task.cancel()
    await asyncio.wait({made.task})
    await made.store.stop()


async def test_what_is_there_at_two_looks_is_removed_with_its_request(looks: Looks) -> None:
    looks.answered("1")
    await looks.look()
    looks.answered("2")
    assert f"{RESPONSES}/1" in looks.store.tree
    await looks.look()
    assert looks.nodes == {f"{REQUESTS}/2", f"{REQUESTS}/2/a", f"{RESPONSES}/2", f"{RESPONSES}/2/a"}
    await looks.look()
    assert looks.nodes == set()


async def test_a_request_without_an_answer_stays(looks: Looks) -> None:
    looks.store.put(f"{REQUESTS}/1/a", "x")
    for _ in range(3):
        await looks.look()
    assert looks.nodes == {f"{REQUESTS}/1", f"{REQUESTS}/1/a"}


async def test_a_store_that_is_away_is_told_of_and_looked_at_the_next_time(looks: Looks) -> None:
    looks.answered("1")
    await looks.look()
    with looks.store.away():
        await looks.look()
    assert [text.partition(": ")[0] for text in looks.told] == [
        "expired responses at /svc/rpc/response/{_fn}/{_id} cannot be removed; they are tried again"
    ]
    await looks.look()
    assert looks.nodes == set()
