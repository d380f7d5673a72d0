"""What all exposed paths of one store have in common: who is being answered, and what was answered; knows no style."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

from adapters.transports.xenstore_asker import Admission, StoreLimits
from adapters.transports.xenstore_store import Store
from gateway.core.exposure import Exposure
from gateway.core.ports import Endpoint

READERS = 64  # requests that are read at one time
KEPT = 1200.0  # seconds for which what a write was answered is remembered: as long as old clients wait
MOST_KEPT = 10_000  # answers
MOST_KEPT_BYTES = 16 * 1024**2


@dataclass(frozen=True, slots=True)
class Offer:
    """What is exposed. `writes`: the methods, as elements of a path, that must not be executed twice."""

    exposure: Exposure
    endpoint: Endpoint
    writes: frozenset[str] = frozenset()


@dataclass(slots=True)
class Shared:
    """What all exposed paths of one store have in common."""

    store: Store
    limits: StoreLimits
    admission: Admission
    tell: Callable[[str], object]  # what an operator should know
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    running: dict[str, bool] = field(default_factory=dict)  # node of a request -> something changed there meanwhile
    kept: dict[str, tuple[float, bytes, int]] = field(default_factory=dict)  # node -> until, answer, which connection
    kept_bytes: int = 0
    unbegun: set[str] = field(default_factory=set)  # nodes that were perhaps claimed, and were not executed
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _turns: WeakValueDictionary[int, asyncio.Lock] = field(default_factory=WeakValueDictionary)
    reading: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(READERS))

    def spawn(self, work: Any, name: str) -> asyncio.Task[None]:
        """A task that ends by itself; a bug in it is told to the loop."""
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work, name=name)
        self.tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            context = {"message": f"a bug ended {task.get_name()}", "exception": error, "task": task}
            task.get_loop().call_exception_handler(context)

    def turn(self, domid: int) -> asyncio.Lock:
        """Held while an answer is written, for answers to one domain get in each other's way in the store.

        One for each domain: a guest that keeps changing its own request holds up its own answers and no other's.
        """
        turn = self._turns.get(domid)
        if turn is None:
            turn = self._turns[domid] = asyncio.Lock()
        return turn

    def keep(self, node: str, body: bytes) -> None:
        """Remember what a write was answered, for the case that its client, or the store, forgets it."""
        now = self.clock()
        self.forget(node)
        while self.kept and (self._holds_enough(len(body)) or next(iter(self.kept.values()))[0] < now):
            self.forget(next(iter(self.kept)))
        self.kept[node] = (now + KEPT, body, self.store.connections)
        self.kept_bytes += len(body)

    def let_go(self, node: str) -> None:
        """The request is gone: its client has the answer, or the store has forgotten both and the client asks again."""
        kept = self.kept.get(node)
        if kept is not None and kept[2] == self.store.connections:
            self.forget(node)

    def forget(self, node: str) -> None:
        """The answer is not needed any more."""
        _, body, _ = self.kept.pop(node, (0.0, b"", 0))
        self.kept_bytes -= len(body)

    def _holds_enough(self, more: int) -> bool:
        return len(self.kept) >= MOST_KEPT or self.kept_bytes + more > MOST_KEPT_BYTES
