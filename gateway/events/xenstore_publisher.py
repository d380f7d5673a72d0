"""What services tell by themselves, led to the nodes that show it. Knows no bus and no store, only who hears and shows.

One task for each publication: it hears, reads where it may have missed something, and draws. A change costs one
picture; what comes faster than it can be read is heard as one change.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import structlog

from gateway.core.dbus.scalars import MarshalError
from gateway.core.dbus.target import Subscription
from gateway.core.interfaces import NodePublisher
from gateway.core.routing.publication import Publication
from gateway.core.routing.route import Route
from gateway.core.rpc.model import Call, Event, EventsLost, Fault, FaultCode, Outcome, Value
from gateway.mapping.table import Table

FIRST_PAUSE, LAST_PAUSE = 0.5, 30.0  # seconds before properties are read again that could not be
MAX_SHOWN = 10_000  # pictures of one publication: a signal's arguments may name ever new nodes
GONE = frozenset({FaultCode.NOT_FOUND, FaultCode.UNKNOWN_METHOD})  # what is said of an object that is not there

_log = structlog.get_logger("gateway")


class EventQueue(Protocol):
    """What is heard; `put` and `miss` add to it."""

    def __aiter__(self) -> AsyncIterator[Event | EventsLost]: ...

    def put(self, event: Event) -> bool:
        """As if the service had told it."""

    def miss(self, missed: EventsLost) -> None:
        """As if something had been missed."""


class Source(Protocol):
    """Where services are heard and read."""

    def subscribe(self, *subscriptions: Subscription) -> AbstractAsyncContextManager[EventQueue]:
        """Hear of them; begins with a Missed for each bus name."""

    async def call(self, route: Route, call: Call) -> Outcome:
        """Read."""


class Publisher:
    """One publication, shown on its board."""

    def __init__(self, publication: Publication, source: Source, board: NodePublisher) -> None:
        self._publication = publication
        self._source = source
        self._board = board
        self._feed: EventQueue | None = None
        self._known: dict[str, dict[str, Value]] = {}  # by object: its properties
        self._shown: dict[str, None] = {}  # keys of pictures, the oldest first
        self._pause = FIRST_PAUSE
        self._timer: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Until cancelled."""
        async with self._source.subscribe(*self._publication.subscriptions) as feed:
            self._feed = feed
            try:
                async for news in feed:
                    await self._hear(news)
            finally:
                self._feed = None
                if self._timer is not None:
                    self._timer.cancel()
                for shown in self._shown:
                    self._board.forget(shown)

    def read_again(self, key: str) -> None:
        """Somebody may have changed the nodes of this object: show what the service says now."""
        if self._feed is not None and key in self._known:
            home = self._publication.subscriptions[0]
            path = self._publication.path(key)
            everything = frozenset(home.properties)
            self._feed.put(Event(home.bus_name, path, home.interface, invalidated=everything))

    async def _hear(self, news: Event | EventsLost) -> None:
        try:
            if isinstance(news, EventsLost):
                await self._catch_up(news)
            elif self._publication.read is None:
                self._happened(news)
            else:
                await self._changed(news)
        except Exception:  # noqa: BLE001 - the last line of defence: a bug costs this change and no other
            _log.exception("a bug kept a change from being published", source=self._publication.source)

    # Signals

    def _happened(self, event: Event) -> None:
        key = self._publication.key(event.object_path)
        if key is not None:
            values = dict(zip(self._publication.arguments, event.body, strict=True))
            self._show(key, values, by_node=True)

    # Properties

    async def _catch_up(self, missed: EventsLost) -> None:
        """While nobody owns the bus name the nodes stay as they are."""
        if not missed.owner or self._publication.read is None:
            return
        if self._publication.read_all is None:
            await self._read("")
            return
        outcome = await self._ask(self._publication.read_all, Call("publish"))
        if not isinstance(outcome, Fault):
            assert isinstance(outcome, dict)
            for key in self._known.keys() - outcome.keys():
                self._drop(key)
            for key, properties in outcome.items():
                self._learn(key, properties)

    async def _changed(self, event: Event) -> None:
        if event.interface != self._publication.subscriptions[0].interface:
            await self._came_or_went(event)
            return
        key = self._publication.key(event.object_path)
        if key is None:
            return
        if key not in self._known or event.invalidated:
            await self._read(key)
        else:
            self._learn(key, {**self._known[key], **event.properties})

    async def _came_or_went(self, event: Event) -> None:
        """InterfacesAdded or InterfacesRemoved: an object path, and interfaces."""
        object_path, interfaces = event.body
        assert isinstance(object_path, str)
        assert isinstance(interfaces, dict | list)
        key = self._publication.key(object_path)
        if key is None or self._publication.subscriptions[0].interface not in interfaces:
            return
        if event.member == "InterfacesAdded":
            await self._read(key)
        else:
            self._drop(key)

    async def _read(self, key: str) -> None:
        """The properties of one object."""
        assert self._publication.read is not None
        named: dict[str, Value] = {self._publication.parameter: key} if self._publication.parameter else {}
        outcome = await self._ask(self._publication.read, Call("publish", (), named))
        if isinstance(outcome, Fault):
            if outcome.code in GONE:
                self._drop(key)
        else:
            self._learn(key, outcome)

    async def _ask(self, route: Route, call: Call) -> Value | Fault:
        """What the service says; where it says nothing now, all is read again later."""
        try:
            async with asyncio.timeout(route.timeout):
                outcome = await self._source.call(route, call)
        except TimeoutError:
            outcome = Fault(FaultCode.TIMEOUT, f"no answer within {route.timeout:g} s")
        if not isinstance(outcome, Fault):
            self._pause = FIRST_PAUSE
            return outcome.value
        if outcome.code not in GONE:
            _log.warning("cannot read what is to be published", source=route.source, why=outcome.message)
            self._try_later(route)
        return outcome

    def _try_later(self, route: Route) -> None:
        if self._timer is not None:
            self._timer.cancel()
        missed = EventsLost(route.bus_target.bus_name, "?", "it could not be read")
        assert self._feed is not None
        self._timer = asyncio.get_running_loop().call_later(self._pause, self._feed.miss, missed)
        self._pause = min(2 * self._pause, LAST_PAUSE)

    def _learn(self, key: str, properties: Value) -> None:
        assert isinstance(properties, dict)
        self._known[key] = properties
        self._show(key, properties)

    def _drop(self, key: str) -> None:
        self._known.pop(key, None)
        self._shown.pop(self._key(key), None)
        self._board.forget(self._key(key))

    # Drawing

    def _key(self, key: str) -> str:
        return f"{self._publication.fingerprint} {key}"

    def _show(self, key: str, values: Mapping[str, Value], *, by_node: bool = False) -> None:
        try:
            picture = self._publication.picture(key, values)
        except MarshalError as error:
            _log.warning("cannot be published", source=self._publication.source, object=key, why=error.bare)
            return
        for why in picture.left_out:
            _log.warning("left out of what is published", source=self._publication.source, object=key, node=why)
        shown = self._key(min(picture.leaves, default="") if by_node else key)
        self._shown.pop(shown, None)
        self._shown[shown] = None
        self._board.show(shown, picture)
        if len(self._shown) > MAX_SHOWN:
            oldest = next(iter(self._shown))
            del self._shown[oldest]
            self._board.forget(oldest)


class PublicationHub:
    """All publications and triggers of the live mapping, on the boards of the stores they name."""

    def __init__(self, source: Source, boards: Mapping[str, NodePublisher]) -> None:
        self._source = source
        self._boards = boards  # by listener
        self._publishers: dict[str, tuple[Publisher, asyncio.Task[None]]] = {}
        self._table: Table | None = None

    async def follow(self, table: Table) -> None:
        """This mapping from now on. What it says as the one before did goes on undisturbed."""
        before, self._table = self._table, table
        wanted = {each.fingerprint: each for each in table.publications if each.listener in self._boards}
        await self._end([key for key in self._publishers if key not in wanted])
        for fingerprint, publication in wanted.items():
            if fingerprint not in self._publishers:
                self._begin(publication)
        self._hang(before, table)

    def _hang(self, before: Table | None, after: Table) -> None:
        old = {each.fingerprint: each for each in before.triggers} if before is not None else {}
        new = {each.fingerprint: each for each in after.triggers}
        for trigger in [each for key, each in old.items() if key not in new and each.listener in self._boards]:
            self._boards[trigger.listener].unregister(trigger)
        for trigger in [each for key, each in new.items() if key not in old and each.listener in self._boards]:
            self._boards[trigger.listener].register(trigger)

    async def stop(self) -> None:
        """Publish no more."""
        await self._end(list(self._publishers))

    def rung(self, picture: str) -> None:
        """A trigger was rung at a node of this picture."""
        fingerprint, _, key = picture.partition(" ")
        publisher = self._publishers.get(fingerprint)
        if publisher is not None:
            publisher[0].read_again(key)

    def _begin(self, publication: Publication) -> None:
        publisher = Publisher(publication, self._source, self._boards[publication.listener])
        task = asyncio.get_running_loop().create_task(publisher.run())
        self._publishers[publication.fingerprint] = (publisher, task)

    async def _end(self, fingerprints: list[str]) -> None:
        tasks = [self._publishers.pop(fingerprint)[1] for fingerprint in fingerprints]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
