"""Connections to a bus that belong to one client connection or one session each.

Some services bind objects to the connection that made them (Avahi's EntryGroup), and remove them when it ends. A
mapping can give each owner a connection of its own. Their number is bounded; one ends with the connection of its
client, or when its session has not used it for a time. A connection that the bus has closed is replaced at the next
call, and the objects of the old one are gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from msgspec import Struct, field

from adapters.dbus.connection import BusConnectionLimits, ConnectError, DBusConnection, ReplyFuture
from adapters.dbus.pool import BusSettings, Dependencies
from gateway.core.dbus.target import MethodCall, OwnConnection
from gateway.core.interfaces import NOT_SENT
from gateway.core.rpc.model import Call, Fault, FaultCode, PeerConnection


class _Owned(Struct, eq=False):
    """The connection of one owner."""

    bus: BusSettings
    opening: asyncio.Task[DBusConnection]
    idle: float | None  # seconds without a call after which it ends
    used: float
    busy: int = 0  # calls in flight
    timer: asyncio.TimerHandle | None = None
    forget: Callable[[], object] | None = None  # the owner does not tell its end any more

    @property
    def is_lost(self) -> bool:
        """Whether it was opened and has ended, or could not be opened."""
        if not self.opening.done():
            return False
        return self.opening.cancelled() or self.opening.exception() is not None or self.opening.result().lost


class OwnConnections(Struct):
    """The connections that belong to an owner each."""

    dependencies: Dependencies
    _owned: dict[tuple[BusSettings, object], _Owned] = field(default_factory=dict)
    _ending: set[asyncio.Task[None]] = field(default_factory=set)

    async def call(
        self, own: OwnConnection, bus: BusSettings, call: Call, message: MethodCall, *, oneway: bool = False
    ) -> ReplyFuture | None:
        """Send a call over the connection of its owner, which is opened if there is none."""
        owner = _owner(own, call)
        if isinstance(owner, Fault):
            return owner
        key = (bus, owner)
        owned = self._owned.get(key)
        if owned is not None and owned.is_lost:
            self._end(key)
            owned = None
        if owned is None:
            if len(self._owned) >= own.at_most:
                text = f"{own.at_most} owners have a bus connection of their own (limit at_most); the call was not sent"
                return Fault(FaultCode.BUSY, text)
            owned = self._open(key, own)
        owned.busy += 1
        try:
            return await self._send(owned, message, oneway=oneway)
        finally:
            owned.busy -= 1
            owned.used = asyncio.get_running_loop().time()
            if own.ends:
                self._end(key)

    async def _send(self, owned: _Owned, message: MethodCall, *, oneway: bool) -> ReplyFuture | None:
        try:
            connection = await asyncio.shield(owned.opening)
        except ConnectError as error:
            return Fault(FaultCode.UNAVAILABLE, f"bus '{owned.bus.name}': {error}; the call was not sent")
        except asyncio.CancelledError as error:
            if owned.opening.cancelled():
                return Fault(FaultCode.UNAVAILABLE, "the owner of the bus connection has gone; the call was not sent")
            error.args = (*error.args, NOT_SENT)
            raise
        if not connection.has_capacity:
            return Fault(FaultCode.BUSY, "the owner's bus connection has no capacity (limit in_flight); not sent")
        return await connection.call(message, oneway=oneway)

    def _open(self, key: tuple[BusSettings, object], own: OwnConnection) -> _Owned:
        bus, owner = key
        loop = asyncio.get_running_loop()
        limits = BusConnectionLimits(bus.in_flight, bus.max_message, self.dependencies.serials, bus.starts_services)
        idle = own.idle if own.of == "session" else None
        opening = loop.create_task(DBusConnection.open(bus.address, limits, self.dependencies.gate))
        owned = self._owned[key] = _Owned(bus, opening, idle, loop.time())
        if isinstance(owner, PeerConnection):
            owned.forget = owner.when_closed(lambda: self._end(key, owned))
        self._watch(key, owned)
        return owned

    def _watch(self, key: tuple[BusSettings, object], owned: _Owned) -> None:
        """End the connection once it has not been used for its time."""
        if owned.idle is None or self._owned.get(key) is not owned:
            return
        loop = asyncio.get_running_loop()
        left = owned.idle if owned.busy else owned.used + owned.idle - loop.time()
        if left <= 0:
            self._end(key, owned)
        else:
            owned.timer = loop.call_later(left, self._watch, key, owned)

    def _end(self, key: tuple[BusSettings, object], only: _Owned | None = None) -> None:
        owned = self._owned.get(key)
        if owned is None or (only is not None and owned is not only):
            return
        del self._owned[key]
        if owned.timer is not None:
            owned.timer.cancel()
        if owned.forget is not None:
            owned.forget()
        ending = asyncio.get_running_loop().create_task(_close(owned.opening))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    def keep(self, buses: Collection[BusSettings]) -> None:
        """End the connections to all other buses."""
        for key in [key for key in self._owned if key[0] not in buses]:
            self._end(key)

    async def close(self) -> None:
        """End every connection."""
        self.keep(())
        if self._ending:
            await asyncio.wait(self._ending)


def _owner(own: OwnConnection, call: Call) -> object:
    """The client connection or the session of a call; a Fault when there is none."""
    if own.of == "session":
        session = own.session(call) if own.session is not None else None
        return session or Fault(FaultCode.INVALID_PARAMS, "the call has no session, which would own its bus connection")
    client = call.peer.connection
    if client is None:
        text = "the object belongs to a client connection, and this call came over none"
        return Fault(FaultCode.INVALID_REQUEST, text)
    return client if client.is_open else Fault(FaultCode.UNAVAILABLE, "the client has left; the call was not sent")


async def _close(opening: asyncio.Task[DBusConnection]) -> None:
    opening.cancel()
    await asyncio.wait({opening})
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
        await opening.result().closed()
