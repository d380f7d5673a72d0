"""What was answered is remembered for a time and within bounds; a task that ends by a bug is told."""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import Any

import pytest

from adapters.limits import Quota
from adapters.xenstore.server import state
from adapters.xenstore.server.caller import Admission, StoreLimits
from adapters.xenstore.server.state import RESPONSE_TTL, SharedContext, backoff
from tests.kit.memory_store import MemoryStore


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def shared(clock: Clock) -> SharedContext:
    return SharedContext(MemoryStore(), StoreLimits(), Admission(StoreLimits(), Quota()), lambda _: None, clock)


async def test_an_answer_is_kept_for_a_time() -> None:
    clock = Clock()
    made = shared(clock)
    made.store_response("/a", 0, b"1", 1)
    clock.now = RESPONSE_TTL
    made.store_response("/b", 0, b"2", 1)
    assert list(made.responses) == ["/a", "/b"]
    clock.now = RESPONSE_TTL + 1
    made.store_response("/c", 0, b"3", 1)
    assert list(made.responses) == ["/b", "/c"]


async def test_only_so_many_and_so_many_bytes_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "MAX_RESPONSES", 3)
    monkeypatch.setattr(state, "MAX_RESPONSE_BYTES", 10)
    made = shared(Clock())
    for name in "abcd":
        made.store_response(name, 0, b"1", 1)
    assert list(made.responses) == ["b", "c", "d"]
    made.store_response("e", 0, b"123456789", 1)
    assert (list(made.responses), made.response_bytes) == (["d", "e"], 10)
    made.store_response("e", 0, b"1", 1)
    made.forget_response("d")
    made.forget_response("nobody")
    assert (list(made.responses), made.response_bytes) == (["e"], 1)


async def test_answers_to_one_domain_take_turns_and_hold_up_no_other() -> None:
    made = shared(Clock())
    async with made.turn(5), made.turn(0):
        assert made.turn(5).locked()
        assert not made.turn(7).locked()
    assert not made.turn(5).locked()


async def test_a_bug_in_a_task_is_told_to_the_loop() -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context))

    async def bug() -> None:
        raise RuntimeError("a bug")

    made = shared(Clock())
    await asyncio.wait({made.spawn(bug(), "work")})
    await asyncio.sleep(0)
    assert [context["message"] for context in told] == ["a bug ended work"]
    assert made.tasks == set()


async def test_each_domain_reads_in_its_own_lane() -> None:
    made = shared(Clock())
    async with made.lane(5), made.lane(5):
        assert made.lane(5).locked()
        assert not any(made.lane(each).locked() for each in (0, 7, None))
    assert not made.lane(5).locked()


async def test_only_so_many_owners_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "MAX_OWNERS", 2)
    made = shared(Clock())
    for node in ("/a", "/b", "/a", "/c"):
        made.remember_owner(node, 5)
    assert list(made.owners) == ["/a", "/c"]


def test_pauses_grow_to_a_bound() -> None:
    assert list(islice(backoff(), 9)) == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
