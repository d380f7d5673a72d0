"""What an endpoint remembers, who asks, and what is read of a request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from adapters.limits import Quota
from adapters.xenstore.client.wire import Operation, Permissions, least_privileged
from adapters.xenstore.server import state, transactions
from adapters.xenstore.server.state import Admission, SharedContext, StoreLimits
from adapters.xenstore.server.transactions import too_long
from adapters.xenstore.styles.base import ANYTHING, Remove, Write
from gateway.core.xenstore.paths import template
from tests.kit.cases import each_case, present
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


async def test_a_guest_has_a_narrow_lane_of_its_own_for_reads_and_answers_to_it_take_turns(made: SharedContext) -> None:
    async with made.turn(5):
        assert (made.turn(5).locked(), made.turn(7).locked()) == (True, False)
    async with made.lane(5), made.lane(5):
        assert [each for each in (5, 0, 7, None) if made.lane(each).locked()] == [5]


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


# Reading


@pytest.fixture
async def store() -> AsyncIterator[MemoryStore]:
    async with MemoryStore() as store:
        yield store


def test_conditions_hold_for_anything_but_not_for_nothing() -> None:
    assert transactions.conditions_hold({"/a": ANYTHING, "/b": None}, [b"", None])
    assert not transactions.conditions_hold({"/a": ANYTHING}, [None])


def test_what_some_store_would_refuse_is_known_before() -> None:
    assert too_long([Write("/a", b"x" * 2048), Remove("/b")]) is None
    for step in (Write("/a/long", b"x" * 2049), Write("/" + "a" * 3072)):
        fault = present(too_long([step]))
        assert "at most" in fault.message


async def test_a_tree_is_read_level_by_level_with_permissions_and_not_below_a_value(store: MemoryStore) -> None:
    assert await transactions.tree(store, "/a", 10, 100) == {}
    for path, value in {"/a/b": b"1", "/a/c/d/e": b"2", "/a/f": b"", "/a/b/hidden": b"3"}.items():
        store.put(path, value)
    store.put("/a/b", b"1", Permissions(7, "n"))
    found = await transactions.tree(store, "/a", 10, 100)
    values = {"": b"", "b": b"1", "c": b"", "c/d": b"", "c/d/e": b"2", "f": b""}
    assert found == {path: (value, Permissions(7 if path == "b" else 0)) for path, value in values.items()}
    assert await transactions.several(store, ["/a/b", "/z"]) == {"/a/b": (b"1", Permissions(7, "n"))}


async def test_a_wide_tree_is_read_bit_by_bit() -> None:
    """Limits the operations at a time, so that others get in between."""
    async with MemoryStore() as store:
        for number in range(100):
            store.put(f"/a/{number}", b"1")
        under_way, most = 0, 0
        ask = store._request

        async def counted(operation: Operation, payload: bytes, path: str) -> bytes:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(0)
            under_way -= 1
            return await ask(operation, payload, path)

        store._request = counted  # type: ignore[method-assign]
        assert len(await transactions.tree(store, "/a", 200, 1000)) == 101
        assert most <= 2 * transactions.BATCH


async def test_more_nodes_or_bytes_than_are_allowed_are_too_much(store: MemoryStore) -> None:
    store.put("/a/b", b"12345")
    store.put("/a/c", b"12345")
    assert await transactions.tree(store, "/a", 3, 10) is not None
    with pytest.raises(transactions.RequestTooLargeError, match="at most 2 nodes"):
        await transactions.tree(store, "/a", 2, 10)
    with pytest.raises(transactions.RequestTooLargeError, match="at most 9 bytes"):
        await transactions.tree(store, "/a", 3, 9)


async def test_places_are_found_at_and_below_a_node() -> None:
    channel = template("/local/domain/{server}/RPC/fe/{domid}/query/{_id}")
    async with MemoryStore() as store:
        for path in ("0/RPC/fe/7/query/1", "0/RPC/fe/8/query/2", "0/RPC/other/8/query/3", "5/RPC/fe/7/query/1"):
            store.put(f"/local/domain/{path}/cmd")

        async def nodes(start: str) -> list[str]:
            found = await transactions.places(store, channel, start)
            return sorted(match.node.removeprefix("/local/domain/") for match in found)

        everything = ["0/RPC/fe/7/query/1", "0/RPC/fe/8/query/2", "5/RPC/fe/7/query/1"]
        assert await nodes("/local/domain") == everything
        assert await nodes("/local/domain/0/RPC") == everything[:2]
        assert await nodes("/local/domain/0/memory") == []
        assert await nodes("/elsewhere") == []
        (match, _) = await transactions.places(store, template("/local/domain/{domid}/not/there"), "/local/domain")
        assert match.node == "/local/domain/0/not/there"
