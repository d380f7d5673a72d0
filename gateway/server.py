"""The life of the process: ordered start, reload, drained stop; and the operator's view of it.

Start: bind every address (which may need root), give up root, connect to both sides, open the admin socket, then let
clients in. Stop goes the other way round, and first lets calls in flight finish. A reload reads config and mappings
again and replaces the whole table at once, or refuses and keeps the old one.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from gateway import config, wiring
from gateway.admin import health, peer_credentials
from gateway.admin.api import CallBody
from gateway.admin.service import AdminService
from gateway.admin.sockets import AdminServer, AdminSocket, TcpServer
from gateway.assembly import Assembly
from gateway.check import connected
from gateway.config import Config
from gateway.core.admin.access import Caller
from gateway.core.logger import Logger
from gateway.core.rpc.model import Fault, Peer, Value
from gateway.mapping.table import Table, changes, describe_routes
from gateway.migration.rollout_commands import RolloutCommands
from gateway.migration.shadow import SWITCH_INTERVAL
from gateway.ops import process
from gateway.pipeline import trace
from gateway.pipeline.replay import Replayer
from gateway.readings import Readings, rendered
from gateway.start import LastGood, Start, fitted, start_from_files
from gateway.state import clock

if TYPE_CHECKING:  # imported where the config has use for it, or with the first connection of an operator
    from aiohttp import web

    from gateway.admin.traffic import Traffic
    from gateway.admin.web.server import WebServer

# Objects of a collection's generations (gc.set_threshold). Each collection stops all threads: with 20,000 and 20 one of
# 142 ms fell into the reading of a message of 20 MiB, with these none is longer than 3 ms, and all together take half.
GC_THRESHOLDS = (2_000, 5, 800)
# With these, all generations are collected too late. That is done at most so often (seconds), and after so many
# collections of the middle one: each stands for 10,000 objects more. Where calls leave no garbage there are none.
COLLECT_EVERY, COLLECT_AFTER = 10.0, 10
THREADS = 4  # of the pool for work beside the event loop: large messages, mapping files, metrics

AT_START = ("listener", "admin", "log", "limits", "state", "traces", "user", "workers")  # a reload does not apply them

_log = Logger()


class Gateway(Assembly):
    """A gateway, made from its config file; `async with gateway:` runs it.

    `start` is used in place of the files, `sockets` in place of bound ones (see workers/).
    """

    def __init__(self, path: Path, start: Start | None = None, sockets: wiring.InheritedSockets | None = None) -> None:
        self._path = path
        start = start or start_from_files(path)
        settings, self._refused = start.settings, start.refused
        self._last_good = LastGood(settings.state_path(), path)
        super().__init__(fitted(settings), start.table, sockets)
        self._started = settings  # for sections that a reload does not apply
        self.manager = process.from_environment()
        rollouts = RolloutCommands(self.migration.state, self.live_routes, steady=clock.steady)
        self.admin_service = AdminService(
            self.live_routes,
            self.migration.toggles,
            self.migration.state,
            rollouts,
            lambda: self.table.digests,
            steady=clock.steady,
            flush=self.flush,
        )
        self.readings = Readings(self, rollouts, lambda: self._refused)
        rights = peer_credentials.rights(self.settings)
        group = peer_credentials.group(self.settings)
        if rights.shared and group is None:
            _log.warning(
                "only members of its owner's group can open the admin socket; set admin.group to let others in"
            )
        file = AdminSocket(self.settings.socket_path(), group, shared=rights.shared)

        def operators() -> web.Application:  # made with the first connection
            from gateway.admin.handlers import application

            return application(self, self.admin_service, self._traffic(), rights)

        def monitoring() -> web.Application:
            from aiohttp import web

            from gateway.admin.http import add_paths

            return add_paths(web.Application(), self)

        self._admin = AdminServer(file, operators)
        self._operators = wiring.operators(self.settings, self.admin_service, rights, peer_credentials.user_name)
        address = self.settings.admin.metrics
        self._monitoring = TcpServer("metrics", address, monitoring) if address else None
        self._web: WebServer | None = None
        if self.settings.admin.web is not None:
            from gateway.admin.web.server import WebServer

            self._web = WebServer(self.settings.admin.web, self, self.admin_service, self._traffic(), rights)
        self._stack = AsyncExitStack()
        self._reloading = asyncio.Lock()

    def _traffic(self) -> Traffic:
        """What operators ask about the calls of clients."""
        from gateway.admin.traffic import Traffic

        state, compare = self.migration.state, self.migration.evidence.compare
        replayer = Replayer(self.endpoints, self.dispatcher.observe, compare, self.shadow.worker)
        return Traffic(
            self.live_routes, lambda: self.table.revision, state, self.recorder, replayer, self.event_methods
        )

    async def __aenter__(self) -> Self:
        """Start, in the order of the module's description; leaving the block goes backwards."""
        async with AsyncExitStack() as stack:
            await self._bind(stack)
            if self.settings.user is not None:
                # What is imported when it is needed first, a process that gives up root may be unable to read.
                wiring.import_for_reloads()
                for server in (self._admin, self._monitoring, self._web):
                    if server is not None:
                        server.prepare()
                of_listeners = [file for each in self.transports.values() for file in each.socket_files]
                process.become(self.settings.user, [*self._admin.made, *of_listeners])
            await self.start_sides(stack)
            await asyncio.gather(self._wait_for_buses(), self._probe_upstreams())
            await self._open(stack)
            self._stack = stack.pop_all()
        if not self._refused:
            await self._store_table()
        self._announce()
        return self

    async def _open(self, stack: AsyncExitStack) -> None:
        """Let operators in, then clients."""
        await self._serve_operators(stack)
        stack.callback(self.recorder.stop)
        stack.push_async_callback(self._drain)
        await self.expose()
        for transport in self.transports.values():
            await transport.start()
        await self.start_publishers(stack)

    async def _serve_operators(self, stack: AsyncExitStack) -> None:
        for server in (self._admin, self._operators, self._monitoring, self._web):
            if server is not None:
                await server.start()
                stack.push_async_callback(server.stop)

    def _announce(self) -> None:
        _log.info("ready", revision=self.table.revision, methods=len(self.table.routes()), listening=self.addresses())
        self.manager.ready(self.readings.summary())

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _bind(self, stack: AsyncExitStack) -> None:
        """Bind every address without accepting clients; raises OSError that names the address."""
        for server in (self._admin, self._monitoring, self._web):
            if server is not None:
                stack.push_async_callback(server.stop)
                server.bind()
        for transport in self.transports.values():
            stack.push_async_callback(transport.stop, 0)
            await transport.bind()
        if self._inherited.names:
            unclaimed = ", ".join(f"systemd:{name}" for name in self._inherited.names)
            raise OSError(f"systemd passed sockets that no listener of the config binds: {unclaimed}")

    async def watch(self) -> None:
        """Notify systemd's watchdog while the event loop runs and the buses answer."""
        if self.manager.watchdog is None:
            return
        while True:
            await asyncio.sleep(self.manager.watchdog / 2)
            try:
                # A connection that did not answer has been replaced, so the second probe uses another one.
                limit, summary = self.manager.watchdog / 4, self.readings.summary
                if await self.backend.is_alive(limit) or await self.backend.is_alive(limit / 2):
                    self.manager.alive(summary())
                else:
                    _log.error("watchdog not notified: a bus connection does not answer", status=summary())
            except Exception:  # noqa: BLE001 - a bug skips one notification, and costs no client's call
                _log.exception("a bug skipped a watchdog notification")

    async def collect_garbage(self, every: float = COLLECT_EVERY, after: int = COLLECT_AFTER) -> None:
        """Free objects that refer to each other, as in an old mapping or the traceback of an exception."""
        while True:
            await asyncio.sleep(every)
            if gc.get_count()[2] >= after:
                async with self.backend.large_messages:  # not while one is read: each of its values would be gone over
                    gc.collect()

    async def _wait_for_buses(self) -> None:
        """Wait a little for the buses before clients come. The gateway starts without a bus that is down."""
        await connected(self.backend)
        down = [bus.name for bus in self.backend.status() if not bus.connected]
        if down:
            _log.warning("started without a bus; calls to its services are refused until it is connected", down=down)

    async def _probe_upstreams(self) -> None:
        """Tell which legacy services cannot be reached. The gateway starts without them."""
        for each in await self.upstreams.probed(health.PROBE_TIMEOUT):
            if each.unreachable:
                _log.warning(
                    "a legacy service cannot be reached", upstream=each.name, at=each.url, why=each.unreachable
                )

    async def _drain(self) -> None:
        cut = await self._stop_transports()
        if cut:
            _log.warning(f"stopped after {self.settings.grace:g} s, {cut} calls cut off")
        else:
            _log.info("stopped, nothing in flight")

    async def _stop_transports(self) -> int:
        """Let calls in flight finish; returns how many were cut off."""
        self.events.release()
        stops = (transport.stop(self.settings.grace) for transport in self.transports.values())
        return sum(await asyncio.gather(*stops))

    # The operator's view (admin.handlers.Operations)

    async def unready(self) -> list[str]:
        """The reasons why some mapped methods cannot be called; empty when the gateway is ready."""
        return await self.readings.unready()

    def warnings(self) -> list[str]:
        """What an operator has to repair, although calls are answered."""
        return self.readings.warnings()

    async def flush(self) -> None:
        """Write down what was counted until now."""
        await self.migration.flush()

    async def _store_table(self) -> None:
        """Store the live mapping files, for a start with files that are refused."""
        if self._last_good.path is None:
            return
        try:
            await asyncio.to_thread(self._last_good.save, self.table)
        except OSError as error:
            _log.warning("the live mapping files could not be stored for a start without usable files", why=str(error))

    async def status(self) -> Mapping[str, object]:
        """The state of buses, services, listeners and calls in flight."""
        return {
            **await self.readings.status(),
            "metrics": None if self._monitoring is None else self._monitoring.address,
            "operators": None if self._operators is None else self._operators.status(),
            "workers": [],
        }

    async def metrics(self) -> bytes:
        """All series as text. The text is long, so a thread renders it while calls go on."""
        return await asyncio.to_thread(rendered, await self.readings.snapshot())

    def routes(self) -> list[Mapping[str, object]]:
        """Each mapped method at each endpoint."""
        return describe_routes(self.table)

    def mappings(self) -> Mapping[str, object]:
        """The files of the live table."""
        named = {
            kind: {str(path): content for path, content in files.items()}
            for kind, files in (("mappings", self.table.mappings), ("idl", self.table.idl))
        }
        return {"revision": self.table.revision, **named}

    async def reload(self) -> Mapping[str, object]:
        """Read config and mappings again and replace the whole table, or list the problems and keep the old one."""
        async with self._reloading:
            self.manager.reloading()
            try:
                return await self._reload()
            finally:
                self.manager.ready(self.readings.summary())

    async def _reload(self) -> Mapping[str, object]:
        try:
            await asyncio.to_thread(wiring.import_for_reloads)  # which takes a while
            text = config.read_text(self._path)
            settings = wiring.load_config(self._path, text)
            table, problems = await asyncio.to_thread(wiring.compile_mappings, settings)
            upstreams = wiring.upstreams(settings, self.quota)
        except config.ConfigError as error:
            problems = [*error.problems]
        wrong = [str(problem) for problem in problems]
        if not wrong:
            wrong, notes = await self._agree(text, table)
        if wrong:
            _log.error("reload refused, the old mapping stays", revision=self.table.revision, problems=wrong)
            self._refuse(wrong)
            return {"revision": self.table.revision, "problems": wrong}
        return {**await self._replace(settings, table, upstreams), "notes": notes}

    async def _agree(self, text: str, table: Table) -> tuple[list[str], list[str]]:  # noqa: ARG002
        """Have other processes serve these files too: problems, for which nothing changes, and notes."""
        return [], []

    def _refuse(self, wrong: list[str]) -> None:
        """Remember the problems of newer files."""
        self._refused = wrong

    async def _replace(
        self, settings: Config, table: Table, upstreams: Mapping[str, wiring.Upstream]
    ) -> Mapping[str, object]:
        added, removed, changed = changes(self.table, table)
        restart = [name for name in AT_START if getattr(self._started, name) != getattr(settings, name)]
        before, old = self.table.revision, self.settings
        await self.apply_config(settings, table, upstreams)
        self._refused = []
        await self._probe_upstreams()
        await self._store_table()
        self.admin_service.notifier.update()
        _log.info("reloaded", revision=table.revision, before=before, needs_restart=restart)
        return {
            "revision": table.revision,
            "before": before,
            "added": added,
            "removed": removed,
            "changed": changed,
            "buses": _changed_sections(old.bus, settings.bus),
            "upstreams": _changed_sections(old.upstream, settings.upstream),
            "needs_restart": restart,
        }

    async def totals(self) -> tuple[int, int]:
        """The finished calls since start, and those with a fault."""
        return self.calls.ended()

    def invite(self, caller: Caller) -> str:
        """A URL of the web page for this caller."""
        if self._web is None:
            raise LookupError('there is no web page: set web = "tcp:127.0.0.1:8081" in [admin] and restart')
        return self._web.invite(caller)

    async def call(self, request: CallBody) -> Mapping[str, object]:
        """Make one call as a client of the endpoint that the request means."""
        endpoint = trace.select_endpoint(
            self.endpoints.exchanges, request.method, request.listener, request.path, request.codec
        )
        params: list[Value] = request.params  # JSON values are legacy values
        outcome, steps = await trace.explain(endpoint, request.method, params, Peer("admin"))
        ended: Mapping[str, object]
        if isinstance(outcome, Fault):
            told = {"code": outcome.code.value, "message": outcome.message, "name": outcome.name, "data": outcome.data}
            ended = {"fault": told}
        else:
            ended = {"value": outcome.value}
        return {**ended, "endpoint": str(endpoint.table.key), "codec": endpoint.codec.name, "steps": steps}


def _changed_sections(before: Mapping[str, object], after: Mapping[str, object]) -> Mapping[str, list[str]]:
    return {
        "added": [name for name in after if name not in before],
        "removed": [name for name in before if name not in after],
        "changed": [name for name in after if name in before and before[name] != after[name]],
    }


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
    await run_until(stop, reload, lambda: Gateway(path))


async def run_until(
    stop: asyncio.Event,
    reload: asyncio.Event,
    make: Callable[[], Gateway],
    *also: Callable[[Gateway], Coroutine[Any, Any, None]],
) -> None:
    """Run a gateway until `stop` is set; `also` runs beside it. Reload whenever `reload` is set."""
    loop = asyncio.get_running_loop()
    gc.freeze()  # the modules: the collection at the end of the start need not look at them
    process.return_freed_memory()
    sys.setswitchinterval(SWITCH_INTERVAL)  # large messages are read and written in threads beside the loop
    loop.set_default_executor(ThreadPoolExecutor(THREADS, "beside-the-loop"))
    async with make() as gateway, asyncio.TaskGroup() as tasks:
        # The objects of the start stay, and scanning them delays calls.
        gc.collect()
        gc.freeze()
        gc.enable()
        gc.set_threshold(*GC_THRESHOLDS)
        work = [reload_when_signalled(reload, gateway), gateway.watch(), gateway.collect_garbage()]
        work += [each(gateway) for each in also]
        owned = [tasks.create_task(each) for each in work]
        await stop.wait()
        _log.info("stopping", in_flight=gateway.dispatcher.in_flight)
        gateway.manager.stopping()
        for task in owned:
            task.cancel()


async def reload_when_signalled(requested: asyncio.Event, gateway: Gateway) -> None:
    """Reload whenever `requested` is set, until cancelled."""
    while await requested.wait():
        requested.clear()
        try:
            await gateway.reload()
        except Exception:  # noqa: BLE001 - a bug costs this reload, and no client's call
            _log.exception("a bug ended this reload", revision=gateway.table.revision)
