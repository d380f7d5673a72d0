"""Signals of services on a bus, and the queue of one subscriber."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from msgspec.structs import replace

from adapters.dbus import signals
from adapters.dbus.backend import Backend, BusSettings
from adapters.dbus.signals import SignalEvent, SignalQueue
from gateway.core.dbus.marshal import Variant
from gateway.core.dbus.target import MethodCall, Subscription, all_objects
from gateway.core.rpc.model import Event, EventsLost, Fault, FaultCode, Reply, Value
from tests.kit.backends import (
    CHANGED,
    PROPERTIES,
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
from tests.kit.cases import each_case, expect
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
        monkeypatch.setattr(signals, "OVERFLOW_LIMIT", 20)  # in a second; who listens well is paused too
        await shout(service, "x", times=200)
        heard = 0
        while not isinstance(await anext(attentive), EventsLost):
            heard += 1
        assert heard <= 20


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


# The queue of one subscriber


ONE_MISSED, AGAIN = EventsLost("org.example", ":1.1", "one"), EventsLost("org.example", ":1.2", "two")
OTHER_MISSED = EventsLost("org.example.Other", "", "another")


def changed(invalidated: str = "", path: str = "/a", **properties: Value) -> Event:
    return Event("org.example", path, "org.example.VM1", properties=properties, invalidated=frozenset(invalidated))


def told(number: int) -> Event:
    return Event("org.example", "/a", "org.example.VM1", "Told", (number,))


@each_case(
    ("bound", "put", "heard"),
    [
        (9, [told(0), told(1), told(2)], [told(0), told(1), told(2)]),
        # of a property only the last value
        (9, [changed(A=1), changed(A=2, B=1), changed(B=2)], [changed(A=2, B=2)]),
        # each object for itself; a change takes its place behind what came before it
        (9, [changed(A=1), told(1), changed(path="/b", A=2), changed(A=3)],
         [told(1), changed(path="/b", A=2), changed(A=3)]),
        (9, [changed(A=1, B=1), changed(invalidated="A")], [changed(invalidated="A", B=1)]),
        (9, [changed(invalidated="AB"), changed(A=2)], [changed(invalidated="B", A=2)]),
        # no more than the bound, but for what has a place already
        (2, [changed(A=1), told(1), changed(A=2)], [told(1), changed(A=2)]),
        # what is read after a gap is newer than the changes before it; there is always room for it
        (2, [changed(A=1), told(1), ONE_MISSED, AGAIN, OTHER_MISSED], [told(1), AGAIN, OTHER_MISSED]),
    ],
)  # fmt: skip
async def test_a_subscriber_hears_in_order_what_it_still_has_to_know(
    bound: int, put: list[SignalEvent], heard: list[SignalEvent]
) -> None:
    feed, late = SignalQueue(bound), [told(8), told(9)]
    for each in put:
        if isinstance(each, Event):
            assert feed.put(each)
        else:
            feed.miss(each)
    assert feed.put(told(7)) is (len(heard) < bound)
    expected = [*heard, *([told(7)] if len(heard) < bound else []), *late]

    async def hear() -> list[SignalEvent]:
        return [await anext(feed) for _ in expected]

    hearing = asyncio.ensure_future(hear())
    for event in late:
        await asyncio.sleep(0)  # the subscriber waits
        assert feed.put(event)
    assert await asyncio.wait_for(hearing, TIMEOUT) == expected


# All objects of a service, and calls whose replies keep their place among its signals


MANAGER = "org.freedesktop.DBus.ObjectManager"


class Told:
    """A feed that remembers everything, in its order; replies are put between the signals."""

    def __init__(self) -> None:
        self.all: list[object] = []
        self._more = asyncio.Event()

    def put(self, event: Event) -> bool:
        self.add(event)
        return True

    def add(self, what: object) -> None:
        self.all.append(what)
        self._more.set()

    def miss(self, missed: EventsLost) -> None:
        self.add(missed)

    async def has(self, count: int) -> list[object]:
        while len(self.all) < count:
            self._more.clear()
            await self._more.wait()
        return self.all


@asynccontextmanager
async def following(bus: PrivateBus) -> AsyncIterator[tuple[Backend, Told]]:
    told = Told()
    async with backend(bus) as service:
        with service.follow(told, all_objects(TOY)):
            assert expect(EventsLost, *await told.has(1)).owner
            told.all.clear()
            yield service, told


async def test_changes_of_every_path_and_interface_come_with_their_variants(bus: PrivateBus) -> None:
    async with following(bus) as (backend, told):
        await emit(backend, "PropertiesChanged", Variant("(s)", ("another signature",)), interface=PROPERTIES)
        await change(backend, "Word", path="/a", Volume=Variant("u", 5))
        await shout(backend, "a signal of the service's own is not a change of an object")
        body = Variant("(oa{sa{sv}})", ("/b", {INTERFACE: {"Word": Variant("s", "b")}}))
        await emit(backend, "InterfacesAdded", body, interface=MANAGER)
        await emit(backend, "InterfacesRemoved", Variant("(oas)", ("/b", [INTERFACE])), interface=MANAGER)
        changed, added, removed = (expect(Event, each) for each in await told.has(3))
        assert (changed.object_path, changed.interface, changed.member) == ("/a", PROPERTIES, "PropertiesChanged")
        interface, values, invalidated = changed.body
        assert (interface, expect(dict, values)["Volume"].signature, invalidated) == (INTERFACE, "u", ["Word"])
        assert (added.body[0], removed.body) == ("/b", ("/b", [INTERFACE]))


async def test_of_all_objects_more_is_heard_in_a_second_than_of_one_and_not_without_end(
    bus: PrivateBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("OVERFLOW_PAUSE", 0.05), ("OVERFLOW_LIMIT", 20), ("WHOLE_LIMIT", 50)):
        monkeypatch.setattr(signals, name, value)
    async with following(bus) as (backend, told):
        removed = Variant("(oas)", ("/b", [INTERFACE]))
        await emit(backend, "InterfacesRemoved", removed, interface=MANAGER, times=200)
        heard = 0
        while not isinstance((await told.has(heard + 1))[heard], EventsLost):
            heard += 1
        assert heard == 50


async def test_a_reply_is_taken_between_the_signals_before_and_after_it(bus: PrivateBus) -> None:
    """The signals are emitted over other connections, so that they are under way in any order of sending."""
    async with following(bus) as (backend, told):
        echo = MethodCall(TOY, OBJECT_PATH, INTERFACE, "Echo", "s", ["reply"])

        async with asyncio.TaskGroup() as tasks:
            for number in range(50):
                tasks.create_task(change(backend, Volume=Variant("u", number)))
                tasks.create_task(backend.query(echo, "s", told.add))
        everything = await told.has(100)
        assert sum(isinstance(each, Event) for each in everything) == 50
        assert everything.count(["reply"]) == 50


async def test_an_error_a_wrong_signature_and_no_reply_are_taken_as_faults(bus: PrivateBus) -> None:
    no_object = "org.freedesktop.DBus.Error.UnknownObject"
    failing = MethodCall(TOY, OBJECT_PATH, INTERFACE, "FailWithoutBody", "s", [no_object])
    echo = MethodCall(TOY, OBJECT_PATH, INTERFACE, "Echo", "s", ["no properties"])
    gone = replace(echo, bus_name="org.example.Nobody")
    async with following(bus) as (backend, told):
        for call, expected in ((failing, "s"), (echo, "a{sv}"), (gone, "s")):
            assert await backend.query(call, expected, told.add) is None
        missing, wrong, unavailable = (expect(Fault, each) for each in told.all)
    assert wrong.message == f"{TOY} {OBJECT_PATH} {INTERFACE}.Echo: expected reply signature 'a{{sv}}', got 's'"
    codes = [FaultCode.NOT_FOUND, FaultCode.UNREPRESENTABLE, FaultCode.UNAVAILABLE]
    assert [missing.code, wrong.code, unavailable.code] == codes
    async with dbus_backend(BusSettings("one", bus.address, ("org.other.*",), connections=1)) as backend:
        assert expect(Fault, await backend.query(gone, "s", told.add)).code is FaultCode.UNAVAILABLE


async def test_once_a_call_is_answered_every_signal_before_it_has_arrived(bus: PrivateBus) -> None:
    async with following(bus) as (backend, told):
        for number in range(20):
            route = toy_route("Emit", "ossvu")
            body = Variant("(sa{sv}as)", (INTERFACE, {"Volume": Variant("u", number)}, []))
            answer = await backend.ask(route, toy_call(OBJECT_PATH, PROPERTIES, "PropertiesChanged", body, 1))
            assert answer == Reply(None)
            assert len(told.all) == number + 1


# Calls that wait at their service


async def test_calls_that_wait_take_no_place_of_others_and_are_bounded_themselves(bus: PrivateBus) -> None:
    settings = BusSettings("one", bus.address, ("*",), connections=1, in_flight=3, per_destination=2, waiting=0)
    hold = replace(toy_route("Hold", "", "s"), waits=True)
    async with dbus_backend(settings) as backend, asyncio.timeout(TIMEOUT):
        waiting = [asyncio.ensure_future(backend.call(hold, toy_call())) for _ in range(3)]
        while await backend.call(toy_route("Held", "", "u"), toy_call()) != Reply(3):
            await backend.call(toy_route("Label", "", "s"), toy_call())
        assert expect(Fault, await backend.call(hold, toy_call())).code is FaultCode.BUSY
        for number in range(5):
            assert await backend.call(toy_route("Echo", "u", "u"), toy_call(number)) == Reply(number)
        assert await backend.call(toy_route("Release", "", "u"), toy_call()) == Reply(3)
        assert await asyncio.gather(*waiting) == [Reply("released")] * 3
        await backend.reconfigure({})  # its connections end with the bus
