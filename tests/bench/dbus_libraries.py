"""What a call costs each D-Bus library, through one dbus-daemon; docs/decisions/0001 quotes it.

    python -m tests.bench.dbus_libraries

The callee is the broker itself (org.freedesktop.DBus.Peer.Ping), so that no service is measured. Counted is
the client's own processor time, rounds are interleaved and the median counts: a busy machine changes little.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeAlias

import dbus_fast
import uvloop
from dbus_fast.aio import MessageBus as FastBus
from dbus_next.aio.message_bus import MessageBus as NextBus
from dbus_next.message import Message as NextMessage

from adapters.dbus.backend import Backend, BusSettings
from gateway.core.dbus.target import MethodCall, Target
from gateway.core.routing.route import Route
from gateway.core.rpc.model import Call, Reply
from tests.kit.buses import private_bus

PING = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus.Peer", "Ping")
IN_FLIGHT = (1, 64)
ROUNDS = 3
SECONDS = 0.5  # of each round

Ping: TypeAlias = Callable[[], Awaitable[object]]
Client: TypeAlias = Callable[[str], AbstractAsyncContextManager[Ping]]


@asynccontextmanager
async def dbus_next(address: str) -> AsyncIterator[Ping]:
    bus = await NextBus(bus_address=address).connect()
    yield lambda: bus.call(NextMessage(*PING))
    bus.disconnect()  # type: ignore[no-untyped-call] # of the library


@asynccontextmanager
async def dbus_fast_alone(address: str) -> AsyncIterator[Ping]:
    bus = await FastBus(bus_address=address).connect()
    yield lambda: bus.call(dbus_fast.Message(*PING))
    bus.disconnect()
    await bus.wait_for_disconnect()  # type: ignore[no-untyped-call] # of the library


@asynccontextmanager
async def backend(address: str) -> AsyncIterator[Ping]:
    """All of ours: the route is bound and shaped, the deadline is the caller's."""
    ours = Backend({"one": BusSettings("one", address, ("*",))})
    await ours.start()
    await ours.connected()
    route, call = _route(), Call("ping")
    assert await ours.call(route, call) == Reply(None)
    yield lambda: ours.call(route, call)
    await ours.stop()


def _route() -> Route:
    method_call = MethodCall(*PING, "")
    return Route(
        service="bus",
        method="ping",
        target=Target(*PING, "", ""),
        parameters=(),
        result=None,
        encode_arguments=lambda call: method_call,
        decode_result=lambda body: None,
        map_error=lambda fault, call: fault,
    )


ROWS: dict[str, tuple[Client, bool]] = {
    "dbus-next": (dbus_next, False),
    "dbus-fast": (dbus_fast_alone, False),
    "dbus-fast on uvloop": (dbus_fast_alone, True),
    "our backend": (backend, False),
    "our backend on uvloop": (backend, True),
}


async def cost(client: Client, address: str, in_flight: int) -> float:
    """Microseconds of processor time for each call, with so many always on their way."""
    calls = 0
    async with client(address) as ping:
        end, spent = time.perf_counter() + SECONDS, time.process_time()

        async def keep_pinging() -> None:
            nonlocal calls
            while time.perf_counter() < end:
                await ping()
                calls += 1

        await asyncio.gather(*(keep_pinging() for _ in range(in_flight)))
        spent = time.process_time() - spent
    return spent / calls * 1e6


def measure(address: str) -> dict[str, list[float]]:
    """The median cost of each row, one for each of IN_FLIGHT."""
    costs: dict[tuple[str, int], list[float]] = {}
    for _ in range(ROUNDS):
        for name, (client, on_uvloop) in ROWS.items():
            run = uvloop.run if on_uvloop else asyncio.run
            for in_flight in IN_FLIGHT:
                costs.setdefault((name, in_flight), []).append(run(cost(client, address, in_flight)))
    return {name: [statistics.median(costs[name, in_flight]) for in_flight in IN_FLIGHT] for name in ROWS}


def main() -> None:
    """Print one row for each library."""
    warnings.simplefilter("ignore")  # dbus-next leaves its socket to the garbage collector
    with private_bus() as bus:
        rows = measure(bus.address)
    sys.stdout.write(
        f"{'microseconds a call':24}" + "".join(f"{f'{number} in flight':>16}" for number in IN_FLIGHT) + "\n"
    )
    for name, medians in rows.items():
        sys.stdout.write(f"{name:24}" + "".join(f"{median:16.1f}" for median in medians) + "\n")


if __name__ == "__main__":
    main()
