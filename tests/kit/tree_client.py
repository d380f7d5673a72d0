"""A client of the style `tree` as one coroutine, so that many ask at once; it asks, waits, reads, and removes."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from adapters.xenstore.client.client import StoreError, StoreLostError, XenstoreClient
from adapters.xenstore.client.operations import StoreOperations

PATIENCE = 60.0  # seconds

T = TypeVar("T")


class TreeClient:
    """One client with a connection of its own."""

    def __init__(self, store: XenstoreClient, root: str) -> None:
        self.store = store
        self._root = root

    async def call(self, function: str, key: str = "", **arguments: str) -> Mapping[str, str]:
        """Send one request and return its answer.

        When the store restarts before the answer is read, the same request is written again. Once the answer is read
        it never is: the request was executed, and the gateway forgets an answer whose request has been removed.
        """
        key = key or str(uuid.uuid4())
        request, response = (f"{self._root}/rpc/{kind}/{function}/{key}" for kind in ("request", "response"))
        async with asyncio.timeout(PATIENCE):
            answer = await self._until_done(lambda: self._answer(request, response, arguments))
            await self._until_done(lambda: self._remove(request, response))
        return answer

    async def _until_done(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do the work, and do it again when the store went away or others changed the same nodes too often."""
        while True:
            try:
                await self.store.until_connected()
                return await work()
            except StoreLostError:
                continue
            except StoreError as error:
                if error.name != "EAGAIN":
                    raise

    async def _answer(self, request: str, response: str, arguments: Mapping[str, str]) -> Mapping[str, str]:
        """Write the request unless it is there, and wait for its answer."""
        watch = self.store.watch(response)
        try:
            await self.store.transaction(lambda nodes: _write(nodes, request, arguments))
            async for _ in watch:
                names = await self.store.list(response)
                if names is not None:
                    break
                if await self.store.read(request) is None:
                    raise StoreLostError("the store has forgotten the request", sent=False)
        finally:
            watch.close()
        values = {name: await self.store.read(f"{response}/{name}") for name in names or ()}
        if await self.store.read(response) is None:
            raise StoreLostError("the store has forgotten the answer", sent=False)
        return {name: (value or b"").decode() for name, value in values.items()}

    async def _remove(self, request: str, response: str) -> None:
        await self.store.remove(request)
        await self.store.remove(response)


async def _write(nodes: StoreOperations, request: str, arguments: Mapping[str, str]) -> None:
    await asyncio.gather(
        nodes.mkdir(request), *(nodes.write(f"{request}/{name}", value.encode()) for name, value in arguments.items())
    )
