from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from adapters.dbus import backend as dbus
from adapters.dbus.backend import Backend, BusSettings, Presence
from gateway.core.admin.status import BreakerState
from gateway.core.dbus.arguments import ParameterCountError
from gateway.core.dbus.target import MethodCall
from gateway.core.rpc.model import Call, Fault, FaultCode
from tests.kit.backends import TOY, dbus_backend, toy_call, toy_route
from tests.kit.buses import private_bus
from tests.kit.cases import each_case, expect
from tests.kit.programs import TIMEOUT
from tests.kit.toy_service import OBJECT_PATH, toy_service

_ERROR = "org.freedesktop.DBus.Error."


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with private_bus() as bus, toy_service(bus.address, TOY):
        yield bus.address


@each_case(
    ("bus_name", "why"),
    [
        ("org.xen.xcp.xapi", "bus 'exact' is not connected"),
        ("org.xen.xcp.storage", "bus 'long' is not connected"),
        ("org.xen.other", "bus 'short' is not connected"),
        ("com.example", "no bus is configured for com.example"),
    ],
)
async def test_the_more_specific_pattern_wins(bus_name: str, why: str) -> None:
    """Nothing is connected, and the fault tells which bus was chosen."""
    services = {"short": ("org.xen.*",), "long": ("org.xen.xcp.*",), "exact": ("org.xen.xcp.xapi",)}
    backend = Backend({name: BusSettings(name, "unix:path=/nowhere", patterns) for name, patterns in services.items()})
    got = await backend.call(toy_route("Label", bus_name=bus_name), toy_call())
    assert got == Fault(FaultCode.UNAVAILABLE, f"{why}; the call was not sent")


async def test_a_call_with_a_wrong_number_of_parameters_is_not_sent() -> None:
    def bad_count(call: Call) -> MethodCall:
        raise ParameterCountError(2, 3)

    backend = Backend({"one": BusSettings("one", "unix:path=/nowhere", ("*",))})
    got = expect(Fault, await backend.call(toy_route("Label", bind=bad_count), toy_call()))
    assert (got.code, got.data) == (FaultCode.PARAMETER_COUNT, {"expected": 2, "received": 3})
    assert got.message == str(ParameterCountError(2, 3))


async def test_the_status_of_a_bus_that_is_not_there_says_why() -> None:
    refused = asyncio.Event()

    async def pause(_: float) -> None:
        refused.set()
        await asyncio.Event().wait()

    bus = BusSettings("one", "unix:path=/nowhere", ("*",), connections=1)
    backend = Backend({"one": bus}, dbus.Dependencies(sleep=pause))
    await backend.start()
    await asyncio.wait_for(refused.wait(), TIMEOUT)
    (status,) = backend.status()
    await backend.stop()
    assert not status.connected
    assert status.connections == 0
    assert "cannot connect" in status.last_error


async def test_status_tells_who_is_connected_since_when_and_what_a_bus_still_owes(address: str) -> None:
    around = dbus.Dependencies(clock=lambda: 1234.5)
    settings = BusSettings("one", address, ("*",), connections=1)
    async with dbus_backend(settings, around=around) as backend, asyncio.timeout(TIMEOUT):
        (status,) = backend.status()
        expected = dbus.BusStatus(
            "one", address, connected=True, since=1234.5, connections=1, in_flight=0, late_replies=0
        )
        assert status == expected
        given_up = asyncio.ensure_future(backend.call(toy_route("Hold", "", "s"), toy_call()))
        await backend.call(toy_route("Held", "", "u"), toy_call())
        given_up.cancel()
        await asyncio.wait({given_up})
        (owing,) = backend.status()
        await backend.call(toy_route("Release", "", "u"), toy_call())
        (after,) = backend.status()
    assert (owing.in_flight, owing.unanswered, owing.late_replies) == (0, 1, 0)
    assert (after.in_flight, after.unanswered, after.late_replies) == (0, 0, 1)


async def test_services_are_told_of_by_their_bus_names(address: str) -> None:
    absent, homeless = "org.example.Absent", "com.example"
    bus = BusSettings("one", address, ("org.example.*",), connections=1, breaker_failures=1, breaker_pause=3.0)
    async with dbus_backend(bus, around=dbus.Dependencies(monotonic=lambda: 0.0)) as backend:
        await backend.call(toy_route("Label", bus_name=absent), toy_call())
        there, gone, nowhere = await backend.services([TOY, absent, homeless], TIMEOUT)
    assert there == dbus.ServiceStatus(TOY, "one", Presence.OWNED, there.owner)
    assert there.owner.startswith(":1.")
    assert gone == dbus.ServiceStatus(absent, "one", Presence.ABSENT, "", BreakerState.OPEN, 3.0)
    assert nowhere == dbus.ServiceStatus(homeless, "", Presence.UNKNOWN)


async def test_services_of_a_bus_that_is_down_are_unknown() -> None:
    backend = Backend({"one": BusSettings("one", "unix:path=/nowhere", ("*",))})
    assert await backend.services([TOY], TIMEOUT) == (dbus.ServiceStatus(TOY, "one", Presence.UNKNOWN),)


async def test_an_object_is_introspected_once_or_says_why_not(address: str) -> None:
    async with dbus_backend(BusSettings("one", address, ("org.example.*",), connections=1)) as backend:
        xml = await backend.introspect(TOY, OBJECT_PATH)
        assert isinstance(xml, str)
        assert "<node" in xml
        assert await backend.introspect(TOY, OBJECT_PATH) is xml
        for name, error in (("org.example.Nobody", _ERROR + "ServiceUnknown"), ("com.example", "")):
            away = expect(Fault, await backend.introspect(name, OBJECT_PATH))
            assert (away.code, away.name) == (FaultCode.UNAVAILABLE, error)
