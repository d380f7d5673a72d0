"""Which domain asks, by the permissions of what it wrote, and whether there is room for it; knows no store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from adapters.transports.room import Room
from adapters.transports.xenstore_packets import Permissions
from gateway.core.exposure import DOM0

NODES = 1000
WRITES = "wb"  # in permissions: may write; may read and write


def asker(permissions: Permissions) -> int | None:
    """The domain that may have written a node: its owner, or the one that was let in; None when there are several.

    Domain 0 may write everywhere, so that it asks only where nobody else could have.
    """
    if permissions.others in WRITES:
        return None
    writers = {permissions.owner, *(domid for domid, may in permissions.domains if may in WRITES)} - {DOM0}
    if len(writers) > 1:
        return None
    return writers.pop() if writers else DOM0


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """What may be outstanding at one time. Domain 0 waits for its turn, others are told that there is no room."""

    calls: int = 256  # of domain 0
    calls_per_domain: int = 16
    body: int = 300 * 1024  # bytes of one request of domain 0
    body_per_domain: int = 64 * 1024  # bytes of all requests of another domain
    nodes: int = NODES  # of one request


class Admission:
    """Counts what is outstanding, by domain."""

    def __init__(self, limits: StoreLimits, room: Room) -> None:
        self._limits = limits
        self._room = room
        self._turns = asyncio.Semaphore(limits.calls)
        self._outstanding: dict[int, tuple[int, int]] = {}  # calls and bytes, of domains but 0

    def body(self, domid: int) -> int:
        """How many bytes a request of this domain may have."""
        return self._limits.body if domid == DOM0 else self._limits.body_per_domain

    @asynccontextmanager
    async def admitted(self, domid: int, size: int) -> AsyncIterator[bool]:
        """Hold a place for a request of so many bytes; False when there is none."""
        async with self._turn(domid):
            if self._room.is_full or not self._room.fits(size) or not self._fits(domid, size):
                yield False
                return
            self._count(domid, 1, size)
            try:
                yield True
            finally:
                self._count(domid, -1, -size)

    @asynccontextmanager
    async def _turn(self, domid: int) -> AsyncIterator[None]:
        if domid != DOM0:
            yield
            return
        async with self._turns:
            yield

    def _fits(self, domid: int, size: int) -> bool:
        calls, taken = self._outstanding.get(domid, (0, 0))
        limits = self._limits
        return domid == DOM0 or (calls < limits.calls_per_domain and taken + size <= limits.body_per_domain)

    def _count(self, domid: int, calls: int, size: int) -> None:
        self._room.calls += calls
        self._room.buffered += size
        before = self._outstanding.pop(domid, (0, 0))
        after = (before[0] + calls, before[1] + size)
        if domid != DOM0 and after[0]:
            self._outstanding[domid] = after
