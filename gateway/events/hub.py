"""The event hub: the classes of each mapping file, followed on D-Bus, and the clients that wait for their changes.

A class stanza of a mapping file is enough for its objects to have events. A file is followed from its first client on,
so it costs nothing without one. Clients wait as `Waiter`s, which hold no event: when an object has changed that a
client wants, the waiter is woken, and the client reads what is new since its token from the change log.

Clients are woken together, some in each turn of the loop, so that other work goes on between them. The pause to the
next time grows with their number, so that many of them see several changes at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from secrets import randbelow
from time import time
from typing import Protocol

from gateway.core.routing.object_class import ObjectClass
from gateway.core.routing.route import Route
from gateway.core.rpc.model import Call, Outcome, Value
from gateway.events.changes import ChangeLog, ObjectId, Token, Wanted
from gateway.events.objects import ObjectSource, ServiceObjects
from gateway.events.saved import LogSaver, Missed, RecalledLogs
from gateway.mapping.table import Table
from gateway.state.event_logs import LARGEST
from gateway.state.store import StateStore

PAUSE_OF_EACH = 0.0001  # seconds between two times that clients are woken, for each client that was woken
LONGEST_PAUSE = 0.1  # seconds
WOKEN_AT_ONCE = 16  # clients; each takes about 0.2 ms

EVERYTHING = "*"
HEARTBEAT = 30.0  # seconds between two times that the objects of BEATS count as changed, as xapi's do
BEATS = "pool"


def _keys(wanted: Wanted) -> list[str | ObjectId]:
    """What to look under for clients that want this."""
    return [EVERYTHING] if wanted.everything else [*wanted.classes, *wanted.objects]


class OwnObjects(Protocol):
    """Objects of the gateway itself that have events: its tasks."""

    @property
    def name(self) -> str:
        """Their class, in lower case."""

    def records(self) -> Mapping[str, Callable[[], Value]]:
        """Each object by its reference, with a function that makes its record."""

    def subscribe(self, tell: Callable[[str, Callable[[], Value] | None], object]) -> None:
        """Call `tell` with the reference of each object that changes, and with None when it is gone."""


class Waiter:
    """A client that waits. It holds what it wants, and no event."""

    __slots__ = ("_future", "is_ended", "session", "wanted")

    def __init__(self, wanted: Wanted, session: str) -> None:
        self.wanted = wanted
        self.session = session
        self.is_ended = False  # its session has ended
        self._future: asyncio.Future[None] | None = None

    async def wait(self, seconds: float | None) -> None:
        """Wait until something wanted may have changed, the session has ended, or the time is over."""
        loop = asyncio.get_running_loop()
        self._future = future = loop.create_future()
        timer = None if seconds is None else loop.call_later(seconds, self.wake)
        try:
            await future
        finally:
            self._future = None
            if timer is not None:
                timer.cancel()

    def wake(self) -> None:
        """Have `wait` return."""
        if self._future is not None and not self._future.done():
            self._future.set_result(None)


class ServiceEvents:
    """The events of the classes of one mapping file. `state`: where its change log is written down."""

    def __init__(self, service: str, source: ObjectSource, state: StateStore | None = None) -> None:
        self.service = service
        self.classes: Mapping[str, ObjectClass] = {}  # by name in lower case
        self._source = source
        self.log = ChangeLog(int(time() * 1e6), self._changed, epoch=1 + randbelow(LARGEST))
        self._saver: LogSaver | None = None
        self._recalled: RecalledLogs | None = None
        if state is not None and state.path is not None:
            self._saver = LogSaver(service, self.log, state, lambda: self.is_read)
            self._recalled = RecalledLogs(service, self.log, state)
        self._objects: dict[str, tuple[ServiceObjects, asyncio.Task[None]]] = {}  # by bus name
        self._fingerprint = ""
        self._own: Collection[OwnObjects] = ()
        self._ending: list[asyncio.Task[None]] = []
        self._is_started = False
        self._is_released = False  # nobody waits any more
        self._waiters: dict[Waiter, None] = {}
        self._by_key: dict[str | ObjectId, dict[Waiter, None]] = {}  # by what they want: EVERYTHING, classes, objects
        self._changes: set[ObjectId] = set()  # since clients were woken last
        self._to_wake: deque[Waiter] = deque()
        self._timer: asyncio.TimerHandle | asyncio.Handle | None = None
        self._heartbeat: asyncio.TimerHandle | None = None
        self._next = 0.0  # loop time before which clients are not woken again

    def __len__(self) -> int:
        return len(self._waiters)

    # Following

    def replace(self, classes: Collection[ObjectClass], own: Collection[OwnObjects]) -> None:
        """Use these classes from now on. If they differ, everything is read again."""
        fingerprint = "\n".join(each.fingerprint for each in classes)
        self.classes = {each.name.lower(): each for each in classes}
        self._own = own
        if fingerprint != self._fingerprint:
            self._fingerprint = fingerprint
            if self._is_started:
                self._follow()

    def start(self) -> None:
        """Follow the services, if that was not begun."""
        if not self._is_started:
            self._is_started = True
            self._follow()
            self._beat()
            if self._saver is not None:
                self._saver.start()
            for own in self._own:
                self._add_own(own)

    def _follow(self) -> None:
        before, self._objects = self._objects, {}
        by_name: dict[str, list[ObjectClass]] = {}
        for each in self.classes.values():
            by_name.setdefault(each.bus_name, []).append(each)
        for bus_name, classes in by_name.items():
            objects = ServiceObjects(bus_name, classes, self.log, self._on_read)
            if bus_name in before:
                objects.adopt(before[bus_name][0])
            task = asyncio.get_running_loop().create_task(objects.run(self._source))
            self._objects[bus_name] = objects, task
        for bus_name, (objects, task) in before.items():
            task.cancel()
            if bus_name not in by_name:
                objects.forget()
        self._ending = [task for task in (*self._ending, *(each for _, each in before.values())) if not task.done()]

    def _on_read(self) -> None:
        """The objects of a service have been read."""
        self._note_change()
        self._wake_all()

    def _note_change(self) -> None:
        if self._saver is not None:
            self._saver.changed()

    def _beat(self) -> None:
        """Have clients that wait for everything, or for the pool, see that the gateway is alive."""
        if self._recalled is not None:
            self._recalled.forget_unused()
        if not self._by_key.keys().isdisjoint((EVERYTHING, BEATS)):
            for object_id in self.log.of_class(BEATS):
                self.log.touch(object_id)
        self._heartbeat = asyncio.get_running_loop().call_later(HEARTBEAT, self._beat)

    def _add_own(self, own: OwnObjects) -> None:
        def tell(ref: str, make: Callable[[], Value] | None) -> None:
            if make is None:
                self.log.remove((own.name, ref))
            else:
                self.log.put((own.name, ref), make)

        for ref, make in own.records().items():
            tell(ref, make)
        own.subscribe(tell)

    @property
    def own_classes(self) -> list[str]:
        """The classes of the gateway's own objects, in lower case."""
        return [own.name for own in self._own]

    @property
    def is_read(self) -> bool:
        """Whether the state of every object was read once, so that there is something to tell."""
        return self._is_started and all(objects.was_read for objects, _ in self._objects.values())

    @property
    def is_current(self) -> bool:
        """Whether everything that the services have sent is known."""
        return self._is_started and all(objects.is_current for objects, _ in self._objects.values())

    async def stop(self) -> None:
        """Follow the services no more."""
        self.release()
        tasks = [*self._ending, *(task for _, task in self._objects.values())]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for timer in (self._timer, self._heartbeat):
            if timer is not None:
                timer.cancel()
        if self._saver is not None:
            await self._saver.stop()

    # Waiting

    @contextmanager
    def waiting(self, wanted: Wanted, session: str) -> Iterator[Waiter]:
        """A client that waits while the block runs."""
        waiter = Waiter(wanted, session)
        keys = _keys(wanted)
        self._waiters[waiter] = None
        for key in keys:
            self._by_key.setdefault(key, {})[waiter] = None
        try:
            yield waiter
        finally:
            del self._waiters[waiter]
            for key in keys:
                del self._by_key[key][waiter]
                if not self._by_key[key]:
                    del self._by_key[key]

    @property
    def is_released(self) -> bool:
        """Whether the gateway stops, so that no client may wait."""
        return self._is_released

    def release(self) -> None:
        """Have every client go on with what it has: the gateway stops."""
        self._is_released = True
        self._wake_all()

    def end_session(self, session: str) -> None:
        """Wake the clients of a session that has ended."""
        for waiter in self._waiters:
            if waiter.session == session:
                waiter.is_ended = True
                waiter.wake()

    async def ask(self, route: Route, call: Call) -> Outcome:
        """Make a call; once it is answered, every signal that was sent before its reply is in the change log."""
        return await self._source.ask(route, call)

    @property
    def token(self) -> Token:
        """The token of now."""
        return self.log.token

    async def missed_since(self, token: Token, wanted: Wanted) -> Missed | None:
        """What a client has missed since a token of another process; None: it is not certain."""
        return None if self._recalled is None else await self._recalled.missed_since(token, wanted)

    def _changed(self, object_id: ObjectId) -> None:
        self._note_change()
        if not self._waiters:
            return
        self._changes.add(object_id)
        if self._timer is None:
            loop = asyncio.get_running_loop()
            now = loop.time()
            self._timer = loop.call_soon(self._wake) if now >= self._next else loop.call_at(self._next, self._wake)

    def _wake(self) -> None:
        """Wake the clients that want one of the objects that have changed."""
        changes, self._changes = self._changes, set()
        keys: set[str | ObjectId] = {EVERYTHING, *(name for name, _ in changes), *changes}
        woken: set[Waiter] = set()
        for key in keys & self._by_key.keys():
            woken.update(self._by_key[key])
        self._to_wake.extend(woken)
        self._wake_some(min(len(woken) * PAUSE_OF_EACH, LONGEST_PAUSE))

    def _wake_some(self, pause: float) -> None:
        """Wake the next clients; `pause`: seconds after the last of them before clients are woken again."""
        loop = asyncio.get_running_loop()
        for _ in range(min(WOKEN_AT_ONCE, len(self._to_wake))):
            self._to_wake.popleft().wake()
        if self._to_wake:
            self._timer = loop.call_soon(self._wake_some, pause)
            return
        self._next = loop.time() + pause
        self._timer = loop.call_at(self._next, self._wake) if self._changes else None

    def _wake_all(self) -> None:
        for waiter in self._waiters:
            waiter.wake()


class EventHub:
    """The events of every mapping file with classes. `own`: objects of the gateway that belong to each of them.

    `state`: where change logs are written down, so that tokens continue in another process.
    """

    def __init__(self, source: ObjectSource, own: Collection[OwnObjects] = (), state: StateStore | None = None) -> None:
        self._source = source
        self._own = own
        self._state = state
        self._services: dict[str, ServiceEvents] = {}
        self._on_release: dict[Callable[[], object], None] = {}

    async def follow(self, table: Table) -> None:
        """Use the classes of a mapping from now on. Clients go on waiting."""
        by_service: dict[str, list[ObjectClass]] = {}
        for each in table.classes:
            by_service.setdefault(each.service, []).append(each)
        for name in self._services.keys() - by_service.keys():
            await self._services.pop(name).stop()
        for name, classes in by_service.items():
            if name not in self._services:
                self._services[name] = ServiceEvents(name, self._source, self._state)
            self._services[name].replace(classes, self._own)

    def find(self, service: str) -> ServiceEvents | None:
        """The events of a mapping file; None: it has no classes."""
        return self._services.get(service)

    @contextmanager
    def when_released(self, tell: Callable[[], object]) -> Iterator[None]:
        """Call `tell` if the gateway stops while the block runs."""
        self._on_release[tell] = None
        try:
            yield
        finally:
            self._on_release.pop(tell, None)

    @property
    def waiting(self) -> int:
        """How many clients wait."""
        return sum(map(len, self._services.values()))

    def end_session(self, session: str) -> None:
        """Wake the clients of a session that has ended."""
        for each in self._services.values():
            each.end_session(session)

    def release(self) -> None:
        """Have every client go on with what it has: the gateway stops."""
        told, self._on_release = self._on_release, {}
        for tell in told:
            tell()
        for each in self._services.values():
            each.release()

    async def stop(self) -> None:
        """Follow no service any more."""
        for each in self._services.values():
            await each.stop()
