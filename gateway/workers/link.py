"""The connection between the supervisor and one worker: questions, answers and news in both directions.

It is a socketpair that the worker inherits, so only processes of this gateway are at its ends. A frame is its length in
four bytes and a pickled tuple. A question that its receiver cannot answer raises at the asker; when one end closes, the
questions that wait raise LinkClosedError. Answers come in any order.
"""

from __future__ import annotations

import asyncio
import pickle
import socket
import struct
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from itertools import count
from typing import Any, TypeAlias

from msgspec import Struct

from gateway.core.logger import Logger
from gateway.ops.process import ServiceManager

BOUND = 5.0  # seconds for a worker to answer
LOOK = 1.0  # seconds between two reports of a worker, and between two looks of the supervisor

_LENGTH = struct.Struct("!I")
_ASK, _ANSWER, _FAILURE, _NEWS = range(4)

_Frame: TypeAlias = tuple[int, int, str, Any]  # kind, number of the question, name, body
Handler: TypeAlias = Callable[[str, Any], Awaitable[Any]]  # name and body of a question or news -> its answer

_log = Logger()


class LinkClosedError(Exception):
    """The other end is closed; whether it has dealt with the question is unknown."""


class UnansweredError(Exception):
    """The other end failed to answer: the text says why."""


class Link:
    """One end. `handle` answers what the other end asks; it also gets the news, whose answer is dropped."""

    def __init__(self, connection: socket.socket, handle: Handler) -> None:
        self._connection = connection
        self._handle = handle
        self._numbers = count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._tasks: set[asyncio.Task[None]] = set()  # the answers under way, and what reads
        self._writer: asyncio.StreamWriter | None = None
        self.closed = asyncio.Event()

    async def start(self) -> None:
        """Begin to read."""
        reader, self._writer = await asyncio.open_connection(sock=self._connection)
        self._spawn(self._read(reader))

    async def close(self) -> None:
        """Close this end, and cancel what is being answered."""
        ending = [*self._tasks]
        for task in ending:
            task.cancel()
        if ending:
            await asyncio.wait(ending)
        self._end()

    async def ask(self, name: str, body: Any = None) -> Any:
        """Ask the other end; raises LinkClosedError or UnansweredError. The caller bounds the time."""
        if self.closed.is_set():
            raise LinkClosedError
        number = next(self._numbers)
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            self._send(_ASK, number, name, body)
            return await future
        finally:
            del self._waiting[number]

    def tell(self, name: str, body: Any = None) -> None:
        """Send news; they are lost when the other end is closed."""
        self._send(_NEWS, 0, name, body)

    def _send(self, *frame: Any) -> None:
        if not self.closed.is_set():
            assert self._writer is not None, "started"
            packed = pickle.dumps(frame, protocol=pickle.HIGHEST_PROTOCOL)
            self._writer.write(_LENGTH.pack(len(packed)) + packed)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
                frame: _Frame = pickle.loads(await reader.readexactly(length))  # noqa: S301 - from our own process
                kind, number, name, body = frame
                if kind in (_ASK, _NEWS):
                    self._spawn(self._answer(kind, number, name, body))
                    continue
                future = self._waiting.get(number)
                if future is not None and not future.done():
                    if kind == _ANSWER:
                        future.set_result(body)
                    else:
                        future.set_exception(UnansweredError(body))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the other end has closed
        finally:
            self._end()

    async def _answer(self, kind: int, number: int, name: str, body: Any) -> None:
        try:
            told = _ANSWER, number, name, await self._handle(name, body)
        except Exception as error:  # noqa: BLE001 - the asker decides what a failure costs
            if not isinstance(error, LinkClosedError):
                _log.exception("a question of another process could not be answered", question=name)
            told = _FAILURE, number, name, f"{name}: {type(error).__name__}"
        if kind == _ASK:
            self._send(*told)

    def _end(self) -> None:
        self.closed.set()
        (self._writer or self._connection).close()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(LinkClosedError())


# The other workers, as one worker sees them.


class Question(Struct, frozen=True):
    """A question to all other workers. `must`: a worker without an answer in `seconds` is replaced."""

    name: str
    body: Any = None
    seconds: float = BOUND
    must: bool = True


class Answers(Struct, frozen=True):
    """Their answers, by the number of the worker; `notes` say for operators who did not answer."""

    by_worker: Mapping[int, Any]
    notes: tuple[str, ...] = ()


ALONE = Answers({}, ("the supervisor has ended, so the other workers are not asked; all of them stop",))


class OtherWorkers:
    """The link of one worker. `handlers` answer questions by their name; the supervisor sets `stop` and `reload`.

    Other questions come only after this worker has joined, when every handler is there.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.link = Link(connection, self._handle)
        self.summary: Callable[[], str] = lambda: "starting"
        self.stop = asyncio.Event()
        self.reload = asyncio.Event()
        self.handlers: dict[str, Callable[[Any], Any]] = {  # what they return may be awaitable
            "stop": lambda _: self.stop.set(),
            "reload": lambda _: self.reload.set(),
        }

    async def everyone(self, name: str, body: Any = None, *, must: bool = True) -> Answers:
        """Ask all others; see Question."""
        try:
            answers: Answers = await self.link.ask("everyone", Question(name, body, must=must))
        except LinkClosedError:
            return ALONE
        return answers

    async def one(self, number: int, name: str, body: Any) -> tuple[bool, Any]:
        """Ask one other worker; whether it has answered, and its answer."""
        try:
            answer: tuple[bool, Any] = await self.link.ask("to", (number, Question(name, body, must=False)))
        except LinkClosedError:
            return False, ""
        return answer

    def news(self, name: str, body: Any) -> None:
        """Tell all others; their handlers get the number of this worker and the body."""
        self.link.tell("news", (name, body))

    async def report(self) -> None:
        """Report that the event loop turns, until cancelled."""
        while True:
            self.link.tell("report", self.summary())
            await asyncio.sleep(LOOK)

    async def _handle(self, name: str, body: Any) -> Any:
        answer = self.handlers[name](body)
        return await answer if isinstance(answer, Awaitable) else answer


class RelayedNotifications(ServiceManager):
    """Notifications of a worker: the supervisor passes those of the leader on to the service manager."""

    def __init__(self, other_workers: OtherWorkers, watchdog: float | None) -> None:
        super().__init__("", watchdog)
        self._link = other_workers.link

    def alive(self, status: str) -> None:
        """Report that the buses answer."""
        del status
        self._link.tell("alive")

    def stopping(self) -> None:
        """Report that this worker takes no more calls."""
        self._link.tell("stopping")

    def notify(self, *lines: str) -> None:
        """Pass these lines on."""
        self._link.tell("notify", lines)
