"""A client of the style `tree` as one coroutine, so that many ask at once; it asks, waits, reads, and removes."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping

from adapters.xenstore.client.client import StoreError, StoreLostError, XenstoreClient
from adapters.xenstore.client.operations import StoreOperations

PATIENCE = 60.0  # seconds


class TreeClient:
    """One client with a connection of its own."""

    def __init__(self, store: XenstoreClient, root: str) -> None:
        self.store = store
        self._root = root

    async def call(self, function: str, key: str = "", **arguments: str) -> Mapping[str, str]:
        """Ask and wait. When the store goes away meanwhile and has forgotten it, the same request is written again."""
        key = key or str(uuid.uuid4())
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    await self.store.until_connected()
                    return await self._once(function, key, arguments)
                except StoreLostError:
                    continue
                except StoreError as error:
                    if error.name != "EAGAIN":  # others got in between so often that the library gave up
                        raise

    async def _once(self, function: str, key: str, arguments: Mapping[str, str]) -> Mapping[str, str]:
        request, response = (f"{self._root}/rpc/{kind}/{function}/{key}" for kind in ("request", "response"))
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
        await self.store.remove(request)
        await self.store.remove(response)
        return {name: (value or b"").decode() for name, value in values.items()}


async def _write(nodes: StoreOperations, request: str, arguments: Mapping[str, str]) -> None:
    await asyncio.gather(
        nodes.mkdir(request), *(nodes.write(f"{request}/{name}", value.encode()) for name, value in arguments.items())
    )
