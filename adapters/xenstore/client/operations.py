"""Operations on the nodes of a xenstore, inside a transaction or outside of one.

`StoreOperations` builds every operation from one abstract method that sends a request. `XenstoreClient` implements that
method for single operations, `Transaction` for those of one transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TypeAlias

from adapters.xenstore.client.connection import StoreLostError, XenstoreConnection
from adapters.xenstore.client.wire import (
    NUL,
    Answer,
    Asked,
    Operation,
    Permissions,
    StoreError,
    children,
    part,
    path_argument,
    transaction_id,
)

Names: TypeAlias = "list[str]"

LISTINGS = 50  # attempts to list a directory that changes meanwhile
UNKNOWN_OPERATION = ("EINVAL", "ENOSYS")
EARLY = 0.05  # seconds after which a transaction that was begun early is dropped: it must not hold the store up
START = Asked(Operation.TRANSACTION_START, NUL, "transaction")
COMMIT, ABORT = (Asked(Operation.TRANSACTION_END, each + NUL, "transaction") for each in (b"T", b"F"))


def ask(operation: Operation, path: str, value: bytes = b"") -> Asked:
    """An operation on a node, to be sent with others. Raises StoreError EINVAL for an invalid path."""
    return Asked(operation, path_argument(path) + value, path)


def found(answer: Answer) -> bytes | None:
    """The payload of an answer; None when the node does not exist. Raises the StoreError that it is otherwise."""
    if not isinstance(answer, StoreError):
        return answer
    if answer.name == "ENOENT":
        return None
    raise answer


def permissions_in(answer: Answer, path: str) -> Permissions | None:
    """The permissions in the answer to GET_PERMS; None when the node does not exist. Raises StoreError."""
    payload = found(answer)
    return None if payload is None else Permissions.decode(payload, path)


class StoreOperations:
    """Read and change nodes. Every method raises StoreError when the store refuses, StoreLostError without a store."""

    async def _request(self, operation: Operation, payload: bytes, path: str) -> bytes:
        raise NotImplementedError

    async def together(self, asked: Sequence[Asked]) -> list[Answer]:
        """Send all in one piece; the store does them in their order. The answer to each.

        What the store refuses keeps nothing behind it from being done. Outside of a transaction only for reads: what is
        refused for the moment is asked again later, after all others.
        """
        return [await self._answer(each) for each in asked]

    async def read(self, path: str) -> bytes | None:
        """The value of a node; None when the node does not exist."""
        return found(await self._answer(ask(Operation.READ, path)))

    async def write(self, path: str, value: bytes) -> None:
        """Set the value, which may be any bytes. Creates the node and its ancestors when they do not exist."""
        await self._request(Operation.WRITE, path_argument(path) + value, path)

    async def mkdir(self, path: str) -> None:
        """Create a node with the empty value. Does nothing when it exists."""
        await self._request(Operation.MKDIR, path_argument(path), path)

    async def remove(self, path: str) -> None:
        """Remove a node and its descendants. Does nothing when it does not exist."""
        found(await self._answer(ask(Operation.RM, path)))

    async def list(self, path: str) -> Names | None:
        """The names of all children, however many; None when the node does not exist."""
        answer = await self._answer(ask(Operation.DIRECTORY, path))
        if isinstance(answer, StoreError) and answer.name == "E2BIG":
            names = await self._list_in_parts(path, answer)
        else:
            names = found(answer)
        return None if names is None else children(names)

    async def permissions(self, path: str) -> Permissions | None:
        """The permissions of a node; None when the node does not exist."""
        return permissions_in(await self._answer(ask(Operation.GET_PERMS, path)), path)

    async def set_permissions(self, path: str, permissions: Permissions) -> None:
        """Replace the permissions of a node, and so its owner."""
        await self._request(Operation.SET_PERMS, path_argument(path) + permissions.encode(), path)

    async def _answer(self, asked: Asked) -> Answer:
        try:
            return await self._request(*asked)
        except StoreError as error:
            return error

    async def _list_in_parts(self, path: str, too_large: StoreError) -> bytes | None:
        """List a directory that does not fit into one response. Starts again when the directory changes meanwhile."""
        argument = path_argument(path)
        for _ in range(LISTINGS):
            names, first, last = b"", b"", False
            try:
                while not last:
                    payload = await self._request(Operation.DIRECTORY_PART, b"%s%d\0" % (argument, len(names)), path)
                    generation, more, last = part(payload, path)
                    first = first or generation
                    if generation != first:
                        break
                    names += more
                else:
                    return names
            except StoreError as error:
                if error.name == "ENOENT":
                    return None
                raise too_large if error.name in UNKNOWN_OPERATION else error from None
        raise StoreError("EAGAIN", path, f"the directory changed during each of {LISTINGS} attempts to list it")


class EarlyTransaction:
    """A transaction that is begun before it is needed, so that nobody waits for its number.

    It is dropped when it has not been taken within `EARLY` seconds: an open transaction delays a live update of the
    store, and oxenstored has to repeat its work when others have changed anything since it was begun.
    """

    def __init__(self, connection: XenstoreConnection) -> None:
        self._connection = connection
        self._response: asyncio.Future[list[Answer]] | None = connection.send_all([START], at_once=False)
        self._timer = asyncio.get_running_loop().call_later(EARLY, self.drop)

    def drop(self) -> None:
        """Drop it unless it was taken."""
        self._timer.cancel()
        response, self._response = self._response, None
        if response is None or response.cancel():  # the connection ends it when its number comes
            return
        if not response.cancelled() and response.exception() is None:
            (number,) = response.result()
            if not isinstance(number, StoreError):
                self._connection.end_transaction(number)

    async def take(self) -> Transaction | None:
        """The transaction; None when it was dropped or taken, or could not be begun."""
        self._timer.cancel()
        response, self._response = self._response, None
        if response is None:
            return None
        try:
            (number,) = await response
            return None if isinstance(number, StoreError) else Transaction(self._connection, transaction_id(number))
        except (StoreError, StoreLostError):
            return None


class Transaction(StoreOperations):
    """One transaction: its changes take effect together at `commit`, or not at all."""

    def __init__(self, connection: XenstoreConnection, number: int) -> None:
        self._connection = connection
        self._number = number
        self._ended = False
        self.following: EarlyTransaction | None = None

    async def _request(self, operation: Operation, payload: bytes, path: str) -> bytes:
        assert not self._ended, "the transaction is over"
        return await self._connection.request(operation, payload, path=path, transaction=self._number)

    async def together(self, asked: Sequence[Asked]) -> list[Answer]:
        """Send all in one piece; the store does them in their order. The answer to each."""
        assert not self._ended, "the transaction is over"
        return await self._connection.send_all(asked, self._number)

    async def commit(self, asked: Sequence[Asked] = (), *, goes_on: bool = False) -> list[Answer]:
        """End it. Raises StoreError EAGAIN when another client interfered and the transaction must be repeated.

        `asked` is sent along, and the end does not wait for the answers: only where nothing is half done when the store
        refuses one of them. `goes_on`: `following` is a transaction that is begun in the same piece. Does nothing when
        it has ended.
        """
        if self._ended:
            return []
        self._ended = True
        done = self._connection.send_all([*asked, COMMIT], self._number, at_once=not goes_on)
        if goes_on:
            self.following = EarlyTransaction(self._connection)
            self._connection.flush()
        *answers, end = await done
        _check_end(end)
        return answers

    async def abandon(self) -> None:
        """End it without its changes. Raises StoreError EAGAIN when the store had dropped it: it found no node then.

        Does nothing when it has ended.
        """
        if not self._ended:
            self._ended = True
            (end,) = await self._connection.send_all([ABORT], self._number)
            _check_end(end)

    def roll_back(self) -> None:
        """Drop it without waiting. Does nothing after `commit`."""
        if not self._ended:
            self._ended = True
            self._connection.send_and_forget(Operation.TRANSACTION_END, b"F" + NUL, transaction=self._number)


def _check_end(end: Answer) -> None:
    if isinstance(end, StoreError):
        if end.name == "ENOENT":
            raise StoreError("EAGAIN", "transaction", "the store dropped it in a live update")
        raise end
