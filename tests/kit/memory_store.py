"""A xenstore in memory, for tests of what is built on one: nodes, permissions, transactions, watches; no socket.

tests/conformance/test_stores.py holds it against the real one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from adapters.xenstore.client.client import XenstoreClient
from adapters.xenstore.client.connection import StoreLostError
from adapters.xenstore.client.operations import StoreOperations
from adapters.xenstore.client.wire import Answer, Asked, Operation, Permissions, StoreError

T = TypeVar("T")

Tree = dict[str, tuple[bytes, Permissions]]


def _apply(tree: Tree, operation: Operation, payload: bytes, path: str) -> tuple[bytes, str | None]:
    """Do it; returns the answer and the path that changed."""
    if operation is Operation.MKDIR or operation is Operation.WRITE:
        value = payload.partition(b"\0")[2] if operation is Operation.WRITE else tree.get(path, (b"",))[0]
        changed = operation is Operation.WRITE or path not in tree
        _make(tree, path)
        tree[path] = (value, tree[path][1])
        return b"OK\0", path if changed else None
    if path not in tree:
        raise StoreError("ENOENT", path)
    if operation is Operation.READ:
        return tree[path][0], None
    if operation is Operation.DIRECTORY:
        return b"".join(name.encode() + b"\0" for name in _children(tree, path)), None
    if operation is Operation.GET_PERMS:
        return tree[path][1].encode(), None
    if operation is Operation.SET_PERMS:
        tree[path] = (tree[path][0], Permissions.decode(payload.partition(b"\0")[2]))
        return b"OK\0", path
    assert operation is Operation.RM, operation
    for each in [each for each in tree if each == path or each.startswith(f"{path}/")]:
        del tree[each]
    return b"OK\0", path


def _make(tree: Tree, path: str) -> None:
    """A node and those above it have the permissions of the first that is there."""
    above = path.rpartition("/")[0] or "/"
    if path not in tree:
        _make(tree, above)
        tree[path] = (b"", tree[above][1])


def _children(tree: Tree, path: str) -> list[str]:
    before = path.rstrip("/") + "/"
    return [
        each.removeprefix(before)
        for each in tree
        if each.startswith(before) and "/" not in each[len(before) :] and each != "/"
    ]


class MemoryTransaction(StoreOperations):
    """Works on a copy, and remembers what it changed."""

    def __init__(self, tree: Tree, ask_for: Callable[[Operation, str], None]) -> None:
        self.tree = dict(tree)
        self._ask_for = ask_for
        self.changes: list[tuple[Operation, bytes, str]] = []
        self.following = None

    async def commit(self, asked: Sequence[Asked] = (), *, goes_on: bool = False) -> list[Answer]:
        """What is sent along; the store commits when the work is done."""
        assert goes_on or asked
        return await self.together(asked)

    async def _request(self, operation: Operation, payload: bytes, path: str) -> bytes:
        self._ask_for(operation, path)
        answer, changed = _apply(self.tree, operation, payload, path)
        if changed is not None:
            self.changes.append((operation, payload, path))
        return answer


class MemoryStore(XenstoreClient):
    """`away` takes it away for a while; what happens in a transaction is seen when it is over."""

    def __init__(self) -> None:
        super().__init__("memory")
        self.tree: Tree = {"/": (b"", Permissions(0, "n"))}
        self.refuse: Callable[[Operation, str], str | None] = lambda _operation, _path: None  # the name of an errno
        self.asked: list[tuple[Operation, str]] = []
        self._connections = 1
        self._connected.set()

    async def start(self) -> None:
        """It is there."""

    async def stop(self) -> None:
        """Every watch ends."""
        for watch in list(self._watches.values()):
            watch.close()

    def watch(self, path: str):  # type: ignore[no-untyped-def] # as Store
        """The watched path comes first."""
        watch = super().watch(path)
        watch.notify(path)
        return watch

    @contextmanager
    def away(self) -> Iterator[None]:
        """Not connected within the block; afterwards each watched path comes again."""
        self._connected.clear()
        yield
        self._connections += 1
        self._connected.set()
        for watch in self._watches.values():
            watch.notify(watch.path)

    async def together(self, asked: Sequence[Asked]) -> list[Answer]:
        """One after the other."""
        return await StoreOperations.together(self, asked)

    async def transaction(self, work: Callable[..., Awaitable[T]], lock: object = None, early: object = None) -> T:
        self._check()
        transaction = MemoryTransaction(self.tree, self._ask_for)
        result = await work(transaction)
        self._check()
        for change in transaction.changes:
            self._do(*change)
        return result

    def put(self, path: str, value: bytes | str = b"", permissions: Permissions | None = None) -> None:
        """What a client would write."""
        self._do(Operation.WRITE, path.encode() + b"\0" + (value.encode() if isinstance(value, str) else value), path)
        if permissions is not None:
            self.tree[path] = (self.tree[path][0], permissions)

    def drop(self, path: str) -> None:
        """What a client would remove."""
        self._do(Operation.RM, b"", path)

    def below(self, path: str) -> dict[str, bytes]:
        """Every node below a path, and its value."""
        return {
            each.removeprefix(f"{path}/"): value
            for each, (value, _) in self.tree.items()
            if each.startswith(f"{path}/")
        }

    async def _request(self, operation: Operation, payload: bytes, path: str) -> bytes:
        self._check()
        self._ask_for(operation, path)
        return self._do(operation, payload, path)

    def _ask_for(self, operation: Operation, path: str) -> None:
        self.asked.append((operation, path))
        why = self.refuse(operation, path)
        if why is not None:
            raise StoreError(why, path)

    def _check(self) -> None:
        if not self.connected:
            raise StoreLostError("away", sent=False)

    def _do(self, operation: Operation, payload: bytes, path: str) -> bytes:
        answer, changed = _apply(self.tree, operation, payload, path)
        for watch in self._watches.values():
            if changed is not None and (changed == watch.path or changed.startswith(f"{watch.path}/")):
                watch.notify(changed)
            elif operation is Operation.RM and watch.path.startswith(f"{path}/"):
                watch.notify(watch.path)
        return answer
