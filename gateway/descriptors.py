"""File descriptors: the number that all limits of the config need together, and a process limit that allows it.

A process without a free descriptor can neither accept a client nor reach a service, so the soft limit is raised at
start. If the hard limit is too low, listeners accept fewer connections than the config says, and that is logged.
"""

from __future__ import annotations

import resource
from contextlib import suppress

from msgspec.structs import replace

from gateway.admin.connection_limits import BACKLOG, CONNECTIONS, RESERVE
from gateway.config import Config
from gateway.core.logger import Logger

OWN = 64  # state file, log, listening sockets, event loop, files that a reload reads
LEAST = 16  # connections that a listener keeps at least

_log = Logger()


def fitted(settings: Config) -> Config:
    """The config, with fewer connections where the process limit needs it; raises the soft limit as far as allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = needed(settings)
    if wanted > soft:
        with suppress(OSError):  # a sandbox may forbid it: then the limit stays
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if wanted <= soft:
        return settings
    clients = _clients(settings)  # each listener gets fewer in the same proportion
    share = max(soft - _beside_clients(settings), 0) / max(sum(clients.values()), 1)
    lowered = {name: min(most, max(LEAST, int(most * share))) for name, most in clients.items()}
    _log.warning(
        "too few file descriptors: listeners take fewer connections; raise LimitNOFILE or lower max_connections",
        needed=wanted,
        allowed=soft,
        max_connections=lowered,
    )
    fewer = {name: replace(settings.listener[name], max_connections=most) for name, most in lowered.items()}
    return replace(settings, listener={**settings.listener, **fewer})


def needed(settings: Config) -> int:
    """The descriptors that all limits of the config can use together."""
    return _beside_clients(settings) + sum(_clients(settings).values())


def _beside_clients(settings: Config) -> int:
    operators = 2 * (2 * CONNECTIONS + BACKLOG)  # admin socket and metrics port, and the connections of root on top
    services = sum(2 * upstream.connections for upstream in settings.upstream.values())  # for observed calls too
    buses = sum(2 * bus.connections + 1 for bus in settings.bus.values())
    return OWN + RESERVE + operators + services + buses + len(settings.listener)


def _clients(settings: Config) -> dict[str, int]:
    return {name: each.max_connections for name, each in settings.listener.items() if not each.is_store}
