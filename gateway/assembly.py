"""Puts the objects of a gateway together: both sides, the endpoints, the listeners and the publishers.

`Assembly` makes them by the functions of `wiring`; `server.Gateway` adds the operator's side and runs it all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial

from gateway import config, wiring
from gateway.config import Config, ListenerConfig, reached_by_others
from gateway.core.interfaces import ResolveStream, StreamingEndpoint
from gateway.core.logger import Logger
from gateway.core.migration.modes import Mode
from gateway.core.routing.route import Route
from gateway.events.hub import EventHub
from gateway.events.xenstore_publisher import PublicationHub
from gateway.mapping.problem import format_place
from gateway.mapping.table import EndpointKey, EndpointTable, Table
from gateway.migration.manager import MigrationManager
from gateway.ops import metrics
from gateway.ops.log import call_log
from gateway.pipeline.dispatcher import Dispatcher
from gateway.pipeline.endpoint import Endpoints, RpcEndpoint
from gateway.pipeline.event_methods import EventMethods
from gateway.pipeline.event_streams import EVENTS, NOTIFICATIONS, EventStreams, has_events, subscription_routes
from gateway.pipeline.introspection import Describer
from gateway.pipeline.origins import side_override
from gateway.pipeline.passthrough import Passthrough
from gateway.pipeline.recorder import Recorder
from gateway.pipeline.sessions import Sessions
from gateway.pipeline.task_methods import TaskObjects
from gateway.pipeline.tasks import Tasks

OBSERVE_GRACE = 2.0  # seconds at stop for calls that are only observed

_log = Logger()


class Assembly:
    """The objects of a gateway, made from config and table. Nothing runs until `start_sides` and `start_publishers`.

    `sockets`: those of the listeners, in place of bound ones. `leads`: whether this process serves the xenstores.
    """

    def __init__(self, settings: Config, table: Table, sockets: wiring.InheritedSockets | None = None) -> None:
        self.leads = sockets is None
        self._is_given = sockets is not None
        self.settings = settings
        self.table = table
        self.backend = wiring.Backend(wiring.buses(settings))
        self.quota = wiring.Quota(
            settings.limits.max_calls, settings.limits.max_buffered, settings.limits.max_buffered_per_peer
        )
        self.upstreams = wiring.Upstreams(wiring.upstreams(settings, self.quota))
        self.observing_upstreams = wiring.Upstreams(wiring.observed_upstreams(settings, self.quota))
        self.observing = wiring.Backend(wiring.observed_buses(settings))
        self.calls = metrics.Calls()
        self.migration = MigrationManager(settings.state_path(), self.live_routes)
        self.sessions = Sessions(state=self.migration.state)
        self.tasks = Tasks(self.migration.state, wiring.task_ending)
        log = call_log()
        self.tracer = wiring.tracer(settings)
        further = (log, self.tracer.finished if self.tracer is not None else None)
        listeners = (self.migration.evidence.count, self.calls.count, *(each for each in further if each is not None))
        self.dispatcher = Dispatcher(
            self.backend,
            *listeners,
            upstreams=self.upstreams,
            observing=self.observing,
            observing_upstreams=self.observing_upstreams,
            toggles=self.migration.toggles,
            on_fallback=self.migration.evidence.fell_back,
            tracer=self.tracer,
        )
        self.shadow = self.migration.shadow(self.dispatcher.observe, settings.limits.max_observed)
        self.recorder = Recorder(self.dispatcher)
        self.events = EventHub(self.backend, [TaskObjects(self.tasks)], self.migration.state)
        self.event_methods = EventMethods(
            self.events,
            is_allowed=lambda route: self.migration.toggles.setting(route).mode is not Mode.OFF,
            is_over=self.sessions.is_over,
            on_wait=self.dispatcher.wait,
        )
        self.dispatcher.events = self.event_methods.answer
        self.endpoints = Endpoints(self._endpoints(settings, table))
        self._inherited = sockets or wiring.inherited()
        self.aborted = dict.fromkeys(settings.listener, 0)
        self.stores = [self._store(name, section) for name, section in settings.listener.items() if section.is_store]
        served: dict[str, wiring.HttpServer | wiring.StoreTransport] = {store.name: store for store in self.stores}
        for name, section in settings.listener.items():
            served[name] = served.get(name) or self._listener(name, section)
        self.transports = {name: served[name] for name in settings.listener}

        def rung(picture: str) -> None:
            self.hub.on_fired(picture)

        self.publishers = {each.name: wiring.publisher(each, self.dispatcher.answer, rung) for each in self.stores}
        self.hub = PublicationHub(self.backend, self.publishers)

    async def start_sides(self, stack: AsyncExitStack) -> None:
        """Start the D-Bus side and the legacy services, then the migration state."""
        if self.tracer is not None:
            await self.tracer.start()
            stack.push_async_callback(self.tracer.stop)
        for side in (self.backend, self.upstreams, self.observing_upstreams, self.observing):
            await side.start()
            stack.push_async_callback(side.stop)
        self.warn(self.settings)
        await stack.enter_async_context(self.migration)
        stack.push_async_callback(self.shadow.drain, OBSERVE_GRACE)
        await self.sessions.start(self.dispatcher.answer)
        stack.push_async_callback(self.sessions.stop)
        await self.tasks.start()
        stack.push_async_callback(self.tasks.stop, OBSERVE_GRACE)
        stack.push_async_callback(self.events.stop)
        await self.events.follow(self.table)

    async def start_publishers(self, stack: AsyncExitStack) -> None:
        """Publish the state of services in each xenstore, and run the watch triggers."""
        for each in self.publishers.values():
            each.start()
            stack.push_async_callback(each.stop, self.settings.grace)
        stack.push_async_callback(self.hub.stop)
        await self.hub.follow(self.table)

    async def apply_config(self, settings: Config, table: Table, upstreams: Mapping[str, wiring.Upstream]) -> None:
        """Use another config and table from now on; calls in flight keep their route."""
        await self.backend.reconfigure(wiring.buses(settings))
        await self.observing.reconfigure(wiring.observed_buses(settings))
        await self.upstreams.reconfigure(upstreams)
        await self.observing_upstreams.reconfigure(wiring.observed_upstreams(settings, self.quota))
        self.warn(settings)
        self.endpoints.replace(self._endpoints(settings, table))
        self.table = table
        self.settings = settings
        await self.expose()
        await self.events.follow(table)
        if self.leads:
            await self.hub.follow(table)

    def warn(self, settings: Config) -> None:
        """Log doubtful settings; open listeners with their real addresses and modes. Of several processes one does."""
        if not self.leads:
            return
        for place, doubt in config.doubts(settings):
            if place[2:3] != ("bind",):
                _log.warning(doubt, at=format_place(place))
        for name, section in settings.listener.items():
            for address in self.transports[name].addresses if name in self.transports else ():
                who = reached_by_others(address, wiring.socket_mode(address, section.socket_mode))
                if who is not None:
                    _log.warning(
                        f"{who} can reach this listener; every client that connects may call", listener=name, at=address
                    )

    def end_session(self, session: str) -> None:
        """A session has been closed: its calls that wait for events end."""
        self.event_methods.end_session(session)

    def live_routes(self) -> Sequence[Route]:
        """Each mapped route of the live table."""
        return self.table.routes()

    def addresses(self) -> list[str]:
        """The addresses of all listeners, with the real port where the config has 0."""
        return [address for transport in self.transports.values() for address in transport.addresses]

    def _endpoints(self, settings: Config, table: Table) -> dict[EndpointKey, RpcEndpoint]:
        described = Describer(table)
        return {
            key: self._endpoint(settings.listener[key.listener], endpoint, described)
            for key, endpoint in table.endpoints.items()
        }

    def _endpoint(self, listener: ListenerConfig, table: EndpointTable, described: Describer) -> RpcEndpoint:
        streams = listener.websocket and has_events(table)
        return RpcEndpoint(
            table,
            wiring.codec(table.codec, listener),
            wiring.DIALECTS[table.dialect](table.codec),
            self.dispatcher,
            concurrency=listener.concurrency if listener.batch == "concurrent" else 1,
            client=wiring.client_codec(table.codec),
            on_refused=self.calls.refuse,
            shadow=self.shadow if table.has_upstream else None,
            override=side_override(listener.override_header, listener.override_parameter),
            sessions=self.sessions,
            tasks=self.tasks,
            trusts_root=listener.trust_root,
            tracer=self.tracer,
            on_logout=self.end_session,
            discover=partial(
                described.document, table, partial(self._urls, table.key), NOTIFICATIONS if streams else ()
            ),
            further=subscription_routes() if streams else {},
        )

    def _urls(self, key: EndpointKey) -> list[str]:
        """The URLs of an endpoint, with the real ports."""
        addresses = self.transports[key.listener].addresses if key.listener in self.transports else ()
        return [f"{url}{key.path}" for url in map(config.base_url, addresses) if url]

    @property
    def served_stores(self) -> list[wiring.StoreTransport]:
        """Those that this process serves."""
        return self.stores if self.leads else []

    async def expose(self) -> None:
        """Serve in each xenstore the endpoints that the mappings expose there."""
        for store in self.stores:
            found = [exchange for key, exchange in self.endpoints.exchanges.items() if key.listener == store.name]
            await store.expose(wiring.offer(exchange.table, exchange) for exchange in found)

    def _store(self, name: str, listener: ListenerConfig) -> wiring.StoreTransport:
        """A listener that is a xenstore."""

        def on_trouble(trouble: str) -> None:
            _log.warning("store", listener=name, trouble=trouble)

        return wiring.store_transport(name, listener, self.quota, on_trouble)

    def _listener(self, name: str, listener: ListenerConfig) -> wiring.HttpServer:
        def on_aborted(why: str) -> None:
            self.aborted[name] += 1
            _log.info("connection aborted", listener=name, why=why)

        resolve = partial(self.endpoints.resolve, name)
        streams = self._streams(name, listener) if listener.websocket or listener.server_sent_events else None
        passthrough = self._passthrough(listener)
        section = wiring.bound_before(name, listener) if self._is_given else listener
        return wiring.transport(name, section, resolve, self.quota, self._inherited, on_aborted, passthrough, streams)

    def _streams(self, name: str, listener: ListenerConfig) -> ResolveStream:
        """The streams of events of a listener: WebSockets at the path of a JSON-RPC endpoint, GET at PATH/events."""
        open_websocket = wiring.websockets()

        def resolve(path: str, wants_upgrade: bool) -> StreamingEndpoint | None:  # noqa: FBT001 - see ResolveStream
            if not (listener.websocket if wants_upgrade else listener.server_sent_events):
                return None
            endpoint = self.endpoints.resolve(name, path)
            if endpoint is None or not has_events(endpoint.table):
                return None
            own = endpoint.table.key.path
            if path != (own if wants_upgrade else f"{own.rstrip('/')}/{EVENTS}"):
                return None
            return EventStreams(
                partial(self._current, endpoint.table),
                self.event_methods,
                open_websocket,
                codec=endpoint.codec,
                max_message=listener.max_body,
            )

        return resolve

    def _current(self, table: EndpointTable) -> RpcEndpoint | None:
        """The endpoint that serves this path since the last reload."""
        found = self.endpoints.resolve(table.key.listener, table.key.path)
        is_same = found is not None and found.table.key == table.key and found.table.codec == table.codec
        return found if is_same else None

    def _passthrough(self, listener: ListenerConfig) -> StreamingEndpoint | None:
        """The endpoint of requests that no mapped endpoint of a listener takes."""
        name = listener.upstream
        if listener.unmapped == "reject" or name is None:
            return None
        return Passthrough(self.dispatcher, name)
