"""Readiness and the state of services: the reasons why the gateway is not ready, rows of `status`, and gauges."""

from __future__ import annotations

import platform
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

from msgspec import Struct

from gateway import __version__
from gateway.core.admin.status import BusStatus, ServiceStatus, StoreStatus, UpstreamStatus
from gateway.core.routing.route import Route
from gateway.mapping.table import Table
from gateway.ops.metrics import Calls, Samples

BUS_TIMEOUT = 1.0  # seconds for a bus to report the owners of its names
PROBE_TIMEOUT = 1.0  # seconds for a connection to an upstream


class ServiceRow(Struct, frozen=True):
    """A row of `xcp-gateway status`: one bus name that mapped methods call."""

    name: str
    bus: str
    state: str  # "owned", "starts on demand", "absent", "unknown"
    owner: str
    breaker: str
    probe_in: float  # seconds until the next probe, if the breaker is open
    in_flight: int
    calls: int  # finished since start
    faults: int


UsesBus = Callable[[Route], bool]  # whether a call of this method may go to the bus


def bus_names(table: Table, uses_bus: UsesBus) -> dict[str, list[Route]]:
    """Every bus name that a call may use, with its routes; a name used only by session checks has none."""
    names: dict[str, list[Route]] = {}
    for route in table.routes():
        if not uses_bus(route):
            continue
        names.setdefault(route.bus_target.bus_name, []).append(route)
        if route.session_check is not None:
            names.setdefault(route.session_check.bus_target.bus_name, [])
    return dict(sorted(names.items()))


class Services(Protocol):
    """The part of the backend that knows the services."""

    async def services(self, names: Collection[str], seconds: float) -> tuple[ServiceStatus, ...]:
        """Return the state of each bus name, or unknown after `seconds`."""


async def services(table: Table, backend: Services, uses_bus: UsesBus) -> tuple[ServiceStatus, ...]:
    """Return the state of every mapped service."""
    return await backend.services(bus_names(table, uses_bus), BUS_TIMEOUT)


def rows(table: Table, statuses: Sequence[ServiceStatus], calls: Calls, uses_bus: UsesBus) -> list[ServiceRow]:
    """Return the same with counters."""
    routes, found = bus_names(table, uses_bus), []
    for status in statuses:
        methods = {(route.service, route.method) for route in routes.get(status.name, ())}
        ended = [calls.ended(*method) for method in methods]
        found.append(
            ServiceRow(
                name=status.name,
                bus=status.bus,
                state=status.presence.value,
                owner=status.owner,
                breaker=status.breaker.value,
                probe_in=round(status.probe_in, 1),
                in_flight=status.in_flight,
                calls=sum(all_ for all_, _ in ended),
                faults=sum(faults for _, faults in ended),
            )
        )
    return found


def reasons(
    buses: Sequence[BusStatus], statuses: Sequence[ServiceStatus], stores: Sequence[StoreStatus] = ()
) -> list[str]:
    """Return why the gateway is not ready: a bus or store is not connected, or a service is missing."""
    down = {bus.name: bus.last_error for bus in buses if not bus.connected}
    why = [f"bus '{name}' is not connected: {error}" for name, error in down.items()]
    away = [each for each in stores if not each.connected]
    why += [f"the store of listener '{each.listener}' is not connected: {each.last_error}" for each in away]
    reading = [each for each in stores if each.connected and not each.serving]
    why += [f"the store of listener '{each.listener}' is being read" for each in reading]
    for status in statuses:
        if not status.presence.is_reachable and status.bus not in down:
            where = f"{status.presence.value} on bus '{status.bus}'" if status.bus else "on no bus of the config"
            why.append(f"{status.name} is {where}")
    return why


def readings(
    table: Table,
    buses: Sequence[BusStatus],
    statuses: Sequence[ServiceStatus],
    values: Mapping[str, float],
    cuts: Mapping[str, int],
    stores: Sequence[StoreStatus] = (),
    published: Mapping[str, int] = MappingProxyType({}),
    upstreams: Sequence[UpstreamStatus] = (),
) -> Mapping[str, Samples]:
    """Return samples by series. `values`: gauges without labels; `cuts`, `published`: by listener."""
    return {
        "xcp_gateway_upstream_reachable": [((each.name,), not each.unreachable) for each in upstreams],
        "xcp_gateway_upstream_calls_in_flight": [((each.name,), each.in_flight) for each in upstreams],
        "xcp_gateway_upstream_calls_waiting": [((each.name,), each.waiting) for each in upstreams],
        "xcp_gateway_upstream_connections_idle": [((each.name,), each.idle) for each in upstreams],
        "xcp_gateway_build_info": [((__version__, platform.python_version()), 1)],
        "xcp_gateway_mapping_info": [((table.revision,), 1)],
        "xcp_gateway_connections_aborted_total": [((listener,), count) for listener, count in cuts.items()],
        "xcp_gateway_bus_connected": [((bus.name,), bus.connected) for bus in buses],
        "xcp_gateway_bus_connections": [((bus.name,), bus.connections) for bus in buses],
        "xcp_gateway_bus_calls_in_flight": [((bus.name,), bus.in_flight) for bus in buses],
        "xcp_gateway_late_replies_total": [((bus.name,), bus.late_replies) for bus in buses],
        "xcp_gateway_signals_total": [((bus.name,), bus.signals) for bus in buses],
        "xcp_gateway_signal_overflows_total": [((bus.name,), bus.overflows) for bus in buses],
        "xcp_gateway_service_available": [((s.bus, s.name), s.presence.is_reachable) for s in statuses],
        "xcp_gateway_breaker_open": [((s.bus, s.name), s.breaker.refuses) for s in statuses],
        "xcp_gateway_store_connected": [((store.listener,), store.connected) for store in stores],
        "xcp_gateway_store_requests_waiting": [((store.listener,), store.waiting) for store in stores],
        "xcp_gateway_nodes_published_total": [((listener,), count) for listener, count in published.items()],
        **{name: [((), value)] for name, value in values.items()},
    }
