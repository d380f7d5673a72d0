"""Nodes that are published, and those whose change calls a method."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
from msgspec.structs import replace

from adapters.xenstore.client.client import StoreError, Transaction, XenstoreClient
from adapters.xenstore.client.connection import StoreTimeoutError
from adapters.xenstore.client.wire import Permissions
from adapters.xenstore.publish import publisher, watch_trigger
from adapters.xenstore.publish.publisher import XenstorePublisher
from adapters.xenstore.publish.watch_trigger import XenstoreTrigger
from gateway.core.routing.publication import Grants, NodeSet, Text, WatchTrigger, digest
from gateway.core.routing.route import Route
from gateway.core.rpc.model import Call, Outcome, Reply
from gateway.core.xenstore.paths import template
from tests.kit.backends import toy_route
from tests.kit.cases import each_case
from tests.kit.programs import TIMEOUT
from tests.kit.stores import Xenstored, changes, connected, tree, until, xenstored

DOMAIN = "/local/domain/5"
TARGET = f"{DOMAIN}/memory/target"


@pytest.fixture(scope="module")
def server() -> Iterator[Xenstored]:
    with xenstored() as server:
        yield server


@pytest.fixture
async def store(server: Xenstored) -> AsyncIterator[XenstoreClient]:
    async with connected(server.path) as store:
        for old in ("/local", "/a", "/tool/xcp-gateway"):
            await store.remove(old)
        yield store


TRIGGER = WatchTrigger("store", template("/a/b"), toy_route("Ring"), {"value": Text("{value}")}, fingerprint="watcher")


class Heard:
    def __init__(self) -> None:
        self.values: asyncio.Queue[object] = asyncio.Queue()
        self.pictures: asyncio.Queue[str] = asyncio.Queue()
        self.held: asyncio.Event | None = None
        self.finished = 0

    async def fire(self, _route: Route, call: Call) -> Outcome:
        self.values.put_nowait(call.named["value"])
        if self.held is not None:
            await self.held.wait()
        self.finished += 1
        return Reply(None)


@asynccontextmanager
async def board(store: XenstoreClient, *triggers: str) -> AsyncIterator[tuple[XenstorePublisher, Heard]]:
    """One that writes. `triggers`: paths with a trigger that does not run."""
    heard = Heard()
    made = XenstorePublisher(store, heard.fire, heard.pictures.put_nowait)
    for path in triggers:
        watcher = XenstoreTrigger(replace(TRIGGER, node=template(path)), store, heard.fire, heard.pictures.put_nowait)
        made._triggers[path] = watcher
    made.start()
    try:
        yield made, heard
    finally:
        await made.stop()


@asynccontextmanager
async def running(store: XenstoreClient, *triggers: str) -> AsyncIterator[XenstorePublisher]:
    async with board(store, *triggers) as (made, _):
        yield made


def node_set(grants: Grants = (), domain: str = "", **leaves: bytes | None) -> NodeSet:
    return NodeSet({f"/a/{name}": value for name, value in leaves.items()}, grants, domain)


async def test_nodes_are_written_together_and_only_where_they_differ(store: XenstoreClient) -> None:
    await store.write("/a/b", b"1")
    with changes(store, "/a") as seen:
        async with running(store) as writer:
            writer.show("k", node_set(b=b"1", c=b"2", d=b""))
            await until(store, "/a/c", b"2")
            assert await store.read("/a/d") == b""
            writer.show("k", node_set(b=b"1", c=b"3", d=b""))
            await until(store, "/a/c", b"3")
            assert writer.written == 3
            writer.show("k", node_set(b=b"1", c=None, d=b""))
            await until(store, "/a/c", None)
    assert seen[0] == "/a"
    assert set(seen[1:]) == {"/a/c", "/a/d"}


async def test_nothing_is_written_for_a_domain_that_is_not_there_until_it_comes(store: XenstoreClient) -> None:
    async with running(store) as writer:
        for value in (b"1", b"2"):
            writer.show("k", NodeSet({TARGET: value}, (), DOMAIN))
            writer.show("other", node_set(b=value))
            await until(store, "/a/b", value)
            assert await store.read(DOMAIN) is None
            assert writer._awaited.keys() == {DOMAIN}
            writer.forget("k")
            assert writer._awaited == {}
            assert writer._keys.get(TARGET) is None
        writer.show("k", NodeSet({TARGET: b"3"}, (), DOMAIN))
        await store.mkdir(DOMAIN)
        await until(store, TARGET, b"3")
        assert writer._awaited == {}


async def test_nodes_of_a_domain_that_is_gone_are_not_made_again(store: XenstoreClient) -> None:
    await store.mkdir(DOMAIN)
    async with running(store) as writer:
        writer.show("k", NodeSet({TARGET: b"1"}, (), DOMAIN))
        await until(store, TARGET, b"1")
        await store.remove(DOMAIN)
        writer._check("k")
        writer.show("other", node_set(b=b"1"))
        await until(store, "/a/b", b"1")
        assert await store.read(DOMAIN) is None
        await store.mkdir(DOMAIN)  # another domain with the same number: what was shown of the first is not its
        writer._check("k")
        writer.show("other", node_set(b=b"2"))
        await until(store, "/a/b", b"2")
        assert await store.read(TARGET) is None


async def test_everything_is_written_again_when_the_store_has_forgotten_it() -> None:
    with xenstored() as server:
        async with connected(server.path) as store, running(store) as writer:
            await store.mkdir(DOMAIN)
            writer.show("k", node_set(b=b"1"))
            writer.show("of a domain", NodeSet({TARGET: b"1"}, (), DOMAIN))
            await until(store, TARGET, b"1")
            server.kill()
            writer.show("late", node_set(c=b"2"))
            server.start()
            await until(store, "/a/b", b"1")
            await until(store, "/a/c", b"2")
            assert await store.read(DOMAIN) is None
            async with connected(server.path) as toolstack:
                await toolstack.mkdir(DOMAIN)
            await until(store, TARGET, b"1")


async def test_a_node_with_a_bell_is_written_when_it_is_not_there_and_that_rings_nothing(store: XenstoreClient) -> None:
    async with running(store, "/a/b") as writer:
        for value in (b"1", b"2"):
            writer.show("k", node_set(b=value))
            await until(store, "/a/b", value)
            assert await watch_trigger.read_processed(store, "/a/b") == (digest(value), "")
        writer.show("k", node_set(b=None))
        await until(store, "/a/b", None)
        assert await watch_trigger.read_processed(store, "/a/b") == ("", "")


async def test_what_the_other_side_wrote_stays_until_it_is_rung(store: XenstoreClient) -> None:
    async with running(store, "/a/b") as writer:
        await store.write("/a/b", b"theirs")
        writer.show("k", node_set(b=b"ours", c=b"1"))
        await until(store, "/a/c", b"1")
        assert await store.read("/a/b") == b"theirs"
        await watch_trigger.mark_in_progress(
            store, "/a/b", await watch_trigger.read_processed(store, "/a/b"), digest(b"theirs")
        )
        writer.show("k", node_set(b=b"ours", c=b"2"))
        await until(store, "/a/c", b"2")
        assert await store.read("/a/b") == b"theirs"
        await watch_trigger.mark_processed(store, "/a/b", digest(b"theirs"))
        writer._check("k")
        await until(store, "/a/b", b"ours")


async def test_an_old_value_takes_the_place_of_no_newer_one_that_its_trigger_has_processed_meanwhile(
    store: XenstoreClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would count as processed, and a client that writes the old value just then would not be heard."""
    read = Transaction.read

    async def read_after_a_ring(nodes: Transaction, path: str) -> bytes | None:
        if path == "/a/b" and await store.read(path) is None:
            await store.write(path, b"new")
            await watch_trigger.mark_processed(store, path, digest(b"new"))
            writer.show("k", node_set(b=b"new"))
        return await read(nodes, path)

    async with running(store, "/a/b") as writer:
        monkeypatch.setattr(Transaction, "read", read_after_a_ring)
        writer.show("k", node_set(b=b"old"))
        await until(store, "/a/b", b"new")
        writer.show("other", node_set(c=b""))
        await until(store, "/a/c", b"")
        assert writer.written == 1


async def test_only_so_many_pictures_are_kept(store: XenstoreClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "MAX_NODE_SETS", 2)
    writer = XenstorePublisher(store, Heard().fire, lambda _: None)
    for number in range(4):
        writer.show(f"{number}", NodeSet({f"/a/{number}": b"1"}))
    assert [writer._keys.get(f"/a/{number}") for number in range(4)] == [None, None, "2", "3"]


async def test_nothing_that_a_guest_has_planted_is_left_where_something_is_published(store: XenstoreClient) -> None:
    await store.write(DOMAIN, b"")
    for planted in (TARGET, f"{TARGET}/below", f"{TARGET}/below/it"):
        await store.write(planted, b"1")
        await store.set_permissions(planted, Permissions(5, "b"))
    await store.write(f"{DOMAIN}/memory/deaf/below", b"planted")
    async with running(store) as writer:
        leaves = {TARGET: b"1", f"{DOMAIN}/memory/deaf": None, f"{DOMAIN}/memory/last": b"1"}
        writer.show("k", NodeSet(leaves, (("n", 0), ("r", 5)), DOMAIN))
        await until(store, f"{DOMAIN}/memory/last", b"1")
        assert await tree(store, DOMAIN) == {"memory/target": b"1", "memory/last": b"1"}
        assert await store.list(TARGET) == []
        assert await store.permissions(TARGET) == Permissions(0, "n", ((5, "r"),))
        assert await store.permissions(DOMAIN) == Permissions(0, "n")
        assert await store.read(f"{DOMAIN}/memory/deaf") is None


async def test_a_published_node_that_stands_above_another_does_not_take_it_away(store: XenstoreClient) -> None:
    await store.write("/a/b/c", b"planted")
    async with running(store) as writer:
        writer.show("k", NodeSet({"/a/b/c": b"2", "/a/b": b"1", "/a/z": b"3"}, (("n", 0),)))
        await until(store, "/a/z", b"3")
        assert await tree(store, "/a") == {"b": b"1", "b/c": b"2", "z": b"3"}


async def test_what_the_store_refuses_harms_no_other_picture_and_is_written_later_if_it_can_be(
    store: XenstoreClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals: list[Exception] = []
    commit = store.transaction

    async def refuse(work: Callable[[Transaction], Awaitable[bool]]) -> bool:
        if refusals:
            if len(refusals) == 4:
                writer.forget("forgotten")
            raise refusals.pop()
        return await commit(work)

    monkeypatch.setattr(store, "transaction", refuse)
    async with running(store) as writer:
        writer.show("first", node_set(c=b"0"))
        await until(store, "/a/c", b"0")
        refusals += [StoreError(name, "/a/b") for name in ("EQUOTA", "ENOSPC", "EIO")]
        refusals.append(StoreTimeoutError("late", sent=True))
        writer.show("forgotten", node_set(z=b"1"))
        writer.show("k", node_set(b=b"1"))
        await until(store, "/a/b", b"1")
        assert refusals == []
        writer.show("bad", NodeSet({"/a/" + "x" * 4000: b""}))
        writer.show("good", node_set(c=b"1"))
        await until(store, "/a/c", b"1")
    assert (await tree(store, "/a")).keys() == {"b", "c"}


# Nodes with triggers


async def test_what_is_shown_rings_nothing_and_what_is_rung_tells_whose_picture_it_was(store: XenstoreClient) -> None:
    async with board(store) as (made, heard), asyncio.timeout(TIMEOUT):
        made.register(TRIGGER)
        made.show("mine", NodeSet({"/a/b": b"1"}))
        await until(store, "/a/b", b"1")
        await store.write("/a/b", b"2")
        assert await heard.values.get() == "2"
        assert await heard.pictures.get() == "mine"
        made.show("mine", NodeSet({"/a/b": b"3"}))
        await until(store, "/a/b", b"3")
        await store.write("/a/b", b"4")
        assert await heard.values.get() == "4"
        assert made.written == 2


async def test_a_bell_that_is_taken_down_rings_no_more_and_can_be_hung_again(store: XenstoreClient) -> None:
    async with board(store) as (made, heard), asyncio.timeout(TIMEOUT):
        for value in (b"1", b"2", b"3"):
            made.register(TRIGGER)
            await store.write("/a/b", value)
            assert await heard.values.get() == value.decode()
            await until(store, "/tool/xcp-gateway/processed/a/b", lambda found: found is not None and found[:1] != b"?")
            watches = store.status().watches
            made.unregister(TRIGGER)
            assert store.status().watches == watches - 1
            await store.write("/a/b", value + b"!")
            made.register(TRIGGER)  # one that is taken down at once never rings
            made.unregister(TRIGGER)
        made.show("mine", NodeSet({"/a/b": b"ours", "/a/c": b""}))
        await until(store, "/a/b", b"ours")
        assert heard.values.empty()
        made.forget("mine")  # it stays, and is written no more
        await store.write("/a/b", b"theirs")
        made.show("other", NodeSet({"/a/c": b"1"}))
        await until(store, "/a/c", b"1")
        assert await store.read("/a/b") == b"theirs"


async def test_what_is_being_rung_is_heard_out_before_another_bell_hangs_there(store: XenstoreClient) -> None:
    async with board(store) as (made, heard), asyncio.timeout(TIMEOUT):
        heard.held = asyncio.Event()
        made.register(TRIGGER)
        await store.write("/a/b", b"1")
        assert await heard.values.get() == "1"
        made.unregister(TRIGGER)
        made.register(replace(TRIGGER, fingerprint="another"))
        await store.write("/a/b", b"2")
        await until(store, "/a/b", b"2")
        assert heard.values.empty()
        heard.held.set()
        assert await heard.values.get() == "2"


@each_case(("grace", "finishes"), [(TIMEOUT, 1), (0.01, 0)])
async def test_a_stop_waits_a_while_for_what_is_being_rung(store: XenstoreClient, grace: float, finishes: int) -> None:
    async with board(store) as (made, heard), asyncio.timeout(TIMEOUT):
        heard.held = asyncio.Event()
        made.register(TRIGGER)
        await store.write("/a/b", b"%d" % finishes)
        await heard.values.get()
        if finishes:
            asyncio.get_running_loop().call_later(0.05, heard.held.set)
        assert await made.stop(grace) == 1 - finishes
        assert heard.finished == finishes
