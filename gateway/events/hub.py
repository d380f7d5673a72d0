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
from collections.abc import Callable, Collection, Mapping
from secrets import randbelow
from time import time
from typing import Protocol, Self

from gateway.core.routing.route import ObjectClass
from gateway.core.rpc.model import Value
from gateway.events.changes import ChangeLog, ObjectId, Wanted
from gateway.events.objects import ObjectSource, ServiceObjects
from gateway.events.saved import LogSaver, RecalledLogs
from gateway.mapping.table import Table
from gateway.state.store import StateStore
from gateway.state.tables import LARGEST

PAUSE_OF_EACH = 0.0001  # seconds between two times that clients are woken, for each client that was woken
LONGEST_PAUSE = 0.1  # seconds
WOKEN_AT_ONCE = 16  # clients; each takes about 0.2 ms

ALARM = 0.25  # seconds between two moments at which long times end
EXACT = 5.0  # seconds; a shorter time has a timer of its own

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

    def follow(self, tell: Callable[[str, Callable[[], Value] | None], object]) -> None:
        """Call `tell` with the reference of each object, now and when it changes, and what makes its record.

        None: it is gone.
        """


class Waiter:
    """A client that waits while it is entered. It holds what it wants, and no event."""

    __slots__ = ("_future", "_service", "is_ended", "session", "wanted")

    def __init__(self, service: ServiceEvents, wanted: Wanted, session: str) -> None:
        self.wanted = wanted
        self.session = session
        self.is_ended = False  # its session has ended
        self._service = service
        self._future: asyncio.Future[None] | None = None

    def __enter__(self) -> Self:
        self._service.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._service.remove(self)

    async def wait(self, seconds: float) -> None:
        """Wait until something wanted may have changed, the session has ended, or the time is over."""
        self._future = asyncio.get_running_loop().create_future()
        alarm = self._service.alarms.set(seconds, self)
        try:
            await self._future
        finally:
            self._future = None
            self._service.alarms.cancel(alarm, self)

    def wake(self) -> None:
        """Have `wait` return."""
        if self._future is not None and not self._future.done():
            self._future.set_result(None)


class Alarms:
    """Wakes waiters when their time is over. Long times that end in one ALARM share a timer, which takes 0.7 KB."""

    def __init__(self) -> None:
        self._shared: dict[int, tuple[asyncio.TimerHandle, set[Waiter]]] = {}  # by the number of their ALARM

    def set(self, seconds: float, waiter: Waiter) -> asyncio.TimerHandle | int:
        """Wake a waiter in so many seconds, or a little later; returns what `cancel` takes."""
        loop = asyncio.get_running_loop()
        if seconds < EXACT:
            return loop.call_later(seconds, waiter.wake)
        number = int((loop.time() + seconds) // ALARM) + 1
        if number not in self._shared:
            self._shared[number] = loop.call_at(number * ALARM, self._ring, number), set()
        self._shared[number][1].add(waiter)
        return number

    def cancel(self, alarm: asyncio.TimerHandle | int, waiter: Waiter) -> None:
        """Do not wake it, if it was not."""
        if not isinstance(alarm, int):
            alarm.cancel()
        elif alarm in self._shared:
            timer, waiters = self._shared[alarm]
            waiters.discard(waiter)
            if not waiters:
                timer.cancel()
                del self._shared[alarm]

    def _ring(self, number: int) -> None:
        for waiter in self._shared.pop(number)[1]:
            waiter.wake()


class ServiceEvents:
    """The events of the classes of one mapping file. `state`: where its change log is written down."""

    def __init__(self, service: str, source: ObjectSource, state: StateStore | None = None) -> None:
        self.service = service
        self.classes: Mapping[str, ObjectClass] = {}  # by name in lower case
        self.source = source
        self.log = ChangeLog(int(time() * 1e6), 1 + randbelow(LARGEST), self._changed)
        self._saver: LogSaver | None = None
        self.recalled: RecalledLogs | None = None  # logs of other processes
        if state is not None and state.path is not None:
            self._saver = LogSaver(service, self.log, state, lambda: self.is_read)
            self.recalled = RecalledLogs(service, self.log, state)
        self._objects: dict[str, tuple[ServiceObjects, asyncio.Task[None]]] = {}  # by bus name
        self._fingerprint = ""
        self.own: Collection[OwnObjects] = ()
        self._ending: list[asyncio.Task[None]] = []
        self._is_started = False
        self.is_released = False  # the gateway stops, so that no client may wait
        self._waiters: dict[Waiter, None] = {}
        # By what they want: EVERYTHING, classes, objects. Most objects are wanted by one, which needs no dict.
        self._by_key: dict[str | ObjectId, Waiter | dict[Waiter, None]] = {}
        self.alarms = Alarms()
        self._changes: set[ObjectId] = set()  # since clients were woken last
        self._to_wake: deque[Waiter] = deque()
        self._timer: asyncio.TimerHandle | asyncio.Handle | None = None
        self._heartbeat: asyncio.TimerHandle | None = None
        self._next = 0.0  # loop time before which clients are not woken again

    # Following

    def replace(self, classes: Collection[ObjectClass], own: Collection[OwnObjects]) -> None:
        """Use these classes from now on. If they differ, everything is read again."""
        fingerprint = "\n".join(each.fingerprint for each in classes)
        self.classes = {each.name.lower(): each for each in classes}
        self.own = own
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
            for own in self.own:
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
            task = asyncio.get_running_loop().create_task(objects.run(self.source))
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
        if self.recalled is not None:
            self.recalled.forget_unused()
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

        own.follow(tell)

    @property
    def is_read(self) -> bool:
        """Whether the state of every object was read once, so that there is something to tell."""
        return self._is_started and all(objects.was_read for objects, _ in self._objects.values())

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

    def add(self, waiter: Waiter) -> None:
        """A client begins to wait."""
        self._waiters[waiter] = None
        for key in _keys(waiter.wanted):
            found = self._by_key.get(key)
            if isinstance(found, dict):
                found[waiter] = None
            else:
                self._by_key[key] = waiter if found is None else {found: None, waiter: None}

    def remove(self, waiter: Waiter) -> None:
        """A client waits no more."""
        del self._waiters[waiter]
        for key in _keys(waiter.wanted):
            found = self._by_key[key]
            if isinstance(found, dict):
                del found[waiter]
            if not isinstance(found, dict) or not found:
                del self._by_key[key]

    def release(self) -> None:
        """Have every client go on with what it has: the gateway stops."""
        self.is_released = True
        self._wake_all()

    def end_session(self, session: str) -> None:
        """Wake the clients of a session that has ended."""
        for waiter in self._waiters:
            if waiter.session == session:
                waiter.is_ended = True
                waiter.wake()

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
            found = self._by_key[key]
            woken.update(found if isinstance(found, dict) else (found,))
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
        self.on_release: dict[Callable[[], object], None] = {}  # called if the gateway stops

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

    def end_session(self, session: str) -> None:
        """Wake the clients of a session that has ended."""
        for each in self._services.values():
            each.end_session(session)

    def release(self) -> None:
        """Have every client go on with what it has: the gateway stops."""
        told, self.on_release = self.on_release, {}
        for tell in told:
            tell()
        for each in self._services.values():
            each.release()

    async def stop(self) -> None:
        """Follow no service any more."""
        for each in self._services.values():
            await each.stop()
