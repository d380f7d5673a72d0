from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from adapters.dbus.connect import Bus
from adapters.dbus.connection import Received
from adapters.dbus.pool import OWNER_UNKNOWN, BusSettings, Dependencies, Pool
from gateway.core.admin.status import BreakerState, Presence
from gateway.core.dbus.target import MethodCall
from gateway.core.interfaces import DEADLINE_PASSED, NOT_SENT
from gateway.core.rpc.model import Fault, FaultCode
from tests.kit.backends import TOY
from tests.kit.buses import PrivateBus, private_bus
from tests.kit.cases import expect
from tests.kit.programs import TIMEOUT
from tests.kit.toy_service import INTERFACE, OBJECT_PATH, toy_service

OTHER = "org.example.Other"
ONE = BusSettings("one", "", ("*",), connections=1, wait_timeout=0.0)
ABSENT = "org.example.Absent"
CROWDED = Fault(
    FaultCode.BUSY, f"{TOY} has no capacity for another call (limit per_destination); the call was not sent"
)


@pytest.fixture(scope="module")
def bus() -> Iterator[PrivateBus]:
    with private_bus() as bus, toy_service(bus.address, TOY), toy_service(bus.address, OTHER):
        yield bus


@asynccontextmanager
async def running(bus: BusSettings, around: Dependencies | None = None) -> AsyncIterator[Pool]:
    pool = Pool(bus, around or Dependencies())
    pool.start()
    try:
        await asyncio.wait_for(pool.connected(), TIMEOUT)
        yield pool
    finally:
        await pool.close()


def ask(member: str, bus_name: str = TOY) -> MethodCall:
    return MethodCall(bus_name, OBJECT_PATH, INTERFACE, member, "", ())


async def answer(pool: Pool, call: MethodCall) -> list[object] | FaultCode:
    got = await asyncio.wait_for(pool.call(call), TIMEOUT)
    if isinstance(got, Fault):
        return got.code
    assert got is not None
    return list(got.body)


@pytest.mark.parametrize("chance", [1.0, 0.0])
async def test_attempts_to_connect_are_spaced_by_delays_that_double_up_to_a_cap(chance: float) -> None:
    slept: list[float] = []
    enough = asyncio.Event()

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 9:
            enough.set()
            await asyncio.Event().wait()

    pool = Pool(replace(ONE, address="unix:path=/nowhere"), Dependencies(sleep=sleep, chance=lambda: chance))
    pool.start()
    await asyncio.wait_for(enough.wait(), TIMEOUT)
    await pool.close()
    assert slept == [each * (0.5 + chance / 2) for each in (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0)]


async def test_a_service_that_hangs_cannot_take_the_place_of_others(bus: PrivateBus) -> None:
    async with running(replace(ONE, address=bus.address, per_destination=2)) as pool:
        hanging = [asyncio.ensure_future(pool.call(ask("Hang"))) for _ in range(2)]
        await answer(pool, ask("Label", OTHER))
        assert await pool.call(ask("Label")) == CROWDED
        assert await answer(pool, ask("Label", OTHER)) == ["toy"]
        for one in hanging:
            one.cancel()
        await asyncio.wait(hanging)
        assert await answer(pool, ask("Label")) == ["toy"]


async def test_calls_over_all_connections_are_refused_not_queued(bus: PrivateBus) -> None:
    async with running(replace(ONE, address=bus.address, in_flight=3)) as pool:
        held = [asyncio.ensure_future(pool.call(ask("Hold"))) for _ in range(3)]
        await asyncio.wait(held, timeout=0)
        assert await pool.call(ask("Label", OTHER)) == Fault(
            FaultCode.BUSY,
            "bus 'one' has no capacity for another call (limits connections, in_flight); the call was not sent",
        )
        assert pool.status().in_flight == 3


async def test_a_call_that_is_given_up_while_it_waits_for_room_was_not_sent_and_passes_its_turn_on(
    bus: PrivateBus,
) -> None:
    async with running(replace(ONE, address=bus.address, per_destination=1, wait_timeout=TIMEOUT)) as pool:
        held = asyncio.ensure_future(pool.call(ask("Hang")))
        first, second, third = (asyncio.ensure_future(pool.call(ask("Label"))) for _ in range(3))
        await asyncio.wait({third}, timeout=0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError) as cancelled:
            await first
        assert NOT_SENT in cancelled.value.args
        assert not third.done()
        held.add_done_callback(lambda _: second.cancel())  # the turn is given to the second, which has not run yet
        held.cancel()
        await asyncio.wait({held, second})
        assert expect(Received, await asyncio.wait_for(third, TIMEOUT)).body == ["toy"]
        assert pool.status().in_flight == 0


@pytest.mark.parametrize("bound", [{"waiting": 2}, {"waiting_each": 2}])
async def test_only_so_many_calls_wait_for_room(bus: PrivateBus, bound: dict[str, int]) -> None:
    crowded = replace(ONE, address=bus.address, per_destination=1, wait_timeout=TIMEOUT, **bound)
    async with running(crowded) as pool:
        held = asyncio.ensure_future(pool.call(ask("Hang")))
        waiting = [asyncio.ensure_future(pool.call(ask("Label"))) for _ in range(3)]
        done, _ = await asyncio.wait(waiting, timeout=TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
        assert [one.result() for one in done] == [CROWDED]
        held.cancel()
        assert all(not isinstance(one.result(), Fault) for one in (await asyncio.wait(waiting))[0] - done)


async def test_nobody_waits_for_room_on_a_bus_that_is_gone() -> None:
    with private_bus() as bus, toy_service(bus.address, TOY):
        crowded = replace(ONE, address=bus.address, per_destination=1, wait_timeout=60.0)
        async with running(crowded) as pool:
            held, waiting = (asyncio.ensure_future(answer(pool, ask(member))) for member in ("Hang", "Label"))
            await asyncio.wait({waiting}, timeout=0)
            bus.kill()
            assert [await held, await waiting] == [FaultCode.NO_REPLY, FaultCode.UNAVAILABLE]


async def test_more_calls_than_the_brokers_pending_replies_are_all_answered(bus: PrivateBus) -> None:
    """The broker allows 128 for each connection; 200 hang at once."""
    wide = replace(ONE, address=bus.address, connections=4, per_destination=400, wait_timeout=TIMEOUT)
    async with running(wide) as pool:
        held = [asyncio.ensure_future(answer(pool, ask("Hold"))) for _ in range(200)]
        released = 0
        while released < 200:
            await answer(pool, ask("Held"))
            released += int(str(expect(list, await answer(pool, ask("Release")))[0]))
        assert await asyncio.gather(*held) == [["released"]] * 200


async def test_a_connection_is_renewed_before_its_serials_end_and_no_call_notices(bus: PrivateBus) -> None:
    """The new one hears of new owners too."""
    cautious = replace(ONE, address=bus.address, breaker_failures=1)
    async with running(cautious, Dependencies(monotonic=lambda: 0.0, serials=12)) as pool:
        await pool.call(ask("Label", ABSENT))
        first = _connection(pool).unique_name
        for _ in range(200):
            assert await answer(pool, ask("Label")) == ["toy"]
        assert _connection(pool).unique_name != first
        with toy_service(bus.address, ABSENT):
            await answer(pool, ask("Label"))
            assert await answer(pool, ask("Label", ABSENT)) == ["toy"]


def _connection(pool: Pool) -> Bus:
    (connection,) = (connection for connection in pool._slots if connection is not None)
    return connection._bus


async def test_a_pool_that_drains_lets_its_calls_end(bus: PrivateBus) -> None:
    one = replace(ONE, address=bus.address)
    async with running(one) as pool, running(one) as other:
        held = asyncio.ensure_future(answer(pool, ask("Hold")))
        await answer(pool, ask("Held"))
        draining = asyncio.ensure_future(pool.drain())
        await asyncio.wait({draining}, timeout=0)
        assert await answer(pool, ask("Label")) is FaultCode.UNAVAILABLE
        await answer(other, ask("Release"))
        await asyncio.wait_for(draining, TIMEOUT)
        assert await held == ["released"]


# Signs of life


async def test_a_pool_is_alive_while_its_bus_answers_and_while_it_looks_for_one(bus: PrivateBus) -> None:
    async with running(replace(ONE, address=bus.address, connections=3)) as pool:
        assert await pool.is_alive(TIMEOUT)
    looking = Pool(replace(ONE, address="unix:path=/nowhere"), Dependencies())
    looking.start()
    assert await looking.is_alive(TIMEOUT)
    await looking.close()
    assert not await looking.is_alive(TIMEOUT)  # nobody looks any more


# Destinations that fail


async def test_a_bus_name_that_keeps_failing_is_refused_at_once_until_it_has_an_owner(bus: PrivateBus) -> None:
    now = 0.0
    cautious = replace(ONE, address=bus.address, breaker_failures=3, breaker_pause=4.0)
    async with running(cautious, Dependencies(monotonic=lambda: now)) as pool:
        for _ in range(3):
            got = expect(Received, await pool.call(ask("Label", ABSENT)))
            assert got.error_name == "org.freedesktop.DBus.Error.ServiceUnknown"
        serial = _connection(pool).next_serial()
        assert await pool.call(ask("Label", ABSENT)) == Fault(
            FaultCode.UNAVAILABLE,
            f"{ABSENT}: circuit breaker open after 3 failures in a row; next probe in 4.0 s; the call was not sent",
        )
        assert _connection(pool).next_serial() == serial + 1  # nothing was sent
        assert await answer(pool, ask("Label")) == ["toy"]
        now = 4.0  # after the pause a call finds out by a Ping
        refused = expect(Fault, await pool.call(ask("Label", ABSENT)))
        assert "open after 4 failures in a row; next probe in 8.0 s" in refused.message
        with toy_service(bus.address, ABSENT):
            await answer(pool, ask("Label"))  # the signal came before this answer
            assert await answer(pool, ask("Label", ABSENT)) == ["toy"]  # without a probe
        assert not pool.breakers.open()


async def test_only_a_deadline_that_has_passed_is_held_against_a_service_until_it_answers_a_ping(
    bus: PrivateBus,
) -> None:
    """A caller who leaves says nothing of it. It is alive, and the call that finds out is made."""
    now = 0.0
    cautious = replace(ONE, address=bus.address, breaker_failures=1)
    async with running(cautious, Dependencies(monotonic=lambda: now)) as pool:
        for reason, state in ((None, BreakerState.CLOSED), (DEADLINE_PASSED, BreakerState.OPEN)):
            hanging = asyncio.ensure_future(pool.call(ask("Hang")))
            await answer(pool, ask("Label", OTHER))
            hanging.cancel(reason)
            await asyncio.wait({hanging})
            assert pool.breakers.state(TOY) is state
        assert await answer(pool, ask("Label")) is FaultCode.UNAVAILABLE
        now = 1.0
        assert await answer(pool, ask("Label")) == ["toy"]
        assert not pool.breakers.failing


async def test_a_call_that_waits_for_room_is_refused_when_the_breaker_opens_meanwhile(bus: PrivateBus) -> None:
    crowded = replace(ONE, address=bus.address, per_destination=1, wait_timeout=TIMEOUT, breaker_failures=1)
    async with running(crowded) as pool:
        hanging = asyncio.ensure_future(pool.call(ask("Hang")))
        waiting = asyncio.ensure_future(pool.call(ask("Label")))
        await asyncio.wait({waiting}, timeout=0)
        hanging.cancel(DEADLINE_PASSED)
        got = expect(Fault, await asyncio.wait_for(waiting, TIMEOUT))
        assert "circuit breaker open" in got.message


async def test_a_mute_service_is_probed_by_one_call_at_a_time_and_by_the_next_when_its_caller_leaves() -> None:
    now = 0.0
    with private_bus() as bus, toy_service(bus.address, TOY) as service:
        around = Dependencies(monotonic=lambda: now, probe_timeout=0.5)
        async with running(replace(ONE, address=bus.address, breaker_failures=1), around) as pool:
            service.pause()
            for reason in (DEADLINE_PASSED, None):  # the first call opens the breaker, the second one probes
                leaving = asyncio.ensure_future(pool.call(ask("Label")))
                await asyncio.wait({leaving}, timeout=0)
                leaving.cancel(reason)
                await asyncio.wait({leaving})
                now += 1.0
            assert pool.breakers.state(TOY) is BreakerState.OPEN
            probing = asyncio.ensure_future(pool.call(ask("Label")))
            await asyncio.wait({probing}, timeout=0)
            assert "a probe is under way" in expect(Fault, await pool.call(ask("Label"))).message
            assert "next probe in 2.0 s" in expect(Fault, await asyncio.wait_for(probing, TIMEOUT)).message
            service.resume()
            now += 2.0
            assert await answer(pool, ask("Label")) == ["toy"]


async def test_a_bus_that_is_down_is_not_held_against_its_services_and_a_new_one_has_no_past() -> None:
    with private_bus() as bus, toy_service(bus.address, TOY):
        async with running(replace(ONE, address=bus.address, breaker_failures=1)) as pool:
            await pool.call(ask("Label", ABSENT))
            held = asyncio.ensure_future(pool.call(ask("Hold")))
            await answer(pool, ask("Held"))
            bus.kill()
            assert isinstance(await asyncio.wait_for(held, TIMEOUT), Fault)
            assert await answer(pool, ask("Label")) is FaultCode.UNAVAILABLE
            assert pool.breakers.open() == [ABSENT]
            bus.start()
            await asyncio.wait_for(pool.connected(), TIMEOUT)
            assert pool.breakers.open() == []


async def test_a_name_is_owned_or_starts_on_demand_or_is_absent_or_nothing_is_known_of_it(tmp_path: Path) -> None:
    sleeper, nothing = "org.example.Sleeper", {TOY: OWNER_UNKNOWN}
    (tmp_path / "sleeper.service").write_text(f"[D-BUS Service]\nName={sleeper}\nExec=/bin/false\n")
    with private_bus(activation=tmp_path) as bus, toy_service(bus.address, TOY):
        async with running(replace(ONE, address=bus.address)) as pool:
            found = await pool.owners([TOY, sleeper, ABSENT], TIMEOUT)
            presence, owner = found[TOY]
            assert (presence, owner[:3]) == (Presence.OWNED, ":1.")
            assert (found[sleeper], found[ABSENT]) == ((Presence.ON_DEMAND, ""), (Presence.ABSENT, ""))
            os.kill(bus.pid, signal.SIGSTOP)
            assert await pool.owners([TOY], 0.05) == nothing
            bus.kill()
            assert await pool.owners([TOY], TIMEOUT) == nothing
        assert await pool.owners([TOY], TIMEOUT) == nothing
