"""A subscription to all objects of a service, and calls whose replies keep their place among its signals."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from msgspec.structs import replace

from adapters.dbus.backend import Backend, BusSettings
from gateway.core.dbus.marshal import Variant
from gateway.core.dbus.target import MethodCall, all_objects
from gateway.core.rpc.model import Event, EventsLost, Fault, FaultCode, Reply
from tests.kit.backends import PROPERTIES, TOY, change, dbus_backend, emit, shout, toy_call, toy_route
from tests.kit.buses import PrivateBus, private_bus
from tests.kit.cases import expect
from tests.kit.programs import TIMEOUT
from tests.kit.toy_service import INTERFACE, OBJECT_PATH, toy_service

MANAGER = "org.freedesktop.DBus.ObjectManager"


@pytest.fixture(scope="module")
def bus() -> Iterator[PrivateBus]:
    with private_bus() as bus, toy_service(bus.address, TOY):
        yield bus


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
    settings = BusSettings("one", bus.address, ("*",), connections=1)
    async with dbus_backend(settings) as backend, asyncio.timeout(TIMEOUT):
        with backend.follow(told, all_objects(TOY)):
            [missed] = await told.has(1)
            assert isinstance(missed, EventsLost)
            assert missed.owner
            told.all.clear()
            yield backend, told


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
