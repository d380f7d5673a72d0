"""One connection to a xenstore: requests out, answers matched to them in any order; knows no tree and no reconnect.

Everything that waits here ends: with its answer, at its deadline, or at once when the connection does.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from adapters.xenstore.client.wire import (
    ACKNOWLEDGED,
    NUL,
    OK,
    Operation,
    ProtocolError,
    Reader,
    Received,
    StoreError,
    event,
    request,
    text,
)

IDS = 2**32  # a request id is 32 bits wide; 0 is that of a watch event
ASLEEP = 1.0  # seconds by which a timer is late when this process did not run
MAX_LATE = 1000  # answers that are still to come and that nobody waits for; a connection with more is given up


class StoreLostError(Exception):
    """The store is away; the text says why."""

    def __init__(self, reason: str, *, sent: bool) -> None:
        super().__init__(reason)
        self.sent = sent  # the request is on its way: whether the store executed it is unknown


class StoreTimeoutError(StoreLostError):
    """The store did not answer this request before its deadline; it may still execute it."""


def _ignore(*_: object) -> None:
    """What is told to nobody."""


@dataclass(slots=True)
class _Waiting:
    """A request without its answer."""

    answer: asyncio.Future[bytes]
    operation: Operation
    transaction: int
    path: str
    sent: float  # the loop's clock
    heard: int  # how often the store had been heard then


class XenstoreConnection(asyncio.Protocol):
    """Open until it is `lost`; `error` says why it is."""

    def __init__(
        self,
        on_event: Callable[[str, bytes], None] = _ignore,
        on_lost: Callable[[XenstoreConnection], None] = _ignore,
        *,
        deadline: float,
        first_id: int = 1,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_event = on_event  # path and token
        self._on_lost = on_lost
        self._deadline = deadline  # seconds
        self._id = first_id - 1
        self._reader = Reader()
        self._transport: asyncio.Transport | None = None
        self._out: list[bytes] = []
        self._waiting: dict[int, _Waiting] = {}  # by request id, oldest first
        self._late: dict[int, Operation] = {}  # answers to these are for nobody
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0  # when the timer should fire
        self._heard = 0  # times that something came
        self._closed = asyncio.Event()
        self.lost = False
        self.error = ""

    async def open(self, path: str) -> None:
        """Connect, once; raises LostError."""
        plug = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            plug.setblocking(False)  # noqa: FBT003 - positional only
            plug.connect(path)  # a Unix socket connects at once or not: with a full backlog it is EAGAIN
            await self._loop.create_unix_connection(lambda: self, sock=plug)
        except (OSError, ValueError) as error:
            plug.close()
            reason = getattr(error, "strerror", None) or error
            raise StoreLostError(f"{path}: {reason}", sent=False) from error
        except BaseException:
            plug.close()
            raise

    @property
    def in_flight(self) -> int:
        """Requests whose answer somebody waits for."""
        return len(self._waiting)

    async def ask(self, operation: Operation, payload: bytes, *, path: str = "", transaction: int = 0) -> bytes:
        """The payload of the answer; raises StoreError, LostError, LateError."""
        return await self.send(operation, payload, path=path, transaction=transaction)

    def send(
        self, operation: Operation, payload: bytes, *, path: str = "", transaction: int = 0
    ) -> asyncio.Future[bytes]:
        """The same, on its way when this returns: what is sent first is executed first."""
        if self.lost:
            raise StoreLostError(self.error, sent=False)
        number = self._next_id()
        self._put(request(operation, payload, number, transaction, path=path))
        waiting = _Waiting(self._loop.create_future(), operation, transaction, path, self._loop.time(), self._heard)
        self._waiting[number] = waiting
        if self._timer is None:
            self._arm(waiting.sent + self._deadline)
        return waiting.answer

    def forget(self, operation: Operation, payload: bytes, *, transaction: int = 0) -> None:
        """Send what nobody waits for; nothing happens when the connection is lost."""
        if not self.lost:
            number = self._next_id()
            self._put(request(operation, payload, number, transaction))
            self._late[number] = operation

    def _next_id(self) -> int:
        while True:
            self._id = (self._id + 1) % IDS
            if self._id and self._id not in self._waiting and self._id not in self._late:
                return self._id

    def _put(self, packet: bytes) -> None:
        """Written once for each turn of the loop, however many requests it makes."""
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(packet)

    def _flush(self) -> None:
        packets, self._out = self._out, []
        if self._transport is not None and not self.lost:
            self._transport.write(b"".join(packets))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Of asyncio.Protocol."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Of asyncio.Protocol."""
        self._heard += 1
        try:
            for packet in self._reader.feed(data):
                self._received(packet)
        except ProtocolError as error:
            self.close(f"the store sent {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        """Of asyncio.Protocol."""
        amid = " in the middle of a packet" if self._reader.amid else ""
        self.close(f"the connection to the store broke{amid}: {exc}" if exc else f"the store hung up{amid}")
        self._closed.set()

    def close(self, reason: str = "the connection was closed") -> None:
        """Close now; who waits is told."""
        if self.lost:
            return
        self.error = reason
        self.lost = True
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.abort()
        waiting, self._waiting = self._waiting, {}
        self._late.clear()
        self._on_lost(self)
        for each in waiting.values():
            _fail(each, StoreLostError(f"{each.path}: {reason}" if each.path else reason, sent=True))

    async def closed(self) -> None:
        """Wait until the socket is gone."""
        await self._closed.wait()

    def _received(self, packet: Received) -> None:
        if self.lost:
            return
        if packet.operation == Operation.WATCH_EVENT:
            self._on_event(*event(packet.payload))
        elif packet.request in self._late:
            self._came_late(packet)
        else:
            self._answered(packet)

    def _answered(self, packet: Received) -> None:
        waiting = self._waiting.get(packet.request)
        if waiting is None:
            raise ProtocolError(f"an answer to request {packet.request}, which nobody made")
        if packet.operation == Operation.ERROR:
            del self._waiting[packet.request]
            _fail(waiting, StoreError(text(packet.payload.rstrip(NUL)), waiting.path))
            return
        _check(packet, waiting)
        del self._waiting[packet.request]
        if not waiting.answer.done():
            waiting.answer.set_result(packet.payload)
        elif waiting.operation == Operation.TRANSACTION_START:
            self._end(packet.payload)

    def _came_late(self, packet: Received) -> None:
        if self._late.pop(packet.request) == packet.operation == Operation.TRANSACTION_START:
            self._end(packet.payload)

    def _end(self, transaction: bytes) -> None:
        """Nobody wants this transaction any more."""
        number = transaction.rstrip(NUL)
        if number.isdigit():
            self.forget(Operation.TRANSACTION_END, b"F" + NUL, transaction=int(number))

    def _arm(self, when: float) -> None:
        self._due = when
        self._timer = self._loop.call_at(when, self._look)

    def _look(self) -> None:
        """Who has waited too long? All deadlines are of one length, so the oldest request is the next."""
        self._timer = None
        now = self._loop.time()
        if now - self._due > ASLEEP:  # answers may have come meanwhile, and nobody has read them yet
            self._arm(now + ASLEEP)
            return
        while self._waiting:
            number, oldest = next(iter(self._waiting.items()))
            if oldest.sent + self._deadline > now:
                self._arm(oldest.sent + self._deadline)
                return
            if self._heard == oldest.heard or len(self._late) >= MAX_LATE:
                self.close(f"the store has not answered for {self._deadline:g} s")
                return
            self._late[number] = oldest.operation
            del self._waiting[number]
            late = f"{oldest.path}: the store did not answer {oldest.operation.name} in {self._deadline:g} s"
            _fail(oldest, StoreTimeoutError(late, sent=True))


def _check(packet: Received, waiting: _Waiting) -> None:
    if packet.operation != waiting.operation or packet.transaction != waiting.transaction:
        raise ProtocolError(
            f"an answer to {Operation(packet.operation).name} in transaction {packet.transaction}, where "
            f"{waiting.operation.name} in transaction {waiting.transaction} was asked"
        )
    if packet.operation in ACKNOWLEDGED and packet.payload != OK:
        raise ProtocolError(f"{packet.payload[:80]!r} where {waiting.operation.name} is to be acknowledged")


def _fail(waiting: _Waiting, error: Exception) -> None:
    if not waiting.answer.done():
        waiting.answer.set_exception(error)
