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
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any, TypeAlias

from gateway.core.logger import Logger

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
        self._tasks: set[asyncio.Task[None]] = set()
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self.closed = asyncio.Event()

    async def start(self) -> None:
        """Begin to read."""
        reader, self._writer = await asyncio.open_connection(sock=self._connection)
        self._reading = asyncio.get_running_loop().create_task(self._read(reader))

    async def close(self) -> None:
        """Close this end, and cancel what is being answered."""
        if self._reading is not None:
            self._reading.cancel()
        for task in self._tasks:
            task.cancel()
        ending = [*self._tasks, *([self._reading] if self._reading is not None else [])]
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
            self._send((_ASK, number, name, body))
            return await future
        finally:
            del self._waiting[number]

    def tell(self, name: str, body: Any = None) -> None:
        """Send news; they are lost when the other end is closed."""
        if not self.closed.is_set():
            self._send((_NEWS, 0, name, body))

    async def sent(self) -> None:
        """Wait until the kernel has taken everything."""
        if self._writer is not None and not self.closed.is_set():
            try:
                await self._writer.drain()
            except ConnectionError:
                self._end()

    def _send(self, frame: _Frame) -> None:
        assert self._writer is not None, "started"
        packed = pickle.dumps(frame, protocol=pickle.HIGHEST_PROTOCOL)
        self._writer.write(_LENGTH.pack(len(packed)) + packed)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
                frame: _Frame = pickle.loads(await reader.readexactly(length))  # noqa: S301 - from our own process
                self._receive(frame)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the other end has closed
        finally:
            self._end()

    def _receive(self, frame: _Frame) -> None:
        kind, number, name, body = frame
        if kind in (_ASK, _NEWS):
            task = asyncio.get_running_loop().create_task(self._answer(kind, number, name, body))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return
        future = self._waiting.get(number)
        if future is not None and not future.done():
            if kind == _ANSWER:
                future.set_result(body)
            else:
                future.set_exception(UnansweredError(body))

    async def _answer(self, kind: int, number: int, name: str, body: Any) -> None:
        try:
            answer = await self._handle(name, body)
        except Exception as error:  # noqa: BLE001 - the asker decides what a failure costs
            if not isinstance(error, LinkClosedError):
                _log.exception("a question of another process could not be answered", question=name)
            if kind == _ASK and not self.closed.is_set():
                self._send((_FAILURE, number, name, f"{name}: {type(error).__name__}"))
        else:
            if kind == _ASK and not self.closed.is_set():
                self._send((_ANSWER, number, name, answer))

    def _end(self) -> None:
        self.closed.set()
        if self._writer is not None:
            self._writer.close()
        else:
            self._connection.close()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(LinkClosedError())
