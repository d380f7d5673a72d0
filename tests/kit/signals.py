"""What tests of signals share: the toy's signals, and a wait for what a subscriber is to hear. Knows no broker."""

from __future__ import annotations

from adapters.dbus.backend import Backend
from adapters.dbus.signals import SignalQueue
from gateway.core.dbus.marshal import Variant
from gateway.core.dbus.target import Subscription
from gateway.core.rpc.model import Event, EventsLost, Reply
from tests.kit.services import INTERFACE, OBJECT_PATH
from tests.kit.toy_routes import TOY, toy_call, toy_route

PROPERTIES = "org.freedesktop.DBus.Properties"

SHOUTED = Subscription(TOY, OBJECT_PATH, INTERFACE, "Shouted", "s")
CHANGED = Subscription(TOY, OBJECT_PATH, INTERFACE, properties={"Volume": "u", "Word": "s"}, below=True)


def shouted(text: str) -> Event:
    """What is heard of a shout."""
    return Event(TOY, OBJECT_PATH, INTERFACE, "Shouted", (text,))


async def emit(backend: Backend, member: str, body: Variant, times: int = 1, **where: str) -> None:
    """Make a toy emit a signal; `where`: bus_name, path, interface."""
    path, interface = where.get("path", OBJECT_PATH), where.get("interface", INTERFACE)
    route = toy_route("Emit", "ossvu", bus_name=where.get("bus_name", TOY))
    got = await backend.call(route, toy_call(path, interface, member, body, times))
    assert got == Reply(None), got


async def shout(backend: Backend, text: str, times: int = 1, **where: str) -> None:
    """Make a toy shout."""
    await emit(backend, "Shouted", Variant("(s)", (text,)), times, **where)


async def change(backend: Backend, *invalidated: str, path: str = OBJECT_PATH, **properties: Variant) -> None:
    """Make a toy tell that properties have changed."""
    body = Variant("(sa{sv}as)", (INTERFACE, properties, list(invalidated)))
    await emit(backend, "PropertiesChanged", body, interface=PROPERTIES, path=path)


async def missed(feed: SignalQueue, *, owned: bool = True) -> EventsLost:
    """What is heard next must be that something may have been missed."""
    news = await anext(feed)
    assert isinstance(news, EventsLost), news
    assert bool(news.owner) is owned, news
    return news
