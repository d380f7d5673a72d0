"""One open state file, or the reason why it cannot be used. Synchronous.

While the file cannot be used, the copies in memory stay in force, and the file is retried every `RETRY` seconds.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from fcntl import LOCK_EX, flock
from functools import reduce
from pathlib import Path
from time import monotonic, time
from typing import TypeAlias, TypeVar

from gateway.core.admin.records import Change, StateRefused, StoredState, applied, unconditional
from gateway.state import evidence, tables
from gateway.state.tables import VERSION, Unreadable

# Messages: what is wrong with a state file, and what to do.

# SQLite's primary result codes: https://www.sqlite.org/rescode.html
WORDS: Mapping[int, str] = {
    sqlite3.SQLITE_FULL: "cannot grow, the disk is full: free some space",
    sqlite3.SQLITE_READONLY: "can only be read: let the gateway's user write it, its -wal and -shm, and its directory",
    sqlite3.SQLITE_PERM: "cannot be opened: let the gateway's user read and write it",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened: its directory must exist, and the gateway's user must write there",
    sqlite3.SQLITE_BUSY: "is locked by another program: end that program (`fuser` on the file tells which it is)",
    sqlite3.SQLITE_CORRUPT: "is damaged: {move_away}",
    sqlite3.SQLITE_NOTADB: "is damaged, or is not a state file: {move_away}",
    sqlite3.SQLITE_IOERR: "cannot be read or written: check for a full or failing disk",
}
OTHER = "cannot be used"
MOVE_AWAY = (
    "move it away together with its -wal and -shm files; a new one is then made with the modes that are in force now"
)
LONGEST = 200  # characters kept of an error's text, which may quote the file
LASTING = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})  # the same file will not recover
# The connection keeps the error: the file is reopened and checked before it is used again.
STALE = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, 0})
FOREIGN = f"belongs to another program: name another file in the config, or {MOVE_AWAY}"
SILENT = "has not answered for {seconds:g} s: check for a hung disk or network file system"
UNKNOWN = "it is unknown whether this was written"
GONE = "was moved or replaced: it is reopened in a moment"


def other_format(version: int) -> str:
    """Message for a file of an older or newer gateway."""
    which = "a newer" if version > VERSION else "an older"
    return f"was written by {which} gateway (format {version}, this one knows {VERSION}): run that one, or {MOVE_AWAY}"


def damaged(found: str) -> str:
    """Message for a damaged file."""
    return f"{WORDS[sqlite3.SQLITE_CORRUPT].format(move_away=MOVE_AWAY)} ({found.splitlines()[-1][:LONGEST]})"


def describe_error(error: Exception) -> str:
    """Return a message for the operator, with the text of the error in brackets."""
    if isinstance(error, OSError):
        return f"{WORDS[sqlite3.SQLITE_CANTOPEN]} ({error.strerror})"
    if not isinstance(error, sqlite3.Error):
        return damaged(f"{type(error).__name__}: {error}")
    if isinstance(error, Unreadable):
        return f"has a row that this gateway cannot read ({str(error)[:LONGEST]}): repair it, or {MOVE_AWAY}"
    if _is_no_text(error):
        return damaged(str(error))
    words = WORDS.get(primary(error), OTHER).format(move_away=MOVE_AWAY)
    name = getattr(error, "sqlite_errorname", "")
    return f"{words} ({str(error)[:LONGEST]}{f', {name}' if name else ''})"


def is_permanent(error: Exception) -> bool:
    """Return whether the file must be replaced."""
    return not isinstance(error, OSError | sqlite3.Error) or primary(error) in LASTING or _is_no_text(error)


def _is_no_text(error: Exception) -> bool:
    """Text that is not UTF-8: Python's own error, without an SQLite code."""
    return isinstance(error, sqlite3.OperationalError) and str(error).startswith("Could not decode to UTF-8")


def primary(error: Exception) -> int:
    """Return SQLite's primary result code, or 0."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


LOCK_PATIENCE = 0.5  # seconds to wait for another process's transaction
RETRY = 1.0  # seconds between two attempts to use a file that failed

_T = TypeVar("_T")
_Identity: TypeAlias = tuple[int, ...]  # which file a path leads to; nothing when there is none


class StateFile:
    """The state file of one process. Only one thread may use it."""

    def __init__(
        self, path: Path | None, now: Callable[[], float] = time, clock: Callable[[], float] = monotonic
    ) -> None:
        self.path = path  # None: in memory
        self.kept = StoredState()
        self.trouble = ""
        self._now = now
        self._clock = clock
        self._db: sqlite3.Connection | None = None
        self._inode: _Identity = ()  # of the file that is open
        self._bad: _Identity = ()  # of a file that an operator must repair or replace
        self._stale = False  # must be reopened
        self._version = 0  # SQLite's data_version; changes when another connection writes
        self._retry_at = 0.0
        self._held: list[Change] = []
        self.holds_together = False  # whether other processes hold the same changes

    @property
    def held(self) -> tuple[Change, ...]:
        """The changes that are in force and not stored yet; any thread may ask."""
        return tuple(self._held)

    def open(self) -> None:
        """Open the file. On failure `trouble` has the reason."""
        self._retry_at = self._clock() + RETRY
        self._mend()

    def look(self) -> None:
        """Read what other processes have stored, and retry a file that failed. Called periodically."""
        if self._db is not None and self._inode != _stat(self.path)[:2]:
            self.close()
            self._fail(GONE)
        if self.trouble:
            self._retry()
        else:
            self._attempt(self._follow)

    def read(self, work: Callable[[sqlite3.Connection], _T]) -> _T | StateRefused:
        """Read in one transaction."""
        return self._attempt(lambda db: _transaction(db, "BEGIN", work))

    def write(self, work: Callable[[sqlite3.Connection], _T | StateRefused], *, durable: bool) -> _T | StateRefused:
        """Write in one transaction. `durable`: the result survives a power failure once this returns."""
        if self._db is None or self._held:
            self._retry()
        if self._held:
            return StateRefused(self.trouble)
        result = self._attempt(lambda db: _write(db, work, durable=durable), given=True)
        if not isinstance(result, StateRefused):
            self.trouble = ""
        return result

    def decide(self, change: Change) -> StateRefused | None:
        """Store a change and apply it to `kept`."""
        result = self.write(lambda db: tables.decide(db, change), durable=True)
        if isinstance(result, StateRefused):
            return result
        self.kept = result
        return None

    def hold(self, change: Change) -> None:
        """Apply a change that cannot be stored now; it is stored when the file works again."""
        self._held.append(change)
        self.kept = applied(self.kept, change)

    def follow(self, change: Change, *, is_stored: bool) -> None:
        """Put a change of another process in force: read it, apply it without the file, or store it if that is due."""
        if not is_stored:
            self.hold(change)
            if not self.trouble:
                self._mend()
            return
        self.look()
        if self.trouble:
            self.kept = applied(self.kept, change)

    def adopt(self, kept: StoredState, held: Sequence[Change]) -> None:
        """Take over what another process has in force: what it holds, and all of it while the file cannot be used."""
        self.look()
        if self.trouble:
            self.kept = reduce(applied, self._held, kept)
        for change in held:
            if change not in self._held:
                self.hold(change)
        if self._held and not self.trouble:
            self._mend()

    def close(self) -> None:
        """Close the file."""
        if self._db is not None:
            self._db.close()
            self._db = None

    def _retry(self) -> None:
        if self._clock() >= self._retry_at:
            self._retry_at = self._clock() + RETRY
            self._mend()

    def _mend(self) -> None:
        """Open the file if needed, store held changes, and probe whether it can be written."""

        def probe(db: sqlite3.Connection) -> StoredState:
            evidence.retire(db, self._now())
            db.execute("UPDATE counter SET value = value + 1 WHERE name = 'probe'")
            return tables.load(db)

        if self._stale:
            self._stale = False
            self.close()
        if self._db is None:
            self._connect()
        while self._held:
            if isinstance(self._attempt(lambda db: _write(db, self._catch_up, durable=True)), StateRefused):
                return
            del self._held[0]
        kept = self._attempt(lambda db: _write(db, probe, durable=True))
        if not isinstance(kept, StateRefused):
            self.kept = kept
            self.trouble = ""

    def _catch_up(self, db: sqlite3.Connection) -> StoredState | StateRefused:
        """Store a held change, which is in force already, unless another process that held it too has stored it.

        A rollout that another process advanced is left as it is.
        """
        if self.holds_together and any(tables.is_noted(db, entry) for entry in self._held[0].audit):
            return tables.load(db)
        result = tables.decide(db, self._held[0])
        return tables.decide(db, unconditional(self._held[0])) if isinstance(result, StateRefused) else result

    def _follow(self, db: sqlite3.Connection) -> None:
        """Apply what another process has stored."""
        version = tables.number(db, "data_version")
        if version != self._version:
            self.kept = _transaction(db, "BEGIN", tables.load)
            self._version = version

    def _connect(self) -> None:
        """Open the file. After a move wait one attempt, so that every gateway has closed the old file."""
        if self._bad:
            found, before = _stat_all(self.path), self._bad
            if found == before:
                return
            self._bad = ()
            if found[:2] != before[:2]:
                self._fail(GONE)
                return
        try:
            if self.path is not None and not self.path.exists():
                self._new(self.path)
            self._db = _connection(_uri(self.path, "rw"))
        except (OSError, sqlite3.Error, UnicodeDecodeError) as error:
            self._blame(error)
            return
        if isinstance(self._attempt(self._begin), StateRefused):
            self.close()
            self._peek()

    def _new(self, path: Path) -> None:
        """Create a complete file and move it into place, unless another process did so first.

        Only SQLite may open an existing file: closing a descriptor frees all locks of this process on it.
        """
        path.parent.mkdir(mode=0o750, exist_ok=True)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            flock(folder, LOCK_EX)
            if path.exists():
                return
            made, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600: pairs are private
            os.close(made)
            try:
                with closing(_connection(_uri(Path(name), "rw"))) as db:
                    self._fill(db)
                # SQLite would apply leftover -wal and -shm files to the new file.
                path.with_name(f"{path.name}-shm").unlink(missing_ok=True)
                with suppress(FileNotFoundError):
                    _wal(path).rename(f"{_wal(path)}.left-{int(self._now())}")
                with suppress(FileExistsError):
                    os.link(name, path)
            finally:
                Path(name).unlink()
            os.fsync(folder)  # what is created survives a power failure
        finally:
            os.close(folder)

    def _fill(self, db: sqlite3.Connection) -> None:
        """Create the tables, unless another process has."""

        def create(db: sqlite3.Connection) -> None:
            if tables.empty(db):
                tables.create(db)
                if self.kept != StoredState():
                    tables.restore(db, self.kept, self._now())

        db.execute("PRAGMA journal_mode=WAL")
        _write(db, create, durable=True)

    def _begin(self, db: sqlite3.Connection) -> None:
        """Check owner, version and integrity of the file, create the tables if it is empty, and read the state."""
        self._inode = _stat(self.path)[:2]
        if words := _transaction(db, "BEGIN", _unfit):
            self._condemn(words)
            return
        if tables.empty(db):
            self._fill(db)
        self._version = tables.number(db, "data_version")
        kept = _transaction(db, "BEGIN", tables.load)
        if not self._held:
            self.kept = kept

    def _peek(self) -> None:
        """Read the modes on a read-only file system, where SQLite needs `immutable` to open a file in WAL mode."""
        path = self.path
        if path is None or self._bad or self.kept != StoredState() or _stat(_wal(path)):
            return
        if os.access(path.parent, os.W_OK, effective_ids=True):
            return
        # `trouble` has the reason already.
        with suppress(Exception), closing(_connection(f"{_uri(path, 'ro')}&immutable=1")) as db:
            if not _unfit(db):
                self.kept = tables.load(db)

    def _attempt(self, work: Callable[[sqlite3.Connection], _T], *, given: bool = False) -> _T | StateRefused:
        """Run `work` on the file and turn every error into a refusal with a message.

        Any exception while a damaged file is read means damage (text that is not UTF-8, a number that is none).
        `given`: `work` stores values of the caller, whose errors are raised instead.
        """
        if self._db is None:
            return StateRefused(self.trouble)
        try:
            return work(self._db)
        except Exception as error:
            if given and not isinstance(error, sqlite3.Error | UnicodeDecodeError):
                raise
            self._blame(error)
            return StateRefused(self.trouble)

    def _blame(self, error: Exception) -> None:
        if is_permanent(error):
            self._condemn(describe_error(error))
        else:
            self._fail(describe_error(error))
            self._stale = primary(error) in STALE

    def _condemn(self, words: str) -> None:
        """Close the file until an operator has replaced or repaired it."""
        self._fail(words)
        self.close()  # may remove the -wal and -shm files
        self._bad = _stat_all(self.path)

    def _fail(self, words: str) -> None:
        self.trouble = f"state file {self.path} {words}"
        self._retry_at = self._clock() + RETRY


def _uri(path: Path | None, mode: str) -> str:
    return ":memory:" if path is None else f"{path.absolute().as_uri()}?mode={mode}"


def _connection(uri: str) -> sqlite3.Connection:
    return sqlite3.connect(uri, uri=True, timeout=LOCK_PATIENCE, isolation_level=None)


def _unfit(db: sqlite3.Connection) -> str:
    """Return why the file must not be used; empty if it may."""
    if tables.number(db, "application_id") != tables.APPLICATION and not tables.empty(db):
        return FOREIGN
    version = tables.number(db, "user_version")
    if version != VERSION and not tables.empty(db):
        return other_format(version)
    found = str(db.execute("PRAGMA quick_check(1)").fetchone()[0])
    return "" if found == "ok" else damaged(found)


def _write(db: sqlite3.Connection, work: Callable[[sqlite3.Connection], _T], *, durable: bool) -> _T:
    db.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
    return _transaction(db, "BEGIN IMMEDIATE", work)


def _transaction(db: sqlite3.Connection, begin: str, work: Callable[[sqlite3.Connection], _T]) -> _T:
    """Run `work` in a transaction; roll back on an error or a refusal."""
    db.execute(begin)
    try:
        result = work(db)
        db.execute("ROLLBACK" if isinstance(result, StateRefused) else "COMMIT")
    finally:
        if db.in_transaction:
            with suppress(sqlite3.Error):
                db.execute("ROLLBACK")
    return result


def _wal(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def _stat(path: Path | None) -> _Identity:
    """Return device, inode, size and modification time; empty if there is no file."""
    if path is not None:
        with suppress(OSError):
            found = path.stat()
            return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
    return ()


def _stat_all(path: Path | None) -> _Identity:
    return (*_stat(path), -1, *(_stat(_wal(path)) if path is not None else ()))
