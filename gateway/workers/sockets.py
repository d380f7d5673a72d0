"""The sockets of a gateway with several workers. The supervisor binds them, and its workers inherit descriptors.

Over TCP each worker has a socket of its own for each address, among which the kernel spreads connections
(SO_REUSEPORT). The supervisor keeps the sockets of a worker that has ended, so that the next one can use them without
root; until then it withdraws them, and the kernel gives all connections to the other workers. A Unix socket and one of
systemd is one for all workers. The sockets of operators are for the leader: while there is none, connections wait.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from gateway import wiring
from gateway.admin import peer_credentials
from gateway.admin.sockets import AdminSocket, listening_at
from gateway.config import Config

ADMIN, METRICS, WEB = "admin", "metrics", "web"


class SharedSockets:
    """All sockets, between `bind` and `close`."""

    def __init__(self, settings: Config) -> None:
        self._settings = settings
        rights = peer_credentials.rights(settings)
        group = peer_credentials.group(settings)
        self._admin = AdminSocket(Path(settings.admin.socket), group, shared=rights.shared)
        self._operators: dict[str, socket.socket] = {}
        self._bound: dict[str, Sequence[wiring.Bound]] = {}  # by name: one for all workers, or one for each

    async def bind(self) -> None:
        """Bind every address; raises OSError that names the address. On failure `close` releases what was bound."""
        self._operators[ADMIN] = self._admin.bind()
        for name, address in ((METRICS, self._settings.admin.metrics), (WEB, self._settings.admin.web)):
            if address is not None:
                self._operators[name] = listening_at(address)
        inherited = wiring.inherited()
        for name, listener in self._settings.listener.items():
            mode = int(listener.socket_mode, 8)
            for index, address in enumerate(() if listener.is_store else listener.bind):
                bound = await wiring.bind_shared(address, mode, inherited, self._settings.workers)
                self._bound[wiring.given_name(name, index)] = bound
        if inherited.names:
            unclaimed = ", ".join(f"systemd:{name}" for name in inherited.names)
            raise OSError(f"systemd passed sockets that no listener of the config binds: {unclaimed}")

    def of(self, slot: int) -> Mapping[str, Sequence[int]]:
        """The descriptors of a worker, by name; `slot` counts from 0."""
        found = {name: [each.fileno()] for name, each in self._operators.items()}
        for name, bound in self._bound.items():
            found[name] = [each.fileno() for each in bound[slot % len(bound)].sockets]
        return found

    def withdraw(self, slot: int) -> None:
        """Listen no more on what belongs to this worker alone; its successor listens again."""
        for bound in self._bound.values():
            if len(bound) > 1:
                for each in bound[slot].sockets:
                    with suppress(OSError):  # it did not listen yet
                        each.shutdown(socket.SHUT_RD)  # on Linux a listening socket stays bound

    @property
    def files(self) -> list[Path]:
        """Socket files and their folders that `bind` has made."""
        made = [each.socket_file for bound in self._bound.values() for each in bound]
        return [*self._admin.made, *(file for file in made if file is not None)]

    @property
    def addresses(self) -> list[str]:
        """The addresses of the listeners, with real ports."""
        stores = [address for each in self._settings.listener.values() if each.is_store for address in each.bind]
        return [*(address for bound in self._bound.values() for address in bound[0].addresses), *stores]

    def close(self) -> None:
        """Close every socket and remove the socket files."""
        for bound in self._bound.values():
            for each in bound:
                each.close()
        for operators in self._operators.values():
            operators.close()
        self._admin.unlink()
