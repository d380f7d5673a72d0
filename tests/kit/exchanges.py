"""An HTTP exchange in memory, for tests of what is behind a listener."""

from __future__ import annotations

import asyncio

from gateway.core.interfaces import BrokenBodyError, HttpExchange
from gateway.core.rpc.model import Answer, Peer, RequestMetadata


class MemoryExchange(HttpExchange):
    """A request whose body comes in `pieces`; remembers the response. `breaks`: the body ends before it is whole."""

    def __init__(
        self,
        metadata: RequestMetadata,
        *pieces: bytes,
        length: int | None = 0,
        peer: Peer = Peer(),  # noqa: B008 - immutable
        breaks: bool = False,
        is_tunnel: bool = False,
    ) -> None:
        self._metadata = metadata
        self._pieces = list(pieces)
        self._length = length
        self._peer = peer
        self._breaks = breaks
        self._is_tunnel = is_tunnel
        self.head: Answer | None = None
        self.body = b""
        self.is_finished = False
        self.is_aborted = False
        self.continues = 0
        self.written = asyncio.Event()

    @property
    def metadata(self) -> RequestMetadata:
        return self._metadata

    @property
    def peer(self) -> Peer:
        return self._peer

    @property
    def length(self) -> int | None:
        return self._length

    @property
    def is_tunnel(self) -> bool:
        return self._is_tunnel

    @property
    def has_begun(self) -> bool:
        return self.head is not None

    async def read(self) -> bytes:
        if not self._pieces and self._breaks:
            raise BrokenBodyError
        return self._pieces.pop(0) if self._pieces else b""

    def send_continue(self) -> None:
        self.continues += 1

    async def respond(self, head: Answer, *, opens_tunnel: bool = False) -> None:
        self.head = head

    async def write(self, data: bytes) -> None:
        self.body += data
        self.written.set()

    async def finish(self) -> None:
        self.is_finished = True

    def abort(self) -> None:
        self.is_aborted = True
