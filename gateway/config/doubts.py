"""Settings that are valid and perhaps not meant: limits that one service could use up, open listeners, and the like."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

from gateway.config.settings import Config
from gateway.mapping.problem import Path as Steps
from gateway.ops.process import cores


def doubts(settings: Config) -> list[tuple[Steps, str]]:
    """The place and a sentence for each doubtful setting."""
    return [*_bus_capacity(settings), *_capacity(settings), *_sections(settings)]


def _bus_capacity(settings: Config) -> Iterator[tuple[Steps, str]]:
    """Services that could hold more than half of the capacity for calls when they hang. The rest is for others."""
    for name, bus in settings.bus.items():
        places = bus.connections * bus.in_flight
        is_alone = len(bus.services) == 1 and not any(wildcard in bus.services[0] for wildcard in "*?[")
        if 2 * bus.per_destination > places and not is_alone:
            keys, where = f"per_destination {bus.per_destination}", f"bus.{name}.connections times in_flight"
            yield ("bus", name), _capacity_warning(keys, bus.per_destination, places, where)


def _capacity(settings: Config) -> Iterator[tuple[Steps, str]]:
    """The same for listeners. A xenstore is left out: requests that find no capacity there wait."""
    listeners = {name: each.max_calls for name, each in settings.listener.items() if not each.is_store}
    if not listeners:
        return
    tightest = min(listeners, key=lambda name: listeners[name])
    places, where = listeners[tightest], f"listener.{tightest}.max_calls"
    if settings.limits.max_calls < places:
        places, where = settings.limits.max_calls, "limits.max_calls"
    for kind, key, sections in (
        ("bus", "per_destination", settings.bus),
        ("upstream", "connections", settings.upstream),
    ):
        for name, section in sections.items():
            most, waiting = getattr(section, key), section.waiting
            if 2 * (most + waiting) > places:
                yield (kind, name), _capacity_warning(f"{key} {most}, waiting {waiting}", most + waiting, places, where)


def _capacity_warning(keys: str, held: int, places: int, where: str) -> str:
    return (
        f"one service that hangs can hold {held} calls ({keys}), more than half of the {places} of "
        f"{where}: calls to other services would be refused; lower the one or raise the other"
    )


def reached_by_others(address: str, socket_mode: str) -> str | None:
    """The others that can connect to an address besides the chosen users of this host; None if there are none."""
    if address.startswith("tcp:"):
        host = address.removeprefix("tcp:").rpartition(":")[0].strip("[]").partition("%")[0]
        return None if is_loopback(host) else "other hosts"
    if address.startswith("unix:/") and int(socket_mode, 8) & _OTHERS_WRITE:
        return "every user of this host"
    return None


_OTHERS_WRITE = 0o002  # what connecting to a Unix socket takes, unix(7)


def is_loopback(host: str) -> bool:
    """Whether a host is this one by its address; of names only localhost is."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False  # a name; where it leads is known when it is looked up


def _sections(settings: Config) -> Iterator[tuple[Steps, str]]:
    for name, listener in settings.listener.items():
        for number, address in enumerate(listener.bind):
            who = reached_by_others(address, listener.socket_mode)
            if who is not None:
                where = ("listener", name, "bind", number)
                yield where, f"{who} can reach {address}; every client that connects may call"
    for name, listener in settings.listener.items():
        others = [address for address in listener.bind if not address.startswith(("unix:", "systemd:"))]
        if listener.trust_root and others:
            why = f"it has no effect on {', '.join(others)}: only a Unix socket shows that its peer is root"
            yield ("listener", name, "trust_root"), why
    for name, upstream in settings.upstream.items():
        if upstream.url.startswith("https:") and not upstream.verify:
            yield ("upstream", name, "verify"), "TLS certificate verification is disabled for this upstream"
    if settings.workers > 1 and all(each.is_store for each in settings.listener.values()):
        yield ("workers",), "only sockets are shared: one worker serves the xenstore, and the others nothing"
    if settings.workers > max(1, cores()):
        yield ("workers",), f"{settings.workers} workers on {cores()} cores: more than one a core brings no speed here"
