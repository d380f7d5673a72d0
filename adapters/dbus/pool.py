"""The connections to one message bus: keeps them open, distributes calls, bounds the calls in flight.

Each bus name prefers one connection, so its calls stay in order while that connection has capacity. A call beyond
`in_flight` or `per_destination` waits up to `wait_timeout` seconds, then fails with BUSY. Without a bus, or with an
open circuit breaker, a call fails at once with UNAVAILABLE. If no byte of a cancelled call was sent, NOT_SENT is added
to the arguments of the CancelledError.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from typing import TypeAlias

from msgspec import Struct, field
from msgspec.structs import replace

from adapters.dbus.circuit_breaker import CircuitBreakers
from adapters.dbus.connection import (
    SERIALS,
    BusConnectionLimits,
    ConnectError,
    DBusConnection,
    Received,
    ReplyFuture,
    driver,
    ping,
)
from adapters.dbus.errors import INTROSPECTABLE, is_transport_failure
from adapters.dbus.large_message import LargeMessage
from gateway.core.admin.status import BusStatus, Presence
from gateway.core.dbus.target import MethodCall
from gateway.core.interfaces import DEADLINE_PASSED, NOT_SENT
from gateway.core.rpc.model import Fault, FaultCode

FIRST_DELAY = 0.05  # seconds before the second attempt to connect; doubled for each further attempt
LAST_DELAY = 5.0  # seconds; the longest delay
PROBE_TIMEOUT = 2.0  # seconds that a destination with an open breaker has to answer a Ping
NameOwner: TypeAlias = tuple[Presence, str]  # of a bus name, and the unique name of its owner: ":1.7"
OWNER_UNKNOWN: NameOwner = (Presence.UNKNOWN, "")
ANY = ""  # the queue of calls that wait for a connection rather than for their bus name

log = logging.getLogger(__name__)


class BusSettings(Struct, frozen=True):
    """One message bus and the services on it, as patterns of bus names ("org.xen.xcp.*")."""

    name: str
    address: str
    services: tuple[str, ...]
    connections: int = 4
    in_flight: int = 100  # calls per connection; a system bus allows 128 pending replies
    per_destination: int = 64  # calls per bus name: a hung service cannot starve the others
    max_message: int = 32 * 1024**2  # bytes; over the bus's own limit it cuts the connection
    wait_timeout: float = 0.5  # seconds that a call may wait for capacity before it is BUSY
    waiting: int = 256  # calls that may wait for capacity
    waiting_each: int = 128  # of these per bus name
    breaker_failures: int = 5  # in a row that open the breaker of a bus name; 0: breakers never open
    breaker_pause: float = 1.0  # seconds before the first probe, doubled for each further one
    starts_services: bool = True  # whether a call may activate its service
    use: str = ""  # what these connections are for, if not for all calls; the log tells it

    def observing(self) -> BusSettings:
        """Settings for shadow calls to the same bus: one connection, no waiting, no activation."""
        return replace(self, connections=1, waiting=0, starts_services=False, use=" for calls that are only compared")

    def waiting_calls(self) -> BusSettings:
        """Settings for calls that wait at their service: connections of their own, half of them for each service."""
        return replace(self, connections=2, per_destination=self.in_flight, waiting=0, use=" for calls that wait")


class Dependencies(Struct, frozen=True):
    """Clocks and limits that tests replace."""

    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    clock: Callable[[], float] = time.time
    chance: Callable[[], float] = random.random  # 0..1
    serials: int = SERIALS  # a connection is renewed after so many
    monotonic: Callable[[], float] = time.monotonic
    probe_timeout: float = PROBE_TIMEOUT
    gate: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))  # of threads for large messages


def delays(chance: Callable[[], float]) -> Iterator[float]:
    """Yield the delay before each attempt to connect: exponential, capped, with jitter between half and whole."""
    for attempt in itertools.count():
        yield min(LAST_DELAY, FIRST_DELAY * 2 ** min(attempt, 16)) * (0.5 + chance() / 2)


class Pool:
    """The connections to a bus."""

    def __init__(self, bus: BusSettings, dependencies: Dependencies) -> None:
        self.bus = bus
        self._dependencies = dependencies
        self._limits = BusConnectionLimits(bus.in_flight, bus.max_message, dependencies.serials, bus.starts_services)
        self._slots: list[DBusConnection | None] = [None] * bus.connections
        # Connections in slots and retired ones that still have calls; each with a task that waits for its end.
        self._open: dict[DBusConnection, asyncio.Task[None]] = {}
        self._maintainers: list[asyncio.Task[None]] = []
        self._busy: dict[str, int] = {}  # calls in flight by bus name
        self._queues: dict[str, deque[asyncio.Future[None]]] = {}  # calls that wait for capacity, by bus name or ANY
        self.breakers = CircuitBreakers(bus.breaker_failures, bus.breaker_pause, dependencies.monotonic)
        self._connected = asyncio.Event()
        self._since: float | None = None
        self._late = 0
        self._error = ""

    def start(self) -> None:
        """Start to connect; tasks of this pool reconnect until `close` or `drain`."""
        loop = asyncio.get_running_loop()
        self._maintainers = [loop.create_task(self._maintain(slot)) for slot in range(len(self._slots))]

    async def connected(self) -> None:
        """Wait until there is a connection."""
        await self._connected.wait()

    async def call(self, call: MethodCall, *, oneway: bool = False) -> ReplyFuture | None:
        """Send a call and return its reply; None for a oneway call once it is written."""
        destination = call.bus_name
        busy = self._busy.get(destination, 0)
        preferred = self._slots[hash(destination) % len(self._slots)]  # so that calls to one bus name stay in order
        if preferred is not None and preferred.has_capacity and busy < self.bus.per_destination:
            connection: DBusConnection | Fault = preferred  # as `_find` would; nearly all calls end here
        else:
            connection = self._find(destination)
        if destination in self.breakers.failing or isinstance(connection, Fault):
            try:
                connection = await self._wait_for_capacity(destination)
            except asyncio.CancelledError as error:
                error.args = (*error.args, NOT_SENT)
                raise
            if isinstance(connection, Fault):
                return connection
            busy = self._busy.get(destination, 0)
        self._busy[destination] = busy + 1
        try:
            answer = await connection.send(call, oneway=oneway)
        except asyncio.CancelledError as error:
            if DEADLINE_PASSED in error.args:
                self._failed(destination)
            raise
        finally:
            self._release(destination)
        if isinstance(answer, LargeMessage):
            answer = await connection.read(answer)
        if isinstance(answer, Received) and (answer.error_name or destination in self.breakers.failing):
            self._record_reply(destination, answer)
        return answer

    async def introspect(self, bus_name: str, object_path: str) -> ReplyFuture:
        """Ask an object for its introspection XML, past limits and breakers."""
        connection = self._pick(bus_name)
        if isinstance(connection, Fault):
            return connection
        answer = await connection.call(MethodCall(bus_name, object_path, INTROSPECTABLE, "Introspect", ""))
        assert answer is not None, "it is not an oneway call"
        return answer

    async def is_alive(self, seconds: float) -> bool:
        """Return whether the bus answers a Ping on every connection, or is being reconnected.

        A connection without an answer within `seconds` is closed and replaced: call again to check the new one.
        """
        connections = [connection for connection in self._slots if connection is not None]
        answered = await asyncio.gather(*(connection.ping(seconds) for connection in connections))
        return all(answered) and bool(self._maintainers) and not any(keeper.done() for keeper in self._maintainers)

    async def owners(self, names: Collection[str], seconds: float) -> Mapping[str, NameOwner]:
        """Return the owner of each name; OWNER_UNKNOWN for those that the bus does not tell within `seconds`."""
        connection = next((connection for connection in self._slots if connection is not None), None)
        if connection is None:
            return dict.fromkeys(names, OWNER_UNKNOWN)
        calls = (
            connection.call(driver("ListActivatableNames")),
            *(connection.call(driver("GetNameOwner", name)) for name in names),
        )
        try:
            async with asyncio.timeout(seconds):
                startable, *found = await asyncio.gather(*calls)
        except TimeoutError:
            return dict.fromkeys(names, OWNER_UNKNOWN)
        on_demand = startable.body[0] if isinstance(startable, Received) and not startable.error_name else ()
        owners = {}
        for name, answer in zip(names, found, strict=True):
            if not isinstance(answer, Received):
                owners[name] = OWNER_UNKNOWN
            elif not answer.error_name:
                owners[name] = Presence.OWNED, str(answer.body[0])
            else:
                owners[name] = Presence.ON_DEMAND if name in on_demand else Presence.ABSENT, ""
        return owners

    def in_flight(self, destination: str) -> int:
        """Return the number of calls to a bus name without a reply."""
        return self._busy.get(destination, 0)

    def status(self) -> BusStatus:
        """Return the current status."""
        return BusStatus(
            name=self.bus.name,
            address=self.bus.address,
            connected=any(self._slots),
            since=self._since,
            connections=sum(connection is not None for connection in self._slots),
            in_flight=sum(self._busy.values()),
            late_replies=self._late + sum(connection.late_replies for connection in self._open),
            last_error=self._error,
            unanswered=sum(connection.in_flight for connection in self._open),
        )

    async def drain(self) -> None:
        """Take no more calls; close when those in flight are done."""
        for connection in self._open:
            connection.retire()
        await self._end()

    async def close(self) -> None:
        """Close now; calls without a reply fail."""
        for connection in self._open:
            connection.close()
        await self._end()

    # Circuit breakers

    def _record_reply(self, destination: str, answer: ReplyFuture | None) -> None:
        """Record what a reply says about its destination. A Fault is made here and concerns the bus only."""
        if not isinstance(answer, Received):
            return
        if answer.error_name and is_transport_failure(answer):
            self._failed(destination)
        elif destination in self.breakers.failing:
            self.breakers.answered(destination)

    def _failed(self, destination: str) -> None:
        """Record a failure. An open breaker is closed as soon as the name has a new owner."""
        if self.breakers.failed(destination):
            connection = self._pick(destination)
            if isinstance(connection, DBusConnection):
                connection.when_owned(destination, self.breakers.answered)
            log.warning("%s on bus '%s': %s", destination, self.bus.name, self.breakers.describe(destination))

    def _refusal(self, destination: str) -> Fault | None:
        """The fault of an open breaker."""
        if not self.breakers.state(destination).refuses:
            return None
        text = f"{destination}: {self.breakers.describe(destination)}; the call was not sent"
        return Fault(FaultCode.UNAVAILABLE, text)

    async def _probe(self, destination: str) -> None:
        """Probe with a Ping. It activates the service, as the call that waits for it would."""
        connection = self._pick(destination)
        try:
            async with asyncio.timeout(self._dependencies.probe_timeout):
                answer = connection if isinstance(connection, Fault) else await connection.call(ping(destination))
            self._record_reply(destination, answer)
        except TimeoutError:
            self._failed(destination)
        except asyncio.CancelledError as error:
            if DEADLINE_PASSED in error.args:
                self._failed(destination)
            raise
        finally:
            self.breakers.given_up(destination)

    # Distribution of calls

    def _find(self, destination: str) -> DBusConnection | Fault:
        if self.in_flight(destination) >= self.bus.per_destination:
            text = f"{destination} has no capacity for another call (limit per_destination); the call was not sent"
            return Fault(FaultCode.BUSY, text)
        return self._pick(destination)

    def _pick(self, destination: str) -> DBusConnection | Fault:
        preferred = self._slots[hash(destination) % len(self._slots)]
        if preferred is not None and preferred.has_capacity:
            return preferred
        for connection in self._slots:
            if connection is not None and connection.has_capacity:
                return connection
        name = self.bus.name
        if self._connected.is_set():
            limits = "(limits connections, in_flight)"
            text = f"bus '{name}' has no capacity for another call {limits}; the call was not sent"
            return Fault(FaultCode.BUSY, text)
        return Fault(FaultCode.UNAVAILABLE, f"bus '{name}' is not connected; the call was not sent")

    async def _wait_for_capacity(self, destination: str) -> DBusConnection | Fault:
        """Return a connection with capacity, or the fault after `wait_timeout` seconds or with a full queue.

        The first call after each pause of a breaker probes with a Ping.
        """
        if self._refusal(destination) is not None and self.breakers.may_probe(destination):
            await self._probe(destination)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.bus.wait_timeout
        while True:
            found = self._refusal(destination) or self._find(destination)
            left = deadline - loop.time()
            if isinstance(found, DBusConnection) or found.code is not FaultCode.BUSY or left <= 0:
                return found
            line = destination if self.in_flight(destination) >= self.bus.per_destination else ANY
            is_full = line is not ANY and len(self._queues.get(line, ())) >= self.bus.waiting_each
            if is_full or sum(map(len, self._queues.values())) >= self.bus.waiting:
                return found
            turn: asyncio.Future[None] = loop.create_future()
            self._queues.setdefault(line, deque()).append(turn)
            try:
                await asyncio.wait({turn}, timeout=left)
            except asyncio.CancelledError:
                if turn.done():
                    self._wake(line)
                raise
            finally:
                self._queues[line].remove(turn)
                if not self._queues[line]:
                    del self._queues[line]

    def _release(self, destination: str) -> None:
        busy = self._busy[destination] - 1
        if busy:
            self._busy[destination] = busy
        else:
            del self._busy[destination]
        if self._queues:
            self._wake(destination)
            self._wake(ANY)

    def _wake(self, line: str) -> None:
        turn = next((turn for turn in self._queues.get(line, ()) if not turn.done()), None)
        if turn is not None:
            turn.set_result(None)

    # Connections

    async def _maintain(self, slot: int) -> None:
        """Keep one slot filled: connect again whenever its connection is stale."""
        pauses = delays(self._dependencies.chance)
        while True:
            try:
                connection = await DBusConnection.open(self.bus.address, self._limits, self._dependencies.gate)
            except ConnectError as error:
                self._error = f"cannot connect to {self.bus.address}: {error}"
                self._note_state()
                await self._dependencies.sleep(next(pauses))
                continue
            self._install(slot, connection)
            await connection.stale.wait()
            pauses = delays(self._dependencies.chance)

    def _install(self, slot: int, connection: DBusConnection) -> None:
        stale, self._slots[slot] = self._slots[slot], connection
        self._open[connection] = asyncio.get_running_loop().create_task(self._reap(connection))
        connection.ended.add_done_callback(lambda _: self._lost(slot, connection))
        self._note_state()
        for destination in self.breakers.open():
            connection.when_owned(destination, self.breakers.answered)
        self._wake_all()
        if stale is not None:
            stale.retire()

    def _lost(self, slot: int, connection: DBusConnection) -> None:
        """Empty the slot in the step in which the waiting calls fail, so that no further call is sent to it."""
        if self._slots[slot] is connection:
            self._slots[slot] = None
            self._error = connection.error
            self._note_state()

    async def _reap(self, connection: DBusConnection) -> None:
        await connection.closed()
        self._late += connection.late_replies
        del self._open[connection]

    def _note_state(self) -> None:
        """Log when the bus connects or disconnects."""
        up = any(self._slots)
        if self._since is not None and up == self._connected.is_set():
            return
        self._since = self._dependencies.clock()
        if up:
            self._connected.set()
            self.breakers.forget()
            log.info("bus '%s' is connected%s", self.bus.name, self.bus.use)
        else:
            self._connected.clear()
            self._wake_all()
            log.warning("bus '%s' is not connected%s: %s", self.bus.name, self.bus.use, self._error)

    def _wake_all(self) -> None:
        """Wake every waiting call: there is capacity again, or the bus is gone."""
        for turn in itertools.chain(*self._queues.values()):
            if not turn.done():
                turn.set_result(None)

    async def _end(self) -> None:
        """Cancel and await every task of this pool."""
        self._connected.clear()
        self._slots = [None] * len(self._slots)
        self._wake_all()
        keepers, self._maintainers = self._maintainers, []
        for keeper in keepers:
            keeper.cancel()
        tasks = [*keepers, *self._open.values()]
        if tasks:
            await asyncio.wait(tasks)
