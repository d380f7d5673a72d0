"""What the connections of the gateway report of themselves: buses, services, xenstores, upstreams."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import msgspec


class BreakerState(Enum):
    """What becomes of a call."""

    CLOSED = "closed"  # it is made
    OPEN = "open"  # it is refused at once
    HALF_OPEN = "half-open"  # it is refused as well: one probe is on its way

    @property
    def refuses(self) -> bool:
        """Whether calls are refused."""
        return self is not BreakerState.CLOSED


class Presence(Enum):
    """Whether a call to a bus name would find anybody."""

    OWNED = "owned"
    ON_DEMAND = "starts on demand"
    ABSENT = "absent"
    UNKNOWN = "unknown"  # the bus cannot be asked

    @property
    def is_reachable(self) -> bool:
        """Whether it would."""
        return self in (Presence.OWNED, Presence.ON_DEMAND)


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """How one service is doing, by its bus name."""

    name: str
    bus: str  # its name in the config; empty when no bus claims the service
    presence: Presence
    owner: str = ""  # unique name
    breaker: BreakerState = BreakerState.CLOSED
    probe_in: float = 0.0  # seconds until a call may ask a service whose breaker is open
    in_flight: int = 0


@dataclass(frozen=True, slots=True)
class BusStatus:
    """How one bus is doing."""

    name: str
    address: str
    connected: bool
    since: float | None  # when that began, seconds of the epoch; None before the first attempt has ended
    connections: int
    in_flight: int
    late_replies: int  # answers that came when nobody waited any more
    last_error: str = ""  # for the operator, never for a client
    unanswered: int = 0  # calls to which the bus owes an answer, those that were given up here among them
    signals: int = 0  # heard
    overflows: int = 0  # more signals than could be heard: the state is read instead


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """How the store of a listener is doing."""

    listener: str
    address: str
    connected: bool
    serving: bool  # connected, and all that was there has been looked through
    last_error: str
    reconnects: int
    watches: int
    waiting: int  # requests that are being answered


class UpstreamStatus(msgspec.Struct, frozen=True):
    """How one legacy service is doing."""

    name: str
    url: str
    in_flight: int  # those that wait for a connection too
    waiting: int
    idle: int  # connections that are kept
    last_error: str  # why the last call that was not answered was not; empty when there was none
