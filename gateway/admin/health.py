"""How the gateway is doing, by what its parts say: services, readiness, readings for metrics. Changes nothing."""

from __future__ import annotations

import platform
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from gateway import __version__
from gateway.core.admin.status import BusStatus, ServiceStatus, StoreStatus
from gateway.core.routing.route import Route
from gateway.mapping.table import Table
from gateway.ops.metrics import Calls, Samples

BUS_PATIENCE = 1.0  # seconds that a bus has to tell who owns its names


@dataclass(frozen=True, slots=True)
class ServiceRow:
    """A row of `xcp-gateway status`: one bus name that mapped methods call."""

    name: str
    bus: str
    state: str  # "owned", "starts on demand", "absent", "unknown"
    owner: str
    breaker: str
    probe_in: float  # seconds until a call may ask it again, when its breaker is open
    in_flight: int
    calls: int  # that have ended since start
    faults: int


Asks = Callable[[Route], bool]  # whether a call of this method may go to the bus


def bus_names(table: Table, asks: Asks) -> dict[str, list[Route]]:
    """Every bus name that a client's call may lead to, with its own routes; a session check has none of its own."""
    names: dict[str, list[Route]] = {}
    for route in table.routes():
        if not asks(route):
            continue
        names.setdefault(route.bus_target.bus_name, []).append(route)
        if route.session_check is not None:
            names.setdefault(route.session_check.bus_target.bus_name, [])
    return dict(sorted(names.items()))


class Services(Protocol):
    """The backend, as far as its services are concerned."""

    async def services(self, names: Collection[str], seconds: float) -> tuple[ServiceStatus, ...]:
        """The state of each bus name, or unknown after so many seconds."""


async def services(table: Table, backend: Services, asks: Asks) -> tuple[ServiceStatus, ...]:
    """How every mapped service is doing."""
    return await backend.services(bus_names(table, asks), BUS_PATIENCE)


def rows(table: Table, statuses: Sequence[ServiceStatus], calls: Calls, asks: Asks) -> list[ServiceRow]:
    """The same with what was counted."""
    routes = bus_names(table, asks)
    return [_row(status, routes.get(status.name, ()), calls) for status in statuses]


def _row(status: ServiceStatus, routes: Sequence[Route], calls: Calls) -> ServiceRow:
    ended = [calls.ended(service, method) for service, method in {(route.service, route.method) for route in routes}]
    return ServiceRow(
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


def reasons(
    buses: Sequence[BusStatus], statuses: Sequence[ServiceStatus], stores: Sequence[StoreStatus] = ()
) -> list[str]:
    """Why the gateway is not ready; nothing when each bus and store is connected, each service there or startable."""
    down = {bus.name for bus in buses if not bus.connected}
    of_buses = [f"bus '{bus.name}' is not connected: {bus.last_error}" for bus in buses if bus.name in down]
    missing = [status for status in statuses if not status.presence.is_reachable and status.bus not in down]
    away = [store for store in stores if not store.connected]
    of_stores = [f"the store of listener '{store.listener}' is not connected: {store.last_error}" for store in away]
    of_stores += [f"the store of listener '{each.listener}' is being looked through" for each in stores if _looks(each)]
    return [*of_buses, *of_stores, *map(_missing, missing)]


def _looks(store: StoreStatus) -> bool:
    return store.connected and not store.serving


def _missing(status: ServiceStatus) -> str:
    where = f"{status.presence.value} on bus '{status.bus}'" if status.bus else "on no bus of the config"
    return f"{status.name} is {where}"


def readings(
    table: Table,
    buses: Sequence[BusStatus],
    statuses: Sequence[ServiceStatus],
    values: Mapping[str, float],
    cuts: Mapping[str, int],
    stores: Sequence[StoreStatus] = (),
    published: Mapping[str, int] = MappingProxyType({}),
) -> Mapping[str, Samples]:
    """What a scrape reads, by the name of its series. `values`: without a label; `cuts`, `published`: by listener."""
    return {
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
