"""The composition root: makes every object of a gateway from its config and mappings.

The functions make adapters from sections of the config; this is the only module of `gateway` that imports adapters.
`Assembly` puts the objects together: both sides, the endpoints, the listeners and the publishers. `server.Gateway` adds
the operator's side and runs it all.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec
import structlog

from adapters import upstream as legacy
from adapters.admin_dbus.service import AdminBusService
from adapters.codecs import CODECS, UPSTREAM_CODECS
from adapters.dbus.backend import Backend, BusSettings, BusStatus
from adapters.dialects import DIALECTS
from adapters.http import client
from adapters.http.client import ConnectionPoolLimits
from adapters.http.client_connection import parse_url
from adapters.http.server import HttpLimits, HttpServer
from adapters.http.socket_activation import InheritedSockets, inherited
from adapters.http.web_origins import WebOrigins
from adapters.limits import Quota
from adapters.xenstore import upstream as xenstore_client
from adapters.xenstore.client.client import XenstoreClient, socket_path
from adapters.xenstore.publish.publisher import XenstorePublisher
from adapters.xenstore.server.listener import NODES, ExposedEndpoint, StoreLimits
from adapters.xenstore.server.listener import XenstoreTransport as StoreTransport
from gateway import __version__, config
from gateway.config import Config, ConfigError, ListenerConfig, reached_by_others
from gateway.core import interfaces
from gateway.core.admin.access import AccessRules
from gateway.core.admin.status import ServiceStatus, StoreStatus
from gateway.core.interfaces import AdminOperations, Codec, Dialect, Endpoint, Resolve, StreamingEndpoint
from gateway.core.routing.route import Effect, Route
from gateway.core.rpc.model import MessageLimits
from gateway.core.xenstore.paths import element
from gateway.events.xenstore_publisher import PublicationHub
from gateway.mapping.compiler import build
from gateway.mapping.problem import Problem
from gateway.mapping.table import EndpointKey, EndpointTable, Table
from gateway.mapping.targets import NOTHING as NO_CONTENTS
from gateway.migration.manager import MigrationManager
from gateway.ops import metrics
from gateway.ops.log import call_log
from gateway.pipeline.dispatcher import Dispatcher
from gateway.pipeline.endpoint import Endpoints, RpcEndpoint
from gateway.pipeline.passthrough import Passthrough
from gateway.pipeline.recorder import Recorder
from gateway.pipeline.sessions import Sessions
from gateway.pipeline.side_override import side_override

__all__ = [
    "CODECS",
    "DIALECTS",
    "Backend",
    "BusStatus",
    "ExposedEndpoint",
    "HttpServer",
    "InheritedSockets",
    "Quota",
    "ServiceStatus",
    "StoreStatus",
    "StoreTransport",
    "Upstream",
    "Upstreams",
    "XenstorePublisher",
    "inherited",
]


Upstream = legacy.Upstream
Upstreams = legacy.Backend

# The forms in which each dialect's servers take a method's name; they do not depend on the protocol.
SPELLINGS = {name: make("").spelling for name, make in DIALECTS.items()}

# For answers of legacy services, whose bytes are limited by their connection.
_ANSWERS = MessageLimits(body=2**30, elements=2**30)


def compile_mappings(
    settings: Config, paths: Sequence[Path] = (), contents: Mapping[Path, bytes] = NO_CONTENTS
) -> tuple[Table, list[Problem]]:
    """Compile the mapping files that the config names, or those at `paths`; returns the table and all problems.

    `contents` replaces the content of files.
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
    """Whether a listener passes requests through, so that the gateway needs no mapping."""
    return any(listener.unmapped == "passthrough" for listener in settings.listener.values())


def passing(settings: Config) -> dict[str, str]:
    """Listener -> upstream, for listeners that pass through what no endpoint takes."""
    return {
        name: listener.upstream
        for name, listener in settings.listener.items()
        if listener.unmapped == "passthrough" and listener.upstream is not None
    }


def spoken(settings: Config) -> dict[str, frozenset[str]]:
    """The codecs and dialects whose messages each upstream understands unchanged: "xmlrpc/xenapi"."""
    return {
        name: frozenset(f"{codec}/{upstream.dialect}" for codec in _understood(upstream))
        for name, upstream in settings.upstream.items()
    }


def _understood(upstream: config.UpstreamConfig) -> frozenset[str]:
    """The codecs of endpoints that an upstream understands. `jsonrpc1` is none of them: endpoints also get 2.0."""
    return frozenset(CODECS) & {upstream.codec, *upstream.speaks}


def upstreams(settings: Config, room: Quota) -> dict[str, legacy.Upstream]:
    """The [upstream.NAME] sections as upstreams; raises ConfigError that names the place."""
    return {name: _upstream(settings, name, upstream, room) for name, upstream in settings.upstream.items()}


OBSERVING = 16  # most connections to one legacy service for calls that are only observed


def observed_upstreams(settings: Config, room: Quota) -> dict[str, legacy.Upstream]:
    """The same legacy services for calls that are only observed: with few connections of their own, and no queue."""
    made = {}
    for name, upstream in settings.upstream.items():
        few = msgspec.structs.replace(upstream, connections=min(OBSERVING, upstream.connections), waiting=1)
        made[name] = _upstream(settings, name, few, room)
    return made


def _upstream(settings: Config, name: str, upstream: config.UpstreamConfig, room: Quota) -> legacy.Upstream:
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
        connection=(
            _xenstore_connection(name, upstream) if over_store else _http_connection(place, name, upstream, room)
        ),
        codec=made,
        dialect=DIALECTS[upstream.dialect](made.name),
        speaks=_understood(upstream),
        arguments=upstream.arguments,
        dashes=upstream.names == "dashes",
        timeout=upstream.timeout,
        max_answer=upstream.max_answer,
    )
    others = _understood(upstream) - {upstream.codec}
    return replace(spoken, also={codec: _in_codec(spoken, codec) for codec in others})


def _in_codec(upstream: legacy.Upstream, codec: str) -> legacy.Upstream:
    made = CODECS[codec](_ANSWERS)
    return replace(upstream, codec=made, dialect=DIALECTS[upstream.dialect.name](made.name))


def _xenstore_connection(name: str, upstream: config.UpstreamConfig) -> interfaces.UpstreamConnection:
    store = XenstoreClient(upstream.store or socket_path())
    root = upstream.url.removeprefix(xenstore_client.SCHEME)
    return xenstore_client.XenstoreUpstreamConnection(
        name, root, store, most=upstream.connections, waiting=upstream.waiting, checks_pid=upstream.pid
    )


def _http_connection(
    place: str, name: str, upstream: config.UpstreamConfig, room: Quota
) -> interfaces.UpstreamConnection:
    try:
        where = parse_url(upstream.url, ca_file=upstream.ca_file, verify=upstream.verify)
    except (ValueError, OSError) as error:
        key = "ca_file" if isinstance(error, OSError) else "url"
        raise ConfigError(f"{place}.{key}: {getattr(error, 'strerror', None) or error}") from error
    limits = ConnectionPoolLimits(
        connections=upstream.connections,
        waiting=upstream.waiting,
        keepalive=upstream.keepalive,
        idle=upstream.idle,
        connect_timeout=upstream.connect_timeout,
        answer=upstream.max_answer,
    )
    return client.HttpUpstreamConnection(name, where, limits, host=upstream.host, quota=room)


def backend(settings: Config) -> Backend:
    """The D-Bus side."""
    return Backend(buses(settings))


def observing(settings: Config) -> Backend:
    """The D-Bus side of calls that are only observed: connections of their own, which start no service."""
    return Backend(observed_buses(settings))


def observed_buses(settings: Config) -> dict[str, BusSettings]:
    """The buses for observed calls; none if there is no legacy service to compare with."""
    return {name: bus.observing() for name, bus in buses(settings).items()} if settings.upstream else {}


def buses(settings: Config) -> dict[str, BusSettings]:
    """The [bus.NAME] sections as settings of buses."""
    return {
        name: BusSettings(
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


def codec(name: str, listener: ListenerConfig) -> Codec:
    """The codec of this name with the limits of a listener."""
    limits = MessageLimits(listener.max_body, listener.max_depth, listener.max_elements, listener.max_batch)
    options = {"long_integers": listener.long_integers} if name == "jsonrpc" else {}
    return CODECS[name](limits, **options)


def client_codec(name: str) -> Codec:
    """The codec of this name for reading answers, which may be far larger than a request may be."""
    return CODECS[name](_ANSWERS)


def dialect(name: str, codec: str) -> Dialect:
    """The dialect of this name for a codec."""
    return DIALECTS[name](codec)


def operators(
    settings: Config, operator: AdminOperations, rights: AccessRules, user_name: Callable[[int], str]
) -> AdminBusService | None:
    """The operator's service on D-Bus; None if the config has none."""
    if settings.admin.bus is None:
        return None
    address = settings.bus[settings.admin.bus].address
    return AdminBusService(address, operator, rights, user_name, __version__)


def transport(
    name: str,
    listener: ListenerConfig,
    resolve: Resolve,
    room: Quota,
    passed: InheritedSockets,
    on_cut: Callable[[str], object],
    otherwise: StreamingEndpoint | None = None,
) -> HttpServer:
    """The HTTP server of a [listener.NAME] section."""
    fixed = {header.lower() for header in listener.headers}
    return HttpServer(
        name,
        listener.bind,
        resolve,
        _http_limits(listener),
        malformed_response=listener.malformed_response,
        headers=listener.headers,
        socket_mode=int(listener.socket_mode, 8),
        quota=room,
        inherited=passed,
        on_abort=on_cut,
        passthrough=otherwise,
        web=WebOrigins(listener.origins, listener.hosts, answers="access-control-allow-origin" not in fixed),
        needs_host=listener.missing_host == "refuse",
    )


def socket_mode(address: str, default: str) -> str:
    """The mode of a Unix socket's file, which systemd may have set; `default` if there is no file."""
    try:
        return f"{stat.S_IMODE(Path(address.removeprefix('unix:')).stat().st_mode):o}"
    except OSError:
        return default


def store_transport(
    name: str, listener: ListenerConfig, room: Quota, on_trouble: Callable[[str], object]
) -> StoreTransport:
    """The xenstore server of a [listener.NAME] section."""
    limits = StoreLimits(
        calls=listener.max_calls,
        calls_per_domain=listener.max_calls_per_domain,
        body=listener.max_body,
        body_per_domain=listener.max_body_per_domain,
        nodes=min(listener.max_elements, NODES),
    )
    return StoreTransport(name, listener.bind, limits, room=room, on_trouble=on_trouble)


def offer(table: EndpointTable, endpoint: Endpoint) -> ExposedEndpoint:
    """An endpoint as it is exposed in a xenstore."""
    assert table.exposure is not None, "the mapping compiler gives each endpoint of a xenstore an exposure"
    writes = {element(name) for name, route in table.routes.items() if route.effect is Effect.WRITE}
    domains = {element(name): route.domains for name, route in table.routes.items() if route.domains is not None}
    return ExposedEndpoint(table.exposure, endpoint, frozenset(writes), domains)


def _http_limits(listener: ListenerConfig) -> HttpLimits:
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
        tunnels=listener.tunnels,
        max_tunnels=listener.max_tunnels,
    )


# Putting it together

OBSERVE_GRACE = 2.0  # seconds at stop for calls that are only observed

_log = structlog.get_logger("gateway")


class Assembly:
    """The objects of a gateway, made from config and table. Nothing runs until `start_sides` and `start_publishers`."""

    def __init__(self, settings: Config, table: Table) -> None:
        self.settings = settings
        self.table = table
        self.backend = backend(settings)
        self.quota = Quota(
            settings.limits.max_calls, settings.limits.max_buffered, settings.limits.max_buffered_per_peer
        )
        self.upstreams = Upstreams(upstreams(settings, self.quota))
        self.observing_upstreams = Upstreams(observed_upstreams(settings, self.quota))
        self.observing = observing(settings)
        self.calls = metrics.Calls()
        self.migration = MigrationManager(settings.state_path(), self.live_routes)
        self.sessions = Sessions()
        log = call_log()
        listeners = (self.migration.evidence.count, self.calls.count, *([log] if log is not None else []))
        self.dispatcher = Dispatcher(
            self.backend,
            *listeners,
            upstreams=self.upstreams,
            observing=self.observing,
            observing_upstreams=self.observing_upstreams,
            toggles=self.migration.toggles,
            on_fallback=self.migration.evidence.fell_back,
        )
        self.shadow = self.migration.shadow(self.dispatcher.observe, settings.limits.max_observed)
        self.recorder = Recorder(self.dispatcher)
        self.endpoints = Endpoints(self._endpoints(settings, table))
        self._inherited = inherited()
        self._aborted = dict.fromkeys(settings.listener, 0)
        self.transports = {name: self._transport(name, section) for name, section in settings.listener.items()}
        self.publishers = {
            store.name: XenstorePublisher(store.store, self.dispatcher.answer, self._rung) for store in self.stores
        }
        self.hub = PublicationHub(self.backend, self.publishers)

    async def start_sides(self, stack: AsyncExitStack) -> None:
        """Start the D-Bus side and the legacy services, then the migration state."""
        await self.backend.start()
        stack.push_async_callback(self.backend.stop)
        await self.upstreams.start()
        stack.push_async_callback(self.upstreams.stop)
        await self.observing_upstreams.start()
        stack.push_async_callback(self.observing_upstreams.stop)
        await self.observing.start()
        stack.push_async_callback(self.observing.stop)
        self.warn(self.settings)
        await stack.enter_async_context(self.migration)
        stack.push_async_callback(self.shadow.drain, OBSERVE_GRACE)

    async def start_publishers(self, stack: AsyncExitStack) -> None:
        """Publish the state of services in each xenstore, and run the watch triggers."""
        for publisher in self.publishers.values():
            publisher.start()
            stack.push_async_callback(publisher.stop, self.settings.grace)
        stack.push_async_callback(self.hub.stop)
        await self.hub.follow(self.table)

    async def apply_config(self, settings: Config, table: Table, upstreams: Mapping[str, Upstream]) -> None:
        """Use another config and table from now on; calls in flight keep their route."""
        await self.backend.reconfigure(buses(settings))
        await self.observing.reconfigure(observed_buses(settings))
        await self.upstreams.reconfigure(upstreams)
        await self.observing_upstreams.reconfigure(observed_upstreams(settings, self.quota))
        self.warn(settings)
        self.endpoints.replace(self._endpoints(settings, table))
        self.table = table
        self.settings = settings
        await self.expose()
        await self.hub.follow(table)

    def warn(self, settings: Config) -> None:
        """Log doubtful settings: open listeners, limits that a single service could use up, unverified upstreams."""
        for crowded in config.capacity_warnings(settings):
            _log.warning("a service that hangs can take all capacity", where=crowded)
        for name, section in settings.listener.items():
            for address in self.transports[name].addresses if name in self.transports else ():
                who = reached_by_others(address, socket_mode(address, section.socket_mode))
                if who is not None:
                    _log.warning(
                        f"{who} can reach this listener; every client that connects may call", listener=name, at=address
                    )
        for name, upstream in settings.upstream.items():
            if upstream.url.startswith("https:") and not upstream.verify:
                _log.warning("TLS certificate verification is disabled for this upstream", upstream=name)

    def live_routes(self) -> Sequence[Route]:
        """Each mapped route of the live table."""
        return self.table.routes()

    def _rung(self, picture: str) -> None:
        self.hub.on_fired(picture)

    def addresses(self) -> list[str]:
        """The addresses of all listeners, with the real port where the config has 0."""
        return [address for transport in self.transports.values() for address in transport.addresses]

    def _endpoints(self, settings: Config, table: Table) -> dict[EndpointKey, RpcEndpoint]:
        return {
            key: self._endpoint(settings.listener[key.listener], endpoint) for key, endpoint in table.endpoints.items()
        }

    def _endpoint(self, listener: ListenerConfig, table: EndpointTable) -> RpcEndpoint:
        return RpcEndpoint(
            table,
            codec(table.codec, listener),
            dialect(table.dialect, table.codec),
            self.dispatcher,
            concurrency=listener.concurrency if listener.batch == "concurrent" else 1,
            client=client_codec(table.codec),
            on_refused=self.calls.refuse,
            shadow=self.shadow if table.has_upstream else None,
            override=side_override(listener.override_header, listener.override_parameter),
            sessions=self.sessions,
        )

    @property
    def stores(self) -> list[StoreTransport]:
        """The listeners that are a xenstore."""
        return [each for each in self.transports.values() if isinstance(each, StoreTransport)]

    async def expose(self) -> None:
        """Serve in each xenstore the endpoints that the mappings expose there."""
        for store in self.stores:
            found = [exchange for key, exchange in self.endpoints.exchanges.items() if key.listener == store.name]
            await store.expose(offer(exchange.table, exchange) for exchange in found)

    def _transport(self, name: str, listener: ListenerConfig) -> HttpServer | StoreTransport:
        if listener.is_store:
            return store_transport(
                name, listener, self.quota, lambda trouble: _log.warning("store", listener=name, trouble=trouble)
            )

        def on_aborted(why: str) -> None:
            self._aborted[name] += 1
            _log.info("connection aborted", listener=name, why=why)

        resolve = partial(self.endpoints.resolve, name)
        return transport(name, listener, resolve, self.quota, self._inherited, on_aborted, self._passthrough(listener))

    def _passthrough(self, listener: ListenerConfig) -> StreamingEndpoint | None:
        """The endpoint of requests that no mapped endpoint of a listener takes."""
        name = listener.upstream
        if listener.unmapped == "reject" or name is None:
            return None
        return Passthrough(self.dispatcher, name)
