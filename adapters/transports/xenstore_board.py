"""What one store shows and where it rings: its mirror and its doorbells, each with a task; knows no D-Bus."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine

from adapters.transports.xenstore_doorbell import Bell, Ring
from adapters.transports.xenstore_mirror import Mirror
from adapters.transports.xenstore_store import Store, StoreError
from gateway.core import ports
from gateway.core.publication import Doorbell, Picture

log = logging.getLogger(__name__)


class Board(ports.Board):
    """Between `start` and `stop`. `ring` makes a call, `on_rung` is told which picture to look at after one."""

    def __init__(self, store: Store, ring: Ring, on_rung: Callable[[str], object]) -> None:
        self._store = store
        self._ring = ring
        self._on_rung = on_rung
        self._mirror = Mirror(store, self._has_bell)
        self._bells: dict[str, Bell] = {}  # by fingerprint
        self._tasks: dict[str, asyncio.Task[None]] = {}  # the same, and that of the mirror under ""
        self._leaving: dict[asyncio.Task[None], Bell] = {}  # taken down, and still ringing

    @property
    def written(self) -> int:
        """How many nodes were written."""
        return self._mirror.written

    def start(self) -> None:
        """Begin to write."""
        self._begin("", self._mirror.run())

    async def stop(self, grace: float = 0.0) -> int:
        """Write no more, ring no more; what is being rung has `grace` seconds. Returns how many bells were cut off."""
        mirror = self._tasks.pop("", None)
        if mirror is not None:
            mirror.cancel()
        for bell in self._bells.values():
            bell.close()
        self._bells.clear()
        ringing = {*self._tasks.values(), *self._leaving}
        late = (await asyncio.wait(ringing, timeout=grace))[1] if ringing else set()
        for task in late:
            task.cancel()
        tasks = {*late, *([mirror] if mirror is not None else [])}
        if tasks:
            await asyncio.wait(tasks)
        return len(late)

    def show(self, key: str, picture: Picture) -> None:
        """These nodes from now on, in place of those of the same key."""
        self._mirror.show(key, picture)

    def forget(self, key: str) -> None:
        """Show them no more; the nodes stay as they are."""
        self._mirror.forget(key)

    def hang(self, doorbell: Doorbell) -> None:
        """Ring when one of its nodes changes."""
        bell = Bell(doorbell, self._store, self._ring, self._rung)
        before = [task for task, left in self._leaving.items() if left.node == bell.node]
        self._bells[doorbell.fingerprint] = bell
        self._begin(doorbell.fingerprint, _after(before, bell.run))

    def take_down(self, doorbell: Doorbell) -> None:
        """Ring no more; what is being rung is still rung, and only then another bell hangs at the same node."""
        bell = self._bells.pop(doorbell.fingerprint, None)
        task = self._tasks.pop(doorbell.fingerprint, None)
        if bell is not None and task is not None:
            bell.close()
            self._leaving[task] = bell
            task.add_done_callback(self._leaving.pop)

    def _begin(self, key: str, work: Coroutine[object, object, None]) -> None:
        self._tasks[key] = asyncio.get_running_loop().create_task(_run(work))

    def _has_bell(self, path: str) -> bool:
        return any(bell.is_at(path) for bell in self._bells.values())

    def _rung(self, path: str) -> None:
        key = self._mirror.key_of(path)
        if key is not None:
            self._on_rung(key)


async def _after(tasks: Collection[asyncio.Task[None]], work: Callable[[], Awaitable[None]]) -> None:
    if tasks:
        await asyncio.wait(tasks)
    await work()


async def _run(work: Coroutine[object, object, None]) -> None:
    """A bug ends this work, is told, and harms nothing else."""
    try:
        await work
    except* StoreError as errors:
        log.warning("the store refuses a watch: %s", errors.exceptions)
    except* Exception:
        log.exception("a bug ended this work")
