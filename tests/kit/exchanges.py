"""An HTTP exchange in memory, for tests of what is behind a listener."""

from __future__ import annotations

import asyncio

from gateway.core.interfaces import BrokenBodyError, HttpExchange
from gateway.core.rpc.model import NO_METADATA, Answer, Headers, Peer, RequestMetadata


class MemoryExchange(HttpExchange):
    """A request whose body comes in `pieces`; remembers the response. `breaks`: the body ends before it is whole."""

    metadata, peer = NO_METADATA, Peer()  # this and what follows: see HttpExchange
    trailers: Headers = ()
    length: int | None = 0
    is_tunnel = has_begun = False
    received = sent = 0

    def __init__(
        self,
        metadata: RequestMetadata,
        *pieces: bytes,
        length: int | None = 0,
        peer: Peer = Peer(),  # noqa: B008 - immutable
        breaks: bool = False,
        is_tunnel: bool = False,
        trailers: Headers = (),
        most_held: int = 2**30,
    ) -> None:
        self.metadata, self.length, self.peer, self.is_tunnel = metadata, length, peer, is_tunnel
        self.trailers = trailers
        self._pieces = list(pieces)
        self._breaks = breaks
        self._most_held = most_held
        self.held = 0
        self.sent_trailers: Headers = ()
        self.head: Answer | None = None
        self.body = b""
        self.is_finished = self.is_aborted = False
        self.continues = 0
        self.written = asyncio.Event()

    async def read(self) -> bytes:
        if not self._pieces and self._breaks:
            raise BrokenBodyError("found its end after 3 bytes; expected 6 (Content-Length)")
        piece = self._pieces.pop(0) if self._pieces else b""
        self.received += len(piece)
        return piece

    def send_continue(self) -> None:
        self.continues += 1

    async def respond(self, head: Answer, *, opens_tunnel: bool = False) -> None:
        self.head, self.has_begun = head, True

    async def write(self, data: bytes) -> None:
        self.body += data
        self.sent += len(data)
        self.written.set()

    async def finish(self, trailers: Headers = ()) -> None:
        self.sent_trailers = trailers
        self.is_finished = True

    def hold(self, size: int) -> bool:
        fits = size <= self._most_held
        self.held = size if fits else self.held
        return fits

    def abort(self) -> None:
        self.is_aborted = True
