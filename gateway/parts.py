"""Makes the adapters that the config and the mappings name. The one module of the gateway that imports adapters."""

from __future__ import annotations

import stat
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from adapters.backends import BACKENDS, legacy
from adapters.backends.dbus import Backend, Bus, BusStatus, ServiceStatus
from adapters.codecs import CODECS, UPSTREAM_CODECS
from adapters.control import CONTROLS
from adapters.control.dbus import Service as Operators
from adapters.dialects import DIALECTS
from adapters.http.server import HttpLimits, Server
from adapters.http.socket_activation import Inherited, inherited
from adapters.http.web_origins import WebOrigins
from adapters.transports import http_client, xenstore_client
from adapters.transports.http_client import LineLimits
from adapters.transports.http_client_site import site
from adapters.transports.room import Room
from adapters.transports.xenstore import NODES, Offer, StoreLimits, StoreStatus
from adapters.transports.xenstore import Transport as StoreTransport
from adapters.transports.xenstore_board import Board
from adapters.transports.xenstore_store import Store, socket_path
from gateway import __version__, config
from gateway.config import Config, ConfigError, Listener
from gateway.core import ports
from gateway.core.model import Limits
from gateway.core.nodes import element
from gateway.core.ports import Codec, Dialect, Endpoint, Operator, Resolve
from gateway.core.rights import Rights
from gateway.core.route import Effect
from gateway.mapping.compile import build
from gateway.mapping.problem import Problem
from gateway.mapping.table import EndpointTable, Table
from gateway.mapping.targets import NOTHING as NO_CONTENTS

__all__ = [
    "CODECS",
    "DIALECTS",
    "Backend",
    "Board",
    "BusStatus",
    "Inherited",
    "Offer",
    "Room",
    "Server",
    "ServiceStatus",
    "StoreStatus",
    "StoreTransport",
    "Upstream",
    "Upstreams",
    "inherited",
]

Upstream = legacy.Upstream
Upstreams = legacy.Backend

# The forms in which each dialect's servers take a method's name; they do not depend on the protocol.
SPELLINGS = {name: make("").spelling for name, make in DIALECTS.items()}

_ANSWERS = Limits(body=2**30, elements=2**30)  # what an old service may answer; the bytes are bounded by its line


def compile_mappings(
    settings: Config, paths: Sequence[Path] = (), contents: Mapping[Path, bytes] = NO_CONTENTS
) -> tuple[Table, list[Problem]]:
    """Read and check every mapping file the config names, or these; used by `check`, by start and by reload alike.

    `contents`: in place of what these files hold.
    """
    return build(
        paths or settings.mapping_paths(),
        codecs=set(CODECS),
        dialects=set(DIALECTS),
        listeners=set(settings.listener),
        stores={name for name, listener in settings.listener.items() if listener.is_store},
        upstreams=spoken(settings),
        may_be_empty=not paths and forwards(settings),
        contents=contents,
        spellings=SPELLINGS,
    )


def forwards(settings: Config) -> bool:
    """Whether there is something to do without any mapping."""
    return any(listener.unmapped == "forward" for listener in settings.listener.values())


def passing(settings: Config) -> dict[str, str]:
    """Listeners that send what no endpoint takes to an upstream, and that upstream."""
    return {
        name: listener.upstream
        for name, listener in settings.listener.items()
        if listener.unmapped == "forward" and listener.upstream is not None
    }


def spoken(settings: Config) -> dict[str, frozenset[str]]:
    """What each upstream understands as it comes: "xmlrpc/xenapi"."""
    return {
        name: frozenset(f"{codec}/{upstream.dialect}" for codec in _understood(upstream))
        for name, upstream in settings.upstream.items()
    }


def _understood(upstream: config.Upstream) -> frozenset[str]:
    """Codecs by their names at endpoints: one that knows JSON-RPC 1.0 only does not understand what comes there."""
    return frozenset(CODECS) & {upstream.codec, *upstream.speaks}


def upstreams(settings: Config, room: Room) -> dict[str, legacy.Upstream]:
    """The [upstream.NAME] sections; raises ConfigError naming the place."""
    return {name: _line(settings, name, upstream, room) for name, upstream in settings.upstream.items()}


OBSERVING = 16  # connections to one old service for calls that are only observed


def observed_upstreams(settings: Config, room: Room) -> dict[str, legacy.Upstream]:
    """The same old services for calls that are only observed: connections of their own, and no waiting for one."""
    made = {}
    for name, upstream in settings.upstream.items():
        few = msgspec.structs.replace(upstream, connections=min(OBSERVING, upstream.connections), waiting=1)
        made[name] = _line(settings, name, few, room)
    return made


def _line(settings: Config, name: str, upstream: config.Upstream, room: Room) -> legacy.Upstream:
    place = f"{settings.file}: $.upstream.{name}"
    named: list[tuple[str, str, Collection[str]]] = [
        ("codec", upstream.codec, UPSTREAM_CODECS),
        ("dialect", upstream.dialect, DIALECTS),
        *(("speaks", codec, CODECS) for codec in upstream.speaks),
    ]
    for key, value, known in named:
        if value not in known:
            raise ConfigError(f"{place}.{key}: '{value}' is none of {', '.join(sorted(known))}")
    over_store = upstream.url.startswith(xenstore_client.SCHEME)
    if over_store != (upstream.codec == "xenstore"):
        raise ConfigError(f"{place}.codec: '{upstream.codec}' does not go over {upstream.url}")
    made = UPSTREAM_CODECS[upstream.codec](_ANSWERS)
    spoken = legacy.Upstream(
        key=upstream,
        line=_xenstore_line(name, upstream) if over_store else _http_line(place, name, upstream, room),
        codec=made,
        dialect=DIALECTS[upstream.dialect](made.name),
        speaks=_understood(upstream),
        arguments=upstream.arguments,
        dashes=upstream.names == "dashes",
        patience=upstream.timeout,
        max_answer=upstream.max_answer,
    )
    others = _understood(upstream) - {upstream.codec}
    return replace(spoken, also={codec: _in_codec(spoken, codec) for codec in others})


def _in_codec(upstream: legacy.Upstream, codec: str) -> legacy.Upstream:
    made = CODECS[codec](_ANSWERS)
    return replace(upstream, codec=made, dialect=DIALECTS[upstream.dialect.name](made.name))


def _xenstore_line(name: str, upstream: config.Upstream) -> ports.Line:
    store = Store(upstream.store or socket_path())
    root = upstream.url.removeprefix(xenstore_client.SCHEME)
    return xenstore_client.Line(
        name, root, store, most=upstream.connections, waiting=upstream.waiting, checks_pid=upstream.pid
    )


def _http_line(place: str, name: str, upstream: config.Upstream, room: Room) -> ports.Line:
    try:
        where = site(upstream.url, ca_file=upstream.ca_file, verify=upstream.verify)
    except (ValueError, OSError) as error:
        key = "ca_file" if isinstance(error, OSError) else "url"
        raise ConfigError(f"{place}.{key}: {getattr(error, 'strerror', None) or error}") from error
    limits = LineLimits(
        connections=upstream.connections,
        waiting=upstream.waiting,
        keepalive=upstream.keepalive,
        idle=upstream.idle,
        connect_timeout=upstream.connect_timeout,
        answer=upstream.max_answer,
    )
    return http_client.Line(name, where, limits, host=upstream.host, room=room)


def backend(settings: Config) -> Backend:
    """What answers calls from the buses of the config."""
    made: Backend = BACKENDS["dbus"](buses(settings))
    return made


def observing(settings: Config) -> Backend:
    """What answers calls that are only observed: connections of their own, on which no service is started."""
    made: Backend = BACKENDS["dbus"](observed_buses(settings))
    return made


def observed_buses(settings: Config) -> dict[str, Bus]:
    """The same buses for that; none while there is no old service to compare with."""
    return {name: bus.observing() for name, bus in buses(settings).items()} if settings.upstream else {}


def buses(settings: Config) -> dict[str, Bus]:
    """The [bus.NAME] sections."""
    return {
        name: Bus(
            name=name,
            address=bus.address,
            services=bus.services,
            connections=bus.connections,
            in_flight=bus.in_flight,
            per_destination=bus.per_destination,
            waiting_each=bus.waiting,
            max_message=bus.max_message,
            breaker_failures=bus.breaker_failures,
            breaker_pause=bus.breaker_pause,
        )
        for name, bus in settings.bus.items()
    }


def codec(name: str, listener: Listener) -> Codec:
    """A codec with the limits of its listener."""
    limits = Limits(listener.max_body, listener.max_depth, listener.max_elements, listener.max_batch)
    options = {"long_integers": listener.long_integers} if name == "jsonrpc" else {}
    return CODECS[name](limits, **options)


def client_codec(name: str) -> Codec:
    """A codec for reading answers, which may be far larger than what a listener takes in."""
    return CODECS[name](_ANSWERS)


def dialect(name: str, codec: str) -> Dialect:
    """A dialect for the codec it rides on."""
    return DIALECTS[name](codec)


def operators(
    settings: Config, operator: Operator, rights: Rights, user_name: Callable[[int], str]
) -> Operators | None:
    """Where operators are heard besides the control socket; None where the config says nothing of it."""
    if settings.control.bus is None:
        return None
    address = settings.bus[settings.control.bus].address
    made: Operators = CONTROLS["dbus"](address, operator, rights, user_name, __version__)
    return made


def transport(
    name: str,
    listener: Listener,
    resolve: Resolve,
    room: Room,
    passed: Inherited,
    on_cut: Callable[[str], object],
    otherwise: Endpoint | None = None,
) -> Server:
    """The sockets of a [listener.NAME] section."""
    fixed = {header.lower() for header in listener.headers}
    return Server(
        name,
        listener.bind,
        resolve,
        _http_limits(listener),
        framing_faults=listener.framing_faults,
        headers=listener.headers,
        socket_mode=int(listener.socket_mode, 8),
        room=room,
        inherited=passed,
        on_cut=on_cut,
        otherwise=otherwise,
        web=WebOrigins(listener.origins, listener.hosts, answers="access-control-allow-origin" not in fixed),
        needs_host=listener.missing_host == "refuse",
    )


def socket_mode(address: str, meant: str) -> str:
    """The mode of a Unix socket's file, which may be systemd's; `meant` where there is none."""
    try:
        return f"{stat.S_IMODE(Path(address.removeprefix('unix:')).stat().st_mode):o}"
    except OSError:
        return meant


def store_transport(name: str, listener: Listener, room: Room, on_trouble: Callable[[str], object]) -> StoreTransport:
    """The client of the store of a [listener.NAME] section."""
    limits = StoreLimits(
        calls=listener.max_calls,
        calls_per_domain=listener.max_calls_per_domain,
        body=listener.max_body,
        body_per_domain=listener.max_body_per_domain,
        nodes=min(listener.max_elements, NODES),
    )
    return StoreTransport(name, listener.bind, limits, room=room, on_trouble=on_trouble)


def offer(table: EndpointTable, endpoint: Endpoint) -> Offer:
    """What one endpoint offers in a store."""
    assert table.exposure is not None, "the compiler leaves none without"
    writes = {element(name) for name, route in table.routes.items() if route.effect is Effect.WRITE}
    domains = {element(name): route.domains for name, route in table.routes.items() if route.domains is not None}
    return Offer(table.exposure, endpoint, frozenset(writes), domains)


def _http_limits(listener: Listener) -> HttpLimits:
    return HttpLimits(
        body=listener.max_body,
        header_timeout=listener.header_timeout,
        body_timeout=listener.body_timeout,
        write_timeout=listener.write_timeout,
        keepalive_timeout=listener.keepalive_timeout,
        max_calls=listener.max_calls,
        max_connections=listener.max_connections,
        max_calls_per_peer=listener.max_calls_per_peer,
        max_connections_per_peer=listener.max_connections_per_peer,
    )
