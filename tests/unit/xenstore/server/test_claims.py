"""Claims: where they stand, and who may see them."""

from __future__ import annotations

from adapters.xenstore.client.wire import Permissions
from adapters.xenstore.server import state
from tests.kit.memory_store import MemoryStore


def test_a_claim_has_one_length_and_a_place_of_its_own() -> None:
    one, other = (state.claim_path(node) for node in ("/a", "/" + "b" * 3000))
    assert one != other
    assert len(one) == len(other) < 100
    assert one.startswith("/tool/xcp-gateway/claims/")


async def test_nobody_but_domain_0_sees_claims() -> None:
    async with MemoryStore() as store:
        store.put("/tool", b"", Permissions(0, "r"))
        await state.prepare_records(store)
        await store.write(state.claim_path("/a"), b"/a")
        assert await store.permissions(state.claim_path("/a")) == Permissions(0, "n")


def test_what_an_answer_left_is_written_down_elsewhere() -> None:
    assert state.answer_path("/a") == state.claim_path("/a").replace("/claims/", "/answers/")


async def test_claims_tell_what_they_are_on() -> None:
    async with MemoryStore() as store:
        assert await state.read_claims(store) == []
        for node in ("/a", "/b"):
            await store.write(state.claim_path(node), node.encode())
        assert sorted(await state.read_claims(store)) == ["/a", "/b"]
