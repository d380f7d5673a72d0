"""Two kinds of HTTP client, each on TCP and on a Unix socket: aiohttp, and bytes by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import Protocol

import aiohttp

from tests.kit.clients import HttpReply, Wire, connect, post
from tests.soak.speech import WrongError

ANSWER_WITHIN = 60.0  # seconds until a call counts as unanswered


class Line(Protocol):
    """One connection at a time, kept open between calls."""

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """One request and its answer: HTTP status and body; raises OSError and its like when there is none."""

    async def close(self) -> None:
        """Hang up; raises WrongError when there was more than one answer to each request."""


class Aiohttp:
    """The library's client."""

    def __init__(self, address: str) -> None:
        kind, _, where = address.partition(":")
        self._unix = where if kind == "unix" else None
        self._base = "http://gateway" if self._unix else f"http://{where}"
        self._session: aiohttp.ClientSession | None = None

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """One request and its answer."""
        if self._session is None:
            connector = aiohttp.UnixConnector(self._unix, limit=1) if self._unix else aiohttp.TCPConnector(limit=1)
            timeout = aiohttp.ClientTimeout(ANSWER_WITHIN)
            self._session = aiohttp.ClientSession(connector=connector, timeout=timeout)
        async with self._session.post(self._base + path, data=body) as response:
            return response.status, await response.read()

    async def close(self) -> None:
        """Hang up."""
        if self._session is not None:
            await self._session.close()
            self._session = None


class ByHand:
    """A socket and the bytes that an old client would write."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._stack = AsyncExitStack()
        self._wire: Wire | None = None

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """One request and its answer."""
        if self._wire is None:
            self._wire = await self._stack.enter_async_context(connect(self._address))
        await self._wire.send(post(body, path))
        reply: HttpReply = await self._wire.reply(ANSWER_WITHIN)
        return reply.status, reply.body

    async def close(self) -> None:
        """Hang up, and check that no unrequested bytes arrived."""
        wire, self._wire = self._wire, None
        rest = b""
        if wire is not None:
            wire.end()
            rest = await wire.rest()
        await self._stack.aclose()
        if rest:
            raise WrongError(f"more than one answer: {rest[:300]!r}")


LINES: Mapping[str, Callable[[str], Line]] = {"aiohttp": Aiohttp, "by hand": ByHand}
