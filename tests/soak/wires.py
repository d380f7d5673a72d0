"""Two kinds of HTTP client, each on TCP and on a Unix socket: aiohttp, and bytes by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import Protocol

import aiohttp

from tests.kit.clients import Wire, connect, post
from tests.soak.speech import WrongError

ANSWER_WITHIN = 60.0  # seconds until a call counts as unanswered


class Line(Protocol):
    """One connection at a time, kept open between calls."""

    async def post(self, path: str, body: bytes) -> bytes:
        """One request, and the body that answers it; raises OSError and its like when there is none."""

    async def close(self) -> None:
        """Hang up; raises WrongError when there was more than one answer to each request."""


class Aiohttp:
    """The library's client."""

    def __init__(self, address: str) -> None:
        kind, _, where = address.partition(":")
        self._unix = where if kind == "unix" else None
        self._base = "http://gateway" if self._unix else f"http://{where}"
        self._session: aiohttp.ClientSession | None = None

    async def post(self, path: str, body: bytes) -> bytes:
        if self._session is None:
            connector = aiohttp.UnixConnector(self._unix, limit=1) if self._unix else aiohttp.TCPConnector(limit=1)
            self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(ANSWER_WITHIN))
        async with self._session.post(self._base + path, data=body) as response:
            return await response.read()

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()


class ByHand:
    """A socket and the bytes that an old client would write."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._stack = AsyncExitStack()
        self._wire: Wire | None = None

    async def post(self, path: str, body: bytes) -> bytes:
        if self._wire is None:
            self._wire = await self._stack.enter_async_context(connect(self._address))
        await self._wire.send(post(body, path))
        return (await self._wire.reply(ANSWER_WITHIN)).body

    async def close(self) -> None:
        """No byte may come that was not asked for."""
        wire, self._wire = self._wire, None
        async with self._stack:
            if wire is not None:
                wire.end()
                if rest := await wire.rest():
                    raise WrongError(f"more than one answer: {rest[:300]!r}")


LINES: Mapping[str, Callable[[str], Line]] = {"aiohttp": Aiohttp, "by hand": ByHand}
