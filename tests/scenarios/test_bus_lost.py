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
from gateway.core.dbus.marshal import Variant
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
    """And one that comes back is found."""
    async with dbus_backend(one(bus)) as backend, asyncio.timeout(TIMEOUT):
        for text in ("first", "second"):
            with toy_service(bus.address, TOY, text):
                assert await backend.call(LABEL, ANYTHING) == Reply(text)
                waiting = [asyncio.ensure_future(backend.call(HOLD, ANYTHING)) for _ in range(50)]
                await backend.call(HELD, ANYTHING)
                bus.kill()
                assert {code(await one) for one in waiting} == {FaultCode.NO_REPLY}
                for _ in range(3):
                    assert code(await backend.call(LABEL, ANYTHING)) is FaultCode.UNAVAILABLE
                while backend.status()[0].connected:  # noqa: ASYNC110 - each connection learns of it by itself
                    await asyncio.sleep(0.01)
                assert backend.status()[0].in_flight == 0
            bus.start()
            await backend.connected()


async def test_a_bus_that_starts_after_the_gateway_is_found(bus: PrivateBus) -> None:
    address, refused = bus.address, asyncio.Event()
    bus.kill()

    async def pause(_: float) -> None:
        refused.set()
        await asyncio.sleep(0)

    backend = dbus.Backend({"one": replace(one(bus), address=address)}, dbus.Dependencies(sleep=pause))
    await backend.start()
    async with asyncio.timeout(TIMEOUT):
        assert code(await backend.call(LABEL, ANYTHING)) is FaultCode.UNAVAILABLE
        await refused.wait()
        bus.start()
        await backend.connected()
    await backend.stop()


async def test_a_service_that_dies_in_mid_call_costs_its_callers_only(bus: PrivateBus) -> None:
    other = "org.example.Other"
    with toy_service(bus.address, other):
        async with dbus_backend(one(bus, connections=1)) as backend, asyncio.timeout(TIMEOUT):
            unharmed = asyncio.ensure_future(backend.call(toy_route("Hold", "", "s", bus_name=other), ANYTHING))
            await backend.call(toy_route("Held", "", "u", bus_name=other), ANYTHING)
            with toy_service(bus.address, TOY):
                waiting = asyncio.ensure_future(backend.call(HOLD, ANYTHING))
                await backend.call(HELD, ANYTHING)
                got = expect(Fault, await backend.call(toy_route("Leave"), ANYTHING))
                assert (got.code, got.name) == (FaultCode.NO_REPLY, "org.freedesktop.DBus.Error.NoReply")
                assert code(await waiting) is FaultCode.NO_REPLY
            assert code(await backend.call(LABEL, ANYTHING)) is FaultCode.UNAVAILABLE
            with toy_service(bus.address, TOY, "again"):
                assert await backend.call(LABEL, ANYTHING) == Reply("again")
            assert await backend.call(toy_route("Release", "", "u", bus_name=other), ANYTHING) == Reply(1)
            assert await unharmed == Reply("released")


async def test_an_error_with_arguments_is_told_with_them_and_a_reply_of_another_shape_is_refused(
    bus: PrivateBus,
) -> None:
    oops = Variant("(sa{su})", ("why", {"a": 1}))
    with toy_service(bus.address, TOY):
        async with dbus_backend(one(bus, connections=1)) as backend, asyncio.timeout(TIMEOUT):
            got = await backend.call(toy_route("Fail", "sv"), toy_call("org.example.Oops", oops))
            assert got == Fault(FaultCode.REMOTE, "org.example.Oops", "org.example.Oops", [["why", {"a": 1}]])
            got = expect(Fault, await backend.call(toy_route("Echo", "s", "u"), toy_call("five")))
            assert got.code is FaultCode.UNREPRESENTABLE
            assert got.message.endswith("expected reply signature 'u', got 's'")


async def test_two_buses_are_one_world_and_the_loss_of_one_is_none_of_the_other(bus: PrivateBus) -> None:
    there = toy_route("Label", "", "s", bus_name="org.other.Toy")
    with private_bus() as second:
        buses = one(bus), BusSettings("two", second.address, ("org.other.*",))
        with toy_service(bus.address, TOY, "here"), toy_service(second.address, "org.other.Toy", "there"):
            async with dbus_backend(*buses) as backend:
                assert await backend.call(LABEL, ANYTHING) == Reply("here")
                assert await backend.call(there, ANYTHING) == Reply("there")
                second.kill()
                assert code(await backend.call(there, ANYTHING)) is FaultCode.UNAVAILABLE
                assert await backend.call(LABEL, ANYTHING) == Reply("here")


@pytest.mark.parametrize("stays", [True, False], ids=["the old bus stays", "the old bus leaves"])
async def test_a_service_moves_to_another_bus_while_clients_call(bus: PrivateBus, *, stays: bool) -> None:
    """A line of the config changes; every answer is right, and the call in flight is answered by the old bus."""
    echo = toy_route("Echo", "u", "u")
    answers: list[tuple[int, Outcome]] = []
    moved = asyncio.Event()

    async def keep_calling(backend: dbus.Backend) -> None:
        number = 0
        while not moved.is_set() or number % 100:
            number += 1
            answers.append((number, await backend.call(echo, toy_call(number))))

    with private_bus() as second, toy_service(bus.address, TOY, "old"), toy_service(second.address, TOY, "new"):
        before = {"one": one(bus), "two": BusSettings("two", second.address, ("org.other.*",))}
        after = {"one": one(bus, services=("org.nobody.*",))} if stays else {}
        after["two"] = BusSettings("two", second.address, ("org.example.*",))
        async with dbus_backend(*before.values()) as backend, asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(keep_calling(backend))
            held = group.create_task(backend.call(HOLD, ANYTHING))
            await backend.call(HELD, ANYTHING)
            assert await backend.call(LABEL, ANYTHING) == Reply("old")
            await backend.reconfigure(after)
            assert await backend.call(LABEL, ANYTHING) == Reply("new")
            assert [status.name for status in backend.status()] == [*after]
            async with dbus_backend(one(bus)) as other:
                assert await other.call(toy_route("Release", "", "u"), ANYTHING) == Reply(1)
            assert await held == Reply("released")
            moved.set()
            while backend._draining:
                await asyncio.wait(backend._draining.values())
    assert len(answers) > 100
    assert {outcome == Reply(number) for number, outcome in answers} == {True}


@pytest.mark.parametrize("leaves", [False, True])
async def test_stop_waits_for_no_call_even_on_a_bus_that_has_left_the_config(bus: PrivateBus, *, leaves: bool) -> None:
    with toy_service(bus.address, TOY):
        async with dbus_backend(one(bus)) as backend, asyncio.timeout(TIMEOUT):
            waiting = asyncio.ensure_future(backend.call(HANG, ANYTHING))
            await backend.call(LABEL, ANYTHING)
            if leaves:
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
