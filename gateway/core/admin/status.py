"""States of the connections of the gateway: buses, services, xenstores, upstreams."""

from __future__ import annotations

from enum import Enum

import msgspec
from msgspec import Struct


class BreakerState(Enum):
    """The state of a circuit breaker."""

    CLOSED = "closed"  # calls are made
    OPEN = "open"  # calls are rejected
    HALF_OPEN = "half-open"  # calls are rejected, and one probe is running

    @property
    def refuses(self) -> bool:
        """Whether calls are rejected."""
        return self is not BreakerState.CLOSED


class Presence(Enum):
    """Whether a bus name has an owner."""

    OWNED = "owned"
    ON_DEMAND = "starts on demand"
    ABSENT = "absent"
    UNKNOWN = "unknown"  # the bus does not answer

    @property
    def is_reachable(self) -> bool:
        """Whether a call can reach a service."""
        return self in (Presence.OWNED, Presence.ON_DEMAND)


class ServiceStatus(Struct, frozen=True):
    """The state of one service, by its bus name."""

    name: str
    bus: str  # its name in the config; empty: no bus has the service
    presence: Presence
    owner: str = ""  # unique name
    breaker: BreakerState = BreakerState.CLOSED
    probe_in: float = 0.0  # seconds until the next probe, if the breaker is open
    in_flight: int = 0


class BusStatus(Struct, frozen=True):
    """The state of one bus."""

    name: str
    address: str
    connected: bool
    since: float | None  # seconds since 1970; None: the first attempt has not ended
    connections: int
    in_flight: int
    late_replies: int  # replies that arrived after their call had ended
    last_error: str = ""  # for the operator, never for a client
    unanswered: int = 0  # calls without a reply, abandoned ones too
    signals: int = 0  # received
    overflows: int = 0  # times that signals were too many and the state was read instead


class StoreStatus(Struct, frozen=True):
    """The state of the xenstore of a listener."""

    listener: str
    address: str
    connected: bool
    serving: bool  # connected, and all existing requests were read
    last_error: str
    reconnects: int
    watches: int
    waiting: int  # requests without a response


class UpstreamStatus(msgspec.Struct, frozen=True):
    """The state of one upstream."""

    name: str
    url: str
    in_flight: int  # with those that wait for a connection
    waiting: int
    idle: int  # idle connections
    last_error: str  # of the last call without a response; empty: none
    unreachable: str = ""  # why the last probe found no connection; empty: it did, or there was no probe
