"""Signals of services on a bus, and the queue of one subscriber."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from adapters.dbus import signals
from adapters.dbus.backend import Backend, BusSettings
from adapters.dbus.signals import SignalEvent, SignalQueue
from gateway.core.dbus.marshal import Variant
from gateway.core.dbus.target import MethodCall, Subscription
from gateway.core.rpc.model import Event, EventsLost, Reply, Value
from tests.kit.backends import (
    CHANGED,
    SHOUTED,
    TOY,
    change,
    dbus_backend,
    emit,
    missed,
    shout,
    shouted,
    toy_call,
    toy_route,
)
from tests.kit.buses import PrivateBus, private_bus
from tests.kit.cases import expect
from tests.kit.programs import TIMEOUT
from tests.kit.toy_service import INTERFACE, OBJECT_PATH, toy_service

OTHER = "org.example.Other"


@pytest.fixture(scope="module")
def bus() -> Iterator[PrivateBus]:
    with private_bus() as bus, toy_service(bus.address, TOY), toy_service(bus.address, OTHER):
        yield bus


@asynccontextmanager
async def backend(bus: PrivateBus) -> AsyncIterator[Backend]:
    async with (
        dbus_backend(BusSettings("one", bus.address, ("*",), connections=1)) as backend,
        asyncio.timeout(TIMEOUT),
    ):
        yield backend


async def test_a_subscriber_first_reads_and_then_hears_of_each_signal(bus: PrivateBus) -> None:
    async with backend(bus) as service, service.subscribe(SHOUTED) as feed:
        assert (await missed(feed)).why == "subscribed from now on"
        for text in ("one", "two"):
            await shout(service, text)
        assert [await anext(feed), await anext(feed)] == [shouted("one"), shouted("two")]
        assert service.status()[0].signals == 2


async def test_signals_of_others_are_not_heard(bus: PrivateBus) -> None:
    """Another sender, path, interface, member; each is what somebody else has subscribed to, so the bus sends it."""
    others = [
        Subscription(OTHER, OBJECT_PATH, INTERFACE, "Shouted", "s"),
        Subscription(TOY, "/elsewhere", INTERFACE, "Shouted", "s"),
        Subscription(TOY, OBJECT_PATH, "org.example.Toy2", "Shouted", "s"),
        Subscription(TOY, OBJECT_PATH, INTERFACE, "Whispered", "s"),
    ]
    async with backend(bus) as service, service.subscribe(*others) as theirs, service.subscribe(SHOUTED) as feed:
        await missed(theirs)
        await missed(theirs)
        await missed(feed)
        await shout(service, "other sender", bus_name=OTHER)
        await shout(service, "other path", path="/elsewhere")
        await shout(service, "other interface", interface="org.example.Toy2")
        await emit(service, "Whispered", Variant("(s)", ("other member",)))
        for _ in others:
            assert isinstance(await anext(theirs), Event)
        await shout(service, "ours")
        assert await anext(feed) == shouted("ours")


async def test_arguments_are_neutral_values_and_others_than_promised_are_passed_over(bus: PrivateBus) -> None:
    signature = "a{sv}(iay)v"
    wanted = Subscription(TOY, OBJECT_PATH, INTERFACE, "Told", signature)
    body = ({"a": Variant("u", 1), "b": Variant("as", ["c"])}, (-1, b"\0\xff"), Variant("(sb)", ("d", True)))
    async with backend(bus) as service, service.subscribe(wanted) as feed:
        await missed(feed)
        await emit(service, "Told", Variant("(u)", (7,)))
        await emit(service, "Told", Variant(f"({signature})", body))
        event = expect(Event, await anext(feed))
        assert event.body == ({"a": 1, "b": ["c"]}, [-1, b"\0\xff"], ["d", True])


async def test_changed_properties_are_heard_of_every_object_below_the_path(bus: PrivateBus) -> None:
    """A property of another type than promised has to be read."""
    async with backend(bus) as service, service.subscribe(CHANGED) as feed:
        await missed(feed)
        await change(service, path=OBJECT_PATH + "x", Volume=Variant("u", 1))
        await change(service, Unknown=Variant("u", 2))
        below = f"{OBJECT_PATH}/child"
        await change(service, "Word", "Unknown", path=below, Volume=Variant("u", 3), Unknown=Variant("s", "x"))
        expected = Event(TOY, below, INTERFACE, properties={"Volume": 3}, invalidated=frozenset({"Word"}))
        assert await anext(feed) == expected
        await change(service, Volume=Variant("s", "loud"), Word=Variant("s", "w"))
        expected = Event(TOY, OBJECT_PATH, INTERFACE, properties={"Word": "w"}, invalidated=frozenset({"Volume"}))
        assert await anext(feed) == expected


async def test_who_ends_his_subscription_leaves_no_match_rule_and_no_connection(bus: PrivateBus) -> None:
    stats = MethodCall("org.freedesktop.DBus", "/", "org.freedesktop.DBus", "ListNames", "")

    async def connections(service: Backend) -> int:
        route = toy_route("ListNames", "", "as", bind=lambda _: stats)
        names = expect(Reply, await service.call(route, toy_call()))
        assert isinstance(names.value, list)
        return len(names.value)

    async with backend(bus) as service:
        before = await connections(service)
        async with service.subscribe(SHOUTED) as feed:
            await missed(feed)
            async with service.subscribe(CHANGED) as second:
                await missed(second)
                assert await connections(service) == before + 1
            await shout(service, "still heard")
            assert await anext(feed) == shouted("still heard")
        while await connections(service) != before:
            pass


async def test_a_subscriber_who_does_not_listen_costs_bounded_room(
    bus: PrivateBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signals, "OVERFLOW_PAUSE", 0.05)
    async with backend(bus) as service, service.subscribe(SHOUTED) as feed, service.subscribe(SHOUTED) as attentive:
        await missed(feed)
        await missed(attentive)
        feed._bound = 10
        await shout(service, "x", times=11)
        assert [await anext(attentive) for _ in range(11)] == [shouted("x")] * 11
        assert [await anext(feed) for _ in range(10)] == [shouted("x")] * 10
        await missed(feed)


async def test_a_match_rule_that_the_bus_refuses_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "REFUSED", 0.01)
    with private_bus(limits={"max_match_rules_per_connection": 3}) as bus, toy_service(bus.address, TOY):
        async with backend(bus) as service, service.subscribe(SHOUTED) as feed:
            await missed(feed)
            async with service.subscribe(CHANGED) as waiting:
                more = asyncio.ensure_future(missed(waiting))
                await asyncio.wait({more}, timeout=0.1)
                assert not more.done()
                await shout(service, "unharmed")
                assert await anext(feed) == shouted("unharmed")
                more.cancel()
                await asyncio.wait({more})


async def test_a_service_on_no_bus_is_told_of_at_once() -> None:
    service = Backend({"one": BusSettings("one", "unix:path=/nowhere", ("com.example",))})
    async with asyncio.timeout(TIMEOUT), service.subscribe(SHOUTED) as feed:
        assert (await missed(feed, owned=False)).why == "no bus of the config has this service"


# The queue of one subscriber


def changed(invalidated: str = "", path: str = "/a", **properties: Value) -> Event:
    return Event("org.example", path, "org.example.VM1", properties=properties, invalidated=frozenset(invalidated))


def told(number: int) -> Event:
    return Event("org.example", "/a", "org.example.VM1", "Told", (number,))


async def heard(feed: SignalQueue, count: int) -> list[SignalEvent]:
    async with asyncio.timeout(TIMEOUT):
        return [await anext(feed) for _ in range(count)]


async def nothing_more(feed: SignalQueue) -> bool:
    more = asyncio.ensure_future(anext(feed))
    await asyncio.sleep(0)
    waiting = not more.done()
    more.cancel()
    await asyncio.wait({more})
    return waiting


async def test_signals_are_heard_one_by_one_in_their_order_and_who_waits_is_told() -> None:
    feed = SignalQueue()
    waiting = asyncio.ensure_future(heard(feed, 3))
    for number in range(3):
        await asyncio.sleep(0)
        assert feed.put(told(number))
    assert await waiting == [told(0), told(1), told(2)]
    assert await nothing_more(feed)


async def test_of_a_property_only_the_last_value_is_heard() -> None:
    feed = SignalQueue()
    for number in range(10_000):
        assert feed.put(changed(A=number))
    feed.put(changed(B="b"))
    assert await heard(feed, 1) == [changed(A=9999, B="b")]
    assert await nothing_more(feed)


async def test_objects_are_kept_apart_and_a_change_takes_its_place_behind_what_came_before_it() -> None:
    feed = SignalQueue()
    for event in (changed(A=1), told(1), changed(path="/b", A=2), changed(A=3)):
        feed.put(event)
    assert await heard(feed, 3) == [told(1), changed(path="/b", A=2), changed(A=3)]


async def test_an_invalidated_property_has_no_value_and_a_new_value_makes_it_good() -> None:
    feed = SignalQueue()
    feed.put(changed(A=1, B=1))
    feed.put(changed(invalidated="A"))
    assert await heard(feed, 1) == [changed(invalidated="A", B=1)]
    feed.put(changed(invalidated="AB"))
    feed.put(changed(A=2))
    assert await heard(feed, 1) == [changed(invalidated="B", A=2)]


async def test_there_is_no_room_for_more_than_the_bound_but_for_what_was_there() -> None:
    feed = SignalQueue(bound=2)
    assert feed.put(changed(A=1))
    assert feed.put(told(1))
    assert not feed.put(told(2))
    assert feed.put(changed(A=2))
    assert await heard(feed, 2) == [told(1), changed(A=2)]


async def test_what_is_read_after_a_gap_is_newer_than_the_changes_before_it() -> None:
    feed = SignalQueue(bound=2)
    missed, again = EventsLost("org.example", ":1.1", "one"), EventsLost("org.example", ":1.2", "two")
    feed.put(changed(A=1))
    feed.put(told(1))
    feed.miss(missed)
    feed.miss(again)
    feed.miss(EventsLost("org.example.Other", "", "another"))
    assert await heard(feed, 3) == [told(1), again, EventsLost("org.example.Other", "", "another")]
    assert await nothing_more(feed)
