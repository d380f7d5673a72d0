"""Which domain asks, by the permissions of what it wrote, and whether there is room for it; knows no store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from adapters.limits import Quota
from adapters.xenstore.client.wire import Permissions
from gateway.core.xenstore.exposure import DOM0

NODES = 1000
WRITES = "wb"  # in permissions: may write; may read and write


def caller_of(permissions: Permissions) -> int | None:
    """The domain that may have written a node: its owner, or the one that was let in; None when there are several.

    Domain 0 may write everywhere, so that it asks only where nobody else could have.
    """
    if permissions.others in WRITES:
        return None
    writers = {permissions.owner, *(domid for domid, may in permissions.domains if may in WRITES)} - {DOM0}
    if len(writers) > 1:
        return None
    return writers.pop() if writers else DOM0


def least(askers: Iterable[int | None]) -> int | None:
    """In whose name a request of several nodes is made: the one guest that wrote any; None for several, or unknown."""
    found = set(askers)
    guests = found - {DOM0}
    if None in found or len(guests) > 1:
        return None
    return guests.pop() if guests else DOM0


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """What may be outstanding at one time. Domain 0 waits for its turn, others are told that there is no room."""

    calls: int = 256  # of domain 0
    calls_per_domain: int = 16
    body: int = 300 * 1024  # bytes of one request of domain 0
    body_per_domain: int = 64 * 1024  # bytes of all requests of another domain
    nodes: int = NODES  # of one request


class Place:
    """One request that is outstanding."""

    def __init__(self, admission: Admission, domid: int) -> None:
        self._admission = admission
        self._domid = domid
        self.size = 0  # bytes

    def become(self, size: int) -> bool:
        """Hold so many bytes from now on; False, and it holds what it held, when there is no room for them."""
        if not self._admission.fits(self._domid, 0, size - self.size):
            return False
        self._admission.count(self._domid, 0, size - self.size)
        self.size = size
        return True


class Admission:
    """Counts what is outstanding, by domain."""

    def __init__(self, limits: StoreLimits, room: Quota) -> None:
        self._limits = limits
        self._room = room
        self._turns = asyncio.Semaphore(limits.calls)
        self._outstanding: dict[int, tuple[int, int]] = {}  # calls and bytes, of domains but 0

    def body(self, domid: int) -> int:
        """How many bytes a request of this domain may have."""
        return self._limits.body if domid == DOM0 else self._limits.body_per_domain

    @asynccontextmanager
    async def admitted(self, domid: int) -> AsyncIterator[Place | None]:
        """Hold a place for a request, before it is read; None when there is none. Domain 0 waits for one."""
        async with self._turn(domid):
            if self._room.is_full or not self.fits(domid, 1, 0):
                yield None
                return
            self.count(domid, 1, 0)
            place = Place(self, domid)
            try:
                yield place
            finally:
                self.count(domid, -1, -place.size)

    @asynccontextmanager
    async def _turn(self, domid: int) -> AsyncIterator[None]:
        if domid != DOM0:
            yield
            return
        async with self._turns:
            yield

    def fits(self, domid: int, calls: int, size: int) -> bool:
        """Whether so many calls and bytes more of this domain may be outstanding."""
        outstanding, taken = self._outstanding.get(domid, (0, 0))
        limits = self._limits
        if not self._room.fits(size):
            return False
        return domid == DOM0 or (
            outstanding + calls <= limits.calls_per_domain and taken + size <= limits.body_per_domain
        )

    def count(self, domid: int, calls: int, size: int) -> None:
        """So many more are outstanding, or fewer."""
        self._room.calls += calls
        self._room.buffered += size
        before = self._outstanding.pop(domid, (0, 0))
        after = (before[0] + calls, before[1] + size)
        if domid != DOM0 and after[0]:
            self._outstanding[domid] = after
