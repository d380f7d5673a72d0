"""Many clients of one store, with kills of store, gateway and leader: all are answered, no write is executed twice.

The service keeps a journal of the writes that it has executed.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from adapters.codecs.xenstore import FAULT_CODES
from adapters.xenstore.client.client import StoreError, XenstoreClient
from adapters.xenstore.client.operations import StoreOperations
from adapters.xenstore.client.wire import Permissions
from adapters.xenstore.publish.watch_trigger import MAX_CONCURRENT
from gateway.core.routing.publication import digest
from gateway.core.rpc.model import FaultCode
from tests.kit.clients import json_call
from tests.kit.guests import guest
from tests.kit.ledger import BUS_NAME, Ledger, ledger
from tests.kit.programs import until as wait_until
from tests.kit.stores import BOTH, C_STORE, OXENSTORED, connected, until
from tests.kit.xenstore_clients import TreeClient
from tests.soak import service

pytestmark = pytest.mark.bus

PATIENCE = 240.0  # seconds
UNKNOWN = str(FAULT_CODES[FaultCode.NO_REPLY])
REFUSED = str(FAULT_CODES[FaultCode.ACCESS_DENIED])
BUSY = str(FAULT_CODES[FaultCode.BUSY])

Answers = dict[str, Mapping[str, str]]


class Clients:
    """Some that each ask one request after the other, until none is left to ask."""

    def __init__(self, path: str, tokens: Sequence[str], pause: int = 0) -> None:
        self._path = path
        self._left = [*reversed(tokens)]
        self._pause = str(pause)  # milliseconds that a write takes
        self.answers: Answers = {}
        self.progress = asyncio.Condition()

    async def run(self) -> None:
        """Be one client. A token that begins with r is read, the others are written."""
        async with XenstoreClient(self._path) as store:
            client = TreeClient(store, "/ledger")
            while self._left:
                token = self._left.pop()
                if token.startswith("r"):
                    answer = await client.call("read", token, text=token)
                else:
                    answer = await client.call("write", token, token=token, pause=self._pause)
                async with self.progress:
                    self.answers[token] = answer
                    self.progress.notify_all()

    async def until(self, count: int) -> None:
        """Wait until `count` requests are answered."""
        async with self.progress:
            await self.progress.wait_for(lambda: len(self.answers) >= count)


def tokens(reads: int, writes: int) -> list[str]:
    both = [*(f"r{number}" for number in range(reads)), *(f"w{number}" for number in range(writes))]
    return sorted(both, key=lambda token: (int(token[1:]), token[0]))


HARMED = tokens(reads=100, writes=300)


def done(token: str) -> Mapping[str, str]:
    """The right answer."""
    return {"same": f"ledger:{token}"} if token.startswith("r") else {"done": f"done:{token}"}


async def left_behind(path: str) -> list[str]:
    """Requests, answers and claims that are still there."""
    found = []
    async with XenstoreClient(path) as store:
        await store.until_connected()
        for folder in ("/ledger/rpc/request", "/ledger/rpc/response", "/tool/xcp-gateway/claims"):
            for name in await store.list(folder) or ():
                found += [f"{folder}/{name}/{each}" for each in await store.list(f"{folder}/{name}") or ()]
    return found


async def asked_during(world: Ledger, harm: Callable[[], object]) -> Clients:
    """16 clients with 100 reads and 300 writes, and the harm after 50, 150 and 250 answers."""
    clients = Clients(world.store.path, HARMED, pause=20)
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        for _ in range(16):
            group.create_task(clients.run())
        for count in (50, 150, 250):
            await clients.until(count)
            await asyncio.to_thread(harm)
    return clients


@pytest.mark.parametrize("name", BOTH)
async def test_a_store_that_is_killed_in_the_middle_loses_no_request_and_repeats_no_write(
    tmp_path: Path, name: str
) -> None:
    with ledger(tmp_path, name=name) as world:
        clients = await asked_during(world, world.store.restart)
        assert clients.answers == {token: done(token) for token in HARMED}
        assert world.journal == Counter({token: 1 for token in HARMED if token.startswith("w")})


def kill_leader(world: Ledger) -> None:
    """The worker that serves the store; returns when another one leads, which answers the question who."""

    def leader() -> int:
        return next(int(row["pid"]) for row in world.control("GET", "/v1/status")["workers"] if row["leads"])

    killed = leader()
    os.kill(killed, signal.SIGKILL)
    assert leader() != killed


@pytest.mark.parametrize(("name", "workers"), [(C_STORE, 1), (OXENSTORED, 1), (C_STORE, 2)])
async def test_a_gateway_or_leader_that_is_killed_in_the_middle_loses_no_request_and_repeats_no_write(
    tmp_path: Path, name: str, workers: int
) -> None:
    with ledger(tmp_path, name=name, workers=workers) as world:
        clients = await asked_during(world, world.restart_gateway if workers == 1 else lambda: kill_leader(world))
        assert clients.answers.keys() == set(HARMED)
        journal = world.journal
        assert set(journal.values()) == {1}
        unknown = {token for token, answer in clients.answers.items() if answer.get("code") == UNKNOWN}
        assert all(answer == done(token) for token, answer in clients.answers.items() if token not in unknown)
        assert {token for token in HARMED if token.startswith("w")} - unknown <= journal.keys()
        assert 0 < len(unknown) <= 3 * 16, "each kill found writes in flight, and at most one of each client"
        assert not any(token.startswith("r") for token in unknown)
        assert await left_behind(world.store.path) == []


BELLS = f"""\
mapping: 1
service: bells
dbus: {{bus_name: {BUS_NAME}, object_path: {service.OBJECT_PATH}, interface: {service.INTERFACE}, idl: ledger.xml}}
on_change:
  - {{listener: store, node: "/bells/once/{{number}}", method: once, params: {{token: "{{value}}"}}}}
  - {{listener: store, node: "/bells/again/{{number}}", method: again, params: {{token: "{{value}}"}}}}
methods:
  once: {{member: Write, params: [token], args: {{pause: 100}}, effect: write}}
  again: {{member: Write, params: [token], args: {{pause: 100}}, effect: idempotent}}
"""


async def test_a_gateway_that_is_killed_while_it_rings_rings_no_write_twice_and_loses_nothing_else(
    tmp_path: Path,
) -> None:
    rings = [f"{bell}/{number}" for bell in ("once", "again") for number in range(60)]

    async def ring(store: XenstoreClient, what: str) -> None:
        await asyncio.gather(*(store.write(f"/bells/{node}", f"{what}-{node}".encode()) for node in rings))

    async def settled(store: XenstoreClient, what: str) -> None:
        for node in rings:
            await until(store, f"/tool/xcp-gateway/processed/bells/{node}", digest(f"{what}-{node}".encode()).encode())

    with ledger(tmp_path, BELLS) as world:
        async with asyncio.timeout(PATIENCE), XenstoreClient(world.store.path) as store:
            await store.until_connected()
            await ring(store, "first")
            for count in (1, 30, 60):
                await asyncio.to_thread(wait_until, lambda count=count: len(world.journal) >= count)
                await asyncio.to_thread(world.restart_gateway)
            await settled(store, "first")
            first = world.journal
            await ring(store, "second")
            await settled(store, "second")
    once = {node for node in rings if node.startswith("once")}
    missing = {node for node in rings if not first[f"first-{node}"]}
    assert missing <= once
    assert len(missing) <= 3 * MAX_CONCURRENT, "of each kill at most those that were just being rung"
    assert all(first[f"first-{node}"] <= 1 for node in once)
    assert any(first[f"first-{node}"] > 1 for node in rings), "no kill found a ring in flight"
    assert all(world.journal[f"second-{node}"] == 1 for node in rings)


async def as_guest(store: XenstoreClient, domid: int, key: str, function: str = "read", **arguments: str) -> None:
    """Write a request as a guest does: the node belongs to the guest alone."""
    node = f"/ledger/rpc/request/{function}/{key}"

    async def work(nodes: StoreOperations) -> None:
        await nodes.mkdir(node)
        await nodes.set_permissions(node, Permissions(domid, "n"))
        for name, value in arguments.items():
            await nodes.write(f"{node}/{name}", value.encode())

    await store.transaction(work)


async def answered(world: Ledger, key: str, function: str = "read") -> tuple[dict[str, str], set[Permissions | None]]:
    node = f"/ledger/rpc/response/{function}/{key}"
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(XenstoreClient(world.store.path))
        await store.until_connected()
        watch = store.watch(node)
        stack.callback(watch.close)
        async for _ in watch:
            names = await store.list(node)
            if names is not None:
                break
        values = {name: (await store.read(f"{node}/{name}") or b"").decode() for name in names or ()}
        return values, {await store.permissions(path) for path in (node, *(f"{node}/{name}" for name in values))}


async def use_up_quota(domain_5: XenstoreClient) -> None:
    for number in range(1001):
        await domain_5.write(f"/local/domain/5/{number // 100}/{number}", b"")


@pytest.mark.parametrize("name", BOTH)
async def test_a_guest_that_has_used_up_its_quota_is_answered_on_its_own_connection(tmp_path: Path, name: str) -> None:
    """The response is written by domain 0, whose nodes no quota limits, and read by the guest."""
    with ledger(tmp_path, name=name) as world:
        async with asyncio.timeout(PATIENCE), connected(world.store.path) as domain_0:
            its_own, writable, readable = Permissions(5), Permissions(0, "n", ((5, "b"),)), Permissions(0, "r")
            owners = {"/local/domain/5": its_own}
            for function in ("read", "write"):
                owners[f"/ledger/rpc/request/{function}"] = writable
                owners[f"/ledger/rpc/response/{function}"] = readable
            for path, permissions in owners.items():
                await domain_0.mkdir(path)
                await domain_0.set_permissions(path, permissions)
            async with guest(world.store, 5) as domain_5:
                client = TreeClient(domain_5, "/ledger")
                assert await client.call("read", "first", text="hello") == {"same": "ledger:hello"}
                writing = asyncio.ensure_future(client.call("write", "slow", token="slow", pause="1500"))
                await until(domain_0, "/ledger/rpc/request/write/slow/token", b"slow")
                with pytest.raises(StoreError, match=r"ENOSPC|EQUOTA"):
                    await use_up_quota(domain_5)
                assert await writing == {"done": "done:slow"}
                assert world.journal == {"slow": 1}


@pytest.mark.parametrize("name", BOTH)
async def test_a_guest_gets_an_answer_that_no_other_guest_can_see_and_cannot_exhaust_the_gateway(
    tmp_path: Path, name: str
) -> None:
    with ledger(tmp_path, name=name) as world:
        async with asyncio.timeout(PATIENCE), connected(world.store.path) as store:
            for domid in (5, 7, 9):
                await as_guest(store, domid, f"of-{domid}", text="hello")
            for domid in (5, 7):
                told = await answered(world, f"of-{domid}")
                assert told == ({"same": "ledger:hello"}, {Permissions(domid, "n")})
            values, permissions = await answered(world, "of-9")
            assert (values["code"], permissions) == (REFUSED, {Permissions(9, "n")})
            assert values["description"] == "domain 9 may not call 'read'"
            for number in range(40):
                await as_guest(store, 5, f"w{number}", "write", token=f"w{number}", pause="5000")
            await as_guest(store, 7, "other", text="hello")
            assert (await answered(world, "other"))[0] == {"same": "ledger:hello"}
            told_all = await asyncio.gather(*(answered(world, f"w{number}", "write") for number in range(40)))
            codes = Counter(values.get("code", "done") for values, _ in told_all)
            assert set(codes) <= {"done", BUSY}
            assert codes[BUSY] >= 1
            assert sum(world.journal.values()) == codes["done"]
            await as_guest(store, 5, "large", **{f"n{n}": "x" * 2000 for n in range(40)})
            assert "at most 65536 bytes" in (await answered(world, "large"))[0]["description"]


async def test_without_its_store_the_gateway_is_not_ready_and_other_protocols_do_not_notice(tmp_path: Path) -> None:
    def until_ready(*, wanted: bool) -> Any:
        return wait_until(lambda: world.control("GET", "/v1/status"), lambda found: found["ready"] is wanted)

    with ledger(tmp_path) as world:
        there = await asyncio.to_thread(until_ready, wanted=True)
        assert (there["stores"][0]["listener"], there["stores"][0]["connected"]) == ("store", True)
        address = next(each for each in there["listening"] if each.startswith("tcp:"))
        world.store.kill()
        away = await asyncio.to_thread(until_ready, wanted=False)
        assert [reason.partition(": ")[0] for reason in away["reasons"]] == [
            "the store of listener 'store' is not connected"
        ]
        url = f"http://{address.removeprefix('tcp:')}"
        assert await asyncio.to_thread(json_call, url, "/", "read", ["x"]) == {"same": "ledger:x"}
        world.store.start()
        await asyncio.to_thread(until_ready, wanted=True)
