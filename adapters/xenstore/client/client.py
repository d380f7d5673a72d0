"""An asyncio client of xenstored that reconnects: nodes, transactions and watches.

Without a connection every request fails at once with StoreLostError; only `until_connected` waits. Requests and
transactions that the store refuses for the moment are repeated. A watch outlives its connection: it is registered again
with the next one, and its own path is reported, since changes may have been missed. RESET_WATCHES is not needed: the
store drops the watches of a socket that is closed.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from itertools import count
from typing import Self, TypeVar

from adapters.xenstore.client.connection import StoreLostError, XenstoreConnection
from adapters.xenstore.client.operations import START, EarlyTransaction, StoreOperations, Transaction
from adapters.xenstore.client.wire import (
    NUL,
    Answer,
    Asked,
    Operation,
    Permissions,
    StoreError,
    path_argument,
    transaction_id,
)
from gateway.core.admin.status import StoreStatus

__all__ = [
    "Permissions",
    "StoreError",
    "StoreLostError",
    "Transaction",
    "Watch",
    "XenstoreClient",
    "socket_path",
]


MAX_QUEUED = 4000  # changed paths of one watch; with more they are replaced by the watched path


class Watch(AsyncIterator[str]):
    """`async for path in watch:` yields changed paths to one reader; it ends when watch or store are closed.

    The first path is the watched one itself. It comes again whenever events may have been missed: after a reconnect,
    and when the reader is too slow. The reader then has to scan everything below it. A path that changes several times
    before it is read is reported once.
    """

    def __init__(self, path: str, token: bytes, on_close: Callable[[Watch], None]) -> None:
        self.path = path
        self.token = token
        self.closed = False
        self._on_close = on_close
        self._changed: dict[str, None] = {}  # in the order in which they came, each once
        self._error: StoreError | None = None
        self._ready = asyncio.Event()

    def notify(self, path: str) -> None:
        """Queue a changed path for the reader."""
        if len(self._changed) >= MAX_QUEUED and path not in self._changed:
            self._changed = {self.path: None}
        else:
            self._changed[path] = None
        self._ready.set()

    def fail(self, error: StoreError) -> None:
        """End the reader's loop with this error: the store refuses the watch."""
        self._error = error
        self._ready.set()

    def close(self) -> None:
        """Unregister the watch; the reader's loop ends."""
        if not self.closed:
            self.closed = True
            self._ready.set()
            self._on_close(self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        """The next path. Raises StoreError when the store refuses the watch."""
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

ATTEMPTS = 50  # of one transaction that conflicts with others
IMMEDIATE_ATTEMPTS = 4  # of them follow each other without a pause: the conflicting transaction has committed
FIRST_PAUSE, LAST_PAUSE = 0.001, 0.1  # seconds between two further attempts
TRIES = 10  # of one operation or transaction that the store refuses for another transient reason
RETRIED = frozenset({"EAGAIN", "ENOMEM", "EIO", "EBUSY"})
LAST_WATCH_PAUSE = 5.0  # seconds between two attempts to register a watch
STEADY = 1.0  # seconds after which a connection counts as a good one, so that backoff starts anew
FIRST_BACKOFF, LAST_BACKOFF = 0.05, 2.0  # seconds between two attempts to connect

NO_LOCK = nullcontext()


def socket_path(environment: Mapping[str, str] = os.environ) -> str:
    """The path of the store's socket, found in the environment as libxenstore does."""
    directory = environment.get("XENSTORED_RUNDIR") or "/var/run/xenstored"
    return environment.get("XENSTORED_PATH") or f"{directory}/socket"


class XenstoreClient(StoreOperations):
    """Keeps a connection to the store at `path` between `start` and `stop`; an async context manager does both.

    `pause` sleeps between attempts; tests replace it.
    """

    def __init__(self, path: str, *, pause: Callable[[float], Awaitable[object]] = asyncio.sleep) -> None:
        self._path = path
        self._pause = pause
        self._connection: XenstoreConnection | None = None
        self._task: asyncio.Task[None] | None = None
        self._connected = asyncio.Event()
        self._wake = asyncio.Event()  # a watch is new, or the connection is lost
        self._watches: dict[bytes, Watch] = {}  # by token
        self._tokens = count(1)
        self._unregistered: dict[bytes, Watch] = {}
        self._error = "not started"
        self._connections = 0

    async def start(self) -> None:
        """Begin to connect; returns at once."""
        assert self._task is None, "the client is started already"
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
                task.result()  # only a bug ends it: raise that
        self._error = "stopped"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def connected(self) -> bool:
        """Whether there is a connection."""
        return self._connected.is_set()

    @property
    def connections(self) -> int:
        """How many connections there were so far. With each new one the store may have lost all nodes."""
        return self._connections

    async def until_connected(self) -> None:
        """Wait until there is a connection."""
        await self._connected.wait()

    def status(self) -> StoreStatus:
        """The state for an operator, as far as it is known without a listener."""
        waiting = self._connection.in_flight if self._connection is not None else 0
        reconnects = max(0, self._connections - 1)
        is_up = self.connected
        return StoreStatus("", self._path, is_up, is_up, self._error, reconnects, len(self._watches), waiting)

    def watch(self, path: str) -> Watch:
        """Watch a node and its descendants, from now on or from the next connection. Raises StoreError EINVAL."""
        path_argument(path)
        watch = Watch(path, b"%d" % next(self._tokens), self._unwatch)
        self._watches[watch.token] = self._unregistered[watch.token] = watch
        self._wake.set()
        return watch

    async def transaction(
        self,
        work: Callable[[Transaction], Awaitable[T]],
        lock: AbstractAsyncContextManager[object] = NO_LOCK,
        early: EarlyTransaction | None = None,
    ) -> T:
        """Do the work in one transaction and commit it; repeat both when others interfere or the store is refusing.

        An exception of the work rolls the transaction back and is raised; the work is repeated where the store had
        dropped the transaction, in which no node is found then. Raises StoreError EAGAIN after the last attempt. Raises
        StoreLostError; when `sent`, it is unknown whether the transaction was committed. `lock` is held during each
        attempt, but not between them: transactions that would conflict share it. `early` is used for the first
        attempt, if it still can be.
        """
        refused = 0
        for attempt in range(ATTEMPTS):
            if attempt >= IMMEDIATE_ATTEMPTS:
                await self._pause(_random_pause(attempt - IMMEDIATE_ATTEMPTS))
            try:
                async with lock:
                    return await self._attempt(work, early if attempt == 0 else None)
            except StoreError as error:
                refused += error.name != "EAGAIN"
                if error.name not in RETRIED or refused >= TRIES:
                    raise
        raise StoreError("EAGAIN", "transaction", f"conflicted with other clients in each of {ATTEMPTS} attempts")

    def begin_early(self) -> EarlyTransaction | None:
        """A transaction for `transaction`; None without a connection."""
        return EarlyTransaction(self._connection) if self._connection is not None else None

    async def together(self, asked: Sequence[Asked]) -> list[Answer]:
        """Send all in one piece; the store does them in their order. The answer to each."""
        answers = await self._require_connection().send_all(asked)
        for place, answer in enumerate(answers):
            if isinstance(answer, StoreError) and answer.name in RETRIED:
                await self._pause(_random_pause(0))
                answers[place] = await self._answer(asked[place])
        return answers

    async def _attempt(self, work: Callable[[Transaction], Awaitable[T]], early: EarlyTransaction | None) -> T:
        transaction = (await early.take() if early is not None else None) or await self._begin()
        is_done = False
        try:
            result = await work(transaction)
            await transaction.commit()
            is_done = True
        except (StoreError, StoreLostError):
            raise
        except Exception:
            await transaction.abandon()
            raise
        finally:
            transaction.roll_back()
            if not is_done and transaction.following is not None:
                transaction.following.drop()
        return result

    async def _begin(self) -> Transaction:
        connection = self._require_connection()
        response = await connection.request(START.operation, START.payload, path=START.path)
        return Transaction(connection, transaction_id(response))

    async def _request(self, operation: Operation, payload: bytes, path: str) -> bytes:
        """Send it; repeat it while the store refuses it for a transient reason: a refused operation has no effect."""
        attempt = 0
        while True:
            try:
                return await self._require_connection().request(operation, payload, path=path)
            except StoreError as error:
                attempt += 1
                if error.name not in RETRIED or attempt == TRIES:
                    raise
            await self._pause(_random_pause(attempt - 1))

    async def _list_in_parts(self, path: str, too_large: StoreError) -> bytes | None:
        """Use a transaction that is then dropped: inside it the directory does not change between its parts."""
        transaction = await self._begin()
        try:
            names = await transaction._list_in_parts(path, too_large)  # noqa: SLF001 - the same method of the base class
            if names is None:
                await transaction.abandon()
            return names
        finally:
            transaction.roll_back()

    def _require_connection(self) -> XenstoreConnection:
        if self._connection is None:
            raise StoreLostError(f"{self._path}: {self._error}", sent=False)
        return self._connection

    async def _run(self) -> None:
        """Connect and serve, again and again, with growing pauses; until cancelled."""
        loop, backoff = asyncio.get_running_loop(), 0.0
        while True:
            began = loop.time()
            connection = XenstoreConnection(self._on_event, self._on_lost)
            try:
                await connection.open(self._path)
            except StoreLostError as error:
                self._error = str(error)
            else:
                try:
                    if not connection.lost:
                        await self._serve(connection)
                finally:
                    connection.close("the gateway closed it")
                    await connection.closed()
            if loop.time() - began > STEADY:
                backoff = 0.0
            await self._pause(backoff)
            backoff = min(LAST_BACKOFF, max(FIRST_BACKOFF, backoff * 2))

    async def _serve(self, connection: XenstoreConnection) -> None:
        """Register watches over this connection until it is lost."""
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
        """Register one watch, with retries; a permanent refusal ends the watch with the error."""
        wait = FIRST_PAUSE
        while not watch.closed and not connection.lost:
            try:
                await connection.request(Operation.WATCH, _watch_argument(watch), path=watch.path)
                return
            except StoreError as error:
                if error.is_permanent:
                    watch.fail(error)
                    return
                self._error = f"the watch of {error}"
            except StoreLostError as error:
                connection.close(str(error))  # it is unknown whether the watch is registered: register all of them anew
                return
            await self._pause(wait)
            wait = min(LAST_WATCH_PAUSE, 2 * wait)

    def _on_lost(self, connection: XenstoreConnection) -> None:
        """Called by the connection when it is lost."""
        self._error = connection.error
        self._connection = None
        self._connected.clear()
        self._wake.set()

    def _on_event(self, path: str, token: bytes) -> None:
        """Called by the connection for a watch event."""
        watch = self._watches.get(token)
        if watch is not None:  # else the watch was closed while the event was under way
            watch.notify(path)

    def _unwatch(self, watch: Watch) -> None:
        """Called by a watch that is closed."""
        del self._watches[watch.token]
        if self._unregistered.pop(watch.token, None) is None and self._connection is not None:
            self._connection.send_and_forget(Operation.UNWATCH, _watch_argument(watch))


def _random_pause(attempt: int) -> float:
    """Seconds before the next attempt: random, within a bound that doubles with each attempt."""
    return random.uniform(0, min(LAST_PAUSE, FIRST_PAUSE * 2**attempt))  # noqa: S311


def _watch_argument(watch: Watch) -> bytes:
    return path_argument(watch.path) + watch.token + NUL
