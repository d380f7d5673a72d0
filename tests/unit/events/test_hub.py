"""Who is woken, and when."""

from __future__ import annotations

import asyncio

from gateway.events.changes import Wanted
from gateway.events.hub import WOKEN_AT_ONCE, ServiceEvents
from tests.kit.object_service import Service
from tests.kit.programs import TIMEOUT

VMS = Wanted(classes=frozenset({"vm"}))


class Clients:
    """Clients that wait for VMs, and how many of them were woken in each turn of the loop."""

    def __init__(self, events: ServiceEvents, count: int) -> None:
        self.woken: list[int] = []
        self.first = asyncio.Event()
        self.turns: list[int] = []
        loop = asyncio.get_running_loop()
        self.tasks = [loop.create_task(self._wait(events, number)) for number in range(count)]
        self._turn = 0
        self._tick()

    def _tick(self) -> None:
        self._turn += 1
        if not all(task.done() for task in self.tasks):
            asyncio.get_running_loop().call_soon(self._tick)

    async def _wait(self, events: ServiceEvents, number: int) -> None:
        with events.waiting(VMS, "session") as waiter:
            await waiter.wait(None)
        self.woken.append(number)
        self.first.set()
        self.turns.append(self._turn)

    async def done(self) -> None:
        async with asyncio.timeout(TIMEOUT):
            await asyncio.gather(*self.tasks)


async def test_many_clients_are_woken_in_turns_and_each_once() -> None:
    events = ServiceEvents("xapi", Service())
    clients = Clients(events, 500)
    await asyncio.sleep(0)
    events.log.put(("vm", "a"), dict)
    await clients.done()
    assert sorted(clients.woken) == list(range(500))
    assert max(map(clients.turns.count, clients.turns)) <= WOKEN_AT_ONCE


async def test_a_change_while_clients_are_woken_wakes_those_that_wait_again() -> None:
    events = ServiceEvents("xapi", Service())
    clients = Clients(events, 100)
    await asyncio.sleep(0)
    events.log.put(("vm", "a"), dict)
    await clients.first.wait()
    assert len(clients.woken) < 100
    late = Clients(events, 3)
    await asyncio.sleep(0)
    events.log.put(("vm", "b"), dict)
    await clients.done()
    await late.done()
