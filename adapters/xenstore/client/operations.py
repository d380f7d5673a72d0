"""What can be done with the nodes of a xenstore, in a transaction or outside; knows no socket and no reconnect."""

from __future__ import annotations

from typing import TypeAlias

from adapters.xenstore.client.connection import XenstoreConnection
from adapters.xenstore.client.wire import NUL, Operation, Permissions, StoreError, children, part, path_argument

Names: TypeAlias = "list[str]"

LISTINGS = 50  # attempts to list a directory that changes meanwhile
UNKNOWN_OPERATION = ("EINVAL", "ENOSYS")


class StoreOperations:
    """What can be done with nodes, in a transaction or outside."""

    async def _ask(self, operation: Operation, payload: bytes, path: str) -> bytes:
        raise NotImplementedError

    async def read(self, path: str) -> bytes | None:
        """The value; None when there is no such node."""
        return await self._find(Operation.READ, path)

    async def write(self, path: str, value: bytes) -> None:
        """Set the value, any bytes; the node and those above it are made when they are not there."""
        await self._ask(Operation.WRITE, path_argument(path) + value, path)

    async def mkdir(self, path: str) -> None:
        """Make a node with the empty value; nothing happens when it is there."""
        await self._ask(Operation.MKDIR, path_argument(path), path)

    async def remove(self, path: str) -> None:
        """Remove a node and all below it; nothing happens when it is not there."""
        await self._find(Operation.RM, path)

    async def list(self, path: str) -> Names | None:
        """The names of the children, however many; None when there is no such node."""
        try:
            names = await self._find(Operation.DIRECTORY, path)
        except StoreError as error:
            if error.name != "E2BIG":
                raise
            names = await self._in_parts(path, error)
        return None if names is None else children(names)

    async def permissions(self, path: str) -> Permissions | None:
        """Who owns the node and who may do what with it; None when there is no such node."""
        payload = await self._find(Operation.GET_PERMS, path)
        return None if payload is None else Permissions.decode(payload, path)

    async def set_permissions(self, path: str, permissions: Permissions) -> None:
        """Hand it to an owner and say who else may do what."""
        await self._ask(Operation.SET_PERMS, path_argument(path) + permissions.encode(), path)

    async def _find(self, operation: Operation, path: str) -> bytes | None:
        try:
            return await self._ask(operation, path_argument(path), path)
        except StoreError as error:
            if error.name == "ENOENT":
                return None
            raise

    async def _in_parts(self, path: str, too_large: StoreError) -> bytes | None:
        """A directory that no single answer can hold; from its begin again when it changes meanwhile."""
        for _ in range(LISTINGS):
            try:
                names = await self._one_generation(path)
            except StoreError as error:
                if error.name == "ENOENT":
                    return None
                raise too_large if error.name in UNKNOWN_OPERATION else error from None
            if names is not None:
                return names
        raise StoreError("EAGAIN", path, "the directory changes too often to be listed")

    async def _one_generation(self, path: str) -> bytes | None:
        """All the names; None when the directory has changed on the way."""
        argument, names, first, last = path_argument(path), b"", b"", False
        while not last:
            payload = await self._ask(Operation.DIRECTORY_PART, b"%s%d\0" % (argument, len(names)), path)
            generation, more, last = part(payload, path)
            first = first or generation
            if generation != first:
                return None
            names += more
        return names


class Transaction(StoreOperations):
    """What is done here happens all at once when the work is done, or not at all."""

    def __init__(self, connection: XenstoreConnection, number: int) -> None:
        self._connection = connection
        self._number = number
        self._ended = False

    async def _ask(self, operation: Operation, payload: bytes, path: str) -> bytes:
        assert not self._ended, "the transaction is over"
        return await self._connection.ask(operation, payload, path=path, transaction=self._number)

    async def commit(self) -> None:
        """End it; raises StoreError EAGAIN when it has to be done again."""
        self._ended = True
        try:
            await self._connection.ask(
                Operation.TRANSACTION_END, b"T" + NUL, path="transaction", transaction=self._number
            )
        except StoreError as error:
            if error.name != "ENOENT":
                raise
            raise StoreError("EAGAIN", "transaction", "the store has dropped it") from error  # in a live update

    def roll_back(self) -> None:
        """Drop it, without waiting."""
        if not self._ended:
            self._ended = True
            self._connection.forget(Operation.TRANSACTION_END, b"F" + NUL, transaction=self._number)
