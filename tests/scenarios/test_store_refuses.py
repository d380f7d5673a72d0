"""A real store that now and then refuses an operation: every request has one true answer, and no write is made twice.

Transport and store client are the product's, the endpoint keeps a journal; between them and xenstored stands a proxy.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from adapters.xenstore.client.client import XenstoreClient
from adapters.xenstore.server.listener import XenstoreTransport
from adapters.xenstore.server.state import CLAIMS, ExposedEndpoint
from gateway.core.xenstore.paths import Domains, Exposure, template
from tests.kit.fake_stores import RefusingStore, Request, Rule, at_random, nothing, refusing_store
from tests.kit.listeners import AnsweringEndpoint
from tests.kit.programs import TIMEOUT
from tests.kit.stores import Xenstored, connected, xenstored
from tests.kit.xenstore_clients import TreeClient

EXPOSURE = Exposure("tree", template("/svc"), Domains(everyone=True))


@pytest.fixture
def daemon() -> Iterator[Xenstored]:
    with xenstored() as running:
        yield running


async def shortly(seconds: float) -> None:
    """A pause that is long enough for a store on this machine."""
    await asyncio.sleep(min(seconds, 0.02))


class Served:
    """A transport behind a proxy."""

    def __init__(self, proxy: RefusingStore) -> None:
        self.proxy = proxy
        self.endpoint = AnsweringEndpoint()
        store = XenstoreClient(proxy.path, pause=shortly)
        self.transport = XenstoreTransport("store", [f"xenstore:{proxy.path}"], store=store)

    @property
    def journal(self) -> Counter[str]:
        """How often each write was made."""
        return Counter(str(call.named["token"]) for call in self.endpoint.calls if call.method == "write")

    async def serving(self) -> None:
        """Wait until all was looked through."""
        async with asyncio.timeout(TIMEOUT):
            while not self.transport.status().serving:  # noqa: ASYNC110 - an operator looks in the same way
                await asyncio.sleep(0.01)


@asynccontextmanager
async def served(daemon: Xenstored, rule: Rule = nothing) -> AsyncIterator[Served]:
    async with refusing_store(daemon.path, rule) as proxy:
        made = Served(proxy)
        await made.transport.expose([ExposedEndpoint(EXPOSURE, made.endpoint, frozenset({"write"}))])
        await made.transport.start()
        try:
            yield made
        finally:
            await made.transport.stop(1.0)


@pytest.mark.parametrize("seed", ["one", "two"])
async def test_at_a_rate_every_request_has_one_true_answer(daemon: Xenstored, seed: str) -> None:
    async def client(served_: Served, number: int) -> None:
        async with XenstoreClient(daemon.path) as store:
            asking = TreeClient(store, "/svc")
            for count in range(15):
                token = f"{number}-{count}"
                assert await asking.call("write", token=token) == {"token": token}
                assert await asking.call("read", text=token) == {"text": token}

    async with served(daemon, at_random({"ENOMEM": 0.01, "EAGAIN": 0.05}, seed)) as made, asyncio.timeout(TIMEOUT):
        await asyncio.gather(*(client(made, number) for number in range(8)))
        assert made.journal == Counter({f"{number}-{count}": 1 for number in range(8) for count in range(15)})
        assert sum(made.proxy.refused.values()) > 50
        made.proxy.rule = nothing
        async with connected(daemon.path) as store:
            folders = [f"{CLAIMS}/{name}" for name in await store.list(CLAIMS) or ()]
            assert [await store.list(folder) for folder in folders] == [[] for _ in folders]


@pytest.mark.parametrize("side", ["gateway", "client"])
async def test_a_store_that_restarts_empty_at_any_packet_of_an_exchange_repeats_no_write(
    daemon: Xenstored, side: str
) -> None:
    """Restart 1 at the first packet of exchange 1, restart 2 at the second packet of exchange 2, and so on."""
    seen, fatal = 0, 0

    def rule(_request: Request) -> None:
        nonlocal seen
        seen += 1
        if seen == fatal:
            daemon.restart()

    async with served(daemon) as made, refusing_store(daemon.path) as proxy, asyncio.timeout(TIMEOUT):
        (made.proxy if side == "gateway" else proxy).rule = rule
        async with XenstoreClient(proxy.path, pause=shortly) as store:
            client = TreeClient(store, "/svc")
            while seen >= fatal:
                await made.serving()
                seen, fatal = 0, fatal + 1
                token = str(fatal)
                assert await client.call("write", token, token=token) == {"token": token}
        assert fatal > 8
        assert made.journal == Counter({str(number): 1 for number in range(1, fatal + 1)})
