"""The running gateway: ordered start, reload, drained stop, and what it tells its operator. Knows no adapter."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self

import structlog

from gateway import __version__, config, descriptors, wiring
from gateway.admin import health, monitoring, peer_credentials
from gateway.admin.http_server import AdminServer, CallBody
from gateway.admin.service import AdminService
from gateway.admin.traffic import Traffic
from gateway.check import connected
from gateway.config import Config
from gateway.core.migration.modes import Mode
from gateway.core.routing.route import Route
from gateway.core.rpc.model import Fault, Peer, Value
from gateway.last_good import LastGood
from gateway.mapping.problem import Problem
from gateway.mapping.table import Table, changes, describe_routes, ungoverned
from gateway.migration.rollout_commands import RolloutCommands
from gateway.ops import metrics, process
from gateway.ops.log import lines_lost
from gateway.pipeline import trace
from gateway.pipeline.endpoint import RpcEndpoint
from gateway.pipeline.replay import Replayer
from gateway.state import clock
from gateway.wiring import Assembly

_log = structlog.get_logger("gateway")


class MappingError(Exception):
    """The mapping files cannot be used; `problems` says why, for all files at once."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


class Gateway(Assembly):
    """A gateway from its config file; `async with gateway:` runs it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        settings = config.load(path)
        self._last_good = LastGood(settings.state_path(), path)
        table, self._refused = _first_table(settings, self._last_good)
        super().__init__(descriptors.fitted(settings), table)
        self._started = settings  # what a reload cannot change stays as it was then
        self.manager = process.from_environment()
        orders = RolloutCommands(self.moving.state, self.live_routes, steady=clock.steady)
        self.steering = AdminService(
            self.live_routes,
            self.moving.toggles,
            self.moving.state,
            orders,
            lambda: self.table.digests,
            steady=clock.steady,
            flush=self.moving.flush,
        )
        control = Path(self.settings.control.socket)
        replaying = Replayer(lambda: self.endpoints, self.dispatcher.observe, self.moving.evidence.compare)
        traffic = Traffic(self.live_routes, lambda: self.table.revision, self.moving.state, self.recorder, replaying)
        rights = peer_credentials.rights(self.settings)
        group = peer_credentials.group(self.settings)
        self._control = AdminServer(control, self, self.steering, traffic, rights, group)
        if rights.shared and group is None:
            _log.warning("only members of its owner's group can open the control socket: set control.group for others")
        self._operators = wiring.operators(self.settings, self.steering, rights, peer_credentials.user_name)
        address = self.settings.control.metrics
        self._monitoring = monitoring.MonitoringServer(address, self) if address else None
        self._stack = AsyncExitStack()
        self._reloading = asyncio.Lock()

    async def __aenter__(self) -> Self:
        """Sockets bound, root given up, backends up, then control, then listeners; leaving goes backwards."""
        async with AsyncExitStack() as stack:
            await self._bind(stack)
            if self.settings.user is not None:
                process.become(self.settings.user, self._socket_files())
            await self.start_sides(stack)
            await self._wait_for_buses()
            await self._control.start()
            stack.push_async_callback(self._control.stop)
            stack.callback(self.recorder.stop)
            if self._operators is not None:
                await self._operators.start()
                stack.push_async_callback(self._operators.stop)
            if self._monitoring is not None:
                await self._monitoring.start()
                stack.push_async_callback(self._monitoring.stop)
            stack.push_async_callback(self._drain)
            await self.expose()
            for transport in self.transports.values():
                await transport.start()
            await self.start_boards(stack)
            self._stack = stack.pop_all()
        if not self._refused:
            await self._keep_table()
        _log.info("ready", revision=self.table.revision, methods=len(self.table.routes()), listening=self.addresses())
        self.manager.ready(self._in_a_line())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _bind(self, stack: AsyncExitStack) -> None:
        """Take every address, which may need root, and let nobody in; raises OSError naming the address."""
        stack.push_async_callback(self._control.stop)
        self._control.bind()
        if self._monitoring is not None:
            stack.push_async_callback(self._monitoring.stop)
            self._monitoring.bind()
        for transport in self.transports.values():
            stack.push_async_callback(transport.stop, 0)
            await transport.bind()
        if self._inherited.names:
            unclaimed = ", ".join(f"systemd:{name}" for name in self._inherited.names)
            raise OSError(f"systemd passed sockets that no listener of the config binds: {unclaimed}")

    def _socket_files(self) -> list[Path]:
        """Files and folders that are there because of us."""
        return [*self._control.made, *(file for each in self.transports.values() for file in each.socket_files)]

    async def watch(self) -> None:
        """Give the service manager its signs of life, while the loop turns and the buses live."""
        if self.manager.watchdog is None:
            return
        while True:
            await asyncio.sleep(self.manager.watchdog / 2)
            try:
                if await self._is_alive(self.manager.watchdog):
                    self.manager.alive(self._in_a_line())
            except Exception:  # noqa: BLE001 - a bug withholds this sign of life, and costs no call of any client
                _log.exception("a bug withheld a sign of life")

    async def _is_alive(self, watchdog: float) -> bool:
        """Ask each bus; when a connection is mute, ask the one that has taken its place."""
        alive = await self.backend.is_alive(watchdog / 4) or await self.backend.is_alive(watchdog / 8)
        if not alive:
            _log.error("no sign of life for the service manager: a bus connection is stuck", status=self._in_a_line())
        return alive

    def _in_a_line(self) -> str:
        """How it is, for `systemctl status`."""
        buses = ", ".join(f"{bus.name} {'connected' if bus.connected else 'down'}" for bus in self.backend.status())
        return f"revision {self.table.revision}, {self.dispatcher.in_flight} calls in flight, buses: {buses}"

    async def _wait_for_buses(self) -> None:
        """Give the buses a moment before clients come; a bus that is down keeps nobody from starting."""
        await connected(self.backend)
        down = [bus.name for bus in self.backend.status() if not bus.connected]
        if down:
            _log.warning("started without a bus; its calls are refused until it is there", down=down)

    async def _drain(self) -> None:
        grace = self.settings.grace
        stops = (transport.stop(grace) for transport in self.transports.values())
        cut = sum(await asyncio.gather(*stops))
        if cut:
            _log.warning(f"stopped after {grace:g} s, {cut} calls cut off")
        else:
            _log.info("stopped, nothing in flight")

    # The operator's side (control.api.Operations)

    async def unready(self) -> list[str]:
        """Why not every mapped method can be called."""
        services = await health.services(self.table, self.backend, self._asks_bus)
        return health.reasons(self.backend.status(), services, [store.status() for store in self.stores])

    def warnings(self) -> list[str]:
        """What an operator has to mend although calls are answered."""
        if not self._refused:
            return []
        wrong = f"{len(self._refused)} problem{'s' if len(self._refused) > 1 else ''}, the first: {self._refused[0]}"
        answers = f"revision {self.table.revision}, which was live before, stays"
        return [f"config or mapping files are refused, {answers} ({wrong})"]

    async def _keep_table(self) -> None:
        """For a start with files that are refused."""
        if self._last_good.path is None:
            return
        try:
            await asyncio.to_thread(self._last_good.save, self.table)
        except OSError as error:
            _log.warning("the live mapping could not be kept for a start without usable files", why=str(error))

    async def status(self) -> Mapping[str, object]:
        """Buses, services, listeners, calls in flight."""
        services = await health.services(self.table, self.backend, self._asks_bus)
        buses = self.backend.status()
        reasons = health.reasons(buses, services, [store.status() for store in self.stores])
        return {
            "ready": not reasons,
            "reasons": reasons,
            "warnings": self.warnings(),
            "revision": self.table.revision,
            "version": __version__,
            "listening": self.addresses(),
            "metrics": None if self._monitoring is None else self._monitoring.address,
            "in_flight": self.dispatcher.in_flight,
            "tasks": len(asyncio.all_tasks()),
            "buffered": self.room.buffered,
            "buses": buses,
            "upstreams": self.upstreams.status(),
            "stores": [store.status() for store in self.stores],
            "operators": None if self._operators is None else self._operators.status(),
            "state": {"place": self.moving.state.place, "trouble": self.moving.state.trouble},
            "ungoverned": ungoverned(self.table, wiring.passing(self.settings)),
            "services": health.rows(self.table, services, self.calls, self._asks_bus),
        }

    async def metrics(self) -> bytes:
        """Every series. The text is made in a thread: it is long, and calls go on meanwhile."""
        services = await health.services(self.table, self.backend, self._asks_bus)
        gauges = {
            "xcp_gateway_calls_in_flight": self.dispatcher.in_flight,
            "xcp_gateway_buffered_bytes": self.room.buffered,
            "xcp_gateway_log_lines_lost_total": lines_lost(),
            "xcp_gateway_mapping_refused": bool(self._refused),
        }
        stores = [store.status() for store in self.stores]
        published = {name: board.written for name, board in self.boards.items()}
        buses = self.backend.status()
        readings = health.readings(self.table, buses, services, gauges, self._cuts, stores, published)
        return await asyncio.to_thread(metrics.render, self.calls, {**readings, **self.moving.readings()})

    def _asks_bus(self, route: Route) -> bool:
        """Whether a call of this method may go to the bus, as it is set now."""
        setting = self.moving.toggles.setting(route)
        return setting.mode is not Mode.OFF and (setting.mode is not Mode.LEGACY or setting.observe)

    def routes(self) -> list[Mapping[str, object]]:
        """Every mapped method at every endpoint."""
        return describe_routes(self.table)

    async def reload(self) -> Mapping[str, object]:
        """Read config and mappings again and swap the whole table, or say what is wrong and keep the old one."""
        async with self._reloading:
            self.manager.reloading()
            try:
                return await self._reload()
            finally:
                self.manager.ready(self._in_a_line())

    async def _reload(self) -> Mapping[str, object]:
        try:
            settings = config.load(self._path)
            table, problems = await asyncio.to_thread(wiring.compile_mappings, settings)
            wrong = [str(problem) for problem in problems]
            upstreams = wiring.upstreams(settings, self.room)
        except config.ConfigError as error:
            wrong = [str(error)]
        if wrong:
            _log.error("reload refused, the old mapping stays", revision=self.table.revision, problems=wrong)
            self._refused = wrong
            return {"revision": self.table.revision, "problems": wrong}
        return await self._swap(settings, table, upstreams)

    async def _swap(
        self, settings: Config, table: Table, upstreams: Mapping[str, wiring.Upstream]
    ) -> Mapping[str, object]:
        added, removed, changed = changes(self.table, table)
        restart = _needs_restart(self._started, settings)
        before = self.table.revision
        await self.become(settings, table, upstreams)
        self._refused = []
        await self._keep_table()
        self.steering.news.look()
        _log.info("reloaded", revision=table.revision, before=before, needs_restart=restart)
        return {
            "revision": table.revision,
            "before": before,
            "added": added,
            "removed": removed,
            "changed": changed,
            "needs_restart": restart,
        }

    async def call(self, request: CallBody) -> Mapping[str, object]:
        """Make one call as a client of the first endpoint that fits."""
        exchange = self._find(request)
        params: list[Value] = request.params  # type: ignore[assignment]  # JSON values are legacy values
        outcome, steps = await trace.explain(exchange, request.method, params, Peer("control"))
        ended: Mapping[str, object] = (
            {
                "fault": {
                    "code": outcome.code.value,
                    "message": outcome.message,
                    "name": outcome.name,
                    "data": outcome.data,
                }
            }
            if isinstance(outcome, Fault)
            else {"value": outcome.value}
        )
        return {**ended, "endpoint": str(exchange.table.key), "codec": exchange.codec.name, "steps": steps}

    def _find(self, request: CallBody) -> RpcEndpoint:
        fits = [
            exchange
            for key, exchange in self.endpoints.exchanges.items()
            if request.listener in (None, key.listener)
            and request.path in (None, key.path)
            and request.codec in (None, exchange.codec.name)
        ]
        knows = [exchange for exchange in fits if exchange.table.find(request.method).route is not None]
        if not fits:
            known = ", ".join(str(key) for key in self.endpoints.exchanges)
            raise LookupError(f"no such endpoint; there are: {known}")
        return (knows or fits)[0]


def _first_table(settings: Config, last_good: LastGood) -> tuple[Table, list[str]]:
    """What the files say, or what was live last and why the files are refused; raises MappingError without either."""
    table, problems = wiring.compile_mappings(settings)
    if not problems:
        return table, []
    kept = last_good.load()
    table, worse = wiring.compile_mappings(settings, *kept) if kept is not None else (table, problems)
    if worse:
        raise MappingError(problems)
    refused = [str(problem) for problem in problems]
    _log.error(
        "mapping files refused, the revision that was live last answers", revision=table.revision, problems=refused
    )
    return table, refused


def _needs_restart(before: Config, after: Config) -> list[str]:
    """Sections that a reload does not apply."""
    sections = {
        "listener": before.listener != after.listener,
        "control": before.control != after.control,
        "log": before.log != after.log,
        "limits": before.limits != after.limits,
        "state": before.state != after.state,
        "user": before.user != after.user,
    }
    return [name for name, changed in sections.items() if changed]


async def run(path: Path) -> None:
    """Run a gateway until SIGTERM or SIGINT; SIGHUP reloads; a second signal ends at once."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    reload = asyncio.Event()
    loop.add_signal_handler(signal.SIGHUP, reload.set)

    def first_signal() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, first_signal)
    async with Gateway(path) as gateway, asyncio.TaskGroup() as tasks:
        _settle()
        owned = [tasks.create_task(reload_when_signalled(reload, gateway)), tasks.create_task(gateway.watch())]
        await stop.wait()
        _log.info("stopping", in_flight=gateway.dispatcher.in_flight)
        gateway.manager.stopping()
        for task in owned:
            task.cancel()


def _settle() -> None:
    """Take what start has made out of the garbage collector's sight: it stays, and each look at it is a pause."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


async def reload_when_signalled(asked: asyncio.Event, gateway: Gateway) -> None:
    """Reload whenever it is asked for, until cancelled."""
    while await asked.wait():
        asked.clear()
        try:
            await gateway.reload()
        except Exception:  # noqa: BLE001 - a bug costs this reload, and no call of any client
            _log.exception("a bug ended this reload", revision=gateway.table.revision)
