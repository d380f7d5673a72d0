"""What one process tells of itself: why it is not ready, its status, and the samples of its metrics."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gateway import __version__, wiring
from gateway.admin import health
from gateway.assembly import Assembly
from gateway.core.admin.records import EVERYTHING
from gateway.core.admin.status import ServiceStatus
from gateway.core.migration.modes import Mode
from gateway.core.migration.rollout_plan import RolloutState
from gateway.core.routing.route import Route
from gateway.mapping.table import ungoverned
from gateway.migration.rollout_commands import RolloutCommands
from gateway.ops import metrics
from gateway.ops.log import lines_lost
from gateway.ops.metrics import ProcessSamples, Samples, Snapshot


class Readings:
    """Reads the parts of a gateway. `refused`: the problems of config and mapping files that were refused."""

    def __init__(self, parts: Assembly, rollouts: RolloutCommands, refused: Callable[[], Sequence[str]]) -> None:
        self._parts = parts
        self._rollouts = rollouts
        self._refused = refused

    async def unready(self) -> list[str]:
        """The reasons why some mapped methods cannot be called; empty when the gateway is ready."""
        parts = self._parts
        services = await health.services(parts.table, parts.backend, self._asks_bus)
        return health.reasons(parts.backend.status(), services, [store.status() for store in parts.served_stores])

    async def _services(self) -> tuple[tuple[ServiceStatus, ...], Any]:
        """The services on the buses, and the legacy services, which are asked at the same time."""
        parts = self._parts
        services = health.services(parts.table, parts.backend, self._asks_bus)
        return await asyncio.gather(services, parts.upstreams.probed(health.PROBE_TIMEOUT))

    def warnings(self) -> list[str]:
        """What an operator has to repair, although calls are answered."""
        migration, refused = self._parts.migration, self._refused()
        trouble = migration.state.trouble
        breached = (f"rollout of {name}: {why}" for name, why in migration.rollouts.breached().items())
        warnings = [*([trouble] if trouble else []), *breached]
        if not refused:
            return warnings
        wrong = f"{len(refused)} problem{'s' if len(refused) > 1 else ''}, the first: {refused[0]}"
        stays = f"revision {self._parts.table.revision}, which was live before, stays"
        return [f"config or mapping files are refused, {stays} ({wrong})", *warnings]

    def summary(self) -> str:
        """One line for `systemctl status`."""
        parts = self._parts
        buses = ", ".join(f"{bus.name} {'connected' if bus.connected else 'down'}" for bus in parts.backend.status())
        return f"revision {parts.table.revision}, {parts.dispatcher.in_flight} calls in flight, buses: {buses}"

    async def status(self) -> dict[str, Any]:
        """The state of buses, services, listeners and calls in flight."""
        parts = self._parts
        services, upstreams = await self._services()
        buses = parts.backend.status()
        stores = [store.status() for store in parts.served_stores]
        reasons = health.reasons(buses, services, stores)
        return {
            "ready": not reasons,
            "reasons": reasons,
            "warnings": self.warnings(),
            "revision": parts.table.revision,
            "version": __version__,
            "listening": parts.addresses(),
            "in_flight": parts.dispatcher.in_flight,
            "tasks": len(asyncio.all_tasks()),
            "buffered": parts.quota.buffered,
            "buses": buses,
            "upstreams": upstreams,
            "stores": stores,
            "state": {"place": parts.migration.state.place, "trouble": parts.migration.state.trouble},
            "ungoverned": ungoverned(parts.table, wiring.passing(parts.settings)),
            "services": health.rows(parts.table, services, parts.calls, self._asks_bus),
        }

    async def snapshot(self) -> Snapshot:
        """All samples."""
        parts = self._parts
        services, upstreams = await self._services()
        gauges = {
            "xcp_gateway_calls_in_flight": parts.dispatcher.in_flight,
            "xcp_gateway_tunnels_open": sum(each.tunnels for each in self._servers().values()),
            "xcp_gateway_buffered_bytes": parts.quota.buffered,
            "xcp_gateway_log_lines_lost_total": lines_lost(),
            "xcp_gateway_spans_lost_total": parts.tracer.lost if parts.tracer is not None else 0,
            "xcp_gateway_mapping_refused": bool(self._refused()),
            "xcp_gateway_workers": 1,
            "xcp_gateway_worker_restarts_total": 0,
        }
        stores = [store.status() for store in parts.served_stores]
        published = {name: publisher.written for name, publisher in parts.publishers.items()}
        buses = parts.backend.status()
        readings = health.readings(parts.table, buses, services, gauges, parts.aborted, stores, published, upstreams)
        readings = {**readings, **self._streamed(), **parts.migration.readings(), **self._rollout_states()}
        return metrics.snapshot(parts.calls, readings, await asyncio.to_thread(_process))

    def _servers(self) -> Mapping[str, wiring.HttpServer]:
        return {name: each for name, each in self._parts.transports.items() if isinstance(each, wiring.HttpServer)}

    def _rollout_states(self) -> Mapping[str, Samples]:
        """Samples of the rollouts by state, and of a rollback of everything."""
        states = Counter(self._rollouts.states().values())
        overrides = self._parts.migration.toggles.overrides
        back = any(each.pattern == EVERYTHING and each.setting.mode is Mode.LEGACY for each in overrides)
        return {
            "xcp_gateway_rollouts": [((state.value,), states[state.value]) for state in RolloutState],
            "xcp_gateway_rollback_in_force": [((), back)],
        }

    def _streamed(self) -> Mapping[str, Samples]:
        """Samples of the bytes and tunnels that listeners have streamed."""
        listeners = self._servers()
        return {
            "xcp_gateway_tunnels_total": [
                ((name,), sum(totals.opened for totals in each.streamed.values())) for name, each in listeners.items()
            ],
            "xcp_gateway_streamed_bytes_total": [
                ((name, protocol, direction), bytes_)
                for name, each in listeners.items()
                for protocol, totals in each.streamed.items()
                for direction, bytes_ in (("received", totals.received), ("sent", totals.sent))
            ],
        }

    def _asks_bus(self, route: Route) -> bool:
        """Whether a call of this method may go to the bus in its current mode."""
        setting = self._parts.migration.toggles.setting(route)
        return setting.mode is not Mode.OFF and (setting.mode is not Mode.LEGACY or setting.observe)


def _process() -> ProcessSamples:
    from gateway.ops.exposition import process

    return process()


def rendered(taken: Snapshot) -> bytes:
    """All series as text. It is long, and its library is imported with the first scrape: both are for a thread."""
    from gateway.ops.exposition import render

    return render(taken)
