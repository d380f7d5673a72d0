"""A listener on a store: exposed now and anew, started and stopped with the store there or away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from adapters.xenstore.server.listener import XenstoreTransport
from adapters.xenstore.server.state import ExposedEndpoint, StoreLimits
from gateway.core.xenstore.paths import Domains, Exposure, template
from tests.kit.cases import each_case
from tests.kit.listeners import AnsweringEndpoint
from tests.kit.memory_store import MemoryStore
from tests.kit.programs import TIMEOUT


def offer(endpoint: AnsweringEndpoint, path: str = "/svc", domains: Domains | None = None) -> ExposedEndpoint:
    return ExposedEndpoint(Exposure("tree", template(path), domains or Domains()), endpoint)


@asynccontextmanager
async def serving(*offers: ExposedEndpoint) -> AsyncIterator[tuple[XenstoreTransport, MemoryStore]]:
    store = MemoryStore()
    transport = XenstoreTransport("store", ["xenstore:/nowhere"], StoreLimits(), store=store)
    await transport.expose(offers)
    await transport.start()
    try:
        yield transport, store
    finally:
        await transport.stop(0)


async def until(condition: Callable[[], bool]) -> None:
    """The store in memory has no event for it."""
    async with asyncio.timeout(TIMEOUT):
        for _ in iter(condition, True):
            await asyncio.sleep(0)


@each_case("domains", [None, Domains(everyone=True)])  # the same exposure, and another one of the same path
async def test_what_is_exposed_anew_is_served_from_now_on_and_what_is_begun_is_finished_where_it_was(
    domains: Domains | None,
) -> None:
    old, new = AnsweringEndpoint(), AnsweringEndpoint()
    async with serving(offer(old), offer(old, "/left")) as (transport, store):
        old.open.clear()
        store.put("/svc/rpc/request/f/1")
        await old.begun.acquire()
        await transport.expose([offer(new, domains=domains), offer(new, "/added")])
        store.put("/left/rpc/request/f/1")
        store.put("/svc/rpc/request/f/2")
        store.put("/added/rpc/request/f/1")
        await until(lambda: {"/svc/rpc/response/f/2", "/added/rpc/response/f/1"} <= store.tree.keys())
        old.open.set()
        await until(lambda: "/svc/rpc/response/f/1" in store.tree)
        assert transport.status().watches == 2
    assert (len(old.calls), len(new.calls)) == (1, 2)


async def test_stop_lets_requests_finish_and_counts_those_that_did_not() -> None:
    endpoint = AnsweringEndpoint()
    async with serving(offer(endpoint)) as (transport, store):
        endpoint.open.clear()
        store.put("/svc/rpc/request/f/1")
        await endpoint.begun.acquire()
        assert transport.status().waiting == 1
        stopping = asyncio.ensure_future(transport.stop(TIMEOUT))
        await asyncio.sleep(0)
        endpoint.open.set()
        assert await stopping == 0
        assert "/svc/rpc/response/f/1" in store.tree
    async with serving(offer(endpoint)) as (transport, store):
        endpoint.open.clear()
        store.put("/svc/rpc/request/f/1")
        await endpoint.begun.acquire()
        assert await transport.stop(0) == 1


async def test_a_store_that_is_away_keeps_nobody_from_starting_and_stopping(tmp_path: Path) -> None:
    transport = XenstoreTransport("store", [f"xenstore:{tmp_path}/socket"])
    await transport.expose([offer(AnsweringEndpoint())])
    await transport.bind()
    await transport.start()
    assert (transport.addresses, transport.socket_files) == ((f"xenstore:{tmp_path}/socket",), ())
    await until(lambda: "No such file" in transport.status().last_error)
    status = transport.status()
    assert (status.listener, status.connected, status.waiting) == ("store", False, 0)
    assert await transport.stop(TIMEOUT) == 0
