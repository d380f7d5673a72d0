"""What no schema can say of a config: problems, and settings that are valid and perhaps not meant (`doubts`)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import chain
from os.path import normpath
from typing import TypeAlias

from gateway.config.schema import MAX_WORKERS
from gateway.config.settings import Config
from gateway.mapping.problem import Path as Steps
from gateway.mapping.problem import format_place, unknown
from gateway.ops.process import cores

Finding: TypeAlias = tuple[Steps, str]  # the place in the config, and what is wrong there


def problems(settings: Config) -> Iterator[Finding]:
    """Names that another section must have, and addresses that cannot be used."""
    checks = (_services, _listeners, _operators, _workers, _ports, _same_addresses)
    return chain.from_iterable(check(settings) for check in checks)


def _services(settings: Config) -> Iterator[Finding]:
    if not settings.bus and not settings.upstream:
        yield (), "expected a [bus.NAME] or an [upstream.NAME]: no service could answer a call"
    taken: dict[str, str] = {}
    for name, bus in settings.bus.items():
        for index, pattern in enumerate(bus.services):
            if pattern in taken:
                yield ("bus", name, "services", index), f"'{pattern}' is already on bus '{taken[pattern]}'"
            taken.setdefault(pattern, name)


def _listeners(settings: Config) -> Iterator[Finding]:
    for name, listener in settings.listener.items():
        place = ("listener", name)
        if listener.unmapped == "passthrough" and listener.upstream is None:
            yield (*place, "unmapped"), "'passthrough' needs an 'upstream'"
        if listener.tunnels and listener.unmapped != "passthrough":
            yield (*place, "tunnels"), "a tunnel needs unmapped = 'passthrough' and an 'upstream'"
        if listener.upstream is not None and listener.upstream not in settings.upstream:
            yield (*place, "upstream"), unknown("upstream", listener.upstream, settings.upstream)
        if len(listener.bind) > 1 and any(bind.startswith("xenstore:") for bind in listener.bind):
            yield (*place, "bind"), "a xenstore needs a listener of its own"


def _operators(settings: Config) -> Iterator[Finding]:
    name, web = settings.admin.bus, settings.admin.web
    if name is not None and name not in settings.bus:
        yield ("admin", "bus"), unknown("bus", name, settings.bus)
    elif name is not None and settings.bus[name].address.startswith("unixexec:"):
        through = f"the bus '{name}' is reached through a program (unixexec)"
        yield ("admin", "bus"), f"{through}, over which no operator can call"
    if web is not None and reached_by_others(web, "") is not None:
        yield ("admin", "web"), f"expected a loopback address such as tcp:127.0.0.1:8081, got {web}"


def _workers(settings: Config) -> Iterator[Finding]:
    if settings.workers > MAX_WORKERS:
        yield ("workers",), f'expected a whole number from 1 to {MAX_WORKERS}, or "auto", got {settings.workers}'
    if settings.workers > 1 and settings.state.file is None:
        text = f"{settings.workers} workers need a state file, through which they share modes, sessions and tasks: set"
        yield ("workers",), f"{text} `file` in [state], or workers = 1"


# Addresses: ports that exist, and no address for two sockets

MAX_PORT = 65535

_PORT_OF_URL = re.compile(r"https?://(?:[^/?#]*@)?(?:\[[^\]]*\]|[^:/?#]*):([^/?#]*)")
_PORT_OF_BUS = re.compile(r"(?:^tcp:|[;,:])port=([^,;]*)")


def _ports(settings: Config) -> Iterator[Finding]:
    """The place of each address with a port that does not exist, and what was expected."""
    for place, address in _listening(settings):
        if address.startswith("tcp:") and not _is_port(address.rpartition(":")[2], least=0):
            yield place, f"expected a port from 1 to {MAX_PORT}, or 0 for any free one, got {address}"
    called: list[tuple[Steps, str, re.Pattern[str]]] = [
        (("upstream", name, "url"), each.url, _PORT_OF_URL) for name, each in settings.upstream.items()
    ]
    for name, bus in settings.bus.items():
        if not bus.address.startswith("unix"):
            called.append((("bus", name, "address"), bus.address, _PORT_OF_BUS))
    called.append((("traces", "url"), settings.traces.url or "", _PORT_OF_URL))
    for place, address, pattern in called:
        found = pattern.search(address)
        if found and found[1] and not _is_port(found[1], least=1):
            yield place, f"expected a port from 1 to {MAX_PORT}, got {address}"


def _is_port(text: str, *, least: int) -> bool:
    return re.fullmatch("[0-9]{1,5}", text) is not None and least <= int(text) <= MAX_PORT


def _same_addresses(settings: Config) -> Iterator[Finding]:
    """The place of each address on which another socket of the gateway listens too, and the place of that one."""
    before: list[Finding] = []
    for place, address in _listening(settings):
        for other, taken in before:
            if _overlap(address, taken):
                both = "" if address == taken else f" ({taken})"
                yield place, f"expected an address of its own, got {address}, which {format_place(other)}{both} has"
                break
        before.append((place, address))


def _listening(settings: Config) -> Iterator[Finding]:
    """Every address on which the gateway listens, with its place."""
    yield ("admin", "socket"), f"unix:{settings.socket_path().absolute()}"
    for name, listener in settings.listener.items():
        for index, address in enumerate(() if listener.is_store else listener.bind):
            yield ("listener", name, "bind", index), address
    for key, address_or_none in (("web", settings.admin.web), ("metrics", settings.admin.metrics)):
        if address_or_none is not None:
            yield ("admin", key), address_or_none


def _overlap(one: str, other: str) -> bool:
    """Whether only one of two sockets can listen on these addresses."""
    if not (one.startswith("tcp:") and other.startswith("tcp:")):
        return normpath(one) == normpath(other)
    (host, port), (other_host, other_port) = (each[4:].rpartition(":")[::2] for each in (one, other))
    if not (_is_port(port, least=1) and _is_port(other_port, least=1) and int(port) == int(other_port)):
        return False
    if host == other_host:
        return True
    return any(
        mine == theirs or (mine.version == theirs.version and (mine.is_unspecified or theirs.is_unspecified))
        for mine in _hosts(host)
        for theirs in _hosts(other_host)
    )


def _hosts(host: str) -> Sequence[IPv4Address | IPv6Address]:
    """The addresses of a host without a look-up: none for a name other than localhost."""
    host = host.strip("[]")
    try:
        return _LOCALHOST if host == "localhost" else (ip_address(host),)
    except ValueError:
        return ()


_LOCALHOST = (ip_address("127.0.0.1"), ip_address("::1"))


# Doubts


def doubts(settings: Config) -> list[Finding]:
    """The place and a sentence for each doubtful setting."""
    return [*_bus_capacity(settings), *_capacity(settings), *_sections(settings)]


def _bus_capacity(settings: Config) -> Iterator[Finding]:
    """Services that could hold more than half of the capacity for calls when they hang. The rest is for others."""
    for name, bus in settings.bus.items():
        places = bus.connections * bus.in_flight
        is_alone = len(bus.services) == 1 and not any(wildcard in bus.services[0] for wildcard in "*?[")
        if 2 * bus.per_destination > places and not is_alone:
            keys, where = f"per_destination {bus.per_destination}", f"bus.{name}.connections times in_flight"
            yield ("bus", name), _capacity_warning(keys, bus.per_destination, places, where)


def _capacity(settings: Config) -> Iterator[Finding]:
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


def _sections(settings: Config) -> Iterator[Finding]:
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
