"""A watch as its reader sees it: the paths that changed, merged and bounded; knows no socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Self

from adapters.transports.xenstore_packets import StoreError

MAX_QUEUED = 4000  # paths; with more the reader is told to scan everything


class Watch(AsyncIterator[str]):
    """`async for path in watch:` for one reader; ends when it is closed here or the store is stopped.

    The first path is the watched one itself, and it comes again whenever events may have been missed: after a
    reconnect, and when the reader is too slow. So its coming means: look at everything below.
    """

    def __init__(self, path: str, token: bytes, on_close: Callable[[Watch], None]) -> None:
        self.path = path
        self.token = token
        self.closed = False
        self._on_close = on_close
        self._changed: dict[str, None] = {}  # in the order in which they came, each once
        self._error: StoreError | None = None
        self._ready = asyncio.Event()

    def tell(self, path: str) -> None:
        """This path has changed."""
        if len(self._changed) >= MAX_QUEUED and path not in self._changed:
            self._changed = {self.path: None}
        else:
            self._changed[path] = None
        self._ready.set()

    def fail(self, error: StoreError) -> None:
        """The store refuses this watch."""
        self._error = error
        self._ready.set()

    def close(self) -> None:
        """Watch no more; the reader's loop ends."""
        if not self.closed:
            self.closed = True
            self._ready.set()
            self._on_close(self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        """The next path; raises StoreError when the store refuses the watch."""
        await self._ready.wait()
        if self.closed:
            raise StopAsyncIteration
        if self._error is not None:
            raise self._error
        path = next(iter(self._changed))
        del self._changed[path]
        if not self._changed:
            self._ready.clear()
        return path
