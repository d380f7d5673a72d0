"""Tokens that continue in another process: what a change log writes down, and what a client has missed since.

Each log is written to the state file in the background: of each object the generations, and a digest of its record. A
client that comes to another process (after a restart, or to another gateway that shares the file) has a token of an
epoch that this process has not counted. If the log of that epoch was written down up to the token's generation, it is
known which objects the client has, and in which state. It gets those that differ from the objects of now.

It is certain, or it is not done. A change that was told after the log was last written may have been undone while
nobody looked, so a token of a later generation than the written one cannot be continued. An object that has changed
while its log was written has no digest, so it counts as changed. What was written is added to only where all of it is
still there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import NamedTuple

from gateway.core.admin.records import SavedLog, SavedObject, StateRefused
from gateway.core.logger import Logger
from gateway.events.changes import EVERYTHING, ChangeLog, ObjectChange, ObjectId, ObjectState, Token, Wanted
from gateway.state.store import StateStore
from gateway.state.tables import MOST_LOGS, MOST_OBJECTS

SAVE = 1.0  # seconds at least between two times that a log is written
WHOLE = 60.0  # seconds at least between two times that it is written whole while the gateway runs
SHARE = 20  # the pause is at least so many times as long as the writing took
SLICE = 0.002  # seconds of work before the event loop serves others
MOST_RECALLED = MOST_LOGS  # logs of other epochs in memory, of each service: all that the file has

_log = Logger()


async def make_digests(states: Iterable[ObjectState], pause: float = 0.0) -> None:
    """Have each object know its digest; others are served meanwhile, `pause` seconds after each slice of the work."""
    loop = asyncio.get_running_loop()
    end = loop.time() + SLICE
    for state in [*states]:
        state.digest  # noqa: B018 - it is made when it is read first
        if loop.time() >= end:
            await asyncio.sleep(pause)
            end = loop.time() + SLICE


class LogSaver:
    """Writes a change log down: at most every SAVE seconds while it changes, and at an orderly stop."""

    def __init__(self, service: str, log: ChangeLog, state: StateStore, is_ready: Callable[[], bool]) -> None:
        self._service = service
        self._changes = log
        self._state = state
        self._is_ready = is_ready  # whether every object was read once
        self._written: int | None = None  # the generation up to which the log was written; None: nothing was
        self._whole_at = 0.0  # loop time before which it is not written whole again
        self._due = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Write from now on."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    def changed(self) -> None:
        """The log has changed."""
        self._due.set()

    async def stop(self) -> None:
        """Write a last time."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            await self._guarded_save(0.0, may_be_whole=True)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._due.wait()
            self._due.clear()
            begun = loop.time()
            await self._guarded_save(SLICE, may_be_whole=begun >= self._whole_at)
            await asyncio.sleep(max(SAVE, SHARE * (loop.time() - begun)))

    async def _guarded_save(self, pause: float, *, may_be_whole: bool) -> None:
        try:
            if self._written is not None or self._is_ready():
                await self.save(pause, may_be_whole=may_be_whole)
        except Exception:  # noqa: BLE001 - a bug costs what would have been written and not the events
            _log.exception("a bug while writing events down", service=self._service)

    async def save(self, pause: float = 0.0, *, may_be_whole: bool = True) -> None:
        """Write what has changed since the last time; all of it where what was written has gone.

        That is rare, or very many processes share a file that does not hold the logs of all.
        """
        if await self._save_part(pause, may_be_whole=may_be_whole) is False:
            self._written = None
            await self._save_part(pause, may_be_whole=may_be_whole)

    async def _save_part(self, pause: float, *, may_be_whole: bool) -> bool | StateRefused:
        log, after = self._changes, self._written
        if after is not None and log.forgotten > after:
            after = None  # a deletion is forgotten that was not written: its object is there as what exists
        if after is None and not may_be_whole:
            self._due.set()  # later
            return True
        saved = log.generation
        if saved == after or len(log) > MOST_OBJECTS:
            return True
        listed = [(state, state.modified) for state in log.changed_since(0 if after is None else after, EVERYTHING)]
        await make_digests((state for state, modified in listed if state.modified == modified), pause)
        objects = tuple(_saved(state, modified) for state, modified in listed)
        part = SavedLog(self._service, log.epoch, saved, log.forgotten, objects)
        written = await self._state.save_event_log(part, after)
        if written is True:
            self._written = saved
            self._whole_at = self._whole_at if after is not None else asyncio.get_running_loop().time() + WHOLE
        elif isinstance(written, StateRefused):
            self._due.set()  # later, when the file may be better
        return written


def _saved(state: ObjectState, modified: int) -> SavedObject:
    """An object as it was at the generation of a change; its record of then is not known if it has changed since."""
    is_same = state.modified == modified
    digest = state.digest if is_same else None
    return SavedObject(*state.id, state.created, modified, state.is_deleted and is_same, digest, state.before)


class Missed(NamedTuple):
    """What a client has missed, deletions first, and the token of now: for who has all of it, and not only a part."""

    changes: list[ObjectChange]
    newest: Token


class RecalledLogs:
    """The logs of other epochs that clients came with, as they were written down."""

    def __init__(self, service: str, log: ChangeLog, state: StateStore) -> None:
        self._service = service
        self._changes = log
        self._state = state
        self._reading = asyncio.Lock()
        self._known: dict[int, WrittenLog] = {}  # by epoch; the one that was used last is the last
        self._used: set[int] = set()  # epochs, since `forget_unused`

    async def missed_since(self, token: Token, wanted: Wanted) -> Missed | None:
        """What a client has missed since a token of another epoch; None: it is not certain."""
        written = await self._recall(token)
        if written is None:
            return None
        if not written.is_compared:
            await make_digests(self._changes.since(0, EVERYTHING))
        return Missed(written.missed_since(token.generation, wanted), self._changes.token)

    def forget_unused(self) -> None:
        """Forget the logs that were not used since the last time."""
        for epoch in self._known.keys() - self._used:
            del self._known[epoch]
        self._used.clear()

    async def _recall(self, token: Token) -> WrittenLog | None:
        epoch = token.epoch
        async with self._reading:
            known = self._known.get(epoch)
            if known is None or not known.saved.has(token.generation):
                found = None
                if not self._state.trouble:
                    found = await self._state.event_log(self._service, epoch, token.generation)
                if not isinstance(found, SavedLog):  # no log of that generation was written: keep the known one
                    return None
                known = WrittenLog(found, self._changes)
            self._known.pop(epoch, None)
            self._known[epoch] = known
            self._used.add(epoch)
            for oldest in [*self._known][:-MOST_RECALLED]:
                del self._known[oldest]
            return known


def _order(change: ObjectChange) -> tuple[bool, int, ObjectId]:
    """Deletions first, then the oldest change; the same each time, for objects of which nothing else is known."""
    return change.operation != "del", change.state.modified, change.state.id


class WrittenLog:
    """A log of another epoch, compared once with the log of this process; then only what changes is compared."""

    def __init__(self, saved: SavedLog, log: ChangeLog) -> None:
        self.saved = saved._replace(objects=())
        self._log = log
        self._objects: dict[ObjectId, SavedObject] = {(each.name, each.ref): each for each in saved.objects}
        self._by_change = sorted(self._objects.items(), key=lambda item: -item[1].modified)
        self._differing: set[ObjectId] = set()  # and those that have changed since they were compared
        self._compared: int | None = None  # the generation of this process's log up to which it was

    @property
    def is_compared(self) -> bool:
        """Whether each object has been compared."""
        return self._compared is not None

    def missed_since(self, generation: int, wanted: Wanted) -> list[ObjectChange]:
        """How the wanted objects differ from what a client has that knows the written log up to a generation."""
        self._compare()
        concerned = {each for each in self._differing if wanted.has(each)}
        for object_id, found in self._by_change:
            if found.modified <= generation:
                break
            if wanted.has(object_id):
                concerned.add(object_id)
        changes = [change for each in concerned if (change := self._change(each, generation)) is not None]
        return sorted(changes, key=_order)

    def _compare(self) -> None:
        log, compared = self._log, self._compared
        self._compared = log.generation
        if compared is not None and log.forgotten <= compared:
            self._differing.update(state.id for state in log.changed_since(compared, EVERYTHING))
            return
        here = {state.id: state for state in log.since(0, EVERYTHING)}
        self._differing.update(each for each in self._objects if each not in here)
        for object_id, state in here.items():
            found = self._objects.get(object_id)
            if found is None or found.is_deleted or found.digest is None or found.digest != state.digest:
                self._differing.add(object_id)

    def _change(self, object_id: ObjectId, generation: int) -> ObjectChange | None:
        """How an object differs from what such a client has; None: it does not."""
        state, found = self._log.find(object_id), self._objects.get(object_id)
        had = found is not None and found.was_there(generation)
        if state is None:
            return ObjectChange("del", ObjectState(object_id, self._log.first, lambda: None)) if had else None
        if found is None or not had:
            return ObjectChange("add", state)
        is_same = found.modified <= generation and found.digest is not None and found.digest == state.digest
        return None if is_same else ObjectChange("mod", state)
