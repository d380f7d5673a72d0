"""The xenstore listener: requests are nodes that clients write into a store, responses are nodes that they read there.

One transport is one listener of the configuration: one store and all paths that the mappings expose in it. It is a
client of the store and binds no address. It starts and stops without a store as well, and connects when there is one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from msgspec.structs import replace

from adapters.limits import Quota
from adapters.xenstore.client.client import XenstoreClient, socket_path
from adapters.xenstore.server.endpoint import XenstoreEndpoint
from adapters.xenstore.server.state import Admission, ExposedEndpoint, SharedContext, StoreLimits
from gateway.core import interfaces
from gateway.core.admin.status import StoreStatus

SCHEME = "xenstore:"
DEFAULT_LIMITS = StoreLimits()


class XenstoreTransport(interfaces.Transport):
    """A listener on a xenstore. `expose` replaces the exposed endpoints at any time.

    `room`: the quota that all listeners share. `on_trouble` takes messages for the operator. `store` replaces the store
    at the address.
    """

    def __init__(
        self,
        name: str,
        binds: Sequence[str],
        limits: StoreLimits = DEFAULT_LIMITS,
        *,
        room: Quota | None = None,
        on_trouble: Callable[[str], object] = lambda _: None,
        store: XenstoreClient | None = None,
    ) -> None:
        (address,) = binds
        self.name = name
        self.store = store or XenstoreClient(address.removeprefix(SCHEME) or socket_path())
        self._shared = SharedContext(self.store, Admission(limits, room or Quota()), on_trouble)
        self._endpoints: list[XenstoreEndpoint] = []
        self._started = False

    @property
    def addresses(self) -> tuple[str, ...]:
        """The address of the store."""
        return (f"{SCHEME}{self.store.status().address}",)

    @property
    def socket_files(self) -> tuple[Path, ...]:
        """None: the socket belongs to the store."""
        return ()

    async def bind(self) -> None:
        """Do nothing: a client of the store has no address of its own."""

    async def start(self) -> None:
        """Begin to connect and to serve; returns at once. Without a store it goes on trying."""
        self._started = True
        await self.store.start()
        for endpoint in self._endpoints:
            endpoint.start()

    async def expose(self, endpoints: Iterable[ExposedEndpoint]) -> None:
        """Serve these endpoints from now on. A request that has started is finished by the endpoint that started it."""
        wanted = {each.exposure: each for each in endpoints}
        staying = {each.exposed.exposure: each for each in self._endpoints if each.exposed.exposure in wanted}
        leaving = [each for each in self._endpoints if each.exposed.exposure not in wanted]
        joining = [XenstoreEndpoint(each, self._shared) for key, each in wanted.items() if key not in staying]
        for exposure, endpoint in staying.items():
            endpoint.exposed = wanted[exposure]
        self._endpoints = [*staying.values(), *joining]
        for endpoint in leaving:
            await endpoint.close()
        if self._started:
            for endpoint in joining:
                endpoint.start()

    async def stop(self, grace: float) -> int:
        """Accept no more requests and wait `grace` seconds for those in flight; returns how many were cancelled."""
        if not self._started:
            return 0
        self._started = False
        for endpoint in self._endpoints:
            await endpoint.close()
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
        """The state for an operator."""
        status = self.store.status()
        serving = status.connected and all(endpoint.is_up for endpoint in self._endpoints)
        return replace(status, listener=self.name, serving=serving, waiting=len(self._shared.running))
