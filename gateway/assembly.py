"""What config and mappings make, put together: both sides, endpoints, listeners, boards. Knows no operator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack

import structlog

from gateway import config, metrics, parts
from gateway.config import Config, Listener, reached_by_others
from gateway.core.ports import Endpoint
from gateway.core.route import Route
from gateway.dispatch import Dispatcher
from gateway.events import Hub
from gateway.exchange import Endpoints, Exchange
from gateway.forcing import Forcing
from gateway.log import call_log
from gateway.mapping.table import EndpointTable, Table
from gateway.moving import Moving
from gateway.passage import Passage
from gateway.recording import Recorder
from gateway.sessions import Sessions

OBSERVE_GRACE = 2.0  # seconds at stop for calls that are only observed

_log = structlog.get_logger("gateway")


class Assembly:
    """The parts of a gateway. Nothing runs before it is started, and then what stands lower is there first."""

    def __init__(self, settings: Config, table: Table) -> None:
        self.settings = settings
        self.table = table
        self.backend = parts.backend(settings)
        self.room = parts.Room(
            settings.limits.max_calls, settings.limits.max_buffered, settings.limits.max_buffered_per_peer
        )
        self.upstreams = parts.Upstreams(parts.upstreams(settings, self.room))
        self.observing_upstreams = parts.Upstreams(parts.observed_upstreams(settings, self.room))
        self.observing = parts.observing(settings)
        self.calls = metrics.Calls()
        self.moving = Moving(settings.state_path(), self.live_routes)
        self.dispatcher = Dispatcher(
            self.backend,
            self.moving.evidence.noting(self.calls.counting(call_log())),
            upstreams=self.upstreams,
            observing=self.observing,
            observing_upstreams=self.observing_upstreams,
            toggles=self.moving.toggles,
            on_fallback=self.moving.evidence.fell_back,
        )
        self.shadow = self.moving.shadow(self.dispatcher.observe, settings.limits.max_observed)
        self.sessions = Sessions()
        self.recorder = Recorder()
        self.endpoints = self._endpoints(settings, table)
        self._inherited = parts.inherited()
        self._cuts = dict.fromkeys(settings.listener, 0)
        self.transports = {name: self._transport(name, section) for name, section in settings.listener.items()}
        self.boards = {
            store.name: parts.Board(store.store, self.dispatcher.answer, self._rung) for store in self.stores
        }
        self.hub = Hub(self.backend, self.boards)

    async def start_sides(self, stack: AsyncExitStack) -> None:
        """Who answers: buses and old services; then what is known of methods that move."""
        await self.backend.start()
        stack.push_async_callback(self.backend.stop)
        await self.upstreams.start()
        stack.push_async_callback(self.upstreams.stop)
        await self.observing_upstreams.start()
        stack.push_async_callback(self.observing_upstreams.stop)
        await self.observing.start()
        stack.push_async_callback(self.observing.stop)
        self.warn(self.settings)
        await stack.enter_async_context(self.moving)
        stack.push_async_callback(self.shadow.drain, OBSERVE_GRACE)

    async def start_boards(self, stack: AsyncExitStack) -> None:
        """Show in each store what services tell; ring when clients change a node."""
        for board in self.boards.values():
            board.start()
            stack.push_async_callback(board.stop, self.settings.grace)
        stack.push_async_callback(self.hub.stop)
        await self.hub.follow(self.table)

    async def become(self, settings: Config, table: Table, upstreams: Mapping[str, parts.Upstream]) -> None:
        """Another config and mapping from now on; calls in flight keep their route."""
        await self.backend.reconfigure(parts.buses(settings))
        await self.observing.reconfigure(parts.observed_buses(settings))
        await self.upstreams.reconfigure(upstreams)
        await self.observing_upstreams.reconfigure(parts.observed_upstreams(settings, self.room))
        self.warn(settings)
        self.endpoints, self.table = self._endpoints(settings, table), table
        self.settings = settings
        await self.expose()
        await self.hub.follow(table)

    def warn(self, settings: Config) -> None:
        """Say in the log which listeners others can reach, and which services could take all places or be posed as."""
        for crowded in config.crowding(settings):
            _log.warning("a service that hangs can take all places", where=crowded)
        for name, section in settings.listener.items():
            for address in self.transports[name].addresses if name in self.transports else ():
                who = reached_by_others(address, parts.socket_mode(address, section.socket_mode))
                if who is not None:
                    _log.warning(f"{who} can reach this listener; whoever connects may call", listener=name, at=address)
        for name, upstream in settings.upstream.items():
            if upstream.url.startswith("https:") and not upstream.verify:
                _log.warning("anybody may pose as this old service: its certificate is not verified", upstream=name)

    def live_routes(self) -> Sequence[Route]:
        """Each route of the mapping that is live when this is called."""
        return self.table.routes()

    def _rung(self, picture: str) -> None:
        self.hub.rung(picture)

    def addresses(self) -> list[str]:
        """Where legacy clients reach us, with the real port where the config says 0."""
        return [address for transport in self.transports.values() for address in transport.addresses]

    def _endpoints(self, settings: Config, table: Table) -> Endpoints:
        exchanges = {
            key: self._exchange(settings.listener[key.listener], endpoint) for key, endpoint in table.endpoints.items()
        }
        return Endpoints(exchanges)

    def _exchange(self, listener: Listener, table: EndpointTable) -> Exchange:
        return Exchange(
            table,
            parts.codec(table.codec, listener),
            parts.dialect(table.dialect, table.codec),
            self.dispatcher,
            concurrency=listener.concurrency if listener.batch == "concurrent" else 1,
            client=parts.client_codec(table.codec),
            on_refused=self.calls.refuse,
            shadow=self.shadow,
            forcing=Forcing(listener.force_header.lower().encode(), listener.force_parameter),
            sessions=self.sessions,
            recorder=self.recorder,
        )

    @property
    def stores(self) -> list[parts.StoreTransport]:
        """Those of the listeners that are a xenstore."""
        return [each for each in self.transports.values() if isinstance(each, parts.StoreTransport)]

    async def expose(self) -> None:
        """Serve in each store what the mappings expose there, from now on."""
        for store in self.stores:
            found = [exchange for key, exchange in self.endpoints.exchanges.items() if key.listener == store.name]
            await store.expose(parts.offer(exchange.table, exchange) for exchange in found)

    def _transport(self, name: str, listener: Listener) -> parts.Server | parts.StoreTransport:
        if listener.is_store:
            return parts.store_transport(
                name, listener, self.room, lambda trouble: _log.warning("store", listener=name, trouble=trouble)
            )

        def resolve(path: str) -> Endpoint | None:
            return self.endpoints.resolve(name, path)

        def on_cut(why: str) -> None:
            self._cuts[name] += 1
            _log.info("cut off", listener=name, why=why)

        return parts.transport(name, listener, resolve, self.room, self._inherited, on_cut, self._otherwise(listener))

    def _otherwise(self, listener: Listener) -> Endpoint | None:
        """Who takes what no endpoint of a listener does."""
        name = listener.upstream
        if listener.unmapped == "refuse" or name is None:
            return None
        return Passage(self.dispatcher, name)
