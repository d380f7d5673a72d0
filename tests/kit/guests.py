"""A guest on a connection of its own, with the quotas of its domain.

A program on the store's socket is domain 0; a guest shares a ring with the store (xs_wire.h). `guest` introduces a
domain and relays a socket to its ring, so that every client of the kit can be that guest.
"""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pyxs

from adapters.xenstore.client.client import XenstoreClient
from tests.kit.stores import Xenstored, connected

RING = 1024  # bytes in each direction
REQUESTS, RESPONSES = 0, RING  # offsets in the page (struct xenstore_domain_interface)
REQ_CONS, REQ_PROD, RSP_CONS, RSP_PROD = range(2 * RING, 2 * RING + 16, 4)
INDEX = struct.Struct("=I")
DOMID = struct.Struct("=I")


class _Ring:
    """The guest's side of its page and of its event channel."""

    def __init__(self, directory: Path, domid: int) -> None:
        path = directory / (f"ring-{domid}")
        with path.open("a+b") as file:
            file.truncate(mmap.PAGESIZE)
            self._page = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        self._domid = domid
        self._store = str(directory / "events")
        self._channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        mine = directory / f"guest-{domid}"
        mine.unlink(missing_ok=True)
        self._channel.bind(str(mine))
        self._changed = asyncio.Condition()

    def close(self) -> None:
        """Forget the page and the channel."""
        self._channel.close()
        self._page.close()

    async def listen(self) -> None:
        """Wake who waits whenever the store has moved an index."""
        while True:
            await asyncio.get_running_loop().sock_recv(self._channel, 1)
            async with self._changed:
                self._changed.notify_all()

    async def write(self, data: bytes) -> None:
        """Put a request's bytes on the ring, as room comes."""
        while data:
            async with self._changed:
                await self._changed.wait_for(lambda: self._used(REQ_PROD, REQ_CONS) < RING)
            at = self._index(REQ_PROD)
            room = min(RING - self._used(REQ_PROD, REQ_CONS), RING - at % RING)
            now, data = data[:room], data[room:]
            self._page[REQUESTS + at % RING : REQUESTS + at % RING + len(now)] = now
            self._move(REQ_PROD, at + len(now))

    async def read(self) -> bytes:
        """Return what the store has put on the ring, at least one byte."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._used(RSP_PROD, RSP_CONS) > 0)
        at = self._index(RSP_CONS)
        size = min(self._used(RSP_PROD, RSP_CONS), RING - at % RING)
        data = self._page[RESPONSES + at % RING : RESPONSES + at % RING + size]
        self._move(RSP_CONS, at + size)
        return data

    def _index(self, offset: int) -> int:
        return int(INDEX.unpack_from(self._page, offset)[0])

    def _used(self, producer: int, consumer: int) -> int:
        return (self._index(producer) - self._index(consumer)) % 2**32

    def _move(self, offset: int, index: int) -> None:
        INDEX.pack_into(self._page, offset, index % 2**32)
        with contextlib.suppress(BlockingIOError):  # its queue is full: it will look anyway
            self._channel.sendto(DOMID.pack(self._domid), self._store)


@asynccontextmanager
async def guest(daemon: Xenstored, domid: int) -> AsyncIterator[XenstoreClient]:
    """Introduce a domain; yields a client that is it."""
    directory = Path(daemon.path).parent
    ring = _Ring(directory, domid)
    with pyxs.Client(unix_socket_path=daemon.path) as domain_0:
        domain_0.introduce_domain(domid, 1, 1)

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def requests() -> None:
            while data := await reader.read(RING):
                await ring.write(data)

        async def responses() -> None:
            while True:
                writer.write(await ring.read())
                await writer.drain()

        async with asyncio.TaskGroup() as both:
            answering = both.create_task(responses())
            await requests()
            answering.cancel()
        writer.close()

    path = directory / f"guest-{domid}.socket"
    listening = asyncio.ensure_future(ring.listen())
    try:
        async with await asyncio.start_unix_server(relay, path), connected(str(path)) as store:
            yield store
    finally:
        listening.cancel()
        ring.close()
