"""One connection to a xenstore: sends requests and matches responses to them by request id.

Every waiting request ends: with its response, at its deadline, or at once when the connection is lost. All deadlines
have the same length, so one timer that waits for the oldest request serves all of them. A response that comes after its
deadline is dropped; a transaction that such a response has opened is closed again.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import cast

from msgspec import Struct

from adapters.xenstore.client.wire import (
    ACKNOWLEDGED,
    NUL,
    OK,
    Answer,
    Asked,
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
DEADLINE = 5.0  # seconds for one response of the store
ASLEEP = 1.0  # seconds; a timer that is later than this shows that this process was stopped
_EVENT, _ERROR = int(Operation.WATCH_EVENT), int(Operation.ERROR)
_START = int(Operation.TRANSACTION_START)
MAX_LATE = 1000  # responses that are still expected after their deadline; with more the connection is closed


class StoreLostError(Exception):
    """There is no connection to the store; the text says why.

    `sent`: the request was sent, so that it is unknown whether the store executed it.
    """

    def __init__(self, reason: str, *, sent: bool) -> None:
        super().__init__(reason)
        self.sent = sent


class StoreTimeoutError(StoreLostError):
    """The store did not respond to this request before its deadline; it may still execute it."""


class _Batch(Struct):
    """Requests that are sent together; the future is done when the last response has come."""

    future: asyncio.Future[list[Answer]]
    answers: list[Answer]
    missing: int

    def put(self, place: int, answer: Answer) -> None:
        """Take the response to one of them."""
        self.answers[place] = answer
        self.missing -= 1
        if not self.missing and not self.future.done():
            self.future.set_result(self.answers)

    def fail(self, error: StoreLostError) -> None:
        """There is no response to one of them."""
        if not self.future.done():
            self.future.set_exception(error)


class _Waiting(Struct):
    """A request whose response has not come."""

    batch: _Batch
    place: int  # in the batch
    operation: Operation
    transaction: int
    path: str
    sent: float  # the loop's clock
    received: int  # value of `_received_count` when it was sent


class XenstoreConnection(asyncio.Protocol):
    """Open until `lost` is true; `error` then says why."""

    def __init__(
        self,
        on_event: Callable[[str, bytes], None] = lambda *_: None,
        on_lost: Callable[[XenstoreConnection], None] = lambda _: None,
        *,
        deadline: float = DEADLINE,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_event = on_event  # path and token
        self._on_lost = on_lost
        self._deadline = deadline  # seconds
        self._id = 0
        self._reader = Reader()
        self._transport: asyncio.Transport | None = None
        self._out: list[bytes] = []
        self._waiting: dict[int, _Waiting] = {}  # by request id, oldest first
        self._late: dict[int, Operation] = {}  # requests whose response is dropped when it comes
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0  # when the timer should fire
        self._received_count = 0  # times that data came
        self._closed = asyncio.Event()
        self.lost = False
        self.error = ""

    async def open(self, path: str) -> None:
        """Connect; may be called once. Raises StoreLostError."""
        plug = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            plug.setblocking(False)  # noqa: FBT003 - positional only
            plug.connect(path)  # a Unix socket connects at once or fails: with a full backlog it is EAGAIN
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
        """How many requests wait for their response."""
        return len(self._waiting)

    async def request(self, operation: Operation, payload: bytes, *, path: str = "", transaction: int = 0) -> bytes:
        """The payload of the response. Raises StoreError, StoreLostError, StoreTimeoutError."""
        (answer,) = await self.send_all([Asked(operation, payload, path)], transaction, at_once=False)
        if isinstance(answer, StoreError):
            raise answer
        return answer

    def send_all(
        self, asked: Sequence[Asked], transaction: int = 0, *, at_once: bool = True
    ) -> asyncio.Future[list[Answer]]:
        """Send requests in one piece. The future has the response to each, or the error of the store.

        The store executes requests in the order of these calls. What it has refused keeps nothing behind it from being
        executed. Not `at_once`: with all others of this turn of the loop. Raises StoreLostError.
        """
        if self.lost:
            raise StoreLostError(self.error, sent=False)
        future: asyncio.Future[list[Answer]] = self._loop.create_future()
        batch, now = _Batch(future, [b""] * len(asked), len(asked)), self._loop.time()
        is_first = not self._out
        if not asked:
            future.set_result([])
        for place, (operation, payload, path) in enumerate(asked):
            number = self._next_id()
            try:
                self._out.append(request(operation, payload, number, transaction, path=path))
            except StoreError as error:  # it is too large
                batch.put(place, error)
                continue
            self._waiting[number] = _Waiting(batch, place, operation, transaction, path, now, self._received_count)
        if self._timer is None and self._waiting:
            self._arm(now + self._deadline)
        if at_once:
            self.flush()
        elif is_first:
            self._loop.call_soon(self.flush)
        return future

    def send_and_forget(self, operation: Operation, payload: bytes, *, transaction: int = 0) -> None:
        """Send without waiting for the response. Does nothing when the connection is lost."""
        if not self.lost:
            number = self._next_id()
            if not self._out:
                self._loop.call_soon(self.flush)
            self._out.append(request(operation, payload, number, transaction))
            self._late[number] = operation

    def _next_id(self) -> int:
        while True:
            self._id = (self._id + 1) % IDS
            if self._id and self._id not in self._waiting and self._id not in self._late:
                return self._id

    def flush(self) -> None:
        """Write what is queued now."""
        packets, self._out = self._out, []
        if packets and self._transport is not None and not self.lost:
            self._transport.write(b"".join(packets))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Of asyncio.Protocol."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Of asyncio.Protocol."""
        self._received_count += 1
        try:
            for packet in self._reader.feed(data):
                self._received(packet)
        except ProtocolError as error:
            self.close(f"the store sent {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        """Of asyncio.Protocol."""
        where = " in the middle of a packet" if self._reader.is_inside_packet else ""
        self.close(f"the connection to the store broke{where}: {exc}" if exc else f"the store hung up{where}")
        self._closed.set()

    def close(self, reason: str = "the connection was closed") -> None:
        """Close now; every waiting request fails with StoreLostError."""
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
            each.batch.fail(StoreLostError(f"{each.path}: {reason}" if each.path else reason, sent=True))

    async def closed(self) -> None:
        """Wait until the socket is gone."""
        await self._closed.wait()

    def _received(self, packet: Received) -> None:
        if self.lost:
            return
        if packet.operation == _EVENT:
            self._on_event(*event(packet.payload))
            return
        late = self._late.pop(packet.request, None)
        if late is not None:
            if late == packet.operation == _START:
                self.end_transaction(packet.payload)
            return
        waiting = self._waiting.get(packet.request)
        if waiting is None:
            raise ProtocolError(f"a response to request {packet.request}, which was not sent")
        if packet.operation == _ERROR:
            del self._waiting[packet.request]
            waiting.batch.put(waiting.place, StoreError(text(packet.payload.rstrip(NUL)), waiting.path))
            return
        if packet.operation != waiting.operation or packet.transaction != waiting.transaction:
            raise ProtocolError(
                f"a response to {Operation(packet.operation).name} in transaction {packet.transaction}; expected "
                f"{waiting.operation.name} in transaction {waiting.transaction}"
            )
        if packet.operation in ACKNOWLEDGED and packet.payload != OK:
            raise ProtocolError(f"{packet.payload[:80]!r} as the response to {waiting.operation.name}; expected {OK!r}")
        del self._waiting[packet.request]
        if waiting.operation == _START and waiting.batch.future.done():
            self.end_transaction(packet.payload)
        else:
            waiting.batch.put(waiting.place, packet.payload)

    def end_transaction(self, transaction: bytes) -> None:
        """Drop a transaction whose caller has gone."""
        number = transaction.rstrip(NUL)
        if number.isdigit():
            self.send_and_forget(Operation.TRANSACTION_END, b"F" + NUL, transaction=int(number))

    def _arm(self, when: float) -> None:
        self._due = when
        self._timer = self._loop.call_at(when, self._check_deadlines)

    def _check_deadlines(self) -> None:
        """Fail the requests whose deadline has passed; close the connection when the store sent nothing meanwhile."""
        self._timer = None
        now = self._loop.time()
        if now - self._due > ASLEEP:  # responses may have come meanwhile that were not read yet
            self._arm(now + ASLEEP)
            return
        while self._waiting:
            number, oldest = next(iter(self._waiting.items()))
            if oldest.sent + self._deadline > now:
                self._arm(oldest.sent + self._deadline)
                return
            if self._received_count == oldest.received or len(self._late) >= MAX_LATE:
                self.close(f"the store has not answered for {self._deadline:g} s")
                return
            self._late[number] = oldest.operation
            del self._waiting[number]
            late = f"{oldest.path}: the store did not answer {oldest.operation.name} in {self._deadline:g} s"
            oldest.batch.fail(StoreTimeoutError(late, sent=True))
