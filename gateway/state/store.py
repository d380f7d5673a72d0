"""Async interface to the state file: one thread runs all jobs on the file.

Modes and rollouts are copies in memory, at most `POLL` old; everything else is read from the file on demand.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import reduce
from pathlib import Path
from queue import Empty, SimpleQueue
from time import monotonic, time
from typing import Any, Self, TypeAlias, TypeVar
from uuid import uuid4

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
    Rollout,
    SavedLog,
    StateRefused,
    StoredState,
    applied,
)
from gateway.core.logger import Logger
from gateway.core.routing.overrides import Override
from gateway.state import clock as clocks
from gateway.state import evidence, file, tables
from gateway.state.file import StateFile

# The thread


class StateThread:
    """Calls `look` every `pause` seconds; its errors are logged, those of a job are raised to its awaiter."""

    def __init__(self, look: Callable[[], object], pause: float) -> None:
        self._look = look
        self._pause = pause
        self._jobs: SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="state", daemon=True)
        self._ended: Future[None] = Future()
        self.start = self._thread.start
        self.join = self._thread.join  # after `end`

    def do(self, job: Callable[[], _T]) -> Future[_T]:
        """Queue a job. It is skipped if its future is cancelled before its turn."""
        future: Future[_T] = Future()
        self._jobs.put((job, future))
        return future

    def end(self) -> Future[None]:
        """Stop after the queued jobs; the future is done when they are."""
        self._jobs.put(None)
        return self._ended

    def _run(self) -> None:
        look_at = monotonic() + self._pause
        while True:
            with suppress(Empty):
                given = self._jobs.get(timeout=max(0.0, look_at - monotonic()))
                if given is None:
                    break
                _do(*given)
                del given
            if monotonic() >= look_at:
                try:
                    self._look()
                except Exception:  # noqa: BLE001 - a bug must not end the thread
                    _log.exception("a bug while looking after the state file")
                look_at = monotonic() + self._pause
        self._ended.set_result(None)


def _do(job: Callable[[], _T], future: Future[_T]) -> None:
    """Do a job; nothing of it is kept until the next one."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = job()
    except Exception as bug:  # noqa: BLE001 - raised where the job is awaited
        future.set_exception(bug)
    else:
        future.set_result(result)


POLL = 0.05  # seconds between two reads of what other processes have stored
PATIENCE = 5.0  # seconds that the file has to answer

_T = TypeVar("_T")
_log = Logger()


# Brings a change, and whether it is stored, to the other workers; returns notes for the operator.
Share: TypeAlias = Callable[[Change, bool], Awaitable[Sequence[str]]]


_notes: ContextVar[list[str] | None] = ContextVar("notes", default=None)


@contextmanager
def noted() -> Iterator[list[str]]:
    """Collect what the operator has to know of the decisions that are made in the block."""
    notes: list[str] = []
    token = _notes.set(notes)
    try:
        yield notes
    finally:
        _notes.reset(token)


class StateStore:
    """One for each process. `on_change` is called on the loop when overrides, rollouts or `trouble` have changed."""

    def __init__(
        self,
        path: Path | None,
        on_change: Callable[[], object] = lambda: None,
        *,
        now: Callable[[], float] = time,
        clock: Callable[[], float] = monotonic,
        patience: float = PATIENCE,
    ) -> None:
        self.path = path  # None: in memory only
        self.kept = StoredState()
        self.trouble = ""  # the reason, for operators; empty while the file works
        self.lost = 0  # batches that could not be written
        self._on_change = on_change
        self._now = now
        self._clock = clock
        self._instance = uuid4().hex
        self._patience = patience
        self._bring: Share | None = None  # there is no other process to share with
        self._file = StateFile(path, now, clock)
        self._thread = StateThread(self._look, POLL)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._known = self.kept  # as the thread reported it
        self._unanswered: list[Change] = []  # in force, but not yet handled by the thread
        self._told: tuple[StoredState, str] | None = (self.kept, self.trouble)

    async def start(self) -> None:
        """Open the file and read the state. Never raises: `trouble` has the reason if the file cannot be used."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()
        try:
            await self._ask(self._file.open)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Finish the queued jobs and close the file."""
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

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def overrides(self) -> tuple[Override, ...]:
        """Return the modes set at run time, including those that have ended."""
        return self.kept.overrides

    @property
    def rollouts(self) -> Mapping[str, Rollout]:
        """Return the rollouts by name."""
        return self.kept.rollouts

    @property
    def place(self) -> str:
        """Return the place of the file, for operators."""
        return str(self.path) if self.path else "in memory only: a restart forgets it"

    async def decide(self, change: Change) -> StateRefused | None:
        """Store a change with its audit lines. None: stored and in force; else the reason, and nothing is stored."""
        refused = await self._ask(lambda: self._file.decide(change))
        if refused is None:
            await self._share(change, is_stored=True)
        return refused

    async def decide_anyway(self, change: Change) -> StateRefused | PendingDecision | None:
        """Apply a change even if the file fails: then it is in force in this process and is stored later."""

        def decide_or_hold() -> StateRefused | PendingDecision | None:
            refused = self._file.decide(change)
            if refused is None or refused.conflict:
                return refused
            self._file.hold(change)
            return PendingDecision(refused.why)

        asked = await self._wait_for(decide_or_hold, self._patience)
        if asked.done():
            result = asked.result()
        else:
            self._hold_until_answered(change, asked, self._patience)
            result = PendingDecision(self.trouble)
        if not isinstance(result, StateRefused):
            await self._share(change, is_stored=result is None)
        return result

    def share_with(self, bring: Share) -> None:
        """Bring each change to other workers too before it counts as decided."""
        self._bring = bring
        self._file.holds_together = True

    async def follow(self, change: Change, *, is_stored: bool, seconds: float) -> None:
        """Put a change of another worker in force; what is not stored is stored by the first that can.

        `seconds`: how long the file may take; after that the change is in force without it.
        """
        asked = await self._wait_for(lambda: self._file.follow(change, is_stored=is_stored), seconds)
        if not asked.done():
            self._hold_until_answered(change, asked, seconds)

    async def refresh(self) -> None:
        """Read what other processes have stored until now."""
        await self._ask(self._file.look)

    @property
    def held(self) -> tuple[Change, ...]:
        """Changes that are in force and perhaps not stored yet."""
        return (*self._file.held, *self._unanswered)

    async def adopt(self, kept: StoredState, held: Sequence[Change], *, seconds: float) -> None:
        """Put in force what another worker holds, and all that it has in force while the file cannot be used.

        `seconds`: how long the file may take; after that it counts as one that cannot be used.
        """
        asked = await self._wait_for(lambda: self._file.adopt(kept, held), seconds)
        if not asked.done():
            self._known = kept
            for change in held:
                self._hold_until_answered(change, asked, seconds)
            self._note_silence(seconds)

    async def _wait_for(self, job: Callable[[], _T], seconds: float) -> asyncio.Future[_T]:
        """Give the thread a job that is not taken back, and wait for it so long."""
        asked = asyncio.wrap_future(self._given(job))
        await asyncio.wait([asked], timeout=seconds)
        return asked

    async def _share(self, change: Change, *, is_stored: bool) -> None:
        found = await self._bring(change, is_stored) if self._bring is not None else ()
        collected = _notes.get()
        if collected is not None:
            collected.extend(found)

    def _hold_until_answered(self, change: Change, asked: asyncio.Future[Any], seconds: float) -> None:
        """Apply a change that the thread has not handled yet; once it has, its reports include it."""

        def answered(_: asyncio.Future[Any]) -> None:
            self._unanswered.remove(change)
            self._take_over(self._known, self.trouble)

        self._unanswered.append(change)
        asked.add_done_callback(answered)
        self._note_silence(seconds)

    async def hold_lease(self, name: str, holder: str, seconds: float) -> bool:
        """Take or renew a lease for `seconds`; returns whether this holder has it."""
        boot, now = clocks.boot(), self._clock()
        held = await self._write(lambda db: tables.hold_lease(db, name, holder, boot, now, now + seconds))
        return held is True

    async def keep_task(self, ref: str, holder: str, document: str) -> StateRefused | None:
        """Store a task; `holder`: the lease name of the gateway that runs it, or empty."""
        return await self._run(tables.PUT_TASK, (ref, holder, self._now(), document))

    async def change_task(self, ref: str, document: str) -> StateRefused | None:
        """Change a task that another gateway began."""
        return await self._run("UPDATE task SET document = ?, moment = ? WHERE ref = ?", (document, self._now(), ref))

    async def forget_tasks(self, refs: Sequence[str]) -> StateRefused | None:
        """Delete tasks."""
        return await self._run("DELETE FROM task WHERE ref = ?", *((ref,) for ref in refs))

    async def read_task(self, ref: str) -> str | StateRefused | None:
        """Return the document of a task, or None."""
        query = "SELECT document FROM task WHERE ref = ?"
        return await self._read(lambda db: next((document for (document,) in db.execute(query, (ref,))), None))

    async def tasks(self) -> Sequence[str] | StateRefused:
        """Return the documents of all tasks."""
        return await self._read(lambda db: [row[0] for row in db.execute("SELECT document FROM task ORDER BY moment")])

    async def end_orphans(self, ended: Callable[[str], str], oldest: float) -> Sequence[str] | StateRefused:
        """Rewrite with `ended` the tasks whose holder has no lease; the references of all tasks.

        Tasks that no gateway runs and that are older than `oldest` are forgotten.
        """
        boot, clock = clocks.boot(), self._clock()
        return await self._write(lambda db: tables.end_orphans(db, ended, boot, clock, self._now(), oldest))

    async def keep_sessions(self, rows: Mapping[str, str | None]) -> StateRefused | None:
        """Store sessions by digest; None deletes one."""

        def work(db: sqlite3.Connection) -> None:
            gone = [(digest,) for digest, document in rows.items() if document is None]
            db.executemany("DELETE FROM session WHERE digest = ?", gone)
            kept = [(digest, document) for digest, document in rows.items() if document is not None]
            db.executemany("INSERT OR REPLACE INTO session (digest, document) VALUES (?, ?)", kept)

        return await self._write(work)

    async def sessions(self) -> Mapping[str, str] | StateRefused:
        """Return the documents of all sessions by digest."""
        return await self._read(lambda db: dict(db.execute("SELECT digest, document FROM session").fetchall()))

    async def save_event_log(self, log: SavedLog, after: int | None) -> bool | StateRefused:
        """Write what has changed in a log since generation `after`, or all of it. False: what was written is gone."""
        return await self._write(lambda db: tables.save_log(db, log, after, self._now()))

    async def event_log(self, service: str, epoch: int, generation: int) -> SavedLog | StateRefused | None:
        """Return a log that has this generation of its epoch, or None."""
        return await self._read(lambda db: tables.read_log(db, service, epoch, generation))

    async def audit(
        self, limit: int = 100, since: float = 0.0, subject: str | None = None
    ) -> Sequence[AuditEntry] | StateRefused:
        """Return the newest lines of the audit, newest first."""
        return await self._read(lambda db: tables.audit(db, limit, since, subject))

    async def flush(self, batch: CountsBatch) -> StateRefused | None:
        """Add counts and pairs to the file; a batch that cannot be written is lost and counted in `lost`."""

        def add(db: sqlite3.Connection) -> None:
            evidence.add(db, self._instance, batch.evidence, self._now())
            evidence.add_pairs(db, batch.pairs)
            evidence.add_clients(db, batch.clients)

        refused = await self._write(add)
        self.lost += refused is not None
        return refused

    async def evidence(self) -> Mapping[MethodId, Counts] | StateRefused:
        """Return the sums over all processes."""
        return await self._read(evidence.total)

    async def pairs(self, method: MethodId | None = None, limit: int = 50) -> Sequence[MismatchRecord] | StateRefused:
        """Return the newest differing pairs of a method or of all, newest first."""
        return await self._read(lambda db: evidence.pairs(db, method, limit))

    async def clients(
        self, service: str | None = None, since: float = 0.0, limit: int = 1_000
    ) -> Mapping[ClientKey, ClientRecord] | StateRefused:
        """Return the clients that called since then, the latest first; of a service or of all."""
        return await self._read(lambda db: evidence.read_clients(db, service, since, limit))

    async def _read(self, work: Callable[[sqlite3.Connection], _T]) -> _T | StateRefused:
        return await self._ask(lambda: self._file.read(work))

    async def _write(self, work: Callable[[sqlite3.Connection], _T | StateRefused]) -> _T | StateRefused:
        """Run a write that a power failure may undo."""
        return await self._ask(lambda: self._file.write(work, durable=False))

    async def _run(self, statement: str, *rows: tuple[str | float, ...]) -> StateRefused | None:
        """Run a statement with each of these rows."""

        def work(db: sqlite3.Connection) -> None:
            db.executemany(statement, rows)

        return await self._write(work)

    async def _ask(self, job: Callable[[], _T]) -> _T | StateRefused:
        """Run a job in the thread and wait at most `patience` seconds."""
        asked = self._given(job)
        await asyncio.wait([asyncio.wrap_future(asked)], timeout=self._patience)
        if asked.done():
            return asked.result()
        self._note_silence(self._patience)
        return StateRefused(self.trouble if asked.cancel() else f"{self.trouble}; {file.UNKNOWN}")

    def _given(self, job: Callable[[], _T]) -> Future[_T]:
        def told() -> _T:
            try:
                return job()
            finally:
                self._tell()

        return self._thread.do(told)

    def _note_silence(self, seconds: float) -> None:
        self._told = None  # report whatever the thread finds next
        self._take_over(self._known, f"state file {self.path} {file.SILENT.format(seconds=seconds)}")

    def _look(self) -> None:
        self._file.look()
        self._tell()

    def _tell(self) -> None:
        """Called by the thread: report changes to the loop, before the result of the job that made them."""
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
