"""The state that outlives the process, behind a small async interface: one thread runs all jobs on the file.

Modes and rollouts are copies in memory, as new as `POLL`; everything else is read from the file when it is asked for.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial, reduce
from pathlib import Path
from queue import Empty, SimpleQueue
from time import monotonic, time
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import uuid4

import structlog

from gateway.core.admin.records import (
    AuditEntry,
    Change,
    ClientKey,
    ClientRecord,
    Counts,
    CountsBatch,
    MethodId,
    MismatchRecord,
    PendingDecision,
    PutRollout,
    Rollout,
    StateRefused,
    StoredState,
    all_to_legacy,
    applied,
)
from gateway.core.routing.overrides import Override
from gateway.state import clock as clocks
from gateway.state import file, tables
from gateway.state.file import StateFile

# The thread


class StateThread:
    """Calls `look` every `pause` seconds; its errors are logged, those of a job are raised to its awaiter."""

    def __init__(self, look: Callable[[], object], pause: float) -> None:
        self._look = look
        self._pause = pause
        self._look_at = 0.0
        self._jobs: SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="state", daemon=True)
        self._ended: Future[None] = Future()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def do(self, job: Callable[[], _T]) -> Future[_T]:
        """Do this when all earlier jobs are done, unless its future has been cancelled by then."""
        future: Future[_T] = Future()
        self._jobs.put((job, future))
        return future

    def end(self) -> Future[None]:
        """Do what has been given until now and no more; done when all of it is."""
        self._jobs.put(None)
        return self._ended

    def join(self) -> None:
        """Wait for the thread, which is over at once when what `end` returned is done."""
        self._thread.join()

    def _run(self) -> None:
        self._look_at = monotonic() + self._pause
        while self._one():
            if monotonic() >= self._look_at:
                self._guarded_look()
                self._look_at = monotonic() + self._pause
        self._ended.set_result(None)

    def _one(self) -> bool:
        try:
            given = self._jobs.get(timeout=max(0.0, self._look_at - monotonic()))
        except Empty:
            return True
        if given is not None:
            _do(*given)
        return given is not None

    def _guarded_look(self) -> None:
        try:
            self._look()
        except Exception:  # noqa: BLE001 - a bug costs this look and not the thread
            _log.exception("a bug while looking after the state file")


def _do(job: Callable[[], _T], future: Future[_T]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = job()
    except Exception as bug:  # noqa: BLE001 - told to whoever waits for the job
        future.set_exception(bug)
    else:
        future.set_result(result)


POLL = 0.05  # seconds between two looks at what other processes have decided
PATIENCE = 5.0  # seconds that the file has to answer
PAGE = 100  # pairs read at a time while all are exported

_T = TypeVar("_T")
_log = structlog.get_logger("gateway")


def _nobody() -> None:
    """No listener."""


class StateStore:
    """One for each process. `on_change` is called on the loop when overrides, rollouts or `trouble` have changed."""

    def __init__(
        self,
        path: Path | None,
        on_change: Callable[[], object] = _nobody,
        *,
        now: Callable[[], float] = time,
        clock: Callable[[], float] = monotonic,
        instance: str | None = None,
        patience: float = PATIENCE,
    ) -> None:
        self.path = path  # None: in memory only
        self.kept = StoredState()
        self.trouble = ""  # what is wrong, in words for an operator; nothing when all is well
        self.lost = 0  # batches that could not be written
        self._on_change = on_change
        self._now = now
        self._clock = clock
        self._instance = instance or uuid4().hex
        self._patience = patience
        self._file = StateFile(path, now, clock)
        self._thread = StateThread(self._look, POLL)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._known = self.kept  # as the thread told it
        self._unanswered: list[Change] = []  # what holds already, and the thread has not got round to
        self._told: tuple[StoredState, str] | None = (self.kept, self.trouble)

    async def start(self) -> None:
        """Read what is kept. Never fails: without a usable file there is `trouble`, and nothing is kept at first."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()
        try:
            await self._ask(self._file.open)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Finish what was asked for and close the file."""
        self._thread.do(self._file.close)
        ended = asyncio.wrap_future(self._thread.end())
        done, _ = await asyncio.wait([ended], timeout=self._patience)
        if done:
            self._thread.join()
        else:
            _log.error("state: the file hangs, its thread is left behind", file=str(self.path))

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def overrides(self) -> tuple[Override, ...]:
        """The modes that were set at run time; those whose time is over too."""
        return self.kept.overrides

    @property
    def rollouts(self) -> Mapping[str, Rollout]:
        """Rollouts by name."""
        return self.kept.rollouts

    @property
    def place(self) -> str:
        """Where it is kept, for people."""
        return str(self.path) if self.path else "in memory only: a restart forgets it"

    async def decide(self, change: Change) -> StateRefused | None:
        """All of a change with its lines of the audit, or nothing of it and why. What returns None is in force here."""
        return await self._ask(lambda: self._file.decide(change))

    async def decide_anyway(self, change: Change) -> StateRefused | PendingDecision | None:
        """The same for what must not wait for the file: in trouble it holds in this process, and is written later."""
        asked = asyncio.wrap_future(self._given(lambda: self._decide_or_hold(change)))
        await asyncio.wait([asked], timeout=self._patience)
        if asked.done():
            return asked.result()
        self._unanswered.append(change)
        asked.add_done_callback(lambda _: self._answered(change))
        self._note_silence()
        return PendingDecision(self.trouble)

    async def rollback_all(
        self, who: str, why: str, rollouts: tuple[PutRollout, ...] = ()
    ) -> StateRefused | PendingDecision | None:
        """Every method to its legacy service, whatever was set before, whatever the file says."""
        return await self.decide_anyway(all_to_legacy(who, self._now(), why, rollouts))

    async def hold_lease(self, name: str, holder: str, seconds: float) -> bool:
        """Whether this holder alone has the lease from now on, for so long; asked again it is prolonged."""
        boot, now = clocks.boot(), self._clock()
        held = await self._write(lambda db: tables.hold_lease(db, name, holder, boot, now, now + seconds))
        return held is True

    async def audit(
        self, limit: int = 100, since: float = 0.0, subject: str | None = None
    ) -> Sequence[AuditEntry] | StateRefused:
        """The newest lines of the audit, newest first."""
        return await self._read(lambda db: tables.audit(db, limit, since, subject))

    async def flush(self, batch: CountsBatch) -> StateRefused | None:
        """Add counts and pairs to the file; a batch that cannot be written is lost and counted in `lost`."""
        refused = await self._write(lambda db: self._add(db, batch))
        self.lost += refused is not None
        return refused

    async def evidence(self) -> Mapping[MethodId, Counts] | StateRefused:
        """What all processes together have counted."""
        return await self._read(tables.total)

    async def clear(self, method: MethodId) -> StateRefused | None:
        """Forget a method's evidence and pairs, without a line in the audit: what an operator clears is a Change."""
        return await self._write(lambda db: tables.clear(db, method))

    async def pairs(self, method: MethodId | None = None, limit: int = 50) -> Sequence[MismatchRecord] | StateRefused:
        """The newest differing pairs of a method or of all, newest first."""
        return await self._read(lambda db: tables.pairs(db, method, limit))

    async def every_pair(self) -> AsyncIterator[MismatchRecord | StateRefused]:
        """All differing pairs, oldest first; a refusal is the last one when the file could not be read to its end."""
        last = 0
        while page := await self._read(partial(tables.pairs_after, number=last, limit=PAGE)):
            if isinstance(page, StateRefused):
                yield page
                return
            for _, pair in page:
                yield pair
            last = page[-1][0]

    async def clients(
        self,
        service: str | None = None,
        method: str | None = None,
        protocol: str | None = None,
        since: float = 0.0,
        limit: int = 1_000,
    ) -> Mapping[ClientKey, ClientRecord] | StateRefused:
        """Who has called since then, the latest first."""
        return await self._read(lambda db: tables.read_clients(db, service, method, protocol, since, limit))

    async def _read(self, work: Callable[[sqlite3.Connection], _T]) -> _T | StateRefused:
        return await self._ask(lambda: self._file.read(work))

    async def _write(self, work: Callable[[sqlite3.Connection], _T | StateRefused]) -> _T | StateRefused:
        """What a power cut may undo."""
        return await self._ask(lambda: self._file.write(work, durable=False))

    async def _ask(self, job: Callable[[], _T]) -> _T | StateRefused:
        """Do a job in the thread, and wait for it no longer than an operator would."""
        asked = self._given(job)
        await asyncio.wait([asyncio.wrap_future(asked)], timeout=self._patience)
        if asked.done():
            return asked.result()
        self._note_silence()
        return StateRefused(self.trouble if asked.cancel() else f"{self.trouble}; {file.UNKNOWN}")

    def _given(self, job: Callable[[], _T]) -> Future[_T]:
        def told() -> _T:
            try:
                return job()
            finally:
                self._tell()

        return self._thread.do(told)

    def _note_silence(self) -> None:
        self._told = None  # whatever the thread finds when it is back is news
        self._take_over(self._known, f"state file {self.path} {file.SILENT.format(seconds=self._patience)}")

    def _answered(self, change: Change) -> None:
        """From now on it is in what the thread tells."""
        self._unanswered.remove(change)
        self._take_over(self._known, self.trouble)

    def _decide_or_hold(self, change: Change) -> StateRefused | PendingDecision | None:
        result = self._file.decide(change)
        if result is None or result.conflict:
            return result
        self._file.hold(change)
        return PendingDecision(result.why)

    def _add(self, db: sqlite3.Connection, batch: CountsBatch) -> None:
        tables.add(db, self._instance, batch.evidence, self._now())
        tables.add_pairs(db, batch.pairs)
        tables.add_clients(db, batch.clients)

    def _look(self) -> None:
        self._file.look()
        self._tell()

    def _tell(self) -> None:
        """Called by the thread: what is new there goes to the loop, before the answer of the job that made it new."""
        news = self._file.kept, self._file.trouble
        if news != self._told:
            self._told = news
            assert self._loop is not None, "started"
            self._loop.call_soon_threadsafe(self._take_over, *news)

    def _take_over(self, kept: StoredState, words: str) -> None:
        if words != self.trouble:
            _log.error("state: trouble", trouble=words) if words else _log.info("state: all is well again")
        self._known, self.trouble = kept, words
        self.kept = reduce(applied, self._unanswered, kept)
        self._on_change()
