"""The D-Bus backend: calls members of services on one or more message buses.

The config alone says which service lives on which bus, so a service can move to another bus without a change in any
mapping. A reload keeps the connections of every bus whose settings stay the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from fnmatch import fnmatchcase
from functools import partial
from typing import TypeAlias

from msgspec.structs import replace

from adapters.dbus.connection import Received, ReplyFuture
from adapters.dbus.errors import (
    INTROSPECTABLE,
    asks_for_object,
    fault,
    lacks_interface,
    of_properties,
    without_object,
)
from adapters.dbus.large_message import in_thread, release_slowly
from adapters.dbus.messages import with_marshalled_body
from adapters.dbus.own_connections import OwnConnections
from adapters.dbus.pool import OWNER_UNKNOWN, BusSettings, Dependencies, Pool
from adapters.dbus.signals import Interest, SignalQueue, Signals
from gateway.core import interfaces
from gateway.core.admin.status import BusStatus, ServiceStatus
from gateway.core.dbus.marshal import MarshalError
from gateway.core.dbus.target import MethodCall, Subscription, Target
from gateway.core.interfaces import NOT_SENT
from gateway.core.routing.route import Route, encode_arguments
from gateway.core.rpc.model import Call, Fault, FaultCode, Outcome, Reply, Value, is_large

__all__ = ["Backend", "BusSettings", "Dependencies"]


def decode_result(route: Route, body: Sequence[object]) -> Outcome:
    """Decode the body of a method return; a body that the mapping cannot represent is an UNREPRESENTABLE fault."""
    try:
        return Reply(route.decode_result(body))
    except MarshalError as error:
        return Fault(FaultCode.UNREPRESENTABLE, str(error))


Send: TypeAlias = Callable[..., Awaitable["ReplyFuture | None"]]  # a method call -> its reply
LARGE_ARGUMENTS = 2_000  # values of a call, or 64 bytes of text: about 5 ms to encode and marshal
SWAP_PATIENCE = 1.0  # seconds that a reload waits for a new bus to connect before calls are routed to it anyway


class Backend(interfaces.Backend):
    """Answers calls from services on one bus or several."""

    def __init__(self, buses: Mapping[str, BusSettings], dependencies: Dependencies | None = None) -> None:
        self._dependencies = dependencies or Dependencies()
        self._pools: dict[BusSettings, Pool] = {}  # by settings without the services
        self._pools_by_pattern: dict[str, Pool] = {}  # pattern of bus names -> pool; the most specific first
        self._known: dict[str, Pool | None] = {}  # bus name -> pool; cached look-ups
        self._waiting: dict[BusSettings, Pool] = {}  # for calls that wait at their service; made on demand
        self._draining: dict[Pool, asyncio.Task[None]] = {}  # pools that drain, each with its task
        self._signals: dict[BusSettings, Signals] = {}  # by settings without the services; made on demand
        self._interests: dict[Interest, Signals | None] = {}  # subscription -> the signals of its bus
        self._own = OwnConnections(self._dependencies)
        self._xml: dict[tuple[str, str], str] = {}  # by bus name and object path
        self._adopt(buses.values())

    @property
    def large_messages(self) -> asyncio.Semaphore:
        """The turn of one large message to be read or written."""
        return self._dependencies.gate

    async def start(self) -> None:
        """Start to connect; returns at once, retries until `stop`."""
        for pool in self._pools.values():
            pool.start()

    async def connected(self) -> None:
        """Wait until every bus is connected; the caller holds the deadline."""
        for pool in list(self._pools.values()):
            await pool.connected()

    async def call(self, route: Route, call: Call) -> Outcome:
        """Make one call. The dispatcher holds the deadline and cancels this coroutine past it."""
        if is_large(call.params, LARGE_ARGUMENTS) or (call.named and is_large(call.named, LARGE_ARGUMENTS)):
            method_call = await self._encoded(route, call)
        else:
            method_call = encode_arguments(route, call)
        if not isinstance(method_call, MethodCall):
            return method_call
        select = None if route.select is None else route.select(call)
        if isinstance(select, Fault):
            return select
        pool = self._known.get(method_call.bus_name) or self._pool_of(method_call.bus_name)
        if pool is None:
            return _no_bus(method_call.bus_name)
        if route.waits:
            pool = await self._waiting_pool(pool)
        own = route.connection
        send: Send = pool.call if own is None else partial(self._own.call, own, pool.bus, call)
        answer = await send(method_call, oneway=call.oneway or route.bus_target.no_reply)
        if isinstance(answer, Received) and not (answer.error_name or select is not None or route.further):
            return await self._large_reply(route, answer) if is_large(answer.body) else reply(route, answer)
        return await self._outcome(send, answer, route, call, method_call, select)

    async def check(self, route: Route, call: Call) -> Fault | None:
        """See interfaces.Backend."""
        found = await self._encoded(route, call)
        return found if isinstance(found, Fault) else None

    async def _encoded(self, route: Route, call: Call) -> MethodCall | Fault:
        """Encode a large call in a thread, so that other calls go on: one at a time, or the threads take every turn."""
        if not (is_large(call.params, LARGE_ARGUMENTS) or (call.named and is_large(call.named, LARGE_ARGUMENTS))):
            return encode_arguments(route, call)
        try:
            return await in_thread(self._dependencies.gate, _encode_and_marshal, route, call)
        except asyncio.CancelledError as error:
            error.args = (*error.args, NOT_SENT)
            raise

    async def _outcome(
        self,
        send: Send,
        answer: ReplyFuture | None,
        route: Route,
        call: Call,
        method_call: MethodCall,
        select: Callable[[Value], Outcome] | None,
    ) -> Outcome:
        """The outcome of a call by its reply, or why there is none."""
        if answer is None:
            return Reply(None)
        if not isinstance(answer, Received):
            return answer
        if answer.error_name:
            return route.map_error(await _explained(send, method_call, answer), call)
        if route.further:
            outcome = await _with_further(send, route, call, method_call, answer)
        else:
            outcome = await self.read_reply(route, answer)
        return outcome if select is None or isinstance(outcome, Fault) else select(outcome.value)

    async def read_reply(self, route: Route, message: Received) -> Outcome:
        """Decode a method return."""
        return await self._large_reply(route, message) if is_large(message.body) else reply(route, message)

    async def _large_reply(self, route: Route, message: Received) -> Outcome:
        """Decode a large method return in a thread, so that other calls go on."""
        outcome = await in_thread(self._dependencies.gate, reply, route, message)
        release_slowly(message.body, outcome.value if isinstance(outcome, Reply) else None)
        return outcome

    async def _waiting_pool(self, pool: Pool) -> Pool:
        """The connections to the same bus for calls that wait at their service; they are made for the first one."""
        waiting = self._waiting.get(pool.bus)
        if waiting is None:
            waiting = self._waiting[pool.bus] = Pool(pool.bus.waiting_calls(), self._dependencies)
            waiting.start()
        await _wait_briefly([waiting])
        return waiting

    @asynccontextmanager
    async def subscribe(self, *subscriptions: Subscription) -> AsyncIterator[SignalQueue]:
        """Subscribe to signals; the queue begins with one EventsLost for each bus name: the state is read first."""
        queue = SignalQueue()
        with self.follow(queue, *subscriptions):
            yield queue

    @contextmanager
    def follow(self, feed: interfaces.EventFeed, *subscriptions: Subscription) -> Iterator[None]:
        """Pass signals to a feed as they arrive; it first gets one EventsLost for each bus name."""
        interests = [Interest(subscription, feed) for subscription in subscriptions]
        for interest in interests:
            self._listen(interest)
        try:
            yield
        finally:
            for interest in interests:
                self._stop_listening(interest)

    async def query(
        self, call: MethodCall, expected: str, take: Callable[[Sequence[object] | Fault], None]
    ) -> Fault | None:
        """Call over the connection of the signals, which a subscription to the service has made.

        `take` gets the body of the reply, or the error, between the signals that were sent before and after it. A reply
        with another signature than `expected` is an error. The fault is why there is no reply.
        """

        def taken(message: Received) -> None:
            if message.error_name:
                take(of_properties(fault(message), call))
            elif message.signature != expected:
                target = f"{call.bus_name} {call.object_path} {call.interface}.{call.member}"
                take(_unexpected(target, expected, message.signature))
            else:
                take(message.body)

        signals = self._signals_of(call.bus_name)
        answer = _no_bus(call.bus_name) if signals is None else await signals.call(call, taken)
        return answer if isinstance(answer, Fault) else None

    async def ask(self, route: Route, call: Call) -> Outcome:
        """As `call`, over the connection of the signals: once it is answered, every signal before it has arrived."""
        method_call = await self._encoded(route, call)
        if not isinstance(method_call, MethodCall):
            return method_call
        signals = self._signals_of(method_call.bus_name)
        if signals is None:
            return await self.call(route, call)

        async def send(method_call: MethodCall, **_: object) -> ReplyFuture:
            return await signals.call(method_call)

        return await self._outcome(send, await send(method_call), route, call, method_call, None)

    def _signals_of(self, bus_name: str) -> Signals | None:
        """The signals of the bus that has a service; None when nothing is subscribed to there."""
        pool = self._pool_of(bus_name)
        return None if pool is None else self._signals.get(pool.bus)

    async def stop(self) -> None:
        """Fail the calls that wait, then close every connection."""
        pools = [*self._pools.values(), *self._draining, *self._waiting.values()]
        self._waiting = {}
        self._adopt(())
        await self._own.close()
        await asyncio.gather(*(signals.close() for signals in self._signals.values()))
        await asyncio.gather(*(pool.close() for pool in pools))

    async def reconfigure(self, buses: Mapping[str, BusSettings]) -> None:
        """Replace the buses. A bus that stays keeps its connections; one that goes finishes its calls first."""
        before = self._pools
        joining = [Pool(key, self._dependencies) for key in map(_key, buses.values()) if key not in before]
        for pool in joining:
            pool.start()
        try:
            await _wait_briefly(joining)
        except asyncio.CancelledError:
            await asyncio.gather(*(pool.close() for pool in joining))
            raise
        self._adopt(buses.values(), {**before, **{pool.bus: pool for pool in joining}})
        self._own.keep(self._pools)
        for key in before.keys() - self._pools:
            for leaving in (before[key], self._waiting.pop(key, None)):
                if leaving is not None:
                    draining = self._draining[leaving] = asyncio.get_running_loop().create_task(leaving.drain())
                    draining.add_done_callback(lambda _, pool=leaving: self._draining.pop(pool))  # type: ignore[misc]
        for interest in list(self._interests):
            self._listen(interest)
        gone = [self._signals.pop(key) for key in [*self._signals] if key not in self._pools]
        await asyncio.gather(*(signals.close() for signals in gone))

    async def introspect(self, bus_name: str, object_path: str) -> str | Fault:
        """Return the introspection XML of an object, which is remembered: for a check that ends soon.

        The caller sets the deadline.
        """
        known = self._xml.get((bus_name, object_path))
        if known is not None:
            return known
        pool = self._pool_of(bus_name)
        answer = _no_bus(bus_name) if pool is None else await pool.introspect(bus_name, object_path)
        if isinstance(answer, Fault):
            return answer
        if answer.error_name:
            return fault(answer)
        if answer.signature != "s":
            return _unexpected(f"{bus_name} {object_path} Introspect", "s", answer.signature)
        xml = self._xml[bus_name, object_path] = str(answer.body[0])
        return xml

    async def is_alive(self, seconds: float) -> bool:
        """Return whether every bus answers or is being reconnected; see Pool.is_alive."""
        pools = (pool.is_alive(seconds) for pool in self._pools.values())
        signals = (each.is_alive(seconds) for each in self._signals.values())
        return all(await asyncio.gather(*pools, *signals))

    def status(self) -> tuple[BusStatus, ...]:
        """Return the status of each bus."""
        found = {key: pool.status() for key, pool in self._pools.items()}
        for key, signals in self._signals.items():
            if key in found:
                found[key] = replace(found[key], signals=signals.heard, overflows=signals.overflows)
        return tuple(found.values())

    async def services(self, names: Collection[str], seconds: float) -> tuple[ServiceStatus, ...]:
        """Return the status of each bus name; a bus has `seconds` to tell the owners."""
        homes = {name: self._pool_of(name) for name in names}
        pools = {pool: [name for name, home in homes.items() if home is pool] for pool in homes.values() if pool}
        found = await asyncio.gather(*(pool.owners(theirs, seconds) for pool, theirs in pools.items()))
        owners = {name: owner for each in found for name, owner in each.items()}
        services = []
        for name, home in homes.items():
            presence, owner = owners.get(name, OWNER_UNKNOWN)
            if home is None:
                services.append(ServiceStatus(name, "", presence))
                continue
            state, probe_in = home.breakers.state(name), home.breakers.seconds_to_probe(name)
            services.append(ServiceStatus(name, home.bus.name, presence, owner, state, probe_in, home.in_flight(name)))
        return tuple(services)

    # Routing of bus names to buses

    def _adopt(self, buses: Iterable[BusSettings], pools: Mapping[BusSettings, Pool] | None = None) -> None:
        """Use these buses, with the given pools or new ones."""
        buses = list(buses)
        at_hand = pools or {}
        self._pools = {key: at_hand.get(key) or Pool(key, self._dependencies) for key in map(_key, buses)}
        homes = {pattern: self._pools[_key(bus)] for bus in buses for pattern in bus.services}
        exact_and_long_first = sorted(homes, key=lambda each: (any(wild in each for wild in "*?["), -len(each)))
        self._pools_by_pattern = {pattern: homes[pattern] for pattern in exact_and_long_first}
        self._known = {}

    def _pool_of(self, bus_name: str) -> Pool | None:
        known = self._known.get(bus_name)
        if known is None:
            found = (pool for pattern, pool in self._pools_by_pattern.items() if fnmatchcase(bus_name, pattern))
            known = self._known[bus_name] = next(found, None)
        return known

    def _listen(self, interest: Interest) -> None:
        """Subscribe on the bus that has the service now."""
        pool = self._pool_of(interest.subscription.bus_name)
        signals = None if pool is None else self._signals.setdefault(pool.bus, Signals(pool.bus, self._dependencies))
        if signals is not None and self._interests.get(interest) is signals:
            return
        self._stop_listening(interest)
        self._interests[interest] = signals
        if signals is not None:
            signals.add(interest)
        else:
            interest.miss("no bus of the config has this service")

    def _stop_listening(self, interest: Interest) -> None:
        signals = self._interests.pop(interest, None)
        if signals is not None:
            signals.discard(interest)


def _encode_and_marshal(route: Route, call: Call) -> MethodCall | Fault:
    method_call = encode_arguments(route, call)
    return method_call if isinstance(method_call, Fault) else with_marshalled_body(method_call)


def reply(route: Route, message: Received) -> Outcome:
    """Decode a method return. A signature other than the IDL's is an UNREPRESENTABLE fault."""
    assert isinstance(route.target, Target)
    if message.signature != route.target.reply_signature:
        return _unexpected(str(route.target), route.target.reply_signature, message.signature)
    return decode_result(route, message.body)


def _unexpected(target: str, expected: str, got: str) -> Fault:
    """The fault of a reply whose signature is not the expected one."""
    return Fault(FaultCode.UNREPRESENTABLE, f"{target}: expected reply signature '{expected}', got '{got}'")


async def _explained(send: Send, method_call: MethodCall, answer: Received) -> Fault:
    """The fault of an error. Where the service does not know the method, it is asked whether it has the object."""
    found = of_properties(fault(answer), method_call)
    if not asks_for_object(answer):
        return found
    question = replace(method_call, interface=INTROSPECTABLE, member="Introspect", signature="", body=())
    return without_object(found, method_call, await send(question))


async def _with_further(send: Send, route: Route, call: Call, method_call: MethodCall, answer: Received) -> Outcome:
    """Read further interfaces of the object. The properties of one that it lacks are left out."""
    answers: list[Received | None] = [answer]
    for interface in route.further:
        more = await send(replace(method_call, body=[interface]))
        if isinstance(more, Fault):
            return more
        assert more is not None
        if more.error_name and not lacks_interface(more):
            return route.map_error(await _explained(send, method_call, more), call)
        answers.append(None if more.error_name else more)
    wrong = next((each for each in answers if each is not None and each.signature != "a{sv}"), None)
    if wrong is not None:
        return reply(route, wrong)
    return decode_result(route, [each.body[0] if each else {} for each in answers])


def _no_bus(bus_name: str) -> Fault:
    return Fault(FaultCode.UNAVAILABLE, f"no bus is configured for {bus_name}; the call was not sent")


def _key(bus: BusSettings) -> BusSettings:
    """The settings that decide whether connections are kept: all but the services."""
    return replace(bus, services=())


async def _wait_briefly(pools: Iterable[Pool]) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(SWAP_PATIENCE):
            for pool in pools:
                await pool.connected()
