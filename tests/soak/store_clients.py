"""Clients in xenstore in the way of squeezed's: a request of nodes, a watch for its answer, both removed afterwards.

The store may be killed at any time and then is empty: a client writes its request again, unchanged.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

from adapters.codecs.xenstore import FROM_CODE
from adapters.xenstore.client.client import StoreError, StoreLostError, XenstoreClient
from adapters.xenstore.client.operations import StoreOperations
from tests.soak.clients import ANSWER_WITHIN, LEAVES, PAUSES, THINK, conclude
from tests.soak.speech import Heard, Wanted
from tests.soak.story import Ending, Ledger, Story
from tests.soak.world import HOMES, TREE, World

CLIENTS = 8
KIND = "xenstore tree"
CLAIMS = "/tool/xcp-gateway/claims"

# The content of a node is text.
PARAMS: Mapping[str, Callable[[str, random.Random], dict[str, Any]]] = {
    "read": lambda token, chance: {"text": f"{token} \u00e9\u4e16 <&>"},
    "write": lambda token, chance: {"token": token, "pause": str(chance.randrange(chance.choice(PAUSES)))},
    "refuse": lambda token, chance: {"text": token},
}


@dataclass
class StoreClient:
    """One of them, with a connection of its own."""

    name: str
    path: str
    chance: random.Random
    ledger: Ledger

    async def run(self, over: asyncio.Event) -> None:
        """Call until the end; finish the last call."""
        numbers = count(1)
        async with XenstoreClient(self.path) as store:
            while not over.is_set():
                token, method = f"{self.name}-{next(numbers)}", self.chance.choice([*PARAMS])
                call = Wanted(token, self.chance.choice([*HOMES]), method, PARAMS[method](token, self.chance))
                story = Story(call.token, call.service, call.method, KIND, time.monotonic())
                await self._talk(store, call, story)
                self.ledger.keep(story, KIND, calm=False)
                await asyncio.sleep(self.chance.uniform(*THINK))

    async def _talk(self, store: XenstoreClient, call: Wanted, story: Story) -> None:
        asked = _Asked(store, call)
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                if self.chance.random() < LEAVES:
                    await _persistently(store, asked.write)
                    story.end(Ending.LEFT)
                    return
                conclude(story, call, await _persistently(store, asked.answer))
                await _persistently(store, asked.remove)
        except TimeoutError:
            story.end(Ending.SILENT)


async def _persistently(store: XenstoreClient, act: Callable[[], Any]) -> Any:
    """Repeat after a restart of the store or a conflict."""
    while True:
        try:
            await store.until_connected()
            return await act()
        except StoreLostError:
            await asyncio.sleep(0)
        except StoreError as error:
            if error.name != "EAGAIN":
                raise


class _Asked:
    """One request."""

    def __init__(self, store: XenstoreClient, call: Wanted) -> None:
        self._store = store
        self._call = call
        self._request, self._response = (
            f"{TREE}/{call.service}/rpc/{kind}/{call.service}@2e{call.method}/{call.token}"
            for kind in ("request", "response")
        )

    async def write(self) -> None:
        async def work(nodes: StoreOperations) -> None:
            await nodes.mkdir(self._request)
            for name, value in self._call.params.items():
                await nodes.write(f"{self._request}/{name}", value.encode())

        await self._store.transaction(work)

    async def answer(self) -> Heard:
        """Write the request as often as the store forgets it, and wait for the answer."""
        watch = self._store.watch(self._response)
        try:
            async for _ in watch:
                if (heard := await self._heard()) is not None:
                    return heard
                if await self._store.read(self._request) is None:
                    await self.write()
        finally:
            watch.close()
        raise AssertionError("nobody closes this watch")

    async def _heard(self) -> Heard | None:
        """A text, or an error as two nodes below it; None where the store has none, or has just come back."""
        read, path = self._store.read, self._response
        value, code, text = await asyncio.gather(*map(read, (path, f"{path}/code", f"{path}/description")))
        if code is not None and text is not None:
            return Heard(text=text.decode(), code=FROM_CODE.get(int(code)))
        return None if value is None or code is not None or text is not None else Heard(value.decode())

    async def remove(self) -> None:
        """Remove the request and then the answer, in the order of the old client."""
        await self._store.remove(self._request)
        await self._store.remove(self._response)


def store_crowd(world: World, ledger: Ledger, seed: str, prefix: str) -> list[StoreClient]:
    return [
        StoreClient(f"{prefix}s{at}", world.store.path, random.Random(f"{seed} store client {at}"), ledger)
        for at in range(CLIENTS)
    ]


async def nodes_left(path: str) -> list[str]:
    """Return what is left in the store at the end: tokens of requests and answers, and claims by their path."""
    async with XenstoreClient(path) as store:
        await store.until_connected()
        left = [f"{CLAIMS}/{name}/{each}" for name in await store.list(CLAIMS) or () for each in
                await store.list(f"{CLAIMS}/{name}") or ()]  # fmt: skip
        for service in HOMES:
            for kind in ("request", "response"):
                root = f"{TREE}/{service}/rpc/{kind}"
                for function in await store.list(root) or ():
                    left += await store.list(f"{root}/{function}") or ()
    return left
