"""The sections and keys of gateway.toml, with their meaning and defaults. Mapping files name the methods.

`title` of a Meta describes the values that a key takes, `description` its meaning. The JSON Schema (schema.py), the
messages of the check and docs/reference.md are made from them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta


def about(description: str) -> Meta:
    """The meaning of a key."""
    return Meta(description=description)


class Seconds(float):
    """A duration in seconds, written with its unit: "30s"."""


class Size(int):
    """A number of bytes, written with its unit: "300KiB"."""


class WorkerCount(int):
    """A number of worker processes; in the file it may be "auto": the cores that the process may use."""


Count = Annotated[int, Meta(ge=1, title="a whole number, at least 1")]
Number = Annotated[int, Meta(ge=0, title="a whole number, at least 0")]
BusAddress = Annotated[
    str,
    Meta(
        pattern=r"^(unix:(path|abstract)=|tcp:|unixexec:)",
        title="a D-Bus address: unix:path=/run/x, unix:abstract=X, tcp:host=H,port=N or unixexec:path=/bin/x",
    ),
]
Bind = Annotated[
    str,
    Meta(
        pattern=r"^(tcp:.+:\d+|unix:/.+|systemd:.+|xenstore:(/.+)?)$",
        title="tcp:HOST:PORT, unix:/PATH, systemd:NAME, xenstore: or xenstore:/PATH",
    ),
]
MetricsAddress = Annotated[str, Meta(pattern=r"^tcp:.+:\d+$", title="tcp:HOST:PORT")]
UpstreamUrl = Annotated[
    str,
    Meta(
        pattern=r"^(https?://.+|http\+unix:///.+|xenstore:/.+)$",
        title="http://HOST:PORT, https://HOST:PORT, http+unix:///PATH or xenstore:/PATH",
    ),
]
CollectorUrl = Annotated[str, Meta(pattern=r"^https?://.+", title="a URL such as http://127.0.0.1:4318/v1/traces")]
Share = Annotated[str, Meta(pattern=r"^(100|\d{1,2}(\.\d+)?)%$", title="a percentage: 10%")]
Who = Annotated[
    str,
    Meta(
        pattern=r"^((user:|group:)?[A-Za-z_][A-Za-z0-9_.-]*\$?|(uid|gid):\d{1,10})$",
        title="a user (alice, user:alice, uid:1000) or a group (group:xen, gid:7)",
    ),
]
Group = Annotated[
    str,
    Meta(pattern=r"^((group:)?[A-Za-z_][A-Za-z0-9_.-]*\$?|gid:\d{1,10})$", title="a group: xen, group:xen or gid:7"),
]
Origin = Annotated[
    str,
    Meta(pattern=r"^(\*|null|[a-z][a-z0-9+.-]*://[^/?#\s]+)$", title="SCHEME://HOST or SCHEME://HOST:PORT, null or *"),
]
TunnelPath = Annotated[str, Meta(pattern=r"^/[^?#\s]*$", title="a path such as /console")]
Name = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", title="a name of letters, digits, - and _, such as rpc")
]
Text = Annotated[str, Meta(min_length=1)]


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A section: immutable, and an unknown key is an error."""


class BusConfig(_Section, frozen=True):
    """A message bus and the services on it. No other file says where a service is."""

    address: Annotated[BusAddress, about("Where the bus is.")]
    services: Annotated[
        tuple[Text, ...],
        Meta(
            min_length=1,
            description="Bus names on this bus, or patterns such as org.xen.xcp.*; the most specific one wins.",
        ),
    ]
    connections: Annotated[Count, about("Connections to the bus.")] = 4
    in_flight: Annotated[Count, about("Calls per connection; a broker allows 128 pending replies by default.")] = 100
    per_destination: Annotated[
        Count, about("Calls per service, so that a service that hangs does not starve the others.")
    ] = 64
    waiting: Annotated[Number, about("Calls per service that wait, up to half a second, until it has capacity.")] = 128
    max_message: Annotated[
        Size, about("The broker's limit for a message; it closes the connection over a larger one.")
    ] = Size(32 * 1024**2)
    breaker_failures: Annotated[
        Number, about("Failures in a row that open the circuit breaker of a service; 0: off.")
    ] = 5
    breaker_pause: Annotated[
        Seconds, about("Time until an open circuit breaker probes; doubled each time, up to 30 s.")
    ] = Seconds(1)


class ListenerConfig(_Section, frozen=True):
    """Sockets for legacy clients, or a xenstore. Mapping files expose methods on it."""

    bind: Annotated[
        tuple[Bind, ...], Meta(min_length=1, description="The addresses. A xenstore has a listener of its own.")
    ]
    socket_mode: Annotated[
        str,
        Meta(
            pattern="^0?[0-7]{3}$",
            title="three octal digits such as 0660",
            description="The mode of a Unix socket: who can open it may call.",
        ),
    ] = "0660"
    trust_root: Annotated[
        bool,
        about(
            "On a Unix socket: root logs in without a password, where the mapping has `root_login`. "
            "It has no effect on TCP."
        ),
    ] = False
    malformed_response: Annotated[
        Literal["dialect", "protocol", "http500"],
        about(
            "The answer to a broken message: a fault of the protocol, or HTTP 500 as xapi; "
            "`dialect`: HTTP 500 for the dialect `xenapi`. With `http500` a request without Content-Length or with "
            "Expect is broken too."
        ),
    ] = "dialect"
    headers: Annotated[dict[str, str], about("Header fields that are added to every answer.")] = {}
    batch: Annotated[Literal["sequential", "concurrent"], about("How the entries of a batch are served.")] = (
        "sequential"
    )
    concurrency: Annotated[Count, about('Entries of one batch at a time, with `batch = "concurrent"`.')] = 8
    long_integers: Annotated[Literal["number", "text"], about("How JSON integers beyond 2^53 are written.")] = "number"
    max_body: Annotated[Size, about("The size of a request that a mapping reads, also inflated.")] = Size(300 * 1024)
    max_depth: Annotated[Count, about("The depth of nested values in a request.")] = 64
    max_elements: Annotated[Count, about("The number of values in a request.")] = 100_000
    max_batch: Annotated[Count, about("The entries of a batch or multicall.")] = 100
    max_calls: Annotated[Count, about("Requests in flight.")] = 512
    max_calls_per_domain: Annotated[Count, about("In a xenstore: outstanding requests of each domain but 0.")] = 16
    max_body_per_domain: Annotated[Size, about("In a xenstore: bytes of all requests of such a domain together.")] = (
        Size(64 * 1024)
    )
    max_connections: Annotated[Count, about("Open connections of clients.")] = 1024
    max_calls_per_peer: Annotated[
        Count | None,
        about("Requests in flight of one user, address or IPv6 network. Default: half of `max_calls`."),
    ] = None
    max_connections_per_peer: Annotated[
        Count | None, about("The same for connections. Default: half of `max_connections`.")
    ] = None
    header_timeout: Annotated[Seconds, about("Time for the head of a request.")] = Seconds(10)
    body_timeout: Annotated[
        Seconds, about("Time for a body that is read whole; of a streamed one, without any byte.")
    ] = Seconds(60)
    write_timeout: Annotated[Seconds, about("Time in which a client takes nothing of a response.")] = Seconds(60)
    keepalive_timeout: Annotated[Seconds, about("Time until an idle connection is closed.")] = Seconds(75)
    override_header: Annotated[
        str, about("A header by which a client names the side that serves one call: legacy or dbus.")
    ] = ""
    override_parameter: Annotated[str, about("A named parameter that does the same, and is taken out of the call.")] = (
        ""
    )
    origins: Annotated[tuple[Origin, ...], about("Origins of web pages that may call; `*`: any. Default: none.")] = ()
    hosts: Annotated[tuple[Text, ...], about("Host names (or name:port) that requests may use. Default: any.")] = ()
    missing_host: Annotated[Literal["refuse", "accept"], about("What happens to HTTP/1.1 without a Host header.")] = (
        "refuse"
    )
    unmapped: Annotated[
        Literal["reject", "passthrough"],
        about("What happens to requests that no endpoint takes: other paths and verbs."),
    ] = "reject"
    upstream: Annotated[str | None, about("The [upstream.NAME] that receives these requests.")] = None
    tunnels: Annotated[
        tuple[TunnelPath, ...], about("Paths at which CONNECT and Upgrade open a tunnel to `upstream`.")
    ] = ()
    max_tunnels: Annotated[Count, about("Open tunnels.")] = 64
    websocket: Annotated[bool, about("JSON-RPC endpoints take WebSockets at their path.")] = False
    server_sent_events: Annotated[bool, about("JSON-RPC endpoints answer GET at PATH/events.")] = False
    max_waiting: Annotated[Count, about("Calls that wait for events; they are none of `max_calls`.")] = 4096
    tunnel_grace: Annotated[Seconds | None, about("Time for tunnels at stop. Default: the whole `grace`.")] = None

    @property
    def is_store(self) -> bool:
        """Whether its clients use a xenstore and not sockets of the gateway."""
        return self.bind[0].startswith("xenstore:")


class UpstreamConfig(_Section, frozen=True):
    """A legacy service."""

    url: Annotated[UpstreamUrl, about("Where it is. A path in it is used for all requests.")]
    codec: Annotated[str, about("How calls are written: xmlrpc, jsonrpc, jsonrpc1 (JSON-RPC 1.0) or xenstore.")] = (
        "xmlrpc"
    )
    dialect: Annotated[str, about("The convention on top: plain, xenapi or xapi_idl.")] = "plain"
    speaks: Annotated[
        tuple[str, ...], about("Further codecs that it understands, at the paths where clients send them.")
    ] = ()
    arguments: Annotated[
        Literal["sent", "named", "positional"], about("How arguments are sent; `sent`: as the client does.")
    ] = "sent"
    names: Annotated[Literal["same", "dashes"], about("`dashes`: reserve_memory is reserve-memory there.")] = "same"
    host: Annotated[str, about("Replaces the Host header of the client.")] = ""
    connections: Annotated[Count, about("Calls in flight.")] = 64
    waiting: Annotated[Count, about("Calls that wait for a connection; a further one is BUSY and not executed.")] = 128
    keepalive: Annotated[
        bool | None,
        about(
            "Whether connections are reused. Default: once the service has sent "
            "`Connection: keep-alive` or left one open for 1 s, until it closes one."
        ),
    ] = None
    idle: Annotated[Seconds, about("Time until an unused connection is closed.")] = Seconds(4)
    connect_timeout: Annotated[Seconds, about("Time to connect.")] = Seconds(5)
    timeout: Annotated[Seconds, about("Time for a response; a client may wait that long for an event.")] = Seconds(
        86_400
    )
    max_answer: Annotated[
        Size, about("The size of a response, also inflated; a larger one is a fault after the call.")
    ] = Size(32 * 1024**2)
    ca_file: Annotated[str | None, about("https: trusted authorities, in place of the system's. A PEM file.")] = None
    verify: Annotated[bool, about("https: `false` disables certificate verification.")] = True
    store: Annotated[str | None, about("xenstore: its socket. Default: as libxenstore finds it.")] = None
    pid: Annotated[bool, about("xenstore: whether the process that the service names must be alive on this host.")] = (
        True
    )


class MappingsConfig(_Section, frozen=True):
    """Where the mapping files are."""

    directories: Annotated[
        tuple[str, ...], Meta(min_length=1, description="Directories; relative ones are beside the config file.")
    ]


class AdminConfig(_Section, frozen=True):
    """The operator's socket, which `xcp-gateway reload` and the other commands use."""

    socket: Annotated[str, about("The path of the socket; a relative one starts at the config file.")] = (
        "/run/xcp-gateway/admin"
    )
    read: Annotated[tuple[Who, ...], about("Who may ask, beside root and the gateway's own user.")] = ()
    change: Annotated[tuple[Who, ...], about("Who may change modes, reload and call, too.")] = ()
    group: Annotated[
        Group | None, about("The group that can open the socket, once `read` or `change` name others.")
    ] = None
    bus: Annotated[str | None, about("The [bus.NAME] on which operators are served too, as org.xen.xcp.gateway.")] = (
        None
    )
    web: Annotated[
        MetricsAddress | None, about("The web page, on a loopback address; `xcp-gateway web` lets you in.")
    ] = None
    metrics: Annotated[MetricsAddress | None, about("/metrics, /healthz and /readyz over TCP too.")] = None


class LimitsConfig(_Section, frozen=True):
    """Limits of all listeners together. A request over a limit is refused at once, and nothing is executed."""

    max_calls: Annotated[Count, about("Calls in flight.")] = 1024
    max_buffered: Annotated[Size, about("Bytes of request bodies and answers in memory.")] = Size(256 * 1024**2)
    max_buffered_per_peer: Annotated[
        Size | None, about("The same of one user, address or IPv6 network. Default: half of the whole.")
    ] = None
    max_observed: Annotated[
        Count, about("Calls at one time that the other side runs to be compared; further ones are not.")
    ] = 64


class StateConfig(_Section, frozen=True):
    """What outlives the process: modes set at run time, rollouts, their audit and call statistics."""

    file: Annotated[Text | None, about("The state file, relative to the config file. Default: in memory only.")] = None


class LogConfig(_Section, frozen=True):
    """The log on standard error."""

    format: Annotated[
        Literal["auto", "console", "json"],
        about("console for people, json for machines; auto: console on a terminal."),
    ] = "auto"
    level: Annotated[
        Literal["debug", "info", "warning", "error"], about("The least level; below info no line per call.")
    ] = "info"


class TracesConfig(_Section, frozen=True):
    """Spans of calls for OpenTelemetry. A call whose client sends a sampled `traceparent` is traced."""

    url: Annotated[
        CollectorUrl | None, about("Where a collector takes OTLP over HTTP. Default: nothing is traced.")
    ] = None
    share: Annotated[Share, about("The share of the calls that are traced though their client names no trace.")] = "0%"


class Config(_Section, frozen=True):
    """The config of a gateway: where things are, and limits."""

    listener: Annotated[dict[Name, ListenerConfig], Meta(min_length=1)]
    mappings: MappingsConfig
    bus: dict[Name, BusConfig] = {}
    upstream: dict[Name, UpstreamConfig] = {}
    admin: AdminConfig = AdminConfig()
    state: StateConfig = StateConfig()
    log: LogConfig = LogConfig()
    limits: LimitsConfig = LimitsConfig()
    traces: TracesConfig = TracesConfig()
    user: Annotated[Text | None, about("Started as root: the user to change to once the sockets are bound.")] = None
    grace: Annotated[Seconds, about("Time for calls in flight at stop.")] = Seconds(10)
    workers: Annotated[
        WorkerCount,
        about("Processes that serve; they share the sockets and need a state file. `auto`: one a core."),
    ] = WorkerCount(1)
    file: str = ""  # where this was read; not a key of the file

    def socket_path(self) -> Path:
        """The admin socket; a relative path starts at the config file's directory."""
        return Path(self.file).parent / self.admin.socket

    def state_path(self) -> Path | None:
        """The state file; None if no state outlives the process."""
        return Path(self.file).parent / self.state.file if self.state.file else None

    def mapping_paths(self) -> tuple[Path, ...]:
        """The mapping directories; relative ones are below the config file's directory."""
        return tuple(Path(self.file).parent / name for name in self.mappings.directories)


INTERNAL = (Config, "file")  # the field that is not a key
