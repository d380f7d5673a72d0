"""Backends for tests: the D-Bus backend, one in memory, and hand-made routes and signals of the toy service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias, cast

from adapters.dbus.backend import Backend, BusSettings, Dependencies, decode_result
from adapters.dbus.signals import SignalQueue
from gateway.core import interfaces
from gateway.core.dbus.marshal import Variant
from gateway.core.dbus.signature import parse
from gateway.core.dbus.target import MethodCall, Subscription, Target
from gateway.core.routing.route import Route, encode_arguments
from gateway.core.rpc.model import Call, Event, EventsLost, Fault, FaultCode, Outcome, Reply, Value
from tests.kit.programs import TIMEOUT
from tests.kit.toy_service import INTERFACE, OBJECT_PATH


@asynccontextmanager
async def dbus_backend(*buses: BusSettings, around: Dependencies | None = None) -> AsyncIterator[Backend]:
    """Run a D-Bus backend that is connected to all its buses."""
    backend = Backend({bus.name: bus for bus in buses}, around)
    await backend.start()
    try:
        async with asyncio.timeout(TIMEOUT):
            await backend.connected()
        yield backend
    finally:
        await backend.stop()


# A backend in memory


# An outcome, or a function from the method call to the body of the method return or to a fault.
Answer: TypeAlias = "Outcome | Callable[[MethodCall], Sequence[object] | Fault]"


class MemoryBackend(interfaces.Backend):
    """Answers (interface, member) from its table; a fault with a name is mapped as a D-Bus error is."""

    def __init__(self, table: Mapping[tuple[str, str], Answer]) -> None:
        self._table = table
        self._running = False

    async def start(self) -> None:
        self._running = True

    async def stop(self) -> None:
        self._running = False

    async def call(self, route: Route, call: Call) -> Outcome:
        method_call = encode_arguments(route, call)
        if isinstance(method_call, Fault):
            return method_call
        if not self._running:
            return Fault(FaultCode.UNAVAILABLE, "the backend is not running; the call was not sent")
        answer = self._answer(method_call)
        if call.oneway:
            return Reply(None)
        if isinstance(answer, Fault):
            return route.map_error(answer, call) if answer.name else answer
        return answer if isinstance(answer, Reply) else decode_result(route, answer)

    def _answer(self, call: MethodCall) -> Outcome | Sequence[object]:
        answer = self._table.get((call.interface, call.member))
        if answer is None:
            text = f"{call.interface}.{call.member} is not in the table"
            return Fault(FaultCode.UNKNOWN_METHOD, text, name="org.freedesktop.DBus.Error.UnknownMethod", data=[text])
        return answer if isinstance(answer, (Reply, Fault)) else answer(call)


# Hand-made routes to the toy service: parameters are D-Bus values already, so that no mapping is needed.


TOY = "org.example.Toy"


def toy_route(
    member: str,
    signature: str = "",
    reply_signature: str = "",
    *,
    bus_name: str = TOY,
    bind: Callable[[Call], MethodCall] | None = None,
    translate: Callable[[Fault, Call], Fault] | None = None,
) -> Route:
    """A route whose parameters are D-Bus values already."""

    def as_they_are(call: Call) -> MethodCall:
        return MethodCall(bus_name, OBJECT_PATH, INTERFACE, member, signature, call.params)

    types = parse(reply_signature)

    def shape(body: Sequence[object]) -> Value:
        values = [plain(value) for value in body]
        return values[0] if len(values) == 1 else values or None

    return Route(
        service="toy",
        method=member,
        target=Target(bus_name, OBJECT_PATH, INTERFACE, member, signature, reply_signature),
        parameters=(),
        result=types[0] if len(types) == 1 else None,
        encode_arguments=bind or as_they_are,
        decode_result=shape,
        map_error=translate or (lambda fault, call: fault),
    )


def plain(value: Any) -> Value:
    """Return the value without variants and tuples."""
    if hasattr(value, "signature"):
        return plain(value.value)
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, (list, tuple)) else cast("Value", value)


def toy_call(*params: object, oneway: bool = False) -> Call:
    """Return a call with these D-Bus values as parameters."""
    return Call("toy", params, oneway=oneway)  # type: ignore[arg-type] # D-Bus values pass through the hand-made bind


# Signals of the toy service


PROPERTIES = "org.freedesktop.DBus.Properties"

SHOUTED = Subscription(TOY, OBJECT_PATH, INTERFACE, "Shouted", "s")
CHANGED = Subscription(TOY, OBJECT_PATH, INTERFACE, properties={"Volume": "u", "Word": "s"}, below=True)


def shouted(text: str) -> Event:
    return Event(TOY, OBJECT_PATH, INTERFACE, "Shouted", (text,))


async def emit(backend: Backend, member: str, body: Variant, times: int = 1, **where: str) -> None:
    """Make a toy emit a signal; `where`: bus_name, path, interface."""
    path, interface = where.get("path", OBJECT_PATH), where.get("interface", INTERFACE)
    route = toy_route("Emit", "ossvu", bus_name=where.get("bus_name", TOY))
    got = await backend.call(route, toy_call(path, interface, member, body, times))
    assert got == Reply(None), got


async def shout(backend: Backend, text: str, times: int = 1, **where: str) -> None:
    await emit(backend, "Shouted", Variant("(s)", (text,)), times, **where)


async def change(backend: Backend, *invalidated: str, path: str = OBJECT_PATH, **properties: Variant) -> None:
    """Make a toy emit PropertiesChanged."""
    body = Variant("(sa{sv}as)", (INTERFACE, properties, list(invalidated)))
    await emit(backend, "PropertiesChanged", body, interface=PROPERTIES, path=path)


async def missed(feed: SignalQueue, *, owned: bool = True) -> EventsLost:
    """Return the next event, which must say that events may have been lost."""
    news = await anext(feed)
    assert isinstance(news, EventsLost), news
    assert bool(news.owner) is owned, news
    return news
