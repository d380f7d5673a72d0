"""File descriptors: the number that all limits of the config need together, and a process limit that allows it.

A process without a free descriptor can neither accept a client nor reach a service, so the soft limit is raised at
start. If the hard limit is too low, listeners accept fewer connections than the config says, and that is logged.
"""

from __future__ import annotations

import resource
from contextlib import suppress

import msgspec

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
    fewer = _fewer(settings, soft)
    _log.warning(
        "too few file descriptors: listeners take fewer connections; raise LimitNOFILE or lower max_connections",
        needed=wanted,
        allowed=soft,
        max_connections={name: each.max_connections for name, each in fewer.listener.items() if not each.is_store},
    )
    return fewer


def needed(settings: Config) -> int:
    """The descriptors that all limits of the config can use together."""
    return _beside_listeners(settings) + sum(_clients(settings).values())


def _clients(settings: Config) -> dict[str, int]:
    return {name: each.max_connections for name, each in settings.listener.items() if not each.is_store}


def _beside_listeners(settings: Config) -> int:
    operators = 2 * (2 * CONNECTIONS + BACKLOG)  # admin socket and metrics port, and the connections of root on top
    services = sum(
        2 * upstream.connections for upstream in settings.upstream.values()
    )  # for calls and for observed calls
    buses = sum(2 * bus.connections + 1 for bus in settings.bus.values())
    return OWN + RESERVE + operators + services + buses + len(settings.listener)


def _fewer(settings: Config, allowed: int) -> Config:
    """The config with the connections of each listener lowered in the same proportion."""
    clients = _clients(settings)
    share = max(allowed - _beside_listeners(settings), 0) / max(sum(clients.values()), 1)
    lowered = {name: min(most, max(LEAST, int(most * share))) for name, most in clients.items()}
    listeners = {
        name: msgspec.structs.replace(each, max_connections=lowered.get(name, each.max_connections))
        for name, each in settings.listener.items()
    }
    return msgspec.structs.replace(settings, listener=listeners)
