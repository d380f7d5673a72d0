"""What every backend does with a route before and after its call: bind, shape. Knows no bus."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from fnmatch import fnmatchcase

from adapters.dbus.connection import Received
from adapters.dbus.errors import fault
from adapters.dbus.name_owners import OWNER_UNKNOWN, NameOwner
from adapters.dbus.pool import BusSettings, Dependencies, Pool
from adapters.dbus.signals import Interest, SignalQueue, Signals
from gateway.core import interfaces
from gateway.core.admin.status import BusStatus, Presence, ServiceStatus
from gateway.core.dbus.arguments import ParameterCountError
from gateway.core.dbus.marshal import MarshalError
from gateway.core.dbus.target import MethodCall, Subscription, Target
from gateway.core.routing.route import Route
from gateway.core.rpc.model import Call, Fault, FaultCode, Outcome, Reply, Value

__all__ = ["Backend", "BusSettings", "BusStatus", "Dependencies", "Presence", "ServiceStatus"]


def encode_arguments(route: Route, call: Call) -> MethodCall | Fault:
    """The method call that this call becomes, or why it becomes none."""
    try:
        return route.encode_arguments(call)
    except MarshalError as error:
        return Fault(FaultCode.INVALID_PARAMS, str(error))
    except ParameterCountError as error:
        counts: dict[str, Value] = {"expected": error.expected, "received": error.received}
        missing: dict[str, Value] = {"missing": error.missing} if error.missing else {}
        return Fault(FaultCode.PARAMETER_COUNT, str(error), data={**counts, **missing})


def decode_result(route: Route, body: Sequence[object]) -> Outcome:
    """The body of a method return as the client is told it."""
    try:
        return Reply(route.decode_result(body))
    except MarshalError as error:
        return Fault(FaultCode.UNREPRESENTABLE, str(error))


# Calls members on D-Bus message buses and says what came of it; knows no legacy protocol and no library.
#
# Which service lives on which bus is told by config alone, so a service moves without a change in any mapping.


SWAP_PATIENCE = 1.0  # seconds a reload waits for a new bus before calls are sent its way all the same


class Backend(interfaces.Backend):
    """Answers calls from services on one bus or several."""

    def __init__(self, buses: Mapping[str, BusSettings], around: Dependencies | None = None) -> None:
        self._around = around or Dependencies()
        self._pools: dict[BusSettings, Pool] = {}  # by bus, without its services
        self._homes: dict[str, Pool] = {}  # pattern of bus names -> where they live, the most specific first
        self._known: dict[str, Pool | None] = {}  # bus name -> where it lives, as found before
        self._leaving: dict[Pool, asyncio.Task[None]] = {}  # calls in flight keep them; each with a task that drains it
        self._signals: dict[
            BusSettings, Signals
        ] = {}  # by bus, without its services; made when the first one subscribes
        self._interests: dict[Interest, Signals | None] = {}  # and where they listen
        self._adopt(buses.values())

    async def start(self) -> None:
        """Begin to connect; returns at once and keeps trying."""
        for pool in self._pools.values():
            pool.start()

    async def connected(self) -> None:
        """Wait until every bus is connected; the caller holds the deadline."""
        for pool in list(self._pools.values()):
            await pool.connected()

    async def call(self, route: Route, call: Call) -> Outcome:
        """Answer one call; the dispatcher holds the deadline and cancels past it."""
        method_call = encode_arguments(route, call)
        if isinstance(method_call, Fault):
            return method_call
        pool = self._home(method_call.bus_name)
        if pool is None:
            return _homeless(method_call.bus_name)
        answer = await pool.call(method_call, oneway=call.oneway)
        if answer is None:
            return Reply(None)
        if isinstance(answer, Fault):
            return answer
        if answer.error_name:
            return route.map_error(fault(answer), call)
        return reply(route, answer)

    @asynccontextmanager
    async def subscribe(self, *subscriptions: Subscription) -> AsyncIterator[SignalQueue]:
        """Hear of services, wherever they live and whenever they come; begins with a Missed for each bus name."""
        feed = SignalQueue()
        interests = [Interest(subscription, feed) for subscription in subscriptions]
        for interest in interests:
            self._listen(interest)
        try:
            yield feed
        finally:
            for interest in interests:
                self._stop_listening(interest)

    async def stop(self) -> None:
        """Fail what is still waiting, close."""
        pools = [*self._pools.values(), *self._leaving]
        self._adopt(())
        await asyncio.gather(*(signals.close() for signals in self._signals.values()))
        await asyncio.gather(*(pool.close() for pool in pools))

    async def reconfigure(self, buses: Mapping[str, BusSettings]) -> None:
        """Other buses from now on. One that stays keeps its connections, one that goes ends its calls first."""
        before = self._pools
        joining = [Pool(key, self._around) for key in map(_key, buses.values()) if key not in before]
        for pool in joining:
            pool.start()
        try:
            await _wait_a_little(joining)
        except asyncio.CancelledError:
            await asyncio.gather(*(pool.close() for pool in joining))
            raise
        self._adopt(buses.values(), {**before, **{pool.bus: pool for pool in joining}})
        for key, pool in before.items():
            if key not in self._pools:
                self._drain(pool)
        await self._move_interests()

    async def introspect(self, bus_name: str, object_path: str) -> str | Fault:
        """The object's introspection XML, remembered until the name's owner changes; the caller holds the deadline."""
        pool = self._home(bus_name)
        if pool is None:
            return _homeless(bus_name)
        answer = await pool.introspect(bus_name, object_path)
        return fault(answer) if isinstance(answer, Received) else answer

    async def is_alive(self, patience: float) -> bool:
        """Whether every bus answers, or is being looked for; see Pool."""
        pools = (pool.is_alive(patience) for pool in self._pools.values())
        signals = (each.is_alive(patience) for each in self._signals.values())
        return all(await asyncio.gather(*pools, *signals))

    def status(self) -> tuple[BusStatus, ...]:
        """How each bus is doing."""
        return tuple(self._status(key, pool) for key, pool in self._pools.items())

    def _status(self, key: BusSettings, pool: Pool) -> BusStatus:
        signals = self._signals.get(key)
        if signals is None:
            return pool.status()
        return replace(pool.status(), signals=signals.heard, overflows=signals.overflows)

    async def services(self, names: Collection[str], patience: float) -> tuple[ServiceStatus, ...]:
        """How each of these bus names is doing; a bus has `patience` seconds to tell who owns them."""
        homes = {name: self._home(name) for name in names}
        pools = {pool: [name for name, home in homes.items() if home is pool] for pool in homes.values() if pool}
        found = await asyncio.gather(*(pool.owners(theirs, patience) for pool, theirs in pools.items()))
        owners = {name: owner for each in found for name, owner in each.items()}
        return tuple(_service(name, home, owners.get(name, OWNER_UNKNOWN)) for name, home in homes.items())

    # Who lives where

    def _adopt(self, buses: Iterable[BusSettings], pools: Mapping[BusSettings, Pool] | None = None) -> None:
        """Take these buses, with the pools at hand or new ones."""
        buses = list(buses)
        at_hand = pools or {}
        self._pools = {key: at_hand.get(key) or Pool(key, self._around) for key in map(_key, buses)}
        homes = {pattern: self._pools[_key(bus)] for bus in buses for pattern in bus.services}
        self._homes = dict(sorted(homes.items(), key=lambda home: _specificity(home[0]), reverse=True))
        self._known = {}

    def _home(self, bus_name: str) -> Pool | None:
        if bus_name not in self._known:
            found = (pool for pattern, pool in self._homes.items() if fnmatchcase(bus_name, pattern))
            self._known[bus_name] = next(found, None)
        return self._known[bus_name]

    def _listen(self, interest: Interest) -> None:
        """Listen where the service lives now."""
        pool = self._home(interest.subscription.bus_name)
        signals = None if pool is None else self._signals.setdefault(pool.bus, Signals(pool.bus, self._around))
        if signals is not None and self._interests.get(interest) is signals:
            return
        self._stop_listening(interest)
        self._interests[interest] = signals
        if signals is not None:
            signals.add(interest)
        else:
            interest.miss("it is on no bus of the config")

    def _stop_listening(self, interest: Interest) -> None:
        signals = self._interests.pop(interest, None)
        if signals is not None:
            signals.discard(interest)

    async def _move_interests(self) -> None:
        for interest in list(self._interests):
            self._listen(interest)
        gone = [self._signals.pop(key) for key in [*self._signals] if key not in self._pools]
        await asyncio.gather(*(signals.close() for signals in gone))

    def _drain(self, pool: Pool) -> None:
        draining = asyncio.get_running_loop().create_task(pool.drain())
        self._leaving[pool] = draining
        draining.add_done_callback(lambda _: self._leaving.pop(pool))


def reply(route: Route, message: Received) -> Outcome:
    """What a method return tells the client. Another shape than promised is refused, not guessed at."""
    assert isinstance(route.target, Target)
    expected = route.target.reply_signature
    if message.signature != expected:
        text = f"{route.target}: expected reply signature '{expected}', got '{message.signature}'"
        return Fault(FaultCode.UNREPRESENTABLE, text)
    return decode_result(route, message.body)


def _service(name: str, pool: Pool | None, owner: NameOwner) -> ServiceStatus:
    if pool is None:
        return ServiceStatus(name, "", owner.presence)
    breakers = pool.breakers
    return ServiceStatus(
        name,
        pool.bus.name,
        owner.presence,
        owner.unique_name,
        breakers.state(name),
        breakers.seconds_to_probe(name),
        pool.in_flight(name),
    )


def _homeless(bus_name: str) -> Fault:
    return Fault(FaultCode.UNAVAILABLE, f"no bus is configured for {bus_name}; the call was not sent")


def _key(bus: BusSettings) -> BusSettings:
    """What decides whether connections stay: all but the services."""
    return replace(bus, services=())


def _specificity(pattern: str) -> tuple[bool, int]:
    """An exact name before a pattern, a long pattern before a short one."""
    return not any(wildcard in pattern for wildcard in "*?["), len(pattern)


async def _wait_a_little(pools: Iterable[Pool]) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(SWAP_PATIENCE):
            for pool in pools:
                await pool.connected()
