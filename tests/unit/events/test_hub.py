"""Who is woken, and when."""

from __future__ import annotations

import asyncio

import pytest

from gateway.events import hub
from gateway.events.changes import Wanted
from gateway.events.hub import WOKEN_AT_ONCE, ServiceEvents, Waiter
from tests.kit.object_service import Service
from tests.kit.programs import TIMEOUT

VMS = Wanted(classes=frozenset({"vm"}))


class Clients:
    """Clients that wait, and how many of them were woken in each turn of the loop."""

    def __init__(self, events: ServiceEvents, *wanted: Wanted) -> None:
        self.woken: list[int] = []
        self.first = asyncio.Event()
        self.turns: list[int] = []
        loop = asyncio.get_running_loop()
        self.tasks = [loop.create_task(self._wait(events, number, each)) for number, each in enumerate(wanted)]
        self._turn = 0
        self._tick()

    def _tick(self) -> None:
        self._turn += 1
        if not all(task.done() for task in self.tasks):
            asyncio.get_running_loop().call_soon(self._tick)

    async def _wait(self, events: ServiceEvents, number: int, wanted: Wanted) -> None:
        with Waiter(events, wanted, "session") as waiter:
            await waiter.wait(TIMEOUT)
        self.woken.append(number)
        self.first.set()
        self.turns.append(self._turn)

    async def done(self, *numbers: int) -> None:
        async with asyncio.timeout(TIMEOUT):
            await asyncio.gather(*(self.tasks[number] for number in numbers or range(len(self.tasks))))


async def test_many_clients_are_woken_in_turns_and_each_once() -> None:
    events = ServiceEvents("xapi", Service())
    clients = Clients(events, *[VMS] * 500)
    await asyncio.sleep(0)
    events.log.put(("vm", "a"), dict)
    await clients.first.wait()
    assert len(clients.woken) < 500
    late = Clients(events, *[VMS] * 3)
    await asyncio.sleep(0)
    events.log.put(("vm", "b"), dict)  # while clients are woken: it wakes those that wait again
    await clients.done()
    await late.done()
    assert sorted(clients.woken) == list(range(500))
    assert max(map(clients.turns.count, clients.turns)) <= WOKEN_AT_ONCE


async def test_long_waits_share_a_timer_end_in_time_and_leave_none_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "EXACT", 0.0)
    events, loop, ends = ServiceEvents("xapi", Service()), asyncio.get_running_loop(), dict[float, float]()

    async def wait(seconds: float) -> None:
        with Waiter(events, VMS, "session") as waiter:
            await waiter.wait(seconds)
        ends[seconds] = loop.time()

    begun = loop.time()
    tasks = [loop.create_task(wait(0.1 + number / 1000)) for number in range(10)]
    late = loop.create_task(wait(1000.0))
    await asyncio.sleep(0)
    assert len(events.alarms._shared) <= 3
    async with asyncio.timeout(TIMEOUT):
        await asyncio.gather(*tasks)
    assert all(end - begun >= seconds for seconds, end in ends.items())
    events.log.put(("vm", "a"), dict)
    async with asyncio.timeout(TIMEOUT):
        await late
    assert len(events.alarms._shared) == 0


async def test_clients_that_want_the_same_or_another_object_are_woken_for_theirs() -> None:
    events = ServiceEvents("xapi", Service())
    clients = Clients(events, *(Wanted(objects=frozenset({("vm", ref)})) for ref in "aabc"))
    await asyncio.sleep(0)
    clients.tasks[0].cancel()
    for ref, number in (("a", 1), ("b", 2)):
        events.log.put(("vm", ref), dict)
        await clients.done(number)
    assert [task.done() for task in clients.tasks] == [True, True, True, False]
    events.log.put(("vm", "c"), dict)
    await clients.done(3)
