"""What an endpoint remembers, and who asks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from adapters.limits import Quota
from adapters.xenstore.client.wire import Permissions
from adapters.xenstore.server import state
from adapters.xenstore.server.caller import Admission, StoreLimits, caller_of, least_privileged
from adapters.xenstore.server.state import SharedContext
from adapters.xenstore.styles import STYLES
from gateway.core.xenstore.paths import Exposure, template
from tests.kit.cases import each_case
from tests.kit.memory_store import MemoryStore


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def shared(clock: Clock) -> SharedContext:
    return SharedContext(MemoryStore(), StoreLimits(), Admission(StoreLimits(), Quota()), lambda _: None, clock)


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


async def test_a_domain_has_its_own_lane_for_reads_and_answers_to_it_take_turns() -> None:
    made = shared(Clock())
    async with made.turn(5), made.turn(0):
        assert (made.turn(5).locked(), made.turn(7).locked()) == (True, False)
    async with made.lane(5), made.lane(5):
        assert [each for each in (5, 0, 7, None) if made.lane(each).locked()] == [5]
    assert not made.turn(5).locked()
    assert not made.lane(5).locked()


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


async def test_only_so_many_owners_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "MAX_OWNERS", 2)
    made = shared(Clock())
    for node in ("/a", "/b", "/a", "/c"):
        made.remember_owner(node, 5)
    assert list(made.owners) == ["/a", "/c"]


# Claims


async def test_claims_tell_domain_0_and_nobody_else_what_they_are_on() -> None:
    async with MemoryStore() as store:
        store.put("/tool", b"", Permissions(0, "r"))
        await state.prepare_records(store)
        assert await state.read_claims(store) == []
        for node in ("/a", "/b"):
            await store.write(state.claim_path(node), node.encode())
        assert sorted(await state.read_claims(store)) == ["/a", "/b"]
        assert await store.permissions(state.claim_path("/a")) == Permissions(0, "n")


# Expired responses


REQUESTS, RESPONSES = "/svc/rpc/request/read", "/svc/rpc/response/read"


class Looks:
    """A reader that looks when the test says so."""

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


async def test_an_answer_that_is_there_at_two_looks_is_removed_with_its_request(looks: Looks) -> None:
    unanswered = {f"{REQUESTS}/0", f"{REQUESTS}/0/a"}
    looks.store.put(f"{REQUESTS}/0/a", "x")
    looks.answered("1")
    await looks.look()
    looks.answered("2")
    assert f"{RESPONSES}/1" in looks.store.tree
    await looks.look()
    assert looks.nodes == unanswered | {f"{REQUESTS}/2", f"{REQUESTS}/2/a", f"{RESPONSES}/2", f"{RESPONSES}/2/a"}
    await looks.look()
    assert looks.nodes == unanswered


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


# Callers


@each_case(
    ("permissions", "domid"),
    [
        (Permissions(0, "n"), 0),
        (Permissions(0, "r", ((5, "r"),)), 0),
        (Permissions(5, "n"), 5),
        (Permissions(5, "n", ((0, "b"),)), 5),
        (Permissions(0, "n", ((5, "b"),)), 5),
        (Permissions(0, "n", ((5, "w"), (7, "r"))), 5),
        (Permissions(5, "n", ((7, "w"),)), None),
        (Permissions(0, "n", ((5, "b"), (7, "b"))), None),
        (Permissions(0, "w"), None),
        (Permissions(5, "b"), None),
    ],
)
def test_it_is_the_one_that_may_have_written(permissions: Permissions, domid: int | None) -> None:
    assert caller_of(permissions) == domid


@each_case(
    ("askers", "domid"),
    [([0, 0], 0), ([5, 5], 5), ([0, 5], 5), ([5, 0, 5], 5), ([5, 7], None), ([0, None], None), ([5, None], None)],
)
def test_a_request_of_several_nodes_is_made_in_the_name_of_the_least(
    askers: list[int | None], domid: int | None
) -> None:
    assert least_privileged(askers) == domid


LIMITS = StoreLimits(calls=1, calls_per_domain=2, body=100, body_per_domain=10)


async def test_another_domain_is_told_that_there_is_no_room_and_hurts_nobody_else() -> None:
    room = Quota()
    admission = Admission(LIMITS, room)
    assert (admission.max_body(0), admission.max_body(5)) == (100, 10)
    async with admission.admitted(5) as one, admission.admitted(5) as two:
        assert one is not None
        assert two is not None
        assert [one(1), two(10), two(9), two(9)] == [True, False, True, True]
        assert (room.calls, room.buffered) == (2, 10)
        async with admission.admitted(5) as three, admission.admitted(7) as other, admission.admitted(0) as dom0:
            assert three is None
            assert other is not None
            assert dom0 is not None
            assert [other(10), dom0(99)] == [True, True]
    assert (room.calls, room.buffered) == (0, 0)
    async with admission.admitted(5) as too_large:
        assert too_large is not None
        assert not too_large(11)


async def test_domain_0_waits_for_its_turn_and_not_for_what_all_listeners_share() -> None:
    admission = Admission(LIMITS, Quota())
    turns: list[int] = []

    async def take(number: int) -> None:
        async with admission.admitted(0):
            turns.append(number)

    async with asyncio.TaskGroup() as group, admission.admitted(0):
        group.create_task(take(2))
        await asyncio.sleep(0)
        turns.append(1)
    assert turns == [1, 2]
    admission = Admission(LIMITS, Quota(max_calls=1))
    async with admission.admitted(5), admission.admitted(0) as dom0:
        assert dom0 is None
