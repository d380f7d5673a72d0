"""Makes the adapters that the config and the mappings name. The one module of the gateway that imports adapters."""

from __future__ import annotations

from collections.abc import Callable

from adapters.backends import BACKENDS
from adapters.backends.dbus import Backend, Bus, BusStatus, ServiceStatus
from adapters.codecs import CODECS
from adapters.dialects import DIALECTS
from adapters.transports import TRANSPORTS
from adapters.transports.activation import Inherited, inherited
from adapters.transports.http import HttpLimits, Transport
from adapters.transports.room import Room
from gateway.config import Config, Listener
from gateway.core.model import Limits
from gateway.core.ports import Codec, Dialect, Resolve
from gateway.mapping.compile import build
from gateway.mapping.problem import Problem
from gateway.mapping.table import Table

__all__ = [
    "CODECS",
    "DIALECTS",
    "Backend",
    "BusStatus",
    "Inherited",
    "Room",
    "ServiceStatus",
    "Transport",
    "inherited",
]


def compile_mappings(settings: Config) -> tuple[Table, list[Problem]]:
    """Read and check every mapping file the config names; used by `check`, by start and by reload alike."""
    return build(settings.mapping_paths(), codecs=set(CODECS), dialects=set(DIALECTS), listeners=set(settings.listener))


def backend(settings: Config) -> Backend:
    """What answers calls from the buses of the config."""
    made: Backend = BACKENDS["dbus"](buses(settings))
    return made


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
    return CODECS[name](Limits(body=2**30, elements=2**30))


def dialect(name: str, codec: str) -> Dialect:
    """A dialect for the codec it rides on."""
    return DIALECTS[name](codec)


def transport(
    name: str, listener: Listener, resolve: Resolve, room: Room, passed: Inherited, on_cut: Callable[[str], object]
) -> Transport:
    """The sockets of a [listener.NAME] section."""
    made: Transport = TRANSPORTS["http"](
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
    )
    return made


def _http_limits(listener: Listener) -> HttpLimits:
    return HttpLimits(
        body=listener.max_body,
        header_timeout=listener.header_timeout,
        body_timeout=listener.body_timeout,
        write_timeout=listener.write_timeout,
        keepalive_timeout=listener.keepalive_timeout,
        max_calls=listener.max_calls,
        max_connections=listener.max_connections,
    )
