"""Nodes whose change calls a method, and nodes that are published; in a real store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager

import pytest
from msgspec.structs import replace

from adapters.xenstore.client.client import StoreError, Transaction, XenstoreClient
from adapters.xenstore.client.connection import StoreTimeoutError
from adapters.xenstore.client.wire import Answer, Asked, Permissions
from adapters.xenstore.publish import publisher, watch_trigger
from adapters.xenstore.publish.publisher import XenstorePublisher
from adapters.xenstore.publish.watch_trigger import XenstoreTrigger
from gateway.core.routing.publication import Grants, NodeSet, RelatedNode, Text, WatchTrigger, digest
from gateway.core.routing.route import Effect, Route
from gateway.core.rpc.model import Call, Fault, FaultCode, Outcome, Reply
from gateway.core.xenstore.paths import DOM0_ALONE, Domains, template
from tests.kit.backends import toy_route
from tests.kit.cases import each_case, present
from tests.kit.programs import TIMEOUT
from tests.kit.stores import Xenstored, connected, tree, until, xenstored

DOMAIN = "/local/domain/5"
TARGET = f"{DOMAIN}/memory/target"
OWN = Domains(named=frozenset({"domid"}))
UPDATED = "/local/domain/5/data/updated"
TRIGGER = WatchTrigger(
    "store",
    template("/local/domain/{domid}/data/updated"),
    toy_route("Ring"),
    {"domid": Text("{domid}"), "value": Text("{value}")},
    fingerprint="watcher",
)
BELL = WatchTrigger("store", template("/a/b"), toy_route("Ring"), {"value": Text("{value}")}, fingerprint="watcher")
WRITES = replace(TRIGGER, route=replace(TRIGGER.route, effect=Effect.WRITE))
READS = replace(TRIGGER, route=replace(TRIGGER.route, effect=Effect.IDEMPOTENT))
UNAVAILABLE = Fault(FaultCode.UNAVAILABLE, "nobody is there; the call was not sent")
BUSY, TOO_LATE = Fault(FaultCode.BUSY, "no room"), Fault(FaultCode.TIMEOUT, "too late")
NO_REPLY = Fault(FaultCode.NO_REPLY, "it went away")


class Service:
    """Answers rings with the outcomes that are prepared, then with nothing."""

    def __init__(self, *outcomes: Outcome) -> None:
        self.outcomes = list(outcomes)
        self.calls: asyncio.Queue[Call] = asyncio.Queue()
        self.fired: asyncio.Queue[str] = asyncio.Queue()
        self.held: asyncio.Event | None = None
        self.finished = 0

    async def fire(self, route: Route, call: Call) -> Outcome:
        self.calls.put_nowait(call)
        if self.held is not None:
            await self.held.wait()
        self.finished += 1
        return self.outcomes.pop(0) if self.outcomes else Reply(None)

    async def next(self) -> dict[str, object]:
        return dict((await asyncio.wait_for(self.calls.get(), TIMEOUT)).named)

    async def next_fired(self) -> str:
        return await asyncio.wait_for(self.fired.get(), TIMEOUT)


@pytest.fixture(scope="module")
def server() -> Iterator[Xenstored]:
    with xenstored() as server:
        yield server


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_trigger, "FIRST_PAUSE", 0.01)


@pytest.fixture
async def store(server: Xenstored) -> AsyncIterator[XenstoreClient]:
    async with connected(server.path) as store:
        for old in ("/local", "/a", "/tool/xcp-gateway"):
            await store.remove(old)
        yield store


@asynccontextmanager
async def hung(
    store: XenstoreClient, trigger: WatchTrigger = TRIGGER, outcomes: Sequence[Outcome] = ()
) -> AsyncIterator[Service]:
    """Run a trigger; yields the service that it calls."""
    service = Service(*outcomes)
    task = asyncio.ensure_future(XenstoreTrigger(trigger, store, service.fire, service.fired.put_nowait).run())
    try:
        yield service
    finally:
        task.cancel()
        await asyncio.wait({task})


async def after_another(store: XenstoreClient, service: Service) -> None:
    """Ring at another node and wait for it: whatever came before has been looked at by then."""
    other = "/local/domain/9/data/updated"
    await store.write(other, b"another" + (await store.read(other) or b""))
    while (await service.next())["domid"] != "9":
        pass
    while await service.next_fired() != other:
        pass


async def test_it_rings_once_for_each_content(store: XenstoreClient) -> None:
    async with hung(store) as service:
        for value in (b"1", b"2", b"1", b""):
            await store.write(UPDATED, value)
            assert await service.next() == {"domid": "5", "value": value.decode()}
            assert await service.next_fired() == UPDATED
            await store.write(UPDATED, value)
            await after_another(store, service)
            assert service.calls.empty()


async def test_what_was_there_before_is_rung_once_and_not_again_by_the_next_gateway(store: XenstoreClient) -> None:
    await store.write(UPDATED, b"1")
    async with hung(store) as service:
        assert await service.next() == {"domid": "5", "value": "1"}
        await service.next_fired()
    async with hung(store) as service:
        await after_another(store, service)
        assert service.calls.empty()
    await store.write(UPDATED, b"2")
    async with hung(store) as service:
        assert await service.next() == {"domid": "5", "value": "2"}
        await service.next_fired()


async def test_only_its_own_node_rings(store: XenstoreClient) -> None:
    async with hung(store) as service:
        for path in ("/local/domain/5/data", f"{UPDATED}/below", "/local/domain/5/data/other", "/local/domain/x"):
            await store.write(path, b"1")
        assert await service.next() == {"domid": "5", "value": ""}  # made, empty, by what was written below it
        await service.next_fired()
        await after_another(store, service)
        assert service.calls.empty()


async def test_a_node_that_goes_and_comes_again_rings_again(store: XenstoreClient) -> None:
    await watch_trigger.mark_processed(store, UPDATED, "it went while nobody looked")
    await watch_trigger.mark_processed(store, "/other", "of another trigger")
    async with hung(store) as service:
        await until(store, watch_trigger.record_path(UPDATED), None)
        for gone in (UPDATED, "/local/domain/5", "/local/domain/5/data"):
            await store.write(UPDATED, b"1")
            assert await service.next() == {"domid": "5", "value": "1"}
            await service.next_fired()
            await store.remove(gone)
            await until(store, watch_trigger.record_path(UPDATED), None)
        assert await store.list(watch_trigger.RECORDS) == ["other"]  # of its record no empty folder is left


async def test_changes_while_it_is_being_rung_are_one_more_ring(store: XenstoreClient) -> None:
    async with hung(store) as service:
        service.held = asyncio.Event()
        await store.write(UPDATED, b"0")
        assert (await service.next())["value"] == "0"
        for number in range(1, 20):
            await store.write(UPDATED, b"%d" % number)
        service.held.set()
        assert (await service.next())["value"] == "19"
        assert [await service.next_fired() for _ in range(2)] == [UPDATED, UPDATED]
        await after_another(store, service)
        assert service.calls.empty()


@pytest.mark.parametrize(
    ("trigger", "outcomes", "rings"),
    [
        (WRITES, [UNAVAILABLE, BUSY], 3),  # it was not heard
        (READS, [UNAVAILABLE, BUSY], 3),
        (WRITES, [NO_REPLY], 1),  # it may have been heard
        (READS, [NO_REPLY, TOO_LATE], 3),
        (TRIGGER, [Fault(FaultCode.APPLICATION, "no")], 1),
    ],
)
async def test_a_ring_is_tried_again_where_that_can_make_no_write_twice(
    store: XenstoreClient, trigger: WatchTrigger, outcomes: list[Outcome], rings: int
) -> None:
    async with hung(store, trigger, outcomes) as service:
        await store.write(UPDATED, b"1")
        assert [(await service.next())["value"] for _ in range(rings)] == ["1"] * rings
        assert await service.next_fired() == UPDATED
        assert service.calls.empty()
        assert await watch_trigger.read_processed(store, UPDATED) == (digest(b"1"), "")
        await after_another(store, service)
        assert service.calls.empty()


async def test_what_was_not_heard_and_is_taken_back_is_not_rung(store: XenstoreClient) -> None:
    async with hung(store, WRITES, [Reply(None), UNAVAILABLE]) as service:
        await store.write(UPDATED, b"old")
        await service.next()
        await service.next_fired()
        service.held = asyncio.Event()
        await store.write(UPDATED, b"new")
        await service.next()
        await store.write(UPDATED, b"old")
        service.held.set()
        await until(store, watch_trigger.record_path(UPDATED), digest(b"old").encode())
        service.held = None
        await after_another(store, service)
        assert service.calls.empty()


@pytest.mark.parametrize(("trigger", "rings"), [(WRITES, 1), (READS, 2)], ids=["write", "idempotent"])
async def test_a_gateway_that_dies_while_it_rings_rings_no_write_twice(
    store: XenstoreClient, trigger: WatchTrigger, rings: int
) -> None:
    async with hung(store, trigger) as service:
        service.held = asyncio.Event()
        await store.write(UPDATED, b"1")
        await service.next()
    async with hung(store, trigger) as service:
        for _ in range(rings - 1):
            assert (await service.next())["domid"] == "5"
            await service.next_fired()
        await until(store, watch_trigger.record_path(UPDATED), digest(b"1").encode())
        await after_another(store, service)
        assert service.calls.empty()
        await store.write(UPDATED, b"2")
        assert (await service.next())["value"] == "2"
        await service.next_fired()


@pytest.mark.parametrize(
    ("permissions", "domains", "domid"),
    [
        (Permissions(5, "n"), OWN, 5),
        (Permissions(0, "n", ((5, "b"),)), OWN, 5),
        (Permissions(0, "n", ((5, "r"),)), DOM0_ALONE, 0),
        (Permissions(6, "n"), OWN, None),
        (Permissions(5, "n"), DOM0_ALONE, None),
        (Permissions(5, "n", ((6, "w"),)), OWN, None),
        (Permissions(0, "b"), OWN, None),
    ],
)
async def test_it_rings_in_the_name_of_who_may_write_or_not_at_all(
    store: XenstoreClient, permissions: Permissions, domains: Domains, domid: int | None
) -> None:
    async def write(nodes: XenstoreClient) -> None:
        await nodes.write(UPDATED, b"1")
        await nodes.set_permissions(UPDATED, permissions)

    async with hung(store, replace(TRIGGER, domains=domains)) as service:
        await store.transaction(write)  # type: ignore[arg-type] # a transaction is as good as a store here
        if domid is not None:
            call = await asyncio.wait_for(service.calls.get(), TIMEOUT)
            assert (call.peer.domid, call.peer.address) == (domid, f"domain {domid}")
            await service.next_fired()
        await until(store, watch_trigger.record_path(UPDATED), digest(b"1").encode())
        assert service.calls.empty()


async def test_a_tree_is_told_without_the_bell_and_a_change_in_it_is_a_change(store: XenstoreClient) -> None:
    told = RelatedNode(".", tree=True)
    parameters = {"told": told, "os": RelatedNode("os/name"), "no": RelatedNode("x")}
    async with hung(store, replace(TRIGGER, parameters=parameters)) as service:
        for memory in (b"1", b"2"):
            await store.write("/local/domain/5/data/os/name", b"Debian")
            await store.write("/local/domain/5/data/memory", memory)
            await store.write(UPDATED, b"1")
            tree = {"os/name": "Debian", "memory": memory.decode()}
            assert await service.next() == {"told": tree, "os": "Debian"}
            await service.next_fired()


async def test_too_much_is_not_told(store: XenstoreClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_trigger, "MAX_RELATED", 3)
    async with hung(store, replace(TRIGGER, parameters={"told": RelatedNode(".", tree=True)})) as service:
        for number in range(5):
            await store.write(f"/local/domain/5/data/{number}", b"1")
        await store.write(UPDATED, b"1")
        await until(store, watch_trigger.record_path(UPDATED), bool)
        await store.write("/local/domain/7/data/updated", b"x" * 2049)
        await until(store, watch_trigger.record_path("/local/domain/7/data/updated"), bool)
        assert service.calls.empty()


async def test_the_log_says_why_a_ring_failed_and_not_what_was_written(
    store: XenstoreClient, caplog: pytest.LogCaptureFixture
) -> None:
    refusal = Fault(FaultCode.APPLICATION, "no domain 'hunter2'", name="org.xen.xcp.Error.NotFound")
    async with hung(store, outcomes=[refusal]) as service:
        await store.write(UPDATED, b"hunter2")
        await service.next_fired()
        await store.write(UPDATED, b"hunter2 \xff")
        await service.next_fired()
    assert [text.partition("updated: ")[2] for text in caplog.messages] == [
        "application org.xen.xcp.Error.NotFound",
        "not called: $.value: expected UTF-8 text",
    ]


async def test_a_refused_operation_costs_no_ring_and_makes_none_twice(
    store: XenstoreClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it is refused while all is looked through, while the fire is prepared, or when it is written down."""
    real_list, real_transaction = store.together, store.transaction
    refusing = {"list": 3, "transaction": 3}

    def refuse(what: str) -> None:
        if refusing[what]:
            refusing[what] -= 1
            raise StoreError("EQUOTA", "/")

    async def list_(asked: Sequence[Asked]) -> list[Answer]:
        refuse("list")
        return await real_list(asked)

    async def transaction(work: Callable[[Transaction], Awaitable[object]]) -> object:
        refuse("transaction")
        return await real_transaction(work)

    monkeypatch.setattr(store, "together", list_)
    monkeypatch.setattr(store, "transaction", transaction)
    await store.write(UPDATED, b"1")
    async with hung(store, WRITES) as service:
        assert await service.next() == {"domid": "5", "value": "1"}
        assert await service.next_fired() == UPDATED
        refusing["transaction"] = 1
        service.held = asyncio.Event()
        await store.write(UPDATED, b"2")
        assert await service.next() == {"domid": "5", "value": "2"}
        refusing["transaction"] = 2
        service.held.set()
        assert await service.next_fired() == UPDATED
        assert service.calls.empty()
    assert refusing == {"list": 0, "transaction": 0}


async def test_a_response_of_the_store_that_is_late_costs_no_ring_and_makes_none_twice(
    store: XenstoreClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection lives, so nothing is looked through anew. The store has done what it was asked."""
    real = store.transaction
    late = [True, False, True, True, False]  # twice a call is prepared, three times its outcome is recorded

    async def transaction(work: Callable[[Transaction], Awaitable[object]]) -> object:
        result = await real(work)
        if late.pop(0):
            raise StoreTimeoutError("late", sent=True)
        return result

    monkeypatch.setattr(store, "transaction", transaction)
    async with hung(store, WRITES) as service:
        await store.write(UPDATED, b"1")
        assert await service.next() == {"domid": "5", "value": "1"}
        assert await service.next_fired() == UPDATED
    assert (late, service.calls.qsize()) == ([], 0)


async def test_a_transaction_that_the_store_drops_rings_no_write_of_a_dead_gateway_again(
    store: XenstoreClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a forced live update: the transaction finds no record any more, and writes none."""
    real_read, real_write = Transaction.read, Transaction.write
    record, dropped = watch_trigger.record_path(UPDATED), ["read", "write"]

    async def read(nodes: Transaction, path: str) -> bytes | None:
        if path == record and "read" in dropped:
            dropped.remove("read")
            return None
        return await real_read(nodes, path)

    async def write(nodes: Transaction, path: str, value: bytes) -> None:
        if path == record and "write" in dropped:
            dropped.remove("write")
            raise StoreError("ENOENT", path)
        await real_write(nodes, path, value)

    await store.write(UPDATED, b"1")
    await watch_trigger.mark_in_progress(store, UPDATED, watch_trigger.ProcessedContent(), digest(b"1"))
    monkeypatch.setattr(Transaction, "read", read)
    monkeypatch.setattr(Transaction, "write", write)
    async with hung(store, WRITES) as service:
        await until(store, record, digest(b"1").encode())
        assert (dropped, service.calls.qsize()) == ([], 0)


async def test_a_store_that_is_lost_while_a_write_is_rung_does_not_have_it_rung_again(store: XenstoreClient) -> None:
    async with hung(store, WRITES) as service:
        service.held = asyncio.Event()
        await store.write(UPDATED, b"1")
        await service.next()
        present(store._connection).close("it went away")
        service.held.set()
        await asyncio.wait_for(store.until_connected(), TIMEOUT)
        await until(store, watch_trigger.record_path(UPDATED), digest(b"1").encode())
        assert service.calls.empty()


async def test_a_ring_is_made_in_the_name_of_the_least_of_all_who_wrote_what_it_tells(store: XenstoreClient) -> None:
    told = replace(TRIGGER, parameters={"domid": Text("{domid}"), "told": RelatedNode(".", tree=True)})
    async with hung(store, replace(told, domains=Domains(frozenset({7})))) as service:
        await store.write("/local/domain/5/data/os", b"planted")
        await store.set_permissions("/local/domain/5/data/os", Permissions(7, "n"))
        await store.write(UPDATED, b"1")
        call = await asyncio.wait_for(service.calls.get(), TIMEOUT)
        assert call.peer.domid == 7
    async with hung(store, told) as service:  # where domain 0 alone may fire
        await store.write(UPDATED, b"2")
        await after_another(store, service)
        assert service.calls.empty()


# Nodes that are published


@asynccontextmanager
async def board(store: XenstoreClient, *triggers: str) -> AsyncIterator[tuple[XenstorePublisher, Service]]:
    """One that writes. `triggers`: paths with a trigger that does not run."""
    heard = Service()
    made = XenstorePublisher(store, heard.fire, heard.fired.put_nowait)
    for path in triggers:
        watcher = XenstoreTrigger(replace(BELL, node=template(path)), store, heard.fire, heard.fired.put_nowait)
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
    async with running(store) as writer:
        for values, written in (({"c": b"2"}, 2), ({"c": b"3"}, 3), ({"c": None}, 4)):
            writer.show("k", node_set(b=b"1", d=b"", **values))
            await until(store, "/a/c", values["c"])
            assert (await store.read("/a/d"), writer.written) == (b"", written)


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
    writer = XenstorePublisher(store, Service().fire, lambda _: None)
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
            if len(refusals) == 5:
                writer.forget("forgotten")
            raise refusals.pop()
        return await commit(work)

    monkeypatch.setattr(store, "transaction", refuse)
    async with running(store) as writer:
        writer.show("first", node_set(c=b"0"))
        await until(store, "/a/c", b"0")
        refusals += [StoreError(name, "/a/b") for name in ("EQUOTA", "ENOSPC", "EIO")]
        refusals += [StoreTimeoutError("late", sent=True)] * 2  # for each of the two
        writer.show("forgotten", node_set(z=b"1"))
        writer.show("k", node_set(b=b"1"))
        await until(store, "/a/b", b"1")
        assert refusals == []
        writer.show("bad", NodeSet({"/a/" + "x" * 4000: b""}))
        writer.show("good", node_set(c=b"1"))
        await until(store, "/a/c", b"1")
    assert (await tree(store, "/a")).keys() == {"b", "c"}


# Published nodes with triggers


async def test_what_is_shown_rings_nothing_and_what_is_rung_tells_whose_picture_it_was(store: XenstoreClient) -> None:
    async with board(store) as (made, heard), asyncio.timeout(TIMEOUT):
        made.register(BELL)
        made.show("mine", NodeSet({"/a/b": b"1"}))
        await until(store, "/a/b", b"1")
        await store.write("/a/b", b"2")
        assert (await heard.next())["value"] == "2"
        assert await heard.next_fired() == "mine"
        made.show("mine", NodeSet({"/a/b": b"3"}))
        await until(store, "/a/b", b"3")
        await store.write("/a/b", b"4")
        assert (await heard.next())["value"] == "4"
        assert made.written == 2


async def test_a_bell_that_is_taken_down_rings_no_more_and_can_be_hung_again(store: XenstoreClient) -> None:
    async with board(store) as (made, heard), asyncio.timeout(TIMEOUT):
        for value in (b"1", b"2", b"3"):
            made.register(BELL)
            await store.write("/a/b", value)
            assert (await heard.next())["value"] == value.decode()
            await until(store, "/tool/xcp-gateway/processed/a/b", lambda found: found is not None and found[:1] != b"?")
            watches = store.status().watches
            made.unregister(BELL)
            assert store.status().watches == watches - 1
            await store.write("/a/b", value + b"!")
            made.register(BELL)  # one that is taken down at once never rings
            made.unregister(BELL)
        made.show("mine", NodeSet({"/a/b": b"ours", "/a/c": b""}))
        await until(store, "/a/b", b"ours")
        assert heard.calls.empty()
        made.forget("mine")  # it stays, and is written no more
        await store.write("/a/b", b"theirs")
        made.show("other", NodeSet({"/a/c": b"1"}))
        await until(store, "/a/c", b"1")
        assert await store.read("/a/b") == b"theirs"


async def test_what_is_being_rung_is_heard_out_before_another_bell_hangs_there(store: XenstoreClient) -> None:
    async with board(store) as (made, heard), asyncio.timeout(TIMEOUT):
        heard.held = asyncio.Event()
        made.register(BELL)
        await store.write("/a/b", b"1")
        assert (await heard.next())["value"] == "1"
        made.unregister(BELL)
        made.register(replace(BELL, fingerprint="another"))
        await store.write("/a/b", b"2")
        await until(store, "/a/b", b"2")
        assert heard.calls.empty()
        heard.held.set()
        assert (await heard.next())["value"] == "2"


@each_case(("grace", "finishes"), [(TIMEOUT, 1), (0.01, 0)])
async def test_a_stop_waits_a_while_for_what_is_being_rung(store: XenstoreClient, grace: float, finishes: int) -> None:
    async with board(store) as (made, heard), asyncio.timeout(TIMEOUT):
        heard.held = asyncio.Event()
        made.register(BELL)
        await store.write("/a/b", b"%d" % finishes)
        await heard.next()
        if finishes:
            asyncio.get_running_loop().call_later(0.05, heard.held.set)
        assert await made.stop(grace) == 1 - finishes
        assert heard.finished == finishes
