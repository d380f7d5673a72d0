"""Operations that go on after their call, and the changes that callers wait for: shared by xenopsd and storage."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from dbus_next import Variant
from service import Error, variants

KEPT = 1_000  # changes


class Updates:
    """A numbered stream of changes. Each is a variant of the legacy interface: ("Vm", id), ("Task", id)."""

    def __init__(self) -> None:
        self.last = 0
        self._changes: list[tuple[int, Variant]] = []
        self._changed = asyncio.Event()

    def tell(self, change: Variant) -> None:
        """Number a change."""
        self.last += 1
        self._changes = [*self._changes, (self.last, change)][-KEPT:]
        self._changed.set()
        self._changed = asyncio.Event()

    async def after(self, number: int, seconds: float | None) -> list[Variant]:
        """The changes after this one, each once; waits for one, at most so many seconds."""
        end = None if seconds is None else time.monotonic() + seconds
        while self.last <= number:
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                break
            changed = asyncio.ensure_future(self._changed.wait())
            await asyncio.wait([changed], timeout=left)
            changed.cancel()
        found = {str((change.signature, change.value)): change for at, change in self._changes if at > number}
        return list(found.values())


class Tasks:
    """The operations of a service. `describe` says an error as a variant of the legacy interface."""

    def __init__(self, updates: Updates, describe: Callable[[Error], Variant]) -> None:
        self._updates = updates
        self._describe = describe
        self._last = 0
        self._running: dict[str, asyncio.Task[None]] = {}
        self._records: dict[str, dict[str, Any]] = {}
        self._short: set[str] = set()  # forgotten as soon as they have ended

    def begin(self, work: Awaitable[Variant | None]) -> str:
        """Run an operation; returns the id of its task."""
        self._last += 1
        key = str(self._last)
        lists = {"subtasks": Variant("a{sv}", {}), "debug_info": {}, "backtrace": "", "cancellable": True}
        self._records[key] = {"id": key, "dbg": "", "ctime": time.time(), "state": pending(0.0), **lists}
        self._running[key] = asyncio.ensure_future(self._run(key, work))
        return key

    async def _run(self, key: str, work: Awaitable[Variant | None]) -> None:
        began = time.monotonic()
        try:
            result = await work
            ended = variants({"duration": time.monotonic() - began, "result": result and Variant("v", result)})
            state = Variant("(sa{sv})", ["Completed", ended])
        except asyncio.CancelledError:
            state = failed(Variant("(ss)", ["Cancelled", key]))
        except Error as error:
            state = failed(self._describe(error))
        self._running.pop(key, None)
        if key in self._records:
            self._records[key]["state"] = state
        if key in self._short:
            self.destroy(key)
        self._updates.tell(Variant("(ss)", ["Task", key]))

    def stat(self, key: str) -> dict[str, Variant]:
        """The record of a task; raises Error."""
        if key not in self._records:
            raise Error("NotFound", "ss", "Task", key)
        return variants(self._records[key])

    def cancel(self, key: str) -> None:
        """Ask for the end of a task; raises Error."""
        self.stat(key)
        if key in self._running:
            self._running[key].cancel()

    def destroy(self, key: str) -> None:
        """Forget a task; raises Error."""
        self.stat(key)
        del self._records[key]

    def destroy_on_finish(self, key: str) -> None:
        """Forget a task as soon as it has ended; raises Error."""
        self.stat(key)
        self._short.add(key)
        if key not in self._running:
            self.destroy(key)

    def members(self, argument: str) -> Mapping[str, tuple[str, str, Callable[..., Any]]]:
        """The methods of Tasks1, as a table; `argument` is the id of a task."""
        return {
            "Stat": (argument, "a{sv}", self.stat),
            "Cancel": (argument, "", self.cancel),
            "Destroy": (argument, "", self.destroy),
            "List": ("", "aa{sv}", lambda: [variants(each) for each in self._records.values()]),
        }


def pending(progress: float) -> Variant:
    """The state of a task that runs."""
    return Variant("(sd)", ["Pending", progress])


def failed(error: Variant) -> Variant:
    """The state of a task that has failed."""
    return Variant("(sv)", ["Failed", error])
