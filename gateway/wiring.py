"""Makes adapters from sections of the config. This is the only module of `gateway` that imports adapters.

`assembly` puts the objects together, and `server` runs them.
"""

from __future__ import annotations

import encodings
import pkgutil
import stat
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import msgspec
from msgspec.structs import replace

from adapters import upstream as legacy
from adapters.codecs import CODECS, UPSTREAM_CODECS, xmlrpc_writer
from adapters.dbus.backend import Backend, BusSettings
from adapters.dialects import DIALECTS
from adapters.dialects.xenapi import value as xenapi_value
from adapters.http.addresses import Bound, InheritedSockets, bind_shared, inherited
from adapters.http.client.request import parse_url
from adapters.http.client.upstream import ConnectionPoolLimits, HttpUpstreamConnection
from adapters.http.server import HttpLimits, HttpServer
from adapters.http.web_origins import WebOrigins
from adapters.limits import Quota
from gateway import __version__, config
from gateway.admin import peer_credentials
from gateway.config import Config, Finding, ListenerConfig
from gateway.core import interfaces
from gateway.core.admin.access import AccessRules
from gateway.core.interfaces import (
    AdminOperations,
    Codec,
    Endpoint,
    OpenChannel,
    Resolve,
    ResolveStream,
    StreamingEndpoint,
)
from gateway.core.routing.route import Effect
from gateway.core.rpc.model import Call, Fault, MessageLimits, Outcome
from gateway.core.xenstore.paths import element
from gateway.mapping.compiler import build
from gateway.mapping.problem import Problem, unknown
from gateway.mapping.table import EndpointTable, Table
from gateway.mapping.targets import NOTHING as NO_CONTENTS
from gateway.pipeline.tasks import TaskEnding

if TYPE_CHECKING:  # for types alone: a gateway imports these where its config has use for them
    from adapters.admin_dbus.service import AdminBusService
    from adapters.xenstore.publish.publisher import XenstorePublisher
    from adapters.xenstore.publish.watch_trigger import FireTrigger
    from adapters.xenstore.server.listener import XenstoreTransport
    from adapters.xenstore.server.state import ExposedEndpoint
    from gateway.ops.traces import Tracer

__all__ = [
    "CODECS",
    "DIALECTS",
    "Backend",
    "Bound",
    "BusSettings",
    "HttpServer",
    "InheritedSockets",
    "Quota",
    "StoreTransport",
    "Upstream",
    "Upstreams",
    "bind_shared",
    "inherited",
]


StoreTransport: TypeAlias = "XenstoreTransport"
Upstream = legacy.Upstream
Upstreams = legacy.Backend

# The forms in which each dialect's servers take a method's name; they do not depend on the protocol.
SPELLINGS = {name: make("").spelling for name, make in DIALECTS.items()}

STORE_SCHEME = "xenstore:"  # of the url of an upstream

# For answers of legacy services, whose bytes are limited by their connection.
_ANSWERS = MessageLimits(body=2**30, elements=2**30)


def load_config(path: Path, text: str | None = None) -> Config:
    """Read a config file and check all that can be checked without a bus; raises ConfigError with all problems.

    `text` replaces the content of the file.
    """
    return config.load(path, upstream_problems, peer_credentials.unknown_names, text=text)


def compile_mappings(
    settings: Config, paths: Sequence[Path] = (), contents: Mapping[Path, bytes] = NO_CONTENTS
) -> tuple[Table, list[Problem]]:
    """Compile the mapping files that the config names, or those at `paths`; returns the table and all problems.

    A bus name that no bus of the config has is a problem too. `contents` replaces the content of files.
    """
    table, problems = build(
        paths or settings.mapping_paths(),
        codecs=set(CODECS),
        dialects=set(DIALECTS),
        listeners=set(settings.listener),
        stores={name for name, listener in settings.listener.items() if listener.is_store},
        upstreams=spoken(settings),
        may_be_empty=not paths and bool(passing(settings)),
        contents=contents,
        spellings=SPELLINGS,
    )
    return table, sorted([*problems, *_on_no_bus(settings, table), *_bound_to_a_worker(settings, table)])


def _on_no_bus(settings: Config, table: Table) -> list[Problem]:
    """A problem for each bus name of each file that no bus of the config has."""
    patterns = [pattern for bus in settings.bus.values() for pattern in bus.services]
    found: dict[tuple[str, str], Problem] = {}
    for each in table.contracts:
        if not any(fnmatchcase(each.bus_name, pattern) for pattern in patterns):
            text = f"no bus of {settings.file} has {each.bus_name}: add it to `services` of a [bus.NAME] section"
            found.setdefault((each.where.file, each.bus_name), each.problem(text, "idl"))
    return list(found.values())


def compile_contents(
    settings: Config, mappings: Mapping[str, bytes], idl: Mapping[str, bytes]
) -> tuple[Table, list[Problem]]:
    """Compile mapping files from their content, by path, whatever is on the disk."""
    contents = {Path(name): content for name, content in (*mappings.items(), *idl.items())}
    return compile_mappings(settings, tuple(map(Path, mappings)), contents)


def given_name(listener: str, index: int) -> str:
    """The name of the sockets of one address of a listener, where another process has bound them."""
    return f"{listener}/{index}"


def bound_before(name: str, listener: ListenerConfig) -> ListenerConfig:
    """A listener that takes its sockets from another process of the gateway."""
    binds = tuple(f"systemd:{given_name(name, index)}" for index in range(len(listener.bind)))
    return replace(listener, bind=binds)


def _bound_to_a_worker(settings: Config, table: Table) -> Iterator[Problem]:
    """Methods that need one worker: those with a bus connection for each session, whose calls reach any worker."""
    for route in table.routes() if settings.workers > 1 else ():
        if route.connection is not None and route.connection.of == "session":
            file, _, line = route.source.rpartition(":")
            text = f"a bus connection for each session needs workers = 1 in {settings.file}: the calls of a session"
            place = f"methods.{route.method}"
            yield Problem(file, int(line), 1, place, f"{text} reach any of {settings.workers} workers", "config")


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
    """The [upstream.NAME] sections, in which `upstream_problems` has found nothing, as upstreams."""
    return {name: _upstream(name, upstream, room) for name, upstream in settings.upstream.items()}


def upstream_problems(settings: Config) -> Iterator[Finding]:
    """Names of codecs and dialects that do not exist, urls and files that cannot be used."""
    for name, upstream in settings.upstream.items():
        named: list[tuple[tuple[str | int, ...], str, str, Collection[str]]] = [
            (("codec",), "codec", upstream.codec, UPSTREAM_CODECS),
            (("dialect",), "dialect", upstream.dialect, DIALECTS),
            *((("speaks", number), "codec", codec, CODECS) for number, codec in enumerate(upstream.speaks)),
        ]
        for key, kind, value, known in named:
            if value not in known:
                yield ("upstream", name, *key), unknown(kind, value, sorted(known))
        over_store = upstream.url.startswith(STORE_SCHEME)
        if upstream.codec in UPSTREAM_CODECS and over_store != (upstream.codec == "xenstore"):
            yield ("upstream", name, "codec"), f"'{upstream.codec}' does not go over {upstream.url}"
        if not over_store:
            try:
                parse_url(upstream.url, ca_file=upstream.ca_file, verify=upstream.verify)
            except (ValueError, OSError) as error:
                key = ("ca_file" if isinstance(error, OSError) else "url",)
                yield ("upstream", name, *key), str(getattr(error, "strerror", None) or error)


OBSERVING = 16  # most connections to one legacy service for calls that are only observed


def observed_upstreams(settings: Config, room: Quota) -> dict[str, legacy.Upstream]:
    """The same legacy services for calls that are only observed: with few connections of their own, and no queue."""
    few = {
        name: replace(upstream, connections=min(OBSERVING, upstream.connections), waiting=1)
        for name, upstream in settings.upstream.items()
    }
    return upstreams(replace(settings, upstream=few), room)


def _upstream(name: str, upstream: config.UpstreamConfig, room: Quota) -> legacy.Upstream:
    connection: interfaces.UpstreamConnection
    if upstream.url.startswith(STORE_SCHEME):
        connection = _xenstore_connection(name, upstream)
    else:
        where = parse_url(upstream.url, ca_file=upstream.ca_file, verify=upstream.verify)
        limits = _limits(ConnectionPoolLimits, upstream, answer=upstream.max_answer)
        connection = HttpUpstreamConnection(name, where, limits, host=upstream.host, quota=room)
    made = UPSTREAM_CODECS[upstream.codec](_ANSWERS)
    spoken = legacy.Upstream(
        key=upstream,
        connection=connection,
        codec=made,
        dialect=DIALECTS[upstream.dialect](made.name),
        speaks=_understood(upstream),
        arguments=upstream.arguments,
        dashes=upstream.names == "dashes",
        timeout=upstream.timeout,
        max_answer=upstream.max_answer,
    )
    also = {codec: CODECS[codec](_ANSWERS) for codec in _understood(upstream) - {upstream.codec}}
    others = {
        name: replace(spoken, codec=codec, dialect=DIALECTS[upstream.dialect](codec.name))
        for name, codec in also.items()
    }
    return replace(spoken, also=others)


def _xenstore_connection(name: str, upstream: config.UpstreamConfig) -> interfaces.UpstreamConnection:
    from adapters.xenstore.client.client import XenstoreClient, socket_path
    from adapters.xenstore.upstream import XenstoreUpstreamConnection

    store = XenstoreClient(upstream.store or socket_path())
    root = upstream.url.removeprefix(STORE_SCHEME)
    return XenstoreUpstreamConnection(
        name, root, store, most=upstream.connections, waiting=upstream.waiting, checks_pid=upstream.pid
    )


_Limits = TypeVar("_Limits", bound=msgspec.Struct)


def _limits(kind: type[_Limits], section: msgspec.Struct, **others: Any) -> _Limits:
    """The limits that a section of the config has by the same names, and others."""
    same = {*kind.__struct_fields__} & {*section.__struct_fields__}
    return kind(**{name: getattr(section, name) for name in same}, **others)


def observed_buses(settings: Config) -> dict[str, BusSettings]:
    """The buses for observed calls: connections of their own, which start no service. None without legacy services."""
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


def task_ending(outcome: Outcome, call: Call) -> TaskEnding:
    """Return what the record of a task says about the outcome of its call, in the terms of XenAPI."""
    wrapped = DIALECTS["xenapi"]("jsonrpc").wrap_outcome(outcome, call)
    if isinstance(wrapped, Fault):
        error = wrapped.wire if isinstance(wrapped.wire, list) else [wrapped.message]
        return TaskEnding(error=tuple(map(str, error)))
    if wrapped.value == "":
        return TaskEnding()
    try:
        return TaskEnding(xmlrpc_writer.write(xenapi_value(wrapped.value)).decode())
    except xmlrpc_writer.Unwritable as error:
        return TaskEnding(error=("INTERNAL_ERROR", f"the result cannot be written: {error}"))


def tracer(settings: Config) -> Tracer | None:
    """What makes spans of calls; None where the config has no collector."""
    if settings.traces.url is None:
        return None
    from gateway.ops.traces import Tracer

    return Tracer(settings.traces.url, float(settings.traces.share.removesuffix("%")) / 100, __version__)


def operators(
    settings: Config, operator: AdminOperations, rights: AccessRules, user_name: Callable[[int], str]
) -> AdminBusService | None:
    """The operator's service on D-Bus; None if the config has none."""
    if settings.admin.bus is None:
        return None
    from adapters.admin_dbus.service import AdminBusService

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
    streams: ResolveStream | None = None,
) -> HttpServer:
    """The HTTP server of a [listener.NAME] section."""
    fixed = {header.lower() for header in listener.headers}
    return HttpServer(
        name,
        listener.bind,
        resolve,
        _limits(HttpLimits, listener, body=listener.max_body),
        malformed_response=listener.malformed_response,
        headers=listener.headers,
        socket_mode=int(listener.socket_mode, 8),
        quota=room,
        inherited=passed,
        on_abort=on_cut,
        passthrough=otherwise,
        streams=streams,
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
    from adapters.xenstore.server.listener import XenstoreTransport
    from adapters.xenstore.server.state import NODES, StoreLimits

    limits = StoreLimits(
        calls=listener.max_calls,
        calls_per_domain=listener.max_calls_per_domain,
        body=listener.max_body,
        body_per_domain=listener.max_body_per_domain,
        nodes=min(listener.max_elements, NODES),
    )
    return XenstoreTransport(name, listener.bind, limits, room=room, on_trouble=on_trouble)


def publisher(store: StoreTransport, fire: FireTrigger, on_fired: Callable[[str], object]) -> XenstorePublisher:
    """What publishes nodes in the xenstore of a listener."""
    from adapters.xenstore.publish.publisher import XenstorePublisher

    return XenstorePublisher(store.store, fire, on_fired)


def websockets() -> OpenChannel:
    """What makes a WebSocket of a connection that asks for it."""
    from adapters.http.websocket import open_websocket

    return open_websocket


_OF_WINDOWS = frozenset({"mbcs", "oem"})  # encodings


def import_for_reloads() -> None:
    """Import what is imported when it is needed first: adapters, words for what is wrong in files, and text encodings.

    A process that has given up root may be unable to read them. Encodings are of host names and of old clients' XML.
    """
    for name in ("adapters.xenstore.upstream", "jsonschema"):
        import_module(name)
    for found in pkgutil.iter_modules(encodings.__path__):
        if found.name not in _OF_WINDOWS:
            import_module(f"encodings.{found.name}")


def offer(table: EndpointTable, endpoint: Endpoint) -> ExposedEndpoint:
    """An endpoint as it is exposed in a xenstore."""
    from adapters.xenstore.server.state import ExposedEndpoint

    assert table.exposure is not None, "the mapping compiler gives each endpoint of a xenstore an exposure"
    writes = {element(name) for name, route in table.routes.items() if route.effect is Effect.WRITE}
    domains = {element(name): route.domains for name, route in table.routes.items() if route.domains is not None}
    return ExposedEndpoint(table.exposure, endpoint, frozenset(writes), domains)
