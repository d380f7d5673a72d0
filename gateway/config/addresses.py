"""Checks of the addresses in gateway.toml: ports that exist, and no address for two sockets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from os.path import normpath

from gateway.config.settings import Config
from gateway.mapping.problem import Path as Steps
from gateway.mapping.problem import format_place

MAX_PORT = 65535

_PORT_OF_URL = re.compile(r"https?://(?:[^/?#]*@)?(?:\[[^\]]*\]|[^:/?#]*):([^/?#]*)")
_PORT_OF_BUS = re.compile(r"(?:^tcp:|[;,:])port=([^,;]*)")


def ports(settings: Config) -> Iterator[tuple[Steps, str]]:
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


def same_addresses(settings: Config) -> Iterator[tuple[Steps, str]]:
    """The place of each address on which another socket of the gateway listens too, and the place of that one."""
    before: list[tuple[Steps, str]] = []
    for place, address in _listening(settings):
        for other, taken in before:
            if _overlap(address, taken):
                both = "" if address == taken else f" ({taken})"
                yield place, f"expected an address of its own, got {address}, which {format_place(other)}{both} has"
                break
        before.append((place, address))


def _listening(settings: Config) -> Iterator[tuple[Steps, str]]:
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
