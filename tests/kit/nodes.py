"""What tests of a xenstore's nodes share: a store to read and write as the other side does, and waits for nodes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from adapters.xenstore.client.client import XenstoreClient

PATIENCE = 60.0  # seconds before a test that waits for something gives up


@asynccontextmanager
async def connected(path: str) -> AsyncIterator[XenstoreClient]:
    """A client of the store at this socket."""
    async with XenstoreClient(path) as store, asyncio.timeout(PATIENCE):
        await store.until_connected()
        yield store


async def until(store: XenstoreClient, path: str, wanted: bytes | Callable[[bytes | None], bool] | None) -> None:
    """Wait until a node has this value, or has none."""
    watch = store.watch(path)
    try:
        async for _ in watch:
            found = await store.read(path)
            if wanted(found) if callable(wanted) else found == wanted:
                return
    finally:
        watch.close()


async def tree(store: XenstoreClient, path: str) -> dict[str, bytes]:
    """All nodes below one that have a value, by their path from there."""
    found: dict[str, bytes] = {}
    waiting = [path]
    while waiting:
        here = waiting.pop()
        value = await store.read(here)
        if value:
            found[here.removeprefix(path).removeprefix("/")] = value
        waiting += [f"{here}/{name}" for name in await store.list(here) or ()]
    return found


@contextmanager
def changes(store: XenstoreClient, path: str) -> Iterator[list[str]]:
    """Every path at or below this one for which an event came; the first is the watch's own."""
    watch, seen = store.watch(path), []

    async def collect() -> None:
        async for changed in watch:
            seen.append(changed)

    task = asyncio.ensure_future(collect())
    try:
        yield seen
    finally:
        watch.close()
        task.cancel()
