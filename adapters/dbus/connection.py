"""One connection to one message bus: connects, sends, matches replies to calls.

The library's `MessageBus.call` is not used: a cancelled caller leaves its handler, with the whole body, in the
library's table for good. Here the caller removes its own entry.

Outgoing bytes go through an Outbox: messages of one loop turn leave in one send, a full socket buffer is waited for
(the library takes it for the end of the connection), and a message of which no byte has left can be withdrawn.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from typing import TypeAlias, cast

from dbus_fast import Message, MessageFlag, MessageType
from dbus_fast.errors import InvalidMessageError
from msgspec import Struct

from adapters.dbus import connect
from adapters.dbus.large_message import LargeMessage
from adapters.dbus.messages import marshalled
from gateway.core.dbus.marshal import HEADER, MAX_MESSAGE, body_size
from gateway.core.dbus.scalars import MarshalError
from gateway.core.dbus.target import MethodCall
from gateway.core.interfaces import NOT_SENT
from gateway.core.rpc.model import Fault, FaultCode


class Outbox:
    """An outgoing byte stream; positions are counted in bytes from its start."""

    def __init__(self, sock: socket.socket, on_error: Callable[[OSError], object] = lambda _: None) -> None:
        """`on_error`: called when the socket is broken for good."""
        self.written = 0  # bytes taken by the kernel
        self._put = 0  # bytes put
        self._sock = sock
        self._on_error = on_error
        self._fd = sock.fileno()
        self._loop = asyncio.get_running_loop()
        self._backlog = bytearray()
        self._withdrawn: list[tuple[int, int]] = []  # (start, end) of withdrawn messages, in order; not in the backlog
        self._corked = False  # bytes were sent in this loop turn: the rest is gathered
        self._is_blocked = False  # waiting until the socket is writable
        self._watchers: deque[tuple[int, Callable[[], None]]] = deque()

    def put(self, data: bytes | bytearray, *, is_alone: bool = False) -> int:
        """Queue one whole message; returns its end position. The kernel has it once `written` reaches that position.

        `is_alone`: no other is under way. It gathers none behind it, which would cost a turn of the loop.
        """
        self._put += len(data)
        if self._corked:
            self._backlog += data
            return self._put
        if not is_alone:
            self._corked = True
            self._loop.call_soon(self._uncork)
        if not self._backlog:  # so nothing is withdrawn or watched
            try:
                sent = self._sock.send(data)
            except OSError:  # `_send_backlog` finds out what it is
                sent = 0
            self.written += sent
            if sent == len(data):
                return self._put
            data = data[sent:]
        self._backlog += data
        self._send_backlog()
        return self._put

    def send(self, data: memoryview) -> int:
        """Called by the library as if this were its socket; always takes everything."""
        self.put(bytes(data))
        return len(data)

    def when_written(self, place: int, notify: Callable[[], None]) -> None:
        """Call `notify` once `written` reaches `place`; not if the socket breaks first. Positions must not decrease."""
        self._watchers.append((place, notify))

    def withdraw(self, end: int, size: int) -> bool:
        """Withdraw the message of `size` bytes that ends at `end`; False if a byte of it was sent."""
        start = end - size
        if start < self.written:
            return False
        at = start - self.written - sum(until - since for since, until in self._withdrawn if since < start)
        del self._backlog[at : at + size]
        self._withdrawn.append((start, end))
        self._withdrawn.sort()
        self._advance(0)
        if self._is_blocked and self._sock.fileno() >= 0:
            self._wait_for_capacity()
        return True

    def _advance(self, sent: int) -> None:
        """Count sent bytes, skip withdrawn messages, notify watchers."""
        self.written += sent
        while self._withdrawn and self._withdrawn[0][0] <= self.written:
            since, until = self._withdrawn.pop(0)
            self.written += until - since
        while self._watchers and self._watchers[0][0] <= self.written:
            self._watchers.popleft()[1]()

    def _uncork(self) -> None:
        self._corked = False
        if self._backlog and not self._is_blocked:
            self._send_backlog()

    def _send_backlog(self) -> None:
        if self._sock.fileno() < 0 or (self._is_blocked and not self._backlog):
            return
        try:
            sent = self._sock.send(self._backlog)
        except ConnectionError as error:  # broken for good; the loop may have left the socket already
            self._backlog.clear()
            self._wait_for_capacity()
            self._on_error(error)
            return
        except OSError:
            sent = 0
        del self._backlog[:sent]
        self._advance(sent)
        self._wait_for_capacity()

    def _wait_for_capacity(self) -> None:
        """Watch the socket for writability while there is a backlog."""
        if self._is_blocked == bool(self._backlog):
            return
        self._is_blocked = not self._is_blocked
        if self._is_blocked:
            self._loop.add_writer(self._fd, self._send_backlog)
        else:
            self._loop.remove_writer(self._fd)


BUS_NAME = "org.freedesktop.DBus"  # the broker itself
BUS_PATH = "/org/freedesktop/DBus"
OPEN_TIMEOUT = 10.0  # seconds for connecting, authenticating and Hello together
SERIALS = 2**31  # serials have 32 bits and the library's do not wrap: the connection is renewed before


Received = Message  # a method return or an error, of the library
_ONEWAY = MessageFlag.NO_REPLY_EXPECTED.value

ReplyFuture: TypeAlias = "Message | Fault"
Unread: TypeAlias = "Message | LargeMessage | Fault"


class ConnectError(Exception):
    """The bus cannot be reached or refuses the connection; the text says why, without the address."""


class BusConnectionLimits(Struct, frozen=True):
    """Limits of one connection."""

    in_flight: int = 100  # calls without a reply; a system bus allows 128 pending replies
    max_message: int = 32 * 1024**2  # bytes
    serials: int = SERIALS
    starts_services: bool = True  # whether a call may make the bus start the service it goes to


class DBusConnection:
    """Usable until `stale` is set: the connection is lost, or is to be replaced and finishes its calls."""

    def __init__(
        self,
        bus: connect.Bus,
        limits: BusConnectionLimits,
        process: asyncio.subprocess.Process | None = None,
        gate: asyncio.Semaphore | None = None,
    ) -> None:
        writer = bus._writer  # noqa: SLF001
        assert writer is not None
        assert writer.sock is not None
        self._bus = bus
        self._limits = limits
        self._flags = 0 if limits.starts_services else MessageFlag.NO_AUTOSTART.value
        self._longest = min(limits.max_message, MAX_MESSAGE)
        self._process = process
        self._gate = gate or asyncio.Semaphore(1)
        self._outbox = Outbox(writer.sock, bus.end_soon)
        writer.sock = cast("socket.socket", self._outbox)  # what the library itself answers to others goes the same way
        self._waiting: dict[int, tuple[asyncio.Future[Unread | None], int]] = {}  # by serial; with the end position
        self._abandoned = 0  # cancelled here, but still pending (or unwritten) at the broker
        self._retired = False
        self._on_owner: dict[str, Callable[[str], None]] = {}  # by bus name: called when the name has an owner
        self._loop = asyncio.get_running_loop()
        self.on_signal: Callable[[Message], None] | None = None
        self.late_replies = 0
        self.lost = False
        self.error = ""
        self.stale = asyncio.Event()
        bus.add_message_handler(self._received)
        bus.inbox.on_large = self._received_large
        self.ended = asyncio.ensure_future(bus.wait_for_disconnect())  # type: ignore[no-untyped-call] # theirs
        self.ended.add_done_callback(self._ended)

    @classmethod
    async def open(
        cls, address: str, limits: BusConnectionLimits, gate: asyncio.Semaphore | None = None
    ) -> DBusConnection:
        """Connect and authenticate; raises ConnectError. `gate`: of the large messages, see LargeMessage."""
        try:
            async with asyncio.timeout(OPEN_TIMEOUT):
                if address.startswith(connect.PREFIX):
                    bus, process = await connect.through_process(address)
                    return cls(bus, limits, process, gate)
                return cls(await connect.connect(address), limits, gate=gate)
        except Exception as error:
            late = f"no answer within {OPEN_TIMEOUT:g} s" if isinstance(error, TimeoutError) else ""
            why = getattr(error, "strerror", None) or str(error) or late or type(error).__name__
            raise ConnectError(why) from error

    @property
    def in_flight(self) -> int:
        """Calls that wait here and cancelled calls that are pending at the broker."""
        return len(self._waiting) + self._abandoned

    @property
    def has_capacity(self) -> bool:
        """Whether one more call may be sent."""
        return len(self._waiting) + self._abandoned < self._limits.in_flight and not self.lost and not self._retired

    async def call(
        self, call: MethodCall, *, oneway: bool = False, take: Callable[[Message], None] | None = None
    ) -> ReplyFuture | None:
        """As `send`, and read the reply."""
        answer = await self.send(call, oneway=oneway, take=take)
        return await self.read(answer) if isinstance(answer, LargeMessage) else answer

    async def read(self, large: LargeMessage) -> ReplyFuture:
        """Read a large reply beside the event loop. A malformed one ends the connection, as a small one does."""
        try:
            return await large.read()
        except Exception as error:  # noqa: BLE001 - of the library: whatever it finds in what the bus has sent
            self._bus.end(error)
            return _unanswered()

    async def send(
        self, call: MethodCall, *, oneway: bool = False, take: Callable[[Message], None] | None = None
    ) -> Unread | None:
        """Send a call and return its reply; None for a oneway call once it is written.

        A call that is cancelled before a byte was sent is withdrawn, and the CancelledError gets NOT_SENT. `take` gets
        the reply as it arrives: after the signals that were received before it, and before any other.
        """
        serial = self._bus.next_serial()
        if serial >= self._limits.serials:
            self.stale.set()
        if not self._bus.connected:
            return _unsent()
        data = self._message(call, serial, self._flags | _ONEWAY if oneway else self._flags)
        if isinstance(data, Fault):
            return data
        end = self._outbox.put(data, is_alone=not self._waiting)
        if oneway and end <= self._outbox.written:
            return None
        reply: asyncio.Future[Unread | None]
        reply = self._loop.create_future() if take is None else _TakenReply(take, loop=self._loop)
        self._waiting[serial] = (reply, end)
        if oneway:
            self._outbox.when_written(end, lambda: self._written(serial))
        try:
            return await reply
        except asyncio.CancelledError as error:
            if not oneway and serial in self._waiting and self._outbox.withdraw(end, len(data)):
                del self._waiting[serial]
                error.args = (*error.args, NOT_SENT)
            raise
        finally:
            if serial in self._waiting:
                self._abandon(serial)
            if self._retired:
                self._close_when_idle()

    def _message(self, call: MethodCall, serial: int, flags: int) -> bytes | Fault:
        try:
            data = marshalled(call, serial, flags)
        except InvalidMessageError:  # where it is too long, which no check of single values can find
            try:
                size = body_size(call.signature, call.body)
            except MarshalError as error:
                return Fault(FaultCode.TOO_LARGE, str(error))
            if size + HEADER <= self._longest:
                raise
        else:
            size = len(data)
            if size <= self._longest:
                return data
        text = f"the D-Bus message is {size} bytes long, the bus takes at most {self._longest}"
        return Fault(FaultCode.TOO_LARGE, text)

    def _written(self, serial: int) -> None:
        """Finish a oneway call: it is written."""
        waiting = self._waiting.pop(serial, None)
        if waiting is None:
            self._abandoned -= 1  # its caller was cancelled
        else:
            _settle(waiting[0], None)

    def _abandon(self, serial: int) -> None:
        """Count a cancelled call until the bus has finished it."""
        del self._waiting[serial]
        self._abandoned += 1
        if self._abandoned * 2 >= self._limits.in_flight:
            self.stale.set()  # only closing the connection makes the broker forget pending replies

    def _received(self, message: Message) -> bool:
        """Handle an incoming message; returns True for a reply to a call of ours."""
        if message.reply_serial:
            waiting = self._waiting.pop(message.reply_serial, None)
            if waiting is not None:
                reply = waiting[0]
                if not reply.done():
                    reply.set_result(message)
                return True
            if self._abandoned:
                self._abandoned -= 1
                self.late_replies += 1
        elif message.member == "NameOwnerChanged" and message.sender == BUS_NAME:
            bus_name, _, owner = message.body
            if owner and bus_name in self._on_owner:
                self._on_owner[bus_name](bus_name)
        if self.on_signal is not None and message.message_type is MessageType.SIGNAL:
            self.on_signal(message)
        return False

    def _received_large(self, data: bytearray) -> None:
        """Handle a large message: a reply is read beside the loop, unless it must keep its place among the others."""
        large = LargeMessage(data, self._gate)
        waiting = self._waiting.get(large.reply_serial)
        if waiting is None and large.reply_serial:  # its caller was cancelled
            self._bus._process_message(large.without_body())  # noqa: SLF001
            return
        if waiting is None or isinstance(waiting[0], _TakenReply):
            self._bus._process_message(large.read_at_once())  # noqa: SLF001
            return
        del self._waiting[large.reply_serial]
        _settle(waiting[0], large)

    def _ended(self, end: asyncio.Future[None]) -> None:
        """Fail every waiting call: the connection is gone."""
        failure = None if end.cancelled() else end.exception()
        self.lost = True
        self.error = "" if failure is None else str(failure) or type(failure).__name__
        waiting, self._waiting = self._waiting, {}
        for reply, place in waiting.values():
            _settle(reply, _unanswered() if place <= self._outbox.written else _unsent())
        self.stale.set()

    def retire(self) -> None:
        """Take no more calls, close when those in flight are done."""
        self._retired = True
        self._close_when_idle()

    def _close_when_idle(self) -> None:
        if not self._waiting:
            self.close()

    def close(self) -> None:
        """Close now. Calls that wait for a reply end with a fault."""
        if self._bus.connected:
            self._bus.disconnect()

    async def closed(self) -> None:
        """Wait until the connection is closed, from either side."""
        await asyncio.wait({self.ended})
        if self._process is not None:
            await connect.end(self._process)

    async def ping(self, seconds: float) -> bool:
        """Return whether the bus answers a Ping within `seconds`; a connection without an answer is closed."""
        try:
            async with asyncio.timeout(seconds):
                await self.call(ping(BUS_NAME))
        except TimeoutError:
            self.close()
            await asyncio.wait({self.ended}, timeout=connect.GIVE_UP_TIMEOUT)
            return False
        return True

    def when_owned(self, bus_name: str, tell: Callable[[str], None]) -> None:
        """Call `tell` with the name whenever it gets an owner; never if the bus allows no more match rules."""
        if bus_name not in self._on_owner and self._bus.connected:
            rule = f"type='signal',sender='{BUS_NAME}',member='NameOwnerChanged',arg0='{bus_name}'"
            self._outbox.put(marshalled(driver("AddMatch", rule), self._bus.next_serial(), _ONEWAY))
        self._on_owner[bus_name] = tell


def ping(bus_name: str) -> MethodCall:
    """Ask whether anybody is there. (D-Bus specification, "org.freedesktop.DBus.Peer": at any object path)"""
    return MethodCall(bus_name, "/", "org.freedesktop.DBus.Peer", "Ping", "")


def driver(member: str, *texts: str) -> MethodCall:
    """A call to the bus itself. (D-Bus specification, "Message Bus Messages")"""
    return MethodCall(BUS_NAME, BUS_PATH, BUS_NAME, member, "s" * len(texts), texts)


class _TakenReply(asyncio.Future["Unread | None"]):
    """A reply that is passed on in the step in which it arrives, before any message behind it."""

    def __init__(self, take: Callable[[Message], None], *, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._take = take

    def set_result(self, result: Unread | None, /) -> None:
        """Pass on the reply, then wake who waits for it."""
        if isinstance(result, Message):
            self._take(result)
        super().set_result(result)


def _settle(reply: asyncio.Future[Unread | None], answer: Unread | None) -> None:
    if not reply.done():
        reply.set_result(answer)


def _unsent() -> Fault:
    return Fault(FaultCode.UNAVAILABLE, "the connection to the message bus is lost; the call was not sent")


def _unanswered() -> Fault:
    text = "the connection to the message bus was lost in mid-call; it is unknown whether the call was executed"
    return Fault(FaultCode.NO_REPLY, text)
