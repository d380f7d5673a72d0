"""Brokers and services that die, hang, come back and move, each a real process, while calls are on their way.

The loop is the daemon's: uvloop aborts the process where asyncio overlooks a watch on a closed descriptor.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from adapters.dbus import backend as dbus
from adapters.dbus.backend import BusSettings
from gateway.core.rpc.model import Fault, FaultCode, Outcome, Reply
from tests.kit.backends import TOY, dbus_backend, toy_call, toy_route
from tests.kit.buses import PrivateBus, private_bus
from tests.kit.cases import expect
from tests.kit.programs import TIMEOUT
from tests.kit.toy_service import toy_service

LABEL = toy_route("Label", "", "s")
HELD = toy_route("Held", "", "u")
HOLD = toy_route("Hold", "", "s")
HANG = toy_route("Hang", "", "s")
ANYTHING = toy_call()


@pytest.fixture
def bus() -> Iterator[PrivateBus]:
    with private_bus() as bus:
        yield bus


def one(bus: PrivateBus, **changes: object) -> BusSettings:
    return replace(BusSettings("one", bus.address, ("org.example.*",), wait_timeout=TIMEOUT), **changes)


def code(outcome: Outcome) -> FaultCode | None:
    return outcome.code if isinstance(outcome, Fault) else None


async def test_a_broker_that_dies_answers_every_waiting_call_at_once_and_refuses_new_ones(bus: PrivateBus) -> None:
    with toy_service(bus.address, TOY):
        async with dbus_backend(one(bus)) as backend, asyncio.timeout(TIMEOUT):
            waiting = [asyncio.ensure_future(backend.call(HOLD, ANYTHING)) for _ in range(50)]
            await backend.call(HELD, ANYTHING)
            bus.kill()
            assert {code(await one) for one in waiting} == {FaultCode.NO_REPLY}
            for _ in range(3):
                assert code(await backend.call(LABEL, ANYTHING)) is FaultCode.UNAVAILABLE
            while backend.status()[0].connected:  # noqa: ASYNC110 - each connection learns of it by itself
                await asyncio.sleep(0.01)
            assert backend.status()[0].in_flight == 0


async def test_a_broker_that_comes_back_is_found_and_calls_work_again(bus: PrivateBus) -> None:
    async with dbus_backend(one(bus)) as backend, asyncio.timeout(TIMEOUT):
        with toy_service(bus.address, TOY):
            assert await backend.call(LABEL, ANYTHING) == Reply("toy")
        for text in ("second", "third"):
            bus.kill()
            assert code(await backend.call(LABEL, ANYTHING)) is FaultCode.UNAVAILABLE
            while backend.status()[0].connected:  # noqa: ASYNC110 - each connection finds out for itself
                await asyncio.sleep(0)
            bus.start()
            await backend.connected()
            with toy_service(bus.address, TOY, text):
                assert await backend.call(LABEL, ANYTHING) == Reply(text)


async def test_a_service_that_dies_in_mid_call_costs_its_callers_only(bus: PrivateBus) -> None:
    other = toy_route("Hold", "", "s", bus_name="org.example.Other")
    held = toy_route("Held", "", "u", bus_name="org.example.Other")
    release = toy_route("Release", "", "u", bus_name="org.example.Other")
    with toy_service(bus.address, "org.example.Other"):
        async with dbus_backend(one(bus, connections=1)) as backend, asyncio.timeout(TIMEOUT):
            unharmed = asyncio.ensure_future(backend.call(other, ANYTHING))
            await backend.call(held, ANYTHING)
            with toy_service(bus.address, TOY):
                waiting = asyncio.ensure_future(backend.call(HOLD, ANYTHING))
                await backend.call(HELD, ANYTHING)
                got = expect(Fault, await backend.call(toy_route("Leave"), ANYTHING))
                assert (got.code, got.name) == (FaultCode.NO_REPLY, "org.freedesktop.DBus.Error.NoReply")
                assert code(await waiting) is FaultCode.NO_REPLY
            assert code(await backend.call(LABEL, ANYTHING)) is FaultCode.UNAVAILABLE
            with toy_service(bus.address, TOY, "again"):
                assert await backend.call(LABEL, ANYTHING) == Reply("again")
            assert await backend.call(release, ANYTHING) == Reply(1)
            assert await unharmed == Reply("released")


async def test_stop_does_not_wait_for_calls_on_a_bus_that_has_left_the_config(bus: PrivateBus) -> None:
    with toy_service(bus.address, TOY):
        async with dbus_backend(one(bus)) as backend, asyncio.timeout(TIMEOUT):
            waiting = asyncio.ensure_future(backend.call(HANG, ANYTHING))
            await backend.call(LABEL, ANYTHING)
            await backend.reconfigure({})
            assert code(await backend.call(LABEL, ANYTHING)) is FaultCode.UNAVAILABLE
            await backend.stop()
            assert code(await waiting) is FaultCode.NO_REPLY


async def test_a_reload_that_is_given_up_leaves_nothing(bus: PrivateBus) -> None:
    async with dbus_backend(one(bus)) as backend, asyncio.timeout(TIMEOUT):
        reload = asyncio.ensure_future(backend.reconfigure({"two": BusSettings("two", "unix:path=/nowhere", ("*",))}))
        await asyncio.wait({reload}, timeout=0)
        reload.cancel()
        await asyncio.wait({reload})
        assert [status.name for status in backend.status()] == ["one"]


async def test_stop_while_connecting_leaves_nothing(bus: PrivateBus) -> None:
    """When the first of many connections is there, the others are mostly on their way, each at another step."""
    for _ in range(5):
        backend = dbus.Backend({"one": one(bus, connections=30)})
        await backend.start()
        await asyncio.wait_for(backend.connected(), TIMEOUT)
        await asyncio.wait_for(backend.stop(), TIMEOUT)
