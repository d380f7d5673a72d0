"""The daemon's TOML file: listeners, buses, legacy services and limits. Mapping files name the methods.

`load` checks a file completely; the other functions list doubtful settings, which `check` and the log show.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from difflib import get_close_matches
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

from gateway.core.rpc import units


class ConfigError(Exception):
    """The config cannot be used; the message names the file and the place in it."""


class Seconds(float):
    """A duration in seconds, written with its unit: "30s"."""


class Size(int):
    """A number of bytes, written with its unit: "300KiB"."""


_T = TypeVar("_T")

Count = Annotated[int, Meta(ge=1)]
BusAddress = Annotated[str, Meta(pattern=r"^(unix:(path|abstract)=|tcp:|unixexec:)")]
Bind = Annotated[str, Meta(pattern=r"^(tcp:.+:\d+|unix:/.+|systemd:.+|xenstore:(/.+)?)$")]
MetricsAddress = Annotated[str, Meta(pattern=r"^tcp:.+:\d+$")]
UpstreamUrl = Annotated[str, Meta(pattern=r"^(https?://.+|http\+unix:///.+|xenstore:/.+)$")]
Who = Annotated[str, Meta(pattern=r"^((user:|group:)?[A-Za-z_][A-Za-z0-9_.-]*\$?|(uid|gid):\d{1,10})$")]
Group = Annotated[str, Meta(pattern=r"^((group:)?[A-Za-z_][A-Za-z0-9_.-]*\$?|gid:\d{1,10})$")]
Origin = Annotated[str, Meta(pattern=r"^(\*|null|[a-z][a-z0-9+.-]*://[^/?#\s]+)$")]
TunnelPath = Annotated[str, Meta(pattern=r"^/[^?#\s]*$")]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A section: immutable, and an unknown key is an error."""


class BusConfig(_Section, frozen=True):
    """[bus.NAME]: a message bus and the services on it. No other file says where a service is."""

    address: BusAddress
    services: Annotated[tuple[str, ...], Meta(min_length=1)]  # bus names or patterns; the most specific one wins
    connections: Count = 4
    in_flight: Count = 100  # calls per connection; a broker allows 128 pending replies by default
    per_destination: Count = 64  # calls per service, so that a service that hangs does not starve the others
    waiting: Annotated[int, Meta(ge=0)] = 128  # calls per service that wait up to half a second until it has capacity
    max_message: Size = Size(32 * 1024**2)  # the broker's limit: a larger message makes it close the connection
    breaker_failures: Annotated[int, Meta(ge=0)] = (
        5  # failures in a row that open the circuit breaker of a service; 0: off
    )
    breaker_pause: Seconds = Seconds(1)  # until the circuit breaker probes; doubled each time, up to 30 s


class ListenerConfig(_Section, frozen=True):
    """[listener.NAME]: sockets for legacy clients. Mapping files expose methods on it."""

    bind: Annotated[tuple[Bind, ...], Meta(min_length=1)]
    socket_mode: Annotated[str, Meta(pattern="^0?[0-7]{3}$")] = "0660"
    malformed_response: Literal["protocol", "http500"] = "protocol"  # http500: as old xapi answers a broken message
    headers: dict[str, str] = {}  # added to every answer
    batch: Literal["sequential", "concurrent"] = "sequential"
    concurrency: Count = 8  # entries of one batch at a time, when concurrent
    long_integers: Literal["number", "text"] = "number"  # JSON integers beyond 2^53
    max_body: Size = Size(300 * 1024)
    max_depth: Count = 64
    max_elements: Count = 100_000
    max_batch: Count = 100
    max_calls: Count = 512
    max_calls_per_domain: Count = 16  # in a xenstore, of each domain but 0
    max_body_per_domain: Size = Size(64 * 1024)  # of all requests of such a domain together
    max_connections: Count = 1024
    max_calls_per_peer: Count | None = None  # of one user, address or IPv6 network; half of the whole when not said
    max_connections_per_peer: Count | None = None  # the same
    header_timeout: Seconds = Seconds(10)
    body_timeout: Seconds = Seconds(60)
    write_timeout: Seconds = Seconds(60)
    keepalive_timeout: Seconds = Seconds(75)
    override_header: str = ""  # a header by which a client names the side that answers one call: legacy or dbus
    override_parameter: str = ""  # a named parameter that does the same, and is taken out of the call
    origins: tuple[Origin, ...] = ()  # origins of web pages that may call; "*": any
    hosts: tuple[Annotated[str, Meta(min_length=1)], ...] = ()  # host names that requests may use; empty: any
    missing_host: Literal["refuse", "accept"] = "refuse"  # HTTP/1.1 without a Host header
    unmapped: Literal["reject", "passthrough"] = "reject"  # requests that no endpoint takes: other paths and verbs
    upstream: str | None = None  # the legacy service for them
    tunnels: tuple[TunnelPath, ...] = ()  # paths at which CONNECT and Upgrade open a tunnel to `upstream`
    max_tunnels: Count = 64  # at one time

    @property
    def is_store(self) -> bool:
        """Whether its clients use a xenstore and not sockets of the gateway."""
        return self.bind[0].startswith("xenstore:")


class UpstreamConfig(_Section, frozen=True):
    """[upstream.NAME]: a legacy service."""

    url: UpstreamUrl
    codec: str = "xmlrpc"  # what calls are written in; jsonrpc1: in JSON-RPC 1.0
    dialect: str = "plain"
    speaks: tuple[str, ...] = ()  # further codecs that it understands at the paths where clients send them
    arguments: Literal["sent", "named", "positional"] = "sent"
    names: Literal["same", "dashes"] = "same"  # dashes: reserve_memory is reserve-memory there
    host: str = ""  # in place of the client's Host header
    connections: Count = 64
    waiting: Count = 128  # calls that wait for a connection; past it they are refused
    keepalive: bool | None = None  # false: one request on each connection; not said: until one is seen to stay open
    idle: Seconds = Seconds(4)  # before an unused connection is closed
    connect_timeout: Seconds = Seconds(5)
    timeout: Seconds = Seconds(86_400)  # for any answer: nothing hurried it before, and an event may take that long
    max_answer: Size = Size(32 * 1024**2)
    ca_file: str | None = None  # https: who is trusted, in place of the system's authorities
    verify: bool = True  # https: false trusts anybody
    store: str | None = None  # xenstore: its socket, in place of the usual one
    pid: bool = True  # xenstore: false does not look whether the service's process lives


class MappingsConfig(_Section, frozen=True):
    """[mappings]: where the mapping files are; relative to the config file."""

    directories: Annotated[tuple[str, ...], Meta(min_length=1)]


class AdminConfig(_Section, frozen=True):
    """[admin]: the operator's socket, which `xcp-gateway reload` and its like speak to."""

    socket: str = "/run/xcp-gateway/admin"
    read: tuple[
        Who, ...
    ] = ()  # who may ask, beside root and the gateway's own user: "alice", "uid:12", "group:xen", "gid:7"
    change: tuple[Who, ...] = ()  # who may change modes, reload and call too
    group: Group | None = None  # who can open the socket, beside its owner, once others are named: "xen" or "gid:7"
    bus: str | None = None  # on which [bus.NAME] operators are heard as well, as org.xen.xcp.gateway
    metrics: MetricsAddress | None = None  # /metrics, /healthz and /readyz over TCP too, for who cannot open the socket


class LimitsConfig(_Section, frozen=True):
    """[limits]: of all listeners together; past either a request is refused at once, and nothing is executed."""

    max_calls: Count = 1024
    max_buffered: Size = Size(256 * 1024**2)  # request bodies and answers held at one time
    max_buffered_per_peer: Size | None = None  # of one user, address or IPv6 network; half of the whole when not said
    max_observed: Count = 64  # calls that the other side runs afterwards, to be compared; past it they are not


class StateConfig(_Section, frozen=True):
    """[state]: what outlives the process: modes set at run time, rollouts, their audit and their evidence."""

    file: Annotated[str, Meta(min_length=1)] | None = None  # relative to the config file; None: in memory only


class LogConfig(_Section, frozen=True):
    """[log]: console for people, json for machines; auto is console on a terminal."""

    format: Literal["auto", "console", "json"] = "auto"
    level: Literal["debug", "info", "warning", "error"] = "info"


class Config(_Section, frozen=True):
    """The whole file."""

    listener: Annotated[dict[Name, ListenerConfig], Meta(min_length=1)]
    mappings: MappingsConfig
    bus: dict[Name, BusConfig] = {}
    upstream: dict[Name, UpstreamConfig] = {}
    admin: AdminConfig = AdminConfig()
    state: StateConfig = StateConfig()
    log: LogConfig = LogConfig()
    limits: LimitsConfig = LimitsConfig()
    user: Annotated[str, Meta(min_length=1)] | None = None  # who to be once the sockets are bound; needs root
    grace: Seconds = Seconds(10)  # time for calls in flight at stop
    file: str = ""  # where this was read; not a key of the file

    def state_path(self) -> Path | None:
        """The state file; None if no state outlives the process."""
        return Path(self.file).parent / self.state.file if self.state.file else None

    def mapping_paths(self) -> tuple[Path, ...]:
        """The mapping directories; relative ones are below the config file's directory."""
        return tuple(Path(self.file).parent / name for name in self.mappings.directories)


def capacity_warnings(settings: Config) -> list[str]:
    """A sentence for each service that could hold more than half of the capacity for calls when it hangs.

    The other half is for a second one. A xenstore is left out: requests that find no capacity there wait.
    """
    return [f"{settings.file}: {warning}" for warning in (*_bus_warnings(settings), *_listener_warnings(settings))]


def _bus_warnings(settings: Config) -> Iterator[str]:
    for name, bus in settings.bus.items():
        places = bus.connections * bus.in_flight
        if 2 * bus.per_destination > places and not _has_one_service(bus):
            keys, where = f"per_destination {bus.per_destination}", f"bus.{name}.connections times in_flight"
            yield _capacity_warning(f"bus.{name}", keys, bus.per_destination, places, where)


def _listener_warnings(settings: Config) -> Iterator[str]:
    listeners = {name: each.max_calls for name, each in settings.listener.items() if not each.is_store}
    if not listeners:
        return
    tightest = min(listeners, key=lambda name: listeners[name])
    places, where = listeners[tightest], f"listener.{tightest}.max_calls"
    if settings.limits.max_calls < places:
        places, where = settings.limits.max_calls, "limits.max_calls"
    shares = [
        *(
            (f"bus.{name}", "per_destination", each.per_destination, each.waiting)
            for name, each in settings.bus.items()
        ),
        *(
            (f"upstream.{name}", "connections", each.connections, each.waiting)
            for name, each in settings.upstream.items()
        ),
    ]
    for section, key, most, waiting in shares:
        if 2 * (most + waiting) > places:
            yield _capacity_warning(section, f"{key} {most}, waiting {waiting}", most + waiting, places, where)


def _capacity_warning(section: str, keys: str, held: int, places: int, where: str) -> str:
    return (
        f"$.{section}: one service that hangs can hold {held} calls ({keys}), more than half of the {places} of "
        f"$.{where}: calls to other services would be refused; lower the one or raise the other"
    )


def _has_one_service(bus: BusConfig) -> bool:
    """Whether the bus has a single service, so that it can starve no other."""
    return len(bus.services) == 1 and not any(wildcard in bus.services[0] for wildcard in "*?[")


def load(path: Path) -> Config:
    """Read and check a config file; raises ConfigError naming file and place."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not valid TOML: {error}") from error
    return parse(document, path)


def parse(document: dict[str, object], path: Path) -> Config:
    """Check a document. `path` is the file that messages name and that relative paths start from."""
    if "file" in document:
        raise ConfigError(f"{path}: $: unknown key 'file'")
    for kind, section_type in (("bus", BusConfig), ("listener", ListenerConfig), ("upstream", UpstreamConfig)):
        sections = document.get(kind)
        for name, section in sections.items() if isinstance(sections, dict) else ():
            _convert(section, section_type, path, f"$.{kind}.{name}")
    settings = _convert({**document, "file": str(path)}, Config, path, "$")
    if not settings.bus and not settings.upstream:
        raise ConfigError(f"{path}: $: expected a [bus.NAME] or an [upstream.NAME]: no service could answer a call")
    _check_patterns(settings, path)
    _check_upstreams(settings, path)
    _check_admin_bus(settings, path)
    _check_stores(settings, path)
    return settings


def reached_by_others(address: str, socket_mode: str) -> str | None:
    """The others that can connect to an address besides the chosen users of this host; None if there are none."""
    if address.startswith("tcp:"):
        host = address.removeprefix("tcp:").rpartition(":")[0].strip("[]").partition("%")[0]
        return None if _is_loopback(host) else "other hosts"
    if address.startswith("unix:/") and int(socket_mode, 8) & _OTHERS_WRITE:
        return "every user of this host"
    return None


_OTHERS_WRITE = 0o002  # what connecting to a Unix socket takes, unix(7)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False  # a name; where it leads is known when it is looked up


def open_listeners(settings: Config) -> tuple[str, ...]:
    """A sentence for each address of a listener that others can reach."""
    return tuple(
        f"{settings.file}: $.listener.{name}.bind[{number}]: {who} can reach {address}; "
        "every client that connects may call"
        for name, listener in settings.listener.items()
        for number, address in enumerate(listener.bind)
        if (who := reached_by_others(address, listener.socket_mode)) is not None
    )


def _check_patterns(settings: Config, path: Path) -> None:
    taken: dict[str, str] = {}
    for name, bus in settings.bus.items():
        for pattern in bus.services:
            if pattern in taken:
                raise ConfigError(f"{path}: $.bus.{name}.services: '{pattern}' is already on bus '{taken[pattern]}'")
            taken[pattern] = name


def _check_upstreams(settings: Config, path: Path) -> None:
    for name, listener in settings.listener.items():
        place = f"{path}: $.listener.{name}"
        if listener.unmapped == "passthrough" and listener.upstream is None:
            raise ConfigError(f"{place}.unmapped: 'passthrough' needs an 'upstream'")
        if listener.tunnels and listener.unmapped != "passthrough":
            raise ConfigError(f"{place}.tunnels: a tunnel needs unmapped = 'passthrough' and an 'upstream'")
        if listener.upstream is not None and listener.upstream not in settings.upstream:
            near = get_close_matches(listener.upstream, settings.upstream, n=1)
            known = ", ".join(settings.upstream) or "none"
            hint = f"did you mean '{near[0]}'?" if near else f"there are: {known}"
            raise ConfigError(f"{place}.upstream: unknown upstream '{listener.upstream}' ({hint})")


def _check_stores(settings: Config, path: Path) -> None:
    for name, listener in settings.listener.items():
        if len(listener.bind) > 1 and any(bind.startswith("xenstore:") for bind in listener.bind):
            raise ConfigError(f"{path}: $.listener.{name}.bind: a xenstore needs a listener of its own")


def _check_admin_bus(settings: Config, path: Path) -> None:
    name, place = settings.admin.bus, f"{path}: $.admin.bus"
    if name is None:
        return
    if name not in settings.bus:
        known = ", ".join(settings.bus) or "none"
        raise ConfigError(f"{place}: unknown bus '{name}' (there are: {known})")
    if settings.bus[name].address.startswith("unixexec:"):
        raise ConfigError(
            f"{place}: the bus '{name}' is reached through a program (unixexec), over which no operator can call"
        )


def _convert(document: object, wanted: type[_T], path: Path, place: str) -> _T:
    try:
        return msgspec.convert(document, wanted, dec_hook=_with_unit)
    except msgspec.ValidationError as error:
        what, _, inner = str(error).partition(" - at `")
        raise ConfigError(f"{path}: {place}{inner.removeprefix('$').removesuffix('`')}: {what}") from error


def _with_unit(wanted: type, written: object) -> object:
    """Read Seconds and Size, which msgspec does not know."""
    if not isinstance(written, str):
        raise TypeError(f"expected a string with a unit, such as '30s' or '32MiB', got {written!r}")
    return Seconds(units.seconds(written)) if wanted is Seconds else Size(units.size(written))
