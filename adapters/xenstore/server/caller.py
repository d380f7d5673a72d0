"""The domain that makes a request, found in the permissions of its nodes, and how much each domain may have in flight.

xenstore names no sender. The store however lets only the owner of a node, a domain with write permission and domain 0
write it, so the permissions of a request tell which domain has written it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, nullcontext
from typing import TypeAlias

from msgspec import Struct

from adapters.limits import Quota
from adapters.xenstore.client.wire import Permissions
from gateway.core.xenstore.paths import DOM0

NODES = 1000
WRITES = "wb"  # letters of permissions that allow to write


def caller_of(permissions: Permissions) -> int | None:
    """The domain that may have written a node: its owner or a domain with write permission; None for several.

    Domain 0 may write every node, so it is the caller only where no other domain may write.
    """
    if permissions.others in WRITES:
        return None
    writers = {permissions.owner, *(domid for domid, letter in permissions.domains if letter in WRITES)} - {DOM0}
    if len(writers) > 1:
        return None
    return writers.pop() if writers else DOM0


def least_privileged(callers: Iterable[int | None]) -> int | None:
    """The domain in whose name a request of several nodes is made: the guest among its writers, or domain 0.

    None when several guests have written it, or when the writer of a node is unknown.
    """
    found = set(callers)
    guests = found - {DOM0}
    if None in found or len(guests) > 1:
        return None
    return guests.pop() if guests else DOM0


class StoreLimits(Struct, frozen=True):
    """Limits of what is in flight. Above them domain 0 waits; requests of other domains are answered with BUSY."""

    calls: int = 256  # of domain 0
    calls_per_domain: int = 16
    body: int = 300 * 1024  # bytes of one request of domain 0
    body_per_domain: int = 64 * 1024  # bytes of all requests of another domain
    nodes: int = NODES  # of one request


Reserve: TypeAlias = Callable[[int], bool]  # reserves bytes in place of those so far; False without capacity for them


class Admission:
    """Counts requests in flight for each domain and holds them to the limits and to the quota of all listeners."""

    def __init__(self, limits: StoreLimits, quota: Quota) -> None:
        self._limits = limits
        self._quota = quota
        self._dom0 = asyncio.Semaphore(limits.calls)
        self._in_flight: dict[int, tuple[int, int]] = {}  # calls and bytes by domain, without domain 0

    def max_body(self, domid: int) -> int:
        """The largest request of this domain in bytes."""
        return self._limits.body if domid == DOM0 else self._limits.body_per_domain

    @asynccontextmanager
    async def admitted(self, domid: int) -> AsyncIterator[Reserve | None]:
        """Count a request before it is read; None without capacity. Domain 0 waits for capacity of its own limit."""
        reserved = 0

        def reserve(size: int) -> bool:
            nonlocal reserved
            if not self._add(domid, 0, size - reserved):
                return False
            reserved = size
            return True

        async with self._dom0 if domid == DOM0 else nullcontext():
            if self._quota.is_full or not self._add(domid, 1, 0):
                yield None
                return
            try:
                yield reserve
            finally:
                self._count(domid, -1, -reserved)

    def _add(self, domid: int, calls: int, size: int) -> bool:
        """Count this many more calls and bytes of a domain, if they are within the limits."""
        in_flight, used = self._in_flight.get(domid, (0, 0))
        limits = self._limits
        is_within = in_flight + calls <= limits.calls_per_domain and used + size <= limits.body_per_domain
        if not self._quota.fits(size) or (domid != DOM0 and not is_within):
            return False
        self._count(domid, calls, size)
        return True

    def _count(self, domid: int, calls: int, size: int) -> None:
        self._quota.calls += calls
        self._quota.buffered += size
        in_flight, used = self._in_flight.pop(domid, (0, 0))
        if domid != DOM0 and in_flight + calls:
            self._in_flight[domid] = (in_flight + calls, used + size)
