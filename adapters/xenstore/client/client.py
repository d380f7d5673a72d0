"""A xenstore to rely on: nodes, transactions and watches, over a connection that is made again when it breaks.

Nobody waits for a reconnect who has not said so: without a connection everything fails at once with LostError. A watch
outlives its connection. RESET_WATCHES is not used: the store drops the watches of a socket that is closed.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from itertools import count
from types import TracebackType
from typing import Self, TypeVar

from adapters.xenstore.client.connection import StoreLostError, XenstoreConnection
from adapters.xenstore.client.operations import StoreOperations, Transaction
from adapters.xenstore.client.wire import NUL, Operation, Permissions, StoreError, lasts, path_argument, transaction_id

__all__ = [
    "Permissions",
    "StoreError",
    "StoreLostError",
    "Transaction",
    "Watch",
    "XenstoreClient",
    "XenstoreClientStatus",
    "socket_path",
]


# A watch as its reader sees it: the paths that changed, merged and bounded; knows no socket.


MAX_QUEUED = 4000  # paths; with more the reader is told to scan everything


class Watch(AsyncIterator[str]):
    """`async for path in watch:` for one reader; ends when it is closed here or the store is stopped.

    The first path is the watched one itself, and it comes again whenever events may have been missed: after a
    reconnect, and when the reader is too slow. So its coming means: look at everything below.
    """

    def __init__(self, path: str, token: bytes, on_close: Callable[[Watch], None]) -> None:
        self.path = path
        self.token = token
        self.closed = False
        self._on_close = on_close
        self._changed: dict[str, None] = {}  # in the order in which they came, each once
        self._error: StoreError | None = None
        self._ready = asyncio.Event()

    def tell(self, path: str) -> None:
        """This path has changed."""
        if len(self._changed) >= MAX_QUEUED and path not in self._changed:
            self._changed = {self.path: None}
        else:
            self._changed[path] = None
        self._ready.set()

    def fail(self, error: StoreError) -> None:
        """The store refuses this watch."""
        self._error = error
        self._ready.set()

    def close(self) -> None:
        """Watch no more; the reader's loop ends."""
        if not self.closed:
            self.closed = True
            self._ready.set()
            self._on_close(self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        """The next path; raises StoreError when the store refuses the watch."""
        await self._ready.wait()
        if self.closed:
            raise StopAsyncIteration
        if self._error is not None:
            raise self._error
        path = next(iter(self._changed))
        del self._changed[path]
        if not self._changed:
            self._ready.clear()
        return path


T = TypeVar("T")

DEADLINE = 5.0  # seconds that the store has to answer a request
ATTEMPTS = 50  # of one transaction
AT_ONCE = 4  # of them follow each other at once: who got in between has got on
SHORTEST_PAUSE, LONGEST_PAUSE = 0.001, 0.1  # seconds between two of the others
TRIES = 10  # of one operation, or of a transaction for another reason, that the store refuses for the moment
FOR_THE_MOMENT = frozenset({"EAGAIN", "ENOMEM", "EIO", "EBUSY"})
LONGEST_WAIT = 5.0  # seconds between two attempts to register a watch
STEADY = 1.0  # seconds after which a connection counts as a good one
FIRST_BACKOFF, LAST_BACKOFF = 0.05, 2.0  # seconds between two attempts to connect

ANY_TIME = nullcontext()


def socket_path(environment: Mapping[str, str] = os.environ) -> str:
    """Where the store listens, as libxenstore finds it."""
    directory = environment.get("XENSTORED_RUNDIR") or "/var/run/xenstored"
    return environment.get("XENSTORED_PATH") or f"{directory}/socket"


@dataclass(frozen=True, slots=True)
class XenstoreClientStatus:
    """What an operator wants to know."""

    address: str
    connected: bool
    last_error: str  # why it is not connected, or why the last connection ended
    reconnects: int
    watches: int
    in_flight: int


class XenstoreClient(StoreOperations):
    """Between `start` and `stop` it keeps itself connected."""

    def __init__(
        self,
        path: str,
        *,
        deadline: float = DEADLINE,
        attempts: int = ATTEMPTS,
        pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
        steady: float = STEADY,
    ) -> None:
        self._path = path
        self._deadline = deadline
        self._attempts = attempts
        self._pause = pause
        self._steady = steady
        self._connection: XenstoreConnection | None = None
        self._task: asyncio.Task[None] | None = None
        self._connected = asyncio.Event()
        self._wake = asyncio.Event()  # a watch is new, or the connection lost
        self._watches: dict[bytes, Watch] = {}  # by token
        self._tokens = count(1)
        self._unregistered: dict[bytes, Watch] = {}
        self._error = "not started"
        self._connections = 0

    async def start(self) -> None:
        """Begin to connect, and return."""
        assert self._task is None, "it is started"
        self._error = "not connected yet"
        self._task = asyncio.get_running_loop().create_task(self._run(), name="xenstore")

    async def stop(self) -> None:
        """Close the connection and every watch; returns when the socket is gone."""
        task, self._task = self._task, None
        for watch in list(self._watches.values()):
            watch.close()
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled():
                task.result()  # it ends only by a bug, which is told
        self._error = "stopped"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def connected(self) -> bool:
        """Whether a request would be sent now."""
        return self._connected.is_set()

    @property
    def connections(self) -> int:
        """How often it has been connected so far; each time the store may have forgotten everything before."""
        return self._connections

    async def until_connected(self) -> None:
        """Wait until it is."""
        await self._connected.wait()

    def status(self) -> XenstoreClientStatus:
        """For an operator."""
        return XenstoreClientStatus(
            address=self._path,
            connected=self.connected,
            last_error=self._error,
            reconnects=max(0, self._connections - 1),
            watches=len(self._watches),
            in_flight=self._connection.in_flight if self._connection is not None else 0,
        )

    def watch(self, path: str) -> Watch:
        """Watch a node and all below it, from now on or when there is a connection; raises StoreError for no path."""
        path_argument(path)
        watch = Watch(path, b"%d" % next(self._tokens), self._unwatch)
        self._watches[watch.token] = self._unregistered[watch.token] = watch
        self._wake.set()
        return watch

    async def transaction(
        self, work: Callable[[Transaction], Awaitable[T]], turn: AbstractAsyncContextManager[object] = ANY_TIME
    ) -> T:
        """Do the work in one transaction, again when somebody else got in between; raises StoreError EAGAIN in the end.

        What is raised by the work rolls it back; what the store refuses for the moment is done again as a whole.
        LostError: when `sent`, it is unknown whether it was committed. `turn` is held during each attempt, and not
        between them: transactions that would get in each other's way take it.
        """
        refused = 0
        for attempt in range(self._attempts):
            if attempt >= AT_ONCE:
                await self._pause(_moment(attempt - AT_ONCE))
            try:
                async with turn:
                    return await self._attempt(work)
            except StoreError as error:
                refused += error.name != "EAGAIN"
                if error.name not in FOR_THE_MOMENT or refused >= TRIES:
                    raise
        raise StoreError("EAGAIN", "transaction", f"others got in between {self._attempts} times")

    async def _attempt(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        transaction = await self._begin()
        try:
            result = await work(transaction)
            await transaction.commit()
        finally:
            transaction.roll_back()
        return result

    async def _begin(self) -> Transaction:
        connection = self._there()
        answer = await connection.ask(Operation.TRANSACTION_START, NUL, path="transaction")
        return Transaction(connection, transaction_id(answer))

    async def _ask(self, operation: Operation, payload: bytes, path: str) -> bytes:
        """Again when the store refuses it for the moment: nothing was done, and no operation on nodes adds up."""
        for attempt in range(TRIES - 1):
            try:
                return await self._there().ask(operation, payload, path=path)
            except StoreError as error:
                if error.name not in FOR_THE_MOMENT:
                    raise
            await self._pause(_moment(attempt))
        return await self._there().ask(operation, payload, path=path)

    async def _in_parts(self, path: str, too_large: StoreError) -> bytes | None:
        """In a transaction that is then dropped: there the directory stays as it is while its parts are read."""
        transaction = await self._begin()
        try:
            return await transaction._in_parts(path, too_large)  # noqa: SLF001 - the same of another kind of nodes
        finally:
            transaction.roll_back()

    def _there(self) -> XenstoreConnection:
        if self._connection is None:
            raise StoreLostError(f"{self._path}: {self._error}", sent=False)
        return self._connection

    async def _run(self) -> None:
        """Connect, serve, and again; without end."""
        loop, backoff = asyncio.get_running_loop(), 0.0
        while True:
            began = loop.time()
            await self._connect_and_serve()
            if loop.time() - began > self._steady:
                backoff = 0.0
            await self._pause(backoff)
            backoff = min(LAST_BACKOFF, max(FIRST_BACKOFF, backoff * 2))

    async def _connect_and_serve(self) -> None:
        connection = XenstoreConnection(self._event, self._lost, deadline=self._deadline)
        try:
            await connection.open(self._path)
        except StoreLostError as error:
            self._error = str(error)
            return
        try:
            if not connection.lost:
                await self._serve(connection)
        finally:
            connection.close("the gateway closed it")
            await connection.closed()

    async def _serve(self, connection: XenstoreConnection) -> None:
        """Register watches, until the connection is lost."""
        self._connection = connection
        self._error = self._error if self._connections else ""
        self._connections += 1
        self._unregistered = dict(self._watches)
        self._connected.set()
        registering: set[asyncio.Task[None]] = set()
        try:
            while self._connection is connection:
                self._wake.clear()
                new, self._unregistered = self._unregistered, {}
                for watch in new.values():
                    registering.add(asyncio.get_running_loop().create_task(self._register(watch, connection)))
                registering = {task for task in registering if not task.done() or task.result()}
                await self._wake.wait()
        finally:
            for task in registering:
                task.cancel()
            await asyncio.gather(*registering, return_exceptions=True)

    async def _register(self, watch: Watch, connection: XenstoreConnection) -> None:
        """Until the store has taken it; one that it will never take fails."""
        wait = SHORTEST_PAUSE
        while not watch.closed and not connection.lost:
            try:
                await connection.ask(Operation.WATCH, _watch_argument(watch), path=watch.path)
                return
            except StoreError as error:
                if lasts(error):
                    watch.fail(error)
                    return
                self._error = f"the watch of {error}"
            except StoreLostError as error:
                connection.close(str(error))  # a watch that may be there or not: all are registered again
                return
            await self._pause(wait)
            wait = min(LONGEST_WAIT, 2 * wait)

    def _lost(self, connection: XenstoreConnection) -> None:
        """Of Connection: from now on nothing can be sent."""
        self._error = connection.error
        self._connection = None
        self._connected.clear()
        self._wake.set()

    def _event(self, path: str, token: bytes) -> None:
        """Of Connection: a path under a watch has changed."""
        watch = self._watches.get(token)
        if watch is not None:  # else it is closed, and this event was under way
            watch.tell(path)

    def _unwatch(self, watch: Watch) -> None:
        """Of Watch: it is closed."""
        del self._watches[watch.token]
        if self._unregistered.pop(watch.token, None) is None and self._connection is not None:
            self._connection.forget(Operation.UNWATCH, _watch_argument(watch))


def _moment(attempt: int) -> float:
    """A short pause, the longer the more attempts have failed."""
    return random.uniform(0, min(LONGEST_PAUSE, SHORTEST_PAUSE * 2**attempt))  # noqa: S311


def _watch_argument(watch: Watch) -> bytes:
    return path_argument(watch.path) + watch.token + NUL
