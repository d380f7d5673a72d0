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
from adapters.xenstore.client.operations import StoreOperations
from adapters.xenstore.client.wire import Permissions
from adapters.xenstore.server.listener import ExposedEndpoint, XenstoreTransport
from adapters.xenstore.server.state import CLAIMS
from gateway.core.rpc.model import Outcome, Reply
from gateway.core.xenstore.exposure import Domains, Exposure, StateWords
from gateway.core.xenstore.paths import template
from tests.kit.fake_stores import RefusingStore, Request, Rule, at_random, nothing, refusing_store
from tests.kit.listeners import AnsweringEndpoint
from tests.kit.programs import TIMEOUT
from tests.kit.stores import Xenstored, connected, until, xenstored
from tests.kit.xenstore_clients import TreeClient

EVERYONE = Domains(everyone=True)
TREE = Exposure("tree", template("/svc"), EVERYONE)


@pytest.fixture
def daemon() -> Iterator[Xenstored]:
    with xenstored() as running:
        yield running


async def shortly(seconds: float) -> None:
    """A pause that is long enough for a store on this machine."""
    await asyncio.sleep(min(seconds, 0.02))


class Served:
    """A transport behind a proxy."""

    def __init__(self, transport: XenstoreTransport, endpoint: AnsweringEndpoint, proxy: RefusingStore) -> None:
        self.transport = transport
        self.endpoint = endpoint
        self.proxy = proxy
        self.told: list[str] = []

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
async def served(
    daemon: Xenstored, rule: Rule = nothing, exposure: Exposure = TREE, outcome: Outcome | None = None
) -> AsyncIterator[Served]:
    async with refusing_store(daemon.path, rule) as proxy:
        endpoint = AnsweringEndpoint() if outcome is None else AnsweringEndpoint(lambda _call: outcome)
        told: list[str] = []
        store = XenstoreClient(proxy.path, pause=shortly)
        transport = XenstoreTransport("store", [f"xenstore:{proxy.path}"], on_trouble=told.append, store=store)
        made = Served(transport, endpoint, proxy)
        made.told = told
        await transport.expose([ExposedEndpoint(exposure, endpoint, frozenset({"write"}))])
        await transport.start()
        try:
            yield made
        finally:
            await transport.stop(1.0)


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


async def test_500_requests_with_long_names_are_found_while_somebody_changes_what_is_there(daemon: Xenstored) -> None:
    async with XenstoreClient(daemon.path) as store, asyncio.timeout(TIMEOUT):
        await store.until_connected()
        names = [f"{number}-{'x' * 100}" for number in range(500)]
        for name in names:
            await store.write(f"/svc/rpc/request/read/{name}/text", name.encode())
        over = asyncio.Event()

        async def churn() -> None:
            at = 0
            while not over.is_set():
                node = f"/svc/rpc/request/read/churn-{at % 20}"
                await store.write(f"{node}/text", b"x")
                await store.remove(node)
                at += 1

        async with served(daemon) as made, asyncio.TaskGroup() as group:
            churning = [group.create_task(churn()) for _ in range(4)]
            try:
                await made.serving()
                for name in names:
                    await until(store, f"/svc/rpc/response/read/{name}/text", name.encode())
            finally:
                over.set()
            await asyncio.gather(*churning)


SECRET = b"secret"
MEMBER = Reply({"a": {"b": "secret"}})
PLANTED: dict[str, tuple[Exposure, Outcome, str, dict[str, bytes], list[str], str]] = {
    # exposure, outcome, a request's node, nodes at and below it, what guest 7 has planted, where the secret stands
    "tree": (TREE, MEMBER, "/svc/rpc/request/read/1", {}, ["/a", "/a/b", "/a/b/c"], "/svc/rpc/response/read/1/a/b"),
    "chunked": (
        Exposure("chunked", template("/svc"), EVERYONE),
        Reply("secret"),
        "/svc/query/1",
        {"/cmd": b"read", "/submit": b"0"},
        ["/data00", "/status", "/submit", "/code", "/data01"],
        "/svc/reply/1/data00",
    ),
    "mailbox": (
        Exposure("mailbox", template("/svc"), EVERYONE, answers=(("read", StateWords(done="done")),)),
        Reply("secret"),
        "/svc/command",
        {"": b"read"},
        ["/x"],
        "/svc/parameter",
    ),
    "deletion": (
        Exposure("deletion", template("/svc/word"), EVERYONE),
        MEMBER,
        "/svc/word",
        {"": b"read"},
        ["/b", "/b/c", "/d"],
        "/svc/a/b",
    ),
    "directory": (
        Exposure(
            "directory", template("/svc"), EVERYONE, method="read", states=StateWords(commit="READY", done="DONE")
        ),
        MEMBER,
        "/svc/state",
        {"": b"READY"},
        [],
        "/svc/a/b",
    ),
}
ANSWERS = {  # what is planted stands below it
    "tree": "/svc/rpc/response/read/1",
    "chunked": "/svc/reply/1",
    "mailbox": "/svc/parameter",
    "deletion": "/svc/a",
}


@pytest.mark.parametrize("style", PLANTED)
async def test_in_the_real_store_too_an_answer_lies_in_no_planted_node(daemon: Xenstored, style: str) -> None:
    exposure, outcome, node, below, planted, secret = PLANTED[style]
    answer, mine = ANSWERS.get(style, ""), Permissions(5, "n")
    async with XenstoreClient(daemon.path) as store, asyncio.timeout(TIMEOUT):
        await store.until_connected()
        for path in [f"{answer}{each}" for each in ("", *planted)] if answer else []:
            await store.write(path, b"planted" if path != answer else b"")
            await store.set_permissions(path, mine if style == "mailbox" and path == answer else Permissions(7, "b"))

        async def ask(nodes: StoreOperations) -> None:
            await nodes.mkdir(node)
            await nodes.set_permissions(node, mine)
            for path, value in below.items():
                await nodes.write(f"{node}{path}", value)

        async with served(daemon, exposure=exposure, outcome=outcome) as made:
            await made.serving()
            await store.transaction(ask)
            await until(store, secret, SECRET)
            assert [call.peer.domid for call in made.endpoint.calls] == [5]
            for each in [secret, *([answer] if answer else [])]:
                assert await store.permissions(each) == mine, each
            for each in planted:
                assert await store.read(f"{answer}{each}") != b"planted", each
