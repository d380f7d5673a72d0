"""Requests are nodes that clients write into a xenstore, answers nodes that they read there; knows no protocol.

One Transport is one listener of the config: one store, and whatever the mappings expose in it. It binds nothing: it
starts and stops with the store away too, and finds it whenever it comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from adapters.limits import Quota
from adapters.xenstore.client.client import XenstoreClient, socket_path
from adapters.xenstore.server.caller import NODES, Admission, StoreLimits
from adapters.xenstore.server.endpoint import XenstoreEndpoint
from adapters.xenstore.server.state import ExposedEndpoint, SharedContext
from gateway.core import interfaces
from gateway.core.admin.status import StoreStatus

__all__ = ["NODES", "ExposedEndpoint", "StoreLimits", "StoreStatus", "XenstoreTransport"]

SCHEME = "xenstore:"
DEFAULT_LIMITS = StoreLimits()


def _ignore(_: str) -> None:
    """Tell nobody."""


class XenstoreTransport(interfaces.Transport):
    """A listener on a xenstore; `expose` says what is served, at any time."""

    def __init__(
        self,
        name: str,
        binds: Sequence[str],
        limits: StoreLimits = DEFAULT_LIMITS,
        *,
        room: Quota | None = None,  # shared with other listeners
        on_trouble: Callable[[str], object] = _ignore,  # told what an operator should know
        store: XenstoreClient | None = None,  # in place of the one at the address
    ) -> None:
        (address,) = binds
        self.name = name
        self.store = store or XenstoreClient(address.removeprefix(SCHEME) or socket_path())
        self._shared = SharedContext(self.store, limits, Admission(limits, room or Quota()), on_trouble)
        self._exposed: list[XenstoreEndpoint] = []
        self._started = False

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where the store is."""
        return (f"{SCHEME}{self.store.status().address}",)

    @property
    def socket_files(self) -> tuple[Path, ...]:
        """None: the socket is the store's."""
        return ()

    async def bind(self) -> None:
        """Nothing: it is a client of the store."""

    async def start(self) -> None:
        """Begin to connect and to serve; returns at once and keeps trying."""
        self._started = True
        await self.store.start()
        for exposed in self._exposed:
            exposed.start()

    async def expose(self, offers: Iterable[ExposedEndpoint]) -> None:
        """Serve these from now on. What is begun is finished by the endpoint that began it."""
        wanted = {offer.exposure: offer for offer in offers}
        staying = {exposed.offer.exposure: exposed for exposed in self._exposed if exposed.offer.exposure in wanted}
        leaving = [exposed for exposed in self._exposed if exposed.offer.exposure not in wanted]
        joining = [
            XenstoreEndpoint(offer, self._shared) for exposure, offer in wanted.items() if exposure not in staying
        ]
        for exposure, exposed in staying.items():
            exposed.offer = wanted[exposure]
        self._exposed = [*staying.values(), *joining]
        for exposed in leaving:
            await exposed.close()
        if self._started:
            for exposed in joining:
                exposed.start()

    async def stop(self, grace: float) -> int:
        """Take no more requests, let those in flight finish for `grace` seconds; returns how many were cut off."""
        if not self._started:
            return 0
        self._started = False
        for exposed in self._exposed:
            await exposed.close()
        tasks = set(self._shared.tasks)
        if tasks:
            await asyncio.wait(tasks, timeout=grace if self.store.connected else 0)
        cut = {task for task in tasks if not task.done()}
        for task in cut:
            task.cancel()
        if cut:
            await asyncio.wait(cut)
        await self.store.stop()
        return len(cut)

    def status(self) -> StoreStatus:
        """For an operator."""
        status = self.store.status()
        return StoreStatus(
            self.name,
            status.address,
            status.connected,
            status.connected and all(exposed.is_up for exposed in self._exposed),
            status.last_error,
            status.reconnects,
            status.watches,
            len(self._shared.running),
        )
