"""File descriptors: how many the limits of the config can take together, and a process limit that holds them.

A process without a free descriptor can accept no client and reach no service. So the soft limit is raised at start.
Where the hard limit is too low, listeners take fewer connections than the config says, and that is logged.
"""

from __future__ import annotations

import resource
from contextlib import suppress

import msgspec
import structlog

from gateway.admin.connection_limits import BACKLOG, CONNECTIONS, RESERVE
from gateway.config import Config

OWN = 64  # the state file, the log, sockets that listen, the event loop, files that are read for a reload
LEAST = 16  # connections that a listener keeps

_log = structlog.get_logger("gateway")


def fitted(settings: Config) -> Config:
    """The config with what the process limit can hold; raises the soft limit as far as needed and allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = needed(settings)
    if wanted > soft:
        with suppress(OSError):  # a sandbox may forbid it: then what there is has to do
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if wanted <= soft:
        return settings
    fewer = _fewer(settings, soft)
    _log.warning(
        "too few file descriptors: listeners take fewer connections; raise LimitNOFILE or lower max_connections",
        needed=wanted,
        allowed=soft,
        max_connections={name: each.max_connections for name, each in fewer.listener.items() if not each.is_store},
    )
    return fewer


def needed(settings: Config) -> int:
    """Descriptors that all limits of the config can take together."""
    return _beside_listeners(settings) + sum(_clients(settings).values())


def _clients(settings: Config) -> dict[str, int]:
    return {name: each.max_connections for name, each in settings.listener.items() if not each.is_store}


def _beside_listeners(settings: Config) -> int:
    operators = 2 * (2 * CONNECTIONS + BACKLOG)  # the admin socket and the metrics port, and the trusted ones on top
    services = sum(2 * upstream.connections for upstream in settings.upstream.values())  # calls, and observations
    buses = sum(2 * bus.connections + 1 for bus in settings.bus.values())
    return OWN + RESERVE + operators + services + buses + len(settings.listener)


def _fewer(settings: Config, allowed: int) -> Config:
    """Each listener's connections, lowered in the same proportion."""
    clients = _clients(settings)
    share = max(allowed - _beside_listeners(settings), 0) / max(sum(clients.values()), 1)
    lowered = {name: min(most, max(LEAST, int(most * share))) for name, most in clients.items()}
    listeners = {
        name: msgspec.structs.replace(each, max_connections=lowered.get(name, each.max_connections))
        for name, each in settings.listener.items()
    }
    return msgspec.structs.replace(settings, listener=listeners)
