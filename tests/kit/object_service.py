"""A service with objects, and the wire from it: signals and replies arrive in the order in which they were sent.

It is the D-Bus side of the event hub in tests that decide what arrives when.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from gateway.core.dbus.target import MethodCall, Subscription
from gateway.core.interfaces import EventFeed
from gateway.core.routing.route import ObjectClass, Route
from gateway.core.rpc.model import Call, Event, EventsLost, Fault, FaultCode, Outcome, Reply, Value
from gateway.events.objects import MANAGER, PROPERTIES, Take
from tests.kit.programs import TIMEOUT

NAME = "org.example"
VM, METRICS = "org.example.VM1", "org.example.Metrics1"


def object_class(name: str, interface: str, *, key: str = "") -> ObjectClass:
    return ObjectClass(
        service="xapi",
        name=name,
        bus_name=NAME,
        manager="/vm",
        before="/vm/",
        after="",
        interface=interface,
        key=lambda path, properties: properties.get(key) if key else path.rpartition("/")[2],
        record=dict,
        routes=(),
    )


VMS, OF_METRICS = object_class("VM", VM), object_class("VM_metrics", METRICS, key="Uuid")


@dataclass
class Service:
    """A D-Bus service and the wire from it: signals and replies arrive in the order in which they were sent."""

    state: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    feed: EventFeed | None = None
    wire: list[Callable[[], None]] = field(default_factory=list)
    asked: list[tuple[MethodCall, Take, asyncio.Future[Fault | None]]] = field(default_factory=list)
    pending: list[asyncio.Future[Fault | None]] = field(default_factory=list)
    refuses: Fault | None = None
    queries: int = 0
    sessions: set[str] = field(default_factory=set)
    is_away: bool = False  # sessions cannot be checked
    checks: list[str] = field(default_factory=list)

    @contextmanager
    def follow(self, feed: EventFeed, *subscriptions: Subscription) -> Iterator[None]:
        assert [each.bus_name for each in subscriptions] == [NAME]
        assert all(each.is_whole for each in subscriptions)
        self.feed = feed
        try:
            yield
        finally:
            if self.feed is feed:
                self.feed = None

    @property
    def is_followed(self) -> bool:
        """Whether its signals are listened to."""
        return self.feed is not None

    async def query(self, call: MethodCall, expected: str, take: Take) -> Fault | None:
        assert expected == {"GetManagedObjects": "a{oa{sa{sv}}}", "GetAll": "a{sv}"}[call.member]
        future: asyncio.Future[Fault | None] = asyncio.get_running_loop().create_future()
        self.asked.append((call, take, future))
        self.pending.append(future)
        self.queries += 1
        return await future

    async def ask(self, route: Route, call: Call) -> Outcome:
        """Check a session: those in `sessions` are valid."""
        session = str(call.params[0]) if call.params else ""
        self.checks.append(session)
        if self.is_away:
            return Fault(FaultCode.UNAVAILABLE, "the service is away")
        if session in self.sessions:
            return Reply(None)
        return Fault(FaultCode.APPLICATION, "no such session", name="SESSION_INVALID", data=[session])

    # What the service does

    def own(self, owner: str = ":1.1") -> None:
        """It has its name from now on; what the wire still had of an earlier owner is lost."""
        self.wire.clear()
        for future in self.pending:
            if not future.done():
                future.set_result(Fault(FaultCode.NO_REPLY, "it has gone"))
        self.asked.clear()
        self.pending.clear()
        assert self.feed is not None
        self.feed.miss(EventsLost(NAME, owner, "its owner changed"))

    def _signal(self, path: str, interface: str, member: str, *body: Any) -> None:
        def deliver() -> None:
            assert self.feed is not None
            assert self.feed.put(Event(NAME, path, interface, member, body))

        self.wire.append(deliver)

    def change(self, path: str, interface: str, **properties: Value) -> None:
        self.state[path][interface].update(properties)
        self._signal(path, PROPERTIES, "PropertiesChanged", interface, properties, [])

    def invalidate(self, path: str, interface: str, name: str, value: Value) -> None:
        self.state[path][interface][name] = value
        self._signal(path, PROPERTIES, "PropertiesChanged", interface, {}, [name])

    def add(self, path: str, **interfaces: dict[str, Any]) -> None:
        named = {{"vm": VM, "metrics": METRICS}[name]: dict(properties) for name, properties in interfaces.items()}
        self.state.setdefault(path, {}).update(named)
        self._signal("/vm", MANAGER, "InterfacesAdded", path, {name: dict(each) for name, each in named.items()})

    def remove(self, path: str) -> None:
        gone = self.state.pop(path)
        self._signal("/vm", MANAGER, "InterfacesRemoved", path, [*gone])

    def answer(self) -> None:
        """Answer the oldest call; the reply goes behind the signals on the wire."""
        call, take, future = self.asked.pop(0)
        body: Any = self.refuses
        if body is not None:
            pass
        elif call.member == "GetManagedObjects":
            body = {path: {name: dict(each) for name, each in found.items()} for path, found in self.state.items()}
        elif call.body[0] in self.state.get(call.object_path, {}):
            body = dict(self.state[call.object_path][str(call.body[0])])
        else:
            body = Fault(FaultCode.NOT_FOUND, "no such object")

        def deliver() -> None:
            if not future.done():
                take(body if isinstance(body, Fault) else [body])
                future.set_result(None)

        self.wire.append(deliver)

    def deliver(self) -> None:
        self.wire.pop(0)()

    async def settle(self) -> None:
        """Answer and deliver everything, until nothing is asked any more."""
        async with asyncio.timeout(TIMEOUT):
            quiet = 0
            while quiet < 5:
                quiet = 0 if self.asked or self.wire else quiet + 1
                while self.asked:
                    self.answer()
                while self.wire:
                    self.deliver()
                await asyncio.sleep(0)
