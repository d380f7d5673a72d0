"""Keeps the state of a service's objects: read by GetManagedObjects, kept up to date by signals.

One subscription covers all objects of the service. Whenever signals may have been lost (a new owner of the bus name, a
new connection, an overflow), all managers are read again, and the difference to what was known goes to the change log:
a client misses nothing and never sees an older state after a newer one.

The reply of GetManagedObjects is taken between the signals that the service sent before it and after it, because both
use one connection. A signal that arrives while its manager is read is not applied: the object is read once more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Protocol, TypeAlias

from msgspec import Struct, field

from gateway.core.dbus.scalars import MarshalError
from gateway.core.dbus.target import MethodCall, Subscription, all_objects
from gateway.core.interfaces import EventFeed
from gateway.core.logger import Logger, LogLimiter
from gateway.core.routing.route import ObjectClass, Properties, Route
from gateway.core.rpc.model import Call, Event, EventsLost, Fault, FaultCode, Outcome, Value
from gateway.events.changes import ChangeLog, ObjectId

PROPERTIES = "org.freedesktop.DBus.Properties"
MANAGER = "org.freedesktop.DBus.ObjectManager"
GONE = frozenset({FaultCode.NOT_FOUND, FaultCode.UNKNOWN_METHOD})  # faults of an object that does not exist
AT_ONCE = 16  # reads of one service at one time
READ_TIMEOUT = 60.0  # seconds
FIRST_PAUSE, LAST_PAUSE = 0.2, 30.0  # seconds before a failed read is repeated
MANAGED = "a{oa{sa{sv}}}"  # the signature of the reply to GetManagedObjects
MOST_DUE = 1000  # objects that are read one by one; with more their managers are read

_log = Logger()
_left_out = LogLimiter(60.0)  # a line a minute for each object


Take: TypeAlias = "Callable[[Sequence[Any] | Fault], None]"


class ObjectSource(Protocol):
    """The D-Bus side."""

    def follow(self, feed: EventFeed, *subscriptions: Subscription) -> AbstractContextManager[None]:
        """Pass signals to a feed as they arrive; it first gets one EventsLost for each bus name."""

    async def query(self, call: MethodCall, expected: str, take: Take) -> Fault | None:
        """Make a call; `take` gets the body, or the error, between the signals that were sent before and after it.

        A reply with another signature than `expected` is an error. The fault is why there is no reply.
        """

    async def ask(self, route: Route, call: Call) -> Outcome:
        """Make a call; once it is answered, every signal that was sent before its reply has arrived."""


class _Manager(Struct, eq=False):
    """One ObjectManager and the classes whose objects it has."""

    path: str
    classes: list[ObjectClass] = field(default_factory=list)
    is_read: bool = False  # what is known is up to date
    is_reading: bool = False
    was_read: bool = False  # at least once


class _Object(Struct, eq=False):
    """One object as a class has it."""

    id: ObjectId
    properties: Properties


class ServiceObjects(EventFeed):
    """The objects of some classes of one bus name; their changes go to `log`. `run` reads and follows."""

    def __init__(
        self, bus_name: str, classes: Collection[ObjectClass], log: ChangeLog, on_read: Callable[[], object]
    ) -> None:
        self.bus_name = bus_name
        self._log = log
        self._on_read = on_read
        self._managers: dict[str, _Manager] = {}
        self._by_interface: dict[str, list[ObjectClass]] = {}
        self._objects: dict[ObjectClass, dict[str, _Object]] = {each: {} for each in classes}  # by class and path
        for each in classes:
            self._managers.setdefault(each.manager, _Manager(each.manager)).classes.append(each)
            self._by_interface.setdefault(each.interface, []).append(each)
        self._due: dict[tuple[str, str], None] = {}  # path and interface of objects to be read
        self._epoch = 0  # grows whenever events may be lost: the reply to an older read is out of date
        self._owner = ""
        self._pause = FIRST_PAUSE
        self._resumes = 0.0  # loop time; after a failed read nothing is read before
        self._more = asyncio.Event()

    @property
    def was_read(self) -> bool:
        """Whether every object has been read once."""
        return all(manager.was_read for manager in self._managers.values())

    async def run(self, source: ObjectSource) -> None:
        """Follow the service until cancelled."""
        with source.follow(self, all_objects(self.bus_name)):
            while True:
                await self._more.wait()
                self._more.clear()
                try:
                    await self._read_due(source)
                except Exception:  # noqa: BLE001 - a bug costs this read and not the events
                    _log.exception("a bug while reading objects", bus_name=self.bus_name)

    # See EventFeed

    def miss(self, missed: EventsLost) -> None:
        """Read everything again; without a service what is known stays until there is one."""
        self._epoch += 1
        self._owner = missed.owner
        self._due.clear()
        for manager in self._managers.values():
            manager.is_read = False
        self._pause, self._resumes = FIRST_PAUSE, 0.0
        self._more.set()

    def put(self, event: Event) -> bool:
        """Take over a signal."""
        try:
            if event.interface == PROPERTIES:
                interface, changed, invalidated = event.body
                self._on_properties(event.object_path, str(interface), changed, invalidated)
            elif event.member == "InterfacesAdded":
                path, interfaces = event.body
                for interface, properties in interfaces.items() if isinstance(interfaces, dict) else ():
                    self._on_added(str(path), interface, properties)
            else:
                path, interfaces = event.body
                for interface in interfaces if isinstance(interfaces, list) else ():
                    self._on_removed(str(path), str(interface))
        except Exception:  # noqa: BLE001 - a bug must cost only this event, and the state is read again
            _log.exception("a bug lost a signal", bus_name=self.bus_name, path=event.object_path)
            return False
        return True

    # Signals

    def _current(self, path: str, interface: str) -> list[ObjectClass]:
        """The classes of an object whose signals can be applied. Where one is being read, the object is read later."""
        if self._is_reading(path, interface):
            self._read_object(path, interface)
            return []
        classes = [each for each in self._by_interface.get(interface, ()) if each.has(path)]
        return classes if all(self._managers[each.manager].is_read for each in classes) else []

    def _on_properties(self, path: str, interface: str, changed: Any, invalidated: Any) -> None:
        for each in self._current(path, interface):
            known = self._objects[each].get(path)
            if known is None or invalidated:
                self._read_object(path, interface)
            if known is not None:
                self._update(each, path, {**known.properties, **changed})

    def _on_added(self, path: str, interface: str, properties: Any) -> None:
        for each in self._current(path, interface):
            self._update(each, path, properties)

    def _on_removed(self, path: str, interface: str) -> None:
        if not self._is_reading(path, interface):
            self._due.pop((path, interface), None)
        for each in self._current(path, interface):
            self._remove(each, path)

    def _is_reading(self, path: str, interface: str) -> bool:
        found = self._by_interface.get(interface, ())
        return any(self._managers[each.manager].is_reading for each in found if each.has(path))

    def _read_object(self, path: str, interface: str) -> None:
        self._due[path, interface] = None
        if len(self._due) > MOST_DUE:
            self.miss(EventsLost(self.bus_name, self._owner, "too many objects to be read one by one"))
        elif asyncio.get_running_loop().time() >= self._resumes:
            self._more.set()

    # The state

    def _update(self, each: ObjectClass, path: str, properties: Properties) -> None:
        """An object of a class has these properties now."""
        objects = self._objects[each]
        known = objects.get(path)
        if known is not None and known.properties == properties:
            return
        object_id = (each.name.lower(), each.reference(path, properties))
        if known is not None and known.id != object_id:
            self._remove(each, path)
        objects[path] = _Object(object_id, properties)
        self._log.put(object_id, partial(_record, each, path, properties))

    def _remove(self, each: ObjectClass, path: str) -> None:
        known = self._objects[each].pop(path, None)
        if known is not None:
            self._log.remove(known.id)

    def forget(self) -> None:
        """Remove all objects: nothing follows them any more."""
        for each, objects in self._objects.items():
            for path in [*objects]:
                self._remove(each, path)

    def adopt(self, before: ServiceObjects) -> None:
        """Take over what is known of objects, so that reading again tells the difference only."""
        known = {(each.name, each.interface): objects for each, objects in before._objects.items()}
        for each in self._objects:
            self._objects[each] = {
                path: _Object(found.id, {}) for path, found in known.pop((each.name, each.interface), {}).items()
            }
        for objects in known.values():
            for found in objects.values():
                self._log.remove(found.id)

    # Reading

    async def _read_due(self, source: ObjectSource) -> None:
        """Read the managers and objects that have to be read."""
        if not self._owner:
            return
        slots = asyncio.Semaphore(AT_ONCE)
        unread = [manager for manager in self._managers.values() if not manager.is_read]
        single = [*self._due] if not unread else []
        async with asyncio.TaskGroup() as tasks:
            for manager in unread:
                call = MethodCall(self.bus_name, manager.path, MANAGER, "GetManagedObjects", "")
                take_all = partial(self._take_all, manager)
                tasks.create_task(self._read(source, slots, call, MANAGED, take_all, manager))
            for path, interface in single:
                call = MethodCall(self.bus_name, path, PROPERTIES, "GetAll", "s", [interface])
                take_one = partial(self._take_one, path, interface)
                tasks.create_task(self._read(source, slots, call, "a{sv}", take_one, _Manager(path)))  # of itself alone
        if unread and not any(not manager.is_read for manager in unread):
            self._pause = FIRST_PAUSE
            if self._due:
                self._more.set()

    async def _read(
        self,
        source: ObjectSource,
        slots: asyncio.Semaphore,
        call: MethodCall,
        expected: str,
        take: Callable[[Any], None],
        manager: _Manager,
    ) -> None:
        """Read a manager or one object: `take` gets the first value of the reply, or None where there is no object."""
        epoch = self._epoch

        def took(answer: Sequence[Any] | Fault) -> None:
            if epoch != self._epoch:
                return
            manager.is_reading = False
            if isinstance(answer, Fault) and answer.code not in GONE:
                self._later(f"{call.object_path}: {answer.message}")
                return
            try:
                take(None if isinstance(answer, Fault) else answer[0])
            except Exception:  # noqa: BLE001 - it is called by the connection, which must go on
                _log.exception("a bug while taking over the state of a service", bus_name=self.bus_name)
                self._later("a bug")

        async with slots:
            if epoch != self._epoch:
                return
            manager.is_reading = True
            try:
                async with asyncio.timeout(READ_TIMEOUT):
                    fault = await source.query(call, expected, took)
            except TimeoutError:
                fault = Fault(FaultCode.TIMEOUT, f"no answer within {READ_TIMEOUT:g} s")
            finally:
                manager.is_reading = False
            if fault is not None and epoch == self._epoch:
                self._later(f"{call.object_path}: {fault.message}")

    def _take_all(self, manager: _Manager, objects: Mapping[str, Mapping[str, Properties]] | None) -> None:
        """Take over the objects of a manager; those that it does not have any more are gone."""
        for each in manager.classes:
            found = {
                path: interfaces[each.interface]
                for path, interfaces in (objects or {}).items()
                if each.interface in interfaces and each.has(path)
            }
            for path in [path for path in self._objects[each] if path not in found]:
                self._remove(each, path)
            for path, properties in found.items():
                self._update(each, path, properties)
        manager.is_read = manager.was_read = True
        self._on_read()

    def _take_one(self, path: str, interface: str, properties: Properties | None) -> None:
        self._due.pop((path, interface), None)
        if not self._due:
            self._pause = FIRST_PAUSE
        if properties is None:
            self._on_removed(path, interface)
        else:
            self._on_added(path, interface, properties)

    def _later(self, why: str) -> None:
        """Read again after a pause. Of several failures in one pause the first is logged."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._resumes:
            return
        _log.warning("objects cannot be read; tried again", bus_name=self.bus_name, why=why, seconds=self._pause)
        self._resumes = loop.time() + self._pause
        loop.call_later(self._pause, self._more.set)
        self._pause = min(2 * self._pause, LAST_PAUSE)


def _record(each: ObjectClass, path: str, properties: Properties) -> Value:
    """The record of an object; None, with a line in the log, when a property does not have the type of the IDL."""
    try:
        return each.record(properties)
    except MarshalError as error:
        times = _left_out.occurred((each.name, path))
        if times:
            _log.warning("an object is left out of the events", object=path, why=str(error), times=times)
        return None
