"""What an endpoint remembers, and who asks."""

from __future__ import annotations

import asyncio

import pytest

from adapters.limits import Quota
from adapters.xenstore.client.wire import Permissions, least_privileged
from adapters.xenstore.server import state
from adapters.xenstore.server.state import Admission, SharedContext, StoreLimits
from tests.kit.cases import each_case
from tests.kit.memory_store import MemoryStore


@pytest.fixture
def made() -> SharedContext:
    return SharedContext(MemoryStore(), Admission(StoreLimits(), Quota()), lambda _: None)


async def test_only_so_many_responses_and_bytes_and_owners_are_remembered(
    made: SharedContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "MAX_RESPONSES", 3)
    monkeypatch.setattr(state, "MAX_RESPONSE_BYTES", 10)
    monkeypatch.setattr(state, "MAX_OWNERS", 2)
    for name in "abcd":
        made.store_response(name, 0, b"1", 1)
    assert list(made.responses) == ["b", "c", "d"]
    made.store_response("e", 0, b"123456789", 1)
    assert (list(made.responses), made.response_bytes) == (["d", "e"], 10)
    made.store_response("e", 0, b"1", 1)
    made.forget_response("d")
    assert (list(made.responses), made.response_bytes) == (["e"], 1)
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
    assert permissions.writer == domid


@each_case(
    ("askers", "domid"),
    [([0, 0], 0), ([5, 5], 5), ([0, 5], 5), ([5, 0, 5], 5), ([5, 7], None), ([0, None], None), ([5, None], None)],
)
def test_a_request_of_several_nodes_is_made_in_the_name_of_the_least(
    askers: list[int | None], domid: int | None
) -> None:
    assert least_privileged(Permissions(0, "b") if each is None else Permissions(each) for each in askers) == domid


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
