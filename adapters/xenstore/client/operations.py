"""Operations on the nodes of a xenstore, inside a transaction or outside of one.

`StoreOperations` builds every operation from one abstract method that sends a request. `XenstoreClient` implements that
method for single operations, `Transaction` for those of one transaction.
"""

from __future__ import annotations

from typing import TypeAlias

from adapters.xenstore.client.connection import XenstoreConnection
from adapters.xenstore.client.wire import NUL, Operation, Permissions, StoreError, children, part, path_argument

Names: TypeAlias = "list[str]"

LISTINGS = 50  # attempts to list a directory that changes meanwhile
UNKNOWN_OPERATION = ("EINVAL", "ENOSYS")


class StoreOperations:
    """Read and change nodes. Every method raises StoreError when the store refuses, StoreLostError without a store."""

    async def _request(self, operation: Operation, payload: bytes, path: str) -> bytes:
        raise NotImplementedError

    async def read(self, path: str) -> bytes | None:
        """The value of a node; None when the node does not exist."""
        return await self._find(Operation.READ, path)

    async def write(self, path: str, value: bytes) -> None:
        """Set the value, which may be any bytes. Creates the node and its ancestors when they do not exist."""
        await self._request(Operation.WRITE, path_argument(path) + value, path)

    async def mkdir(self, path: str) -> None:
        """Create a node with the empty value. Does nothing when it exists."""
        await self._request(Operation.MKDIR, path_argument(path), path)

    async def remove(self, path: str) -> None:
        """Remove a node and its descendants. Does nothing when it does not exist."""
        await self._find(Operation.RM, path)

    async def list(self, path: str) -> Names | None:
        """The names of all children, however many; None when the node does not exist."""
        try:
            names = await self._find(Operation.DIRECTORY, path)
        except StoreError as error:
            if error.name != "E2BIG":
                raise
            names = await self._list_in_parts(path, error)
        return None if names is None else children(names)

    async def permissions(self, path: str) -> Permissions | None:
        """The permissions of a node; None when the node does not exist."""
        payload = await self._find(Operation.GET_PERMS, path)
        return None if payload is None else Permissions.decode(payload, path)

    async def set_permissions(self, path: str, permissions: Permissions) -> None:
        """Replace the permissions of a node, and so its owner."""
        await self._request(Operation.SET_PERMS, path_argument(path) + permissions.encode(), path)

    async def _find(self, operation: Operation, path: str) -> bytes | None:
        try:
            return await self._request(operation, path_argument(path), path)
        except StoreError as error:
            if error.name == "ENOENT":
                return None
            raise

    async def _list_in_parts(self, path: str, too_large: StoreError) -> bytes | None:
        """List a directory that does not fit into one response. Starts again when the directory changes meanwhile."""
        for _ in range(LISTINGS):
            try:
                names = await self._list_one_generation(path)
            except StoreError as error:
                if error.name == "ENOENT":
                    return None
                raise too_large if error.name in UNKNOWN_OPERATION else error from None
            if names is not None:
                return names
        raise StoreError("EAGAIN", path, f"the directory changed during each of {LISTINGS} attempts to list it")

    async def _list_one_generation(self, path: str) -> bytes | None:
        """All names of one generation of the directory; None when it has changed while its parts were read."""
        argument, names, first, last = path_argument(path), b"", b"", False
        while not last:
            payload = await self._request(Operation.DIRECTORY_PART, b"%s%d\0" % (argument, len(names)), path)
            generation, more, last = part(payload, path)
            first = first or generation
            if generation != first:
                return None
            names += more
        return names


class Transaction(StoreOperations):
    """One transaction: its changes take effect together at `commit`, or not at all."""

    def __init__(self, connection: XenstoreConnection, number: int) -> None:
        self._connection = connection
        self._number = number
        self._ended = False

    async def _request(self, operation: Operation, payload: bytes, path: str) -> bytes:
        assert not self._ended, "the transaction is over"
        return await self._connection.request(operation, payload, path=path, transaction=self._number)

    async def commit(self) -> None:
        """End it. Raises StoreError EAGAIN when another client interfered and the transaction must be repeated."""
        self._ended = True
        try:
            await self._connection.request(
                Operation.TRANSACTION_END, b"T" + NUL, path="transaction", transaction=self._number
            )
        except StoreError as error:
            if error.name != "ENOENT":
                raise
            raise StoreError("EAGAIN", "transaction", "the store dropped it in a live update") from error

    def roll_back(self) -> None:
        """Drop it without waiting. Does nothing after `commit`."""
        if not self._ended:
            self._ended = True
            self._connection.send_and_forget(Operation.TRANSACTION_END, b"F" + NUL, transaction=self._number)
