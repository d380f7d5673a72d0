"""The connections to one message bus: keeps them up, shares out calls, bounds their number; knows no legacy value."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from adapters.dbus.circuit_breaker import CircuitBreakers
from adapters.dbus.connection import (
    SERIALS,
    BusConnectionLimits,
    ConnectError,
    DBusConnection,
    Received,
    ReplyFuture,
    ping,
)
from adapters.dbus.errors import is_transport_failure
from adapters.dbus.name_owners import OWNER_UNKNOWN, NameOwner, owners
from gateway.core.admin.status import BusStatus
from gateway.core.dbus.target import MethodCall
from gateway.core.interfaces import DEADLINE_PASSED, NOT_SENT
from gateway.core.rpc.model import Fault, FaultCode

FIRST_DELAY = 0.05  # seconds before the second attempt to connect; doubled for each further one
LAST_DELAY = 5.0  # seconds, never more
PROBE_TIMEOUT = 2.0  # seconds that a destination with an open breaker has to answer a Ping
ANY = ""  # the line for calls that wait for a connection, not for their bus name

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BusSettings:
    """One message bus and the services on it, as patterns of bus names ("org.xen.xcp.*")."""

    name: str
    address: str
    services: tuple[str, ...]
    connections: int = 4
    in_flight: int = 100  # calls per connection; a system bus allows 128 pending replies
    per_destination: int = 64  # calls per bus name, so that a service that hangs cannot starve the others
    max_message: int = 32 * 1024**2  # bytes; over the bus's own limit it cuts the connection
    patience: float = 0.5  # seconds a call may wait for room before it is BUSY
    waiting: int = 256  # calls that may wait for room at once
    waiting_each: int = 128  # of them per bus name
    breaker_failures: int = 5  # in a row, after which a bus name is not asked for a while; 0: it is always asked
    breaker_pause: float = 1.0  # seconds before the first probe, doubled for each further one
    starts_services: bool = True  # whether a call may make the bus start the service it goes to

    def observing(self) -> BusSettings:
        """The same bus for calls that are only observed: their own connection, no waiting, and no service started."""
        return replace(self, connections=1, waiting=0, starts_services=False)


@dataclass(frozen=True, slots=True)
class Dependencies:
    """What a test may want to hold in its hand."""

    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    clock: Callable[[], float] = time.time
    chance: Callable[[], float] = random.random  # 0..1
    serials: int = SERIALS  # a connection is renewed after so many
    monotonic: Callable[[], float] = time.monotonic
    probe_patience: float = PROBE_TIMEOUT


def delays(chance: Callable[[], float]) -> Iterator[float]:
    """How long to wait before each further attempt to connect: doubling, capped, between half and whole by chance."""
    for attempt in itertools.count():
        yield min(LAST_DELAY, FIRST_DELAY * 2 ** min(attempt, 16)) * (0.5 + chance() / 2)


class Pool:
    """The connections to a bus. Calls to a bus name keep to one connection while it has room, and so in order."""

    def __init__(self, bus: BusSettings, around: Dependencies) -> None:
        self.bus = bus
        self._around = around
        self._limits = BusConnectionLimits(bus.in_flight, bus.max_message, around.serials, bus.starts_services)
        self._slots: list[DBusConnection | None] = [None] * bus.connections
        # Those of the slots and retired ones that still answer; each with a task that waits for its end.
        self._open: dict[DBusConnection, asyncio.Task[None]] = {}
        self._keepers: list[asyncio.Task[None]] = []
        self._busy: dict[str, int] = {}  # calls in flight by bus name
        self._lines: dict[str, deque[asyncio.Future[None]]] = {}  # calls that wait for room: by bus name, or ANY
        self.breakers = CircuitBreakers(bus.breaker_failures, bus.breaker_pause, around.monotonic)
        self._connected = asyncio.Event()
        self._since: float | None = None
        self._late = 0
        self._error = ""

    def start(self) -> None:
        """Begin to connect; tasks of this pool keep trying until `close` or `drain`."""
        loop = asyncio.get_running_loop()
        self._keepers = [loop.create_task(self._keep(slot)) for slot in range(len(self._slots))]

    async def connected(self) -> None:
        """Wait until there is a connection."""
        await self._connected.wait()

    async def call(self, call: MethodCall, *, oneway: bool = False) -> ReplyFuture | None:
        """Send over a connection with room. Without a bus, or with an open breaker: UNAVAILABLE, at once."""
        destination = call.bus_name
        connection = self._find(destination)
        if isinstance(connection, Fault) or destination in self.breakers:
            try:
                connection = await self._doubt(destination) or await self._wait_for_room(destination)
            except asyncio.CancelledError as error:
                error.args = (*error.args, NOT_SENT)
                raise
            if isinstance(connection, Fault):
                return connection
        self._busy[destination] = self._busy.get(destination, 0) + 1
        try:
            answer = await connection.call(call, oneway=oneway)
        except asyncio.CancelledError as error:
            if DEADLINE_PASSED in error.args:
                self._failed(destination)
            raise
        finally:
            self._leave(destination)
        self._judge(destination, answer)
        return answer

    async def introspect(self, bus_name: str, object_path: str) -> str | ReplyFuture:
        """The object's introspection XML."""
        connection = self._pick(bus_name)
        return connection if isinstance(connection, Fault) else await connection.introspect(bus_name, object_path)

    async def is_alive(self, patience: float) -> bool:
        """Whether the bus answers a Ping on every connection, or is being looked for.

        A connection without an answer in `patience` seconds is closed, and so made anew: ask once more.
        """
        connections = [connection for connection in self._slots if connection is not None]
        answered = await asyncio.gather(*(connection.ping(patience) for connection in connections))
        return all(answered) and bool(self._keepers) and not any(keeper.done() for keeper in self._keepers)

    async def owners(self, names: Collection[str], patience: float) -> Mapping[str, NameOwner]:
        """Who owns each of the names, as far as the bus says so within `patience` seconds."""
        connection = next((connection for connection in self._slots if connection is not None), None)
        if connection is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    return await owners(connection.call, names)
        return dict.fromkeys(names, OWNER_UNKNOWN)

    def in_flight(self, destination: str) -> int:
        """How many calls to a bus name wait for their answer."""
        return self._busy.get(destination, 0)

    def status(self) -> BusStatus:
        """How it is doing now."""
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
        """Take no more calls, close when those in flight are done."""
        for connection in self._open:
            connection.retire()
        await self._end()

    async def close(self) -> None:
        """Close now; who still waits is told."""
        for connection in self._open:
            connection.close()
        await self._end()

    # Destinations that fail

    def _judge(self, destination: str, answer: ReplyFuture | None) -> None:
        """What an answer tells of its destination. A fault is our own: it tells of the bus."""
        if not isinstance(answer, Received):
            return
        if is_transport_failure(answer):
            self._failed(destination)
        elif destination in self.breakers:
            self.breakers.answered(destination)

    def _failed(self, destination: str) -> None:
        if self.breakers.failed(destination):
            self._hear_of(destination)
            log.warning("%s on bus '%s': %s", destination, self.bus.name, self.breakers.describe(destination))

    def _hear_of(self, destination: str) -> None:
        """A new owner is a new beginning: nobody need wait for the next probe."""
        connection = self._pick(destination)
        if isinstance(connection, DBusConnection):
            connection.when_owned(destination, self.breakers.answered)

    async def _doubt(self, destination: str) -> Fault | None:
        """Why a destination that has failed is not asked now; the first call after each pause finds out by a Ping."""
        if destination not in self.breakers or not self.breakers.refuse(destination):
            return None
        if self.breakers.may_probe(destination):
            await self._probe(destination)
        return self._refusal(destination) if self.breakers.refuse(destination) else None

    def _refusal(self, destination: str) -> Fault:
        text = f"{destination} {self.breakers.describe(destination)}; the call was not sent"
        return Fault(FaultCode.UNAVAILABLE, text)

    async def _probe(self, destination: str) -> None:
        """Ask with a Ping. Like the call that waits for it, it starts a service that is started on demand."""
        connection = self._pick(destination)
        try:
            async with asyncio.timeout(self._around.probe_patience):
                answer = connection if isinstance(connection, Fault) else await connection.call(ping(destination))
            self._judge(destination, answer)
        except TimeoutError:
            self._failed(destination)
        except asyncio.CancelledError as error:
            if DEADLINE_PASSED in error.args:
                self._failed(destination)
            raise
        finally:
            self.breakers.given_up(destination)

    # Sharing calls out

    def _find(self, destination: str) -> DBusConnection | Fault:
        if self._is_crowded(destination):
            return Fault(FaultCode.BUSY, f"too many calls to {destination} are in flight; this one was not sent")
        return self._pick(destination)

    def _is_crowded(self, destination: str) -> bool:
        return self._busy.get(destination, 0) >= self.bus.per_destination

    def _pick(self, destination: str) -> DBusConnection | Fault:
        preferred = self._slots[hash(destination) % len(self._slots)]
        if preferred is not None and preferred.has_room:
            return preferred
        for connection in self._slots:
            if connection is not None and connection.has_room:
                return connection
        name = self.bus.name
        if self._connected.is_set():
            return Fault(FaultCode.BUSY, f"too many calls to bus '{name}' are in flight; this one was not sent")
        return Fault(FaultCode.UNAVAILABLE, f"bus '{name}' is not connected; the call was not sent")

    async def _wait_for_room(self, destination: str) -> DBusConnection | Fault:
        """A place within `patience` seconds, or why there is none."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.bus.patience
        while True:
            found = self._refusal(destination) if self.breakers.refuse(destination) else self._find(destination)
            left = deadline - loop.time()
            if isinstance(found, DBusConnection) or found.code is not FaultCode.BUSY or left <= 0:
                return found
            line = destination if self._is_crowded(destination) else ANY
            if self._is_long(line):
                return found
            await self._turn(line, left)

    def _is_long(self, line: str) -> bool:
        """Whether nobody else may stand in this line."""
        if line is not ANY and len(self._lines.get(line, ())) >= self.bus.waiting_each:
            return True
        return sum(map(len, self._lines.values())) >= self.bus.waiting

    async def _turn(self, line: str, seconds: float) -> None:
        """Stand in line until somebody leaves who makes room, or the time is over."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lines.setdefault(line, deque()).append(turn)
        try:
            await asyncio.wait({turn}, timeout=seconds)
        except asyncio.CancelledError:
            if turn.done():
                self._wake(line)
            raise
        finally:
            self._lines[line].remove(turn)
            if not self._lines[line]:
                del self._lines[line]

    def _leave(self, destination: str) -> None:
        busy = self._busy[destination] - 1
        if busy:
            self._busy[destination] = busy
        else:
            del self._busy[destination]
        if self._lines:
            self._wake(destination)
            self._wake(ANY)

    def _wake(self, line: str) -> None:
        turn = next((turn for turn in self._lines.get(line, ()) if not turn.done()), None)
        if turn is not None:
            turn.set_result(None)

    # Keeping connections up

    async def _keep(self, slot: int) -> None:
        """Fill one slot with a connection, again whenever the last one is worn."""
        while True:
            connection = await self._connect()
            self._install(slot, connection)
            await connection.worn.wait()

    def _install(self, slot: int, connection: DBusConnection) -> None:
        worn, self._slots[slot] = self._slots[slot], connection
        self._open[connection] = asyncio.get_running_loop().create_task(self._bury(connection))
        connection.ended.add_done_callback(lambda _: self._lost(slot, connection))
        self._note_state()
        for destination in self.breakers.open():
            connection.when_owned(destination, self.breakers.answered)
        self._wake_all()
        if worn is not None:
            worn.retire()

    def _lost(self, slot: int, connection: DBusConnection) -> None:
        """In the same step in which those who wait on it are told: nobody must be sent its way."""
        if self._slots[slot] is connection:
            self._slots[slot] = None
            self._error = connection.error
            self._note_state()

    async def _connect(self) -> DBusConnection:
        pauses = delays(self._around.chance)
        while True:
            try:
                return await DBusConnection.open(self.bus.address, self._limits)
            except ConnectError as error:
                self._error = f"cannot connect: {error}"
                self._note_state()
            await self._around.sleep(next(pauses))

    async def _bury(self, connection: DBusConnection) -> None:
        await connection.closed()
        self._late += connection.late_replies
        del self._open[connection]

    def _note_state(self) -> None:
        """Tell the log when the bus comes or goes."""
        up = any(self._slots)
        if self._since is not None and up == self._connected.is_set():
            return
        self._since = self._around.clock()
        if up:
            self._connected.set()
            self.breakers.forget()
            log.info("bus '%s' is connected", self.bus.name)
        else:
            self._connected.clear()
            self._wake_all()
            log.warning("bus '%s' is not connected: %s", self.bus.name, self._error)

    def _wake_all(self) -> None:
        """There is room for many, or the bus is gone and nobody need wait."""
        for turn in itertools.chain(*self._lines.values()):
            if not turn.done():
                turn.set_result(None)

    async def _end(self) -> None:
        """Wait for every task of this pool."""
        self._connected.clear()
        self._slots = [None] * len(self._slots)
        self._wake_all()
        keepers, self._keepers = self._keepers, []
        for keeper in keepers:
            keeper.cancel()
        tasks = [*keepers, *self._open.values()]
        if tasks:
            await asyncio.wait(tasks)
