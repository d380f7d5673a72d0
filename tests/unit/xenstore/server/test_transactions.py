"""Steps put into a store: in their order, owned over before they can be seen, within what every store takes."""

from __future__ import annotations

from adapters.xenstore.client.wire import Operation, Permissions
from adapters.xenstore.server.transactions import conditions_hold, run_steps, too_long
from adapters.xenstore.styles.base import ANYTHING, Conditions, Remove, Write
from tests.kit.memory_store import MemoryStore


async def test_steps_are_sent_in_their_order() -> None:
    async with MemoryStore() as store:
        store.put("/a/planted")
        store.put("/c")
        store.operations.clear()
        await run_steps(store, [Write("/a", b"1", owned=True), Write("/a/b", b"2"), Remove("/c"), Write("/d")], 5)
        assert [(operation, path) for operation, path in store.operations] == [
            (Operation.RM, "/a"),
            (Operation.WRITE, "/a"),
            (Operation.SET_PERMS, "/a"),
            (Operation.WRITE, "/a/b"),
            (Operation.RM, "/c"),
            (Operation.WRITE, "/d"),
        ]
        assert await store.read("/a/planted") is None


async def test_a_handed_node_and_what_is_made_below_it_is_the_asking_domains_alone() -> None:
    async with MemoryStore() as store:
        store.put("/a", b"", Permissions(0, "r"))
        for domid in (5, 0):
            await run_steps(store, [Write(f"/a/{domid}", owned=True), Write(f"/a/{domid}/b")], domid)
            assert await store.permissions(f"/a/{domid}/b") == Permissions(domid, "n")


def test_conditions_hold_for_a_value_for_anything_and_for_nothing() -> None:
    conditions: Conditions = {"/a": b"1", "/b": ANYTHING, "/c": None}
    assert conditions_hold(conditions, [b"1", b"", None])
    assert not conditions_hold(conditions, [b"2", b"", None])
    assert not conditions_hold(conditions, [b"1", None, None])
    assert not conditions_hold(conditions, [b"1", b"", b""])
    assert not conditions_hold({"/a": b""}, [None])


def test_what_some_store_would_refuse_is_known_before() -> None:
    assert too_long([Write("/a", b"x" * 2048), Remove("/b")]) is None
    for step in (Write("/a/long", b"x" * 2049), Write("/" + "a" * 3072)):
        fault = too_long([step])
        assert fault is not None
        assert "at most" in fault.message
