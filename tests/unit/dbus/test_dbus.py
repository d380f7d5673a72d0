from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from dbus_fast import Message, MessageType

from adapters.dbus import backend as dbus
from adapters.dbus.backend import Backend, BusSettings, Presence
from gateway.core.admin.status import BreakerState
from gateway.core.dbus.arguments import ParameterCountError
from gateway.core.dbus.marshal import MarshalError
from gateway.core.dbus.target import MethodCall
from gateway.core.rpc.model import Call, Fault, FaultCode, Reply
from tests.kit.backends import TOY, dbus_backend, toy_call, toy_route
from tests.kit.buses import private_bus
from tests.kit.cases import each_case, expect
from tests.kit.programs import TIMEOUT
from tests.kit.toy_service import toy_service

_ERROR = "org.freedesktop.DBus.Error."


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with private_bus() as bus, toy_service(bus.address, TOY):
        yield bus.address


def test_another_reply_signature_than_promised_is_refused_with_both_named() -> None:
    message = Message(message_type=MessageType.METHOD_RETURN, reply_serial=1, signature="u", body=[7])
    got = expect(Fault, dbus.reply(toy_route("Label", "", "s"), message))
    assert got.code is FaultCode.UNREPRESENTABLE
    assert got.message.endswith("org.example.Toy1.Label: expected reply signature 's', got 'u'")


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


async def test_a_call_that_cannot_be_bound_is_not_sent() -> None:
    backend = Backend({"one": BusSettings("one", "unix:path=/nowhere", ("*",))})

    def bad_value(call: Call) -> MethodCall:
        raise MarshalError("u", -1).at("params", 1)

    def bad_count(call: Call) -> MethodCall:
        raise ParameterCountError(2, 3)

    got = await backend.call(toy_route("Label", bind=bad_value), toy_call())
    assert got == Fault(FaultCode.INVALID_PARAMS, "$.params[1]: expected u, got -1")
    got = expect(Fault, await backend.call(toy_route("Label", bind=bad_count), toy_call()))
    assert got.code is FaultCode.PARAMETER_COUNT
    assert got.data == {"expected": 2, "received": 3}


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


async def test_an_error_is_translated_by_the_route(address: str) -> None:
    def translate(fault: Fault, call: Call) -> Fault:
        return Fault(FaultCode.APPLICATION, fault.message, name="VM_BAD_POWER_STATE", data=[fault.name])

    route = toy_route("FailWithoutBody", "s", translate=translate)
    async with dbus_backend(BusSettings("one", address, ("*",), connections=1)) as backend:
        got = await backend.call(route, toy_call("org.xen.Bad"))
        away = expect(Fault, await backend.call(toy_route("Label", bus_name="org.example.Nobody"), toy_call()))
    assert got == Fault(FaultCode.APPLICATION, "org.xen.Bad", name="VM_BAD_POWER_STATE", data=["org.xen.Bad"])
    assert (away.code, away.name) == (FaultCode.UNAVAILABLE, _ERROR + "ServiceUnknown")


async def test_after_stop_every_call_is_refused(address: str) -> None:
    async with dbus_backend(BusSettings("one", address, ("*",), connections=1)) as backend:
        assert await backend.call(toy_route("Label", "", "s"), toy_call()) == Reply("toy")
    got = expect(Fault, await backend.call(toy_route("Label", "", "s"), toy_call()))
    assert got.code is FaultCode.UNAVAILABLE


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
