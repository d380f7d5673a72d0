"""Publishes the properties and signals of D-Bus services as nodes of a xenstore.

Each publication of the mapping has one task. It subscribes to the signals, reads the properties where signals may have
been missed, and gives the nodes to the publisher of its store. Signals that come faster than properties can be read are
merged into one read.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from gateway.core.dbus.scalars import MarshalError
from gateway.core.dbus.target import Subscription
from gateway.core.interfaces import EventFeed, NodePublisher
from gateway.core.logger import Logger
from gateway.core.routing.publication import Publication, WatchTrigger
from gateway.core.routing.route import Route
from gateway.core.rpc.model import Call, Event, EventsLost, Fault, FaultCode, Outcome, Value
from gateway.mapping.table import Table

FIRST_PAUSE, LAST_PAUSE = 0.5, 30.0  # seconds before a failed read of properties is repeated
MAX_NODE_SETS = 10_000  # of one publication: the arguments of a signal may name ever new nodes
GONE = frozenset({FaultCode.NOT_FOUND, FaultCode.UNKNOWN_METHOD})  # faults of an object that does not exist

_log = Logger()


class EventQueue(EventFeed, Protocol):
    """The events of a subscription, in their order; a feed to which events can be added as if the service sent them."""

    def __aiter__(self) -> AsyncIterator[Event | EventsLost]: ...


class Source(Protocol):
    """The D-Bus side."""

    def subscribe(self, *subscriptions: Subscription) -> AbstractAsyncContextManager[EventQueue]:
        """Receive these signals. The queue begins with an EventsLost for each bus name."""

    async def call(self, route: Route, call: Call) -> Outcome:
        """Make a call."""


class PublicationFeed:
    """Feeds one publication to the publisher of its store."""

    def __init__(self, publication: Publication, source: Source, publisher: NodePublisher) -> None:
        self._publication = publication
        self._source = source
        self._publisher = publisher
        self._queue: EventQueue | None = None
        self._known: dict[str, dict[str, Value]] = {}  # by object: its properties
        self._shown: dict[str, None] = {}  # keys of node sets, oldest first
        self._pause = FIRST_PAUSE
        self._timer: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Run until cancelled."""
        async with self._source.subscribe(*self._publication.subscriptions) as queue:
            self._queue = queue
            try:
                async for event in queue:
                    await self._handle(event)
            finally:
                self._queue = None
                if self._timer is not None:
                    self._timer.cancel()
                for shown in self._shown:
                    self._publisher.forget(shown)

    def read_again(self, key: str) -> None:
        """Publish the current properties of an object again: another client may have changed its nodes."""
        if self._queue is not None and key in self._known:
            home = self._publication.subscriptions[0]
            path = self._publication.path(key)
            everything = frozenset(home.properties)
            if not self._queue.put(Event(home.bus_name, path, home.interface, invalidated=everything)):
                self._queue.miss(EventsLost(home.bus_name, "?", "the queue is full"))

    async def _handle(self, event: Event | EventsLost) -> None:
        try:
            if isinstance(event, EventsLost):
                await self._resync(event)
            elif self._publication.read is None:
                key = self._publication.key(event.object_path)
                if key is not None:
                    self._show(key, dict(zip(self._publication.arguments, event.body, strict=True)), by_node=True)
            else:
                await self._on_properties(event)
        except Exception:  # noqa: BLE001 - a bug must cost only this event
            _log.exception("a bug prevented an event from being published", source=self._publication.source)

    # Properties

    async def _resync(self, missed: EventsLost) -> None:
        """Read all objects. Without a service the nodes stay as they are."""
        if not missed.owner or self._publication.read is None:
            return
        if self._publication.read_all is None:
            await self._read("")
            return
        outcome = await self._call(self._publication.read_all, Call("publish"))
        if not isinstance(outcome, Fault):
            assert isinstance(outcome, dict)
            for key in self._known.keys() - outcome.keys():
                self._drop(key)
            for key, properties in outcome.items():
                self._update(key, properties)

    async def _on_properties(self, event: Event) -> None:
        """Handle a change of properties; or InterfacesAdded or InterfacesRemoved: an object path, and interfaces."""
        interface = self._publication.subscriptions[0].interface
        is_change = event.interface == interface
        path, interfaces = (event.object_path, [interface]) if is_change else event.body
        assert isinstance(path, str)
        assert isinstance(interfaces, dict | list)
        key = self._publication.key(path)
        if key is None or interface not in interfaces:
            return
        if event.member == "InterfacesRemoved":
            self._drop(key)
        elif is_change and key in self._known and not event.invalidated:
            self._update(key, {**self._known[key], **event.properties})
        else:
            await self._read(key)

    async def _read(self, key: str) -> None:
        """Read the properties of one object."""
        assert self._publication.read is not None
        named: dict[str, Value] = {self._publication.parameter: key} if self._publication.parameter else {}
        outcome = await self._call(self._publication.read, Call("publish", (), named))
        if isinstance(outcome, Fault):
            if outcome.code in GONE:
                self._drop(key)
        else:
            self._update(key, outcome)

    async def _call(self, route: Route, call: Call) -> Value | Fault:
        """Call the service. After a failure that may pass, everything is read again later."""
        try:
            async with asyncio.timeout(route.timeout):
                outcome = await self._source.call(route, call)
        except TimeoutError:
            outcome = Fault(FaultCode.TIMEOUT, f"no answer within {route.timeout:g} s")
        if not isinstance(outcome, Fault):
            self._pause = FIRST_PAUSE
            return outcome.value
        if outcome.code not in GONE:
            _log.warning("properties to publish cannot be read; tried again", source=route.source, why=outcome.message)
            if self._timer is not None:
                self._timer.cancel()
            missed = EventsLost(route.bus_target.bus_name, "?", "it could not be read")
            assert self._queue is not None
            self._timer = asyncio.get_running_loop().call_later(self._pause, self._queue.miss, missed)
            self._pause = min(2 * self._pause, LAST_PAUSE)
        return outcome

    def _update(self, key: str, properties: Value) -> None:
        assert isinstance(properties, dict)
        self._known[key] = properties
        self._show(key, properties)

    def _drop(self, key: str) -> None:
        self._known.pop(key, None)
        self._shown.pop(self._key(key), None)
        self._publisher.forget(self._key(key))

    # Nodes

    def _key(self, key: str) -> str:
        return f"{self._publication.fingerprint} {key}"

    def _show(self, key: str, values: Mapping[str, Value], *, by_node: bool = False) -> None:
        try:
            node_set = self._publication.node_set(key, values)
        except MarshalError as error:
            _log.warning("nodes cannot be published", source=self._publication.source, object=key, why=error.bare)
            return
        for why in node_set.left_out:
            _log.warning("node left out of a publication", source=self._publication.source, object=key, node=why)
        shown = self._key(min(node_set.leaves, default="") if by_node else key)
        self._shown.pop(shown, None)
        self._shown[shown] = None
        self._publisher.show(shown, node_set)
        if len(self._shown) > MAX_NODE_SETS:
            oldest = next(iter(self._shown))
            del self._shown[oldest]
            self._publisher.forget(oldest)


class PublicationHub:
    """The publications and watch triggers of the live mapping. `publishers`: one for each store, by listener."""

    def __init__(self, source: Source, publishers: Mapping[str, NodePublisher]) -> None:
        self._source = source
        self._publishers = publishers
        self._feeds: dict[str, tuple[PublicationFeed, asyncio.Task[None]]] = {}
        self._triggers: dict[str, WatchTrigger] = {}  # by fingerprint

    async def follow(self, table: Table) -> None:
        """Replace the mapping. Publications and triggers that are the same in both go on undisturbed."""
        wanted = {each.fingerprint: each for each in table.publications if each.listener in self._publishers}
        await self._end([key for key in self._feeds if key not in wanted])
        for fingerprint, publication in wanted.items():
            if fingerprint not in self._feeds:
                feed = PublicationFeed(publication, self._source, self._publishers[publication.listener])
                self._feeds[fingerprint] = feed, asyncio.get_running_loop().create_task(feed.run())
        old = self._triggers
        new = {each.fingerprint: each for each in table.triggers if each.listener in self._publishers}
        self._triggers = new
        for trigger in [each for key, each in old.items() if key not in new]:
            self._publishers[trigger.listener].unregister(trigger)
        for trigger in [each for key, each in new.items() if key not in old]:
            self._publishers[trigger.listener].register(trigger)

    async def stop(self) -> None:
        """Stop all publications."""
        await self._end(list(self._feeds))

    def on_fired(self, node_set: str) -> None:
        """A trigger has processed a node of this node set, so its nodes may be written again."""
        fingerprint, _, key = node_set.partition(" ")
        feed = self._feeds.get(fingerprint)
        if feed is not None:
            feed[0].read_again(key)

    async def _end(self, fingerprints: list[str]) -> None:
        tasks = [self._feeds.pop(fingerprint)[1] for fingerprint in fingerprints]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
