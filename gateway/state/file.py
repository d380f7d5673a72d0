"""One state file, opened and kept open, or the words for why not. Synchronous; knows no loop and no thread.

While there is trouble the copies in memory stay, and the file is tried again and again until it is good.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from fcntl import LOCK_EX, flock
from pathlib import Path
from time import monotonic, time
from typing import TypeAlias, TypeVar

from gateway.core.kept import Change, Kept, Refused, applied, unconditional
from gateway.state import decisions, evidence, schema, trouble

LOCK_PATIENCE = 0.5  # seconds to wait for another process's transaction
RETRY = 1.0  # seconds between two attempts at a file that is in trouble

_T = TypeVar("_T")
_Identity: TypeAlias = tuple[int, ...]  # which file a path leads to; nothing when there is none


class File:
    """The file of one process; one thread calls all methods, reads `kept` and `trouble`, and nobody else does."""

    def __init__(
        self, path: Path | None, now: Callable[[], float] = time, clock: Callable[[], float] = monotonic
    ) -> None:
        self.path = path  # None: in memory
        self.kept = Kept()
        self.trouble = ""
        self._now = now
        self._clock = clock
        self._db: sqlite3.Connection | None = None
        self._inode: _Identity = ()  # of the file that is open
        self._bad: _Identity = ()  # of a file that only a person can mend
        self._stale = False  # it has to be opened anew to be mended
        self._version = 0  # SQLite's data_version: another one when another connection has written
        self._retry_at = 0.0
        self._held: list[Change] = []

    def open(self) -> None:
        """The first attempt; what is wrong then stands in `trouble`."""
        self._retry_at = self._clock() + RETRY
        self._mend()

    def look(self) -> None:
        """What is to be done from time to time: see what others have decided, and try again what did not work."""
        if self._db is not None and self._inode != _stat(self.path)[:2]:
            self.close()
            self._fail(trouble.GONE)
        if self.trouble:
            self._retry()
        else:
            self._attempt(self._follow)

    def read(self, work: Callable[[sqlite3.Connection], _T]) -> _T | Refused:
        """Read something, all of it as it was at one moment."""
        return self._attempt(lambda db: _transaction(db, "BEGIN", work))

    def write(self, work: Callable[[sqlite3.Connection], _T | Refused], *, durable: bool) -> _T | Refused:
        """Write something whole or not at all. Durable: once this has returned it survives a power cut."""
        if self._db is None or self._held:
            self._retry()
        if self._held:
            return Refused(self.trouble)
        result = self._attempt(lambda db: _write(db, work, durable=durable), given=True)
        if not isinstance(result, Refused):
            self.trouble = ""
        return result

    def decide(self, change: Change) -> Refused | None:
        """Write one decision down, and take it over."""
        result = self.write(lambda db: decisions.decide(db, change), durable=True)
        if isinstance(result, Refused):
            return result
        self.kept = result
        return None

    def hold(self, change: Change) -> None:
        """Take a decision over that cannot be written down now."""
        self._held.append(change)
        self.kept = applied(self.kept, change)

    def close(self) -> None:
        """Let go of the file."""
        if self._db is not None:
            self._db.close()
            self._db = None

    def _retry(self) -> None:
        if self._clock() >= self._retry_at:
            self._retry_at = self._clock() + RETRY
            self._mend()

    def _mend(self) -> None:
        """Open the file unless it is open, write down what is held, and see whether it can be written at all."""
        if self._stale:
            self._stale = False
            self.close()
        if self._db is None:
            self._connect()
        while self._held:
            if isinstance(self._attempt(lambda db: _write(db, self._catch_up, durable=True)), Refused):
                return
            del self._held[0]
        kept = self._attempt(lambda db: _write(db, self._probe, durable=True))
        if not isinstance(kept, Refused):
            self.kept = kept
            self.trouble = ""

    def _catch_up(self, db: sqlite3.Connection) -> Kept | Refused:
        """What was held is a fact by now; but a rollout that others have gone on with meanwhile stays theirs."""
        result = decisions.decide(db, self._held[0])
        return decisions.decide(db, unconditional(self._held[0])) if isinstance(result, Refused) else result

    def _probe(self, db: sqlite3.Connection) -> Kept:
        evidence.retire(db, self._now())
        db.execute("UPDATE counter SET value = value + 1 WHERE name = 'probe'")
        return decisions.load(db)

    def _follow(self, db: sqlite3.Connection) -> None:
        """Take over what another process has decided."""
        version = schema.number(db, "data_version")
        if version != self._version:
            self.kept = _transaction(db, "BEGIN", decisions.load)
            self._version = version

    def _connect(self) -> None:
        """Open the file. One that was moved away is let rest once, until every gateway has let go of it."""
        if self._bad:
            found, before = _stat_all(self.path), self._bad
            if found == before:
                return
            self._bad = ()
            if found[:2] != before[:2]:
                self._fail(trouble.GONE)
                return
        try:
            if self.path is not None and not self.path.exists():
                self._new(self.path)
            self._db = _connection(_uri(self.path, "rw"))
        except (OSError, sqlite3.Error, UnicodeDecodeError) as error:
            self._blame(error)
            return
        if isinstance(self._attempt(self._begin), Refused):
            self.close()
            self._peek()

    def _new(self, path: Path) -> None:
        """Make a file that is whole before anybody sees it, unless another process was quicker.

        An existing file is never opened but by SQLite: closing it would free the locks of this process on it.
        """
        path.parent.mkdir(mode=0o750, exist_ok=True)
        with _alone_in(path.parent):
            if path.exists():
                return
            made, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600: pairs are private
            os.close(made)
            try:
                with closing(_connection(_uri(Path(name), "rw"))) as db:
                    self._fill(db)
                _put_aside(path, int(self._now()))
                with suppress(FileExistsError):
                    os.link(name, path)
            finally:
                Path(name).unlink()

    def _fill(self, db: sqlite3.Connection) -> None:
        db.execute("PRAGMA journal_mode=WAL")
        _write(db, self._create, durable=True)

    def _begin(self, db: sqlite3.Connection) -> None:
        """See whose file it is and whether it is whole, make the tables if it is new, and read what is in it."""
        self._inode = _stat(self.path)[:2]
        if words := _transaction(db, "BEGIN", _unfit):
            self._condemn(words)
            return
        if schema.empty(db):
            self._fill(db)
        self._version = schema.number(db, "data_version")
        kept = _transaction(db, "BEGIN", decisions.load)
        if not self._held:
            self.kept = kept

    def _create(self, db: sqlite3.Connection) -> None:
        if schema.empty(db):  # no other process was quicker
            schema.create(db)
            if self.kept != Kept():
                decisions.restore(db, self.kept, self._now())

    def _peek(self) -> None:
        """On a read-only file system SQLite reads such a file only if told that nobody changes it: for its modes."""
        path = self.path
        if path is None or self._bad or self.kept != Kept() or _stat(_wal(path)):
            return
        if os.access(path.parent, os.W_OK, effective_ids=True):
            return
        with suppress(Exception), closing(_connection(f"{_uri(path, 'ro')}&immutable=1")) as db:  # told already
            if not _unfit(db):
                self.kept = decisions.load(db)

    def _attempt(self, work: Callable[[sqlite3.Connection], _T], *, given: bool = False) -> _T | Refused:
        """Do something with the file; the one place where errors become words.

        What SQLite hands out of a damaged file may fail in any way (text that is no UTF-8, a number that is none): all
        of it is damage. `given`: the work writes what others give, which may be wrong without any fault of the file.
        """
        if self._db is None:
            return Refused(self.trouble)
        try:
            return work(self._db)
        except (sqlite3.Error, UnicodeDecodeError) as error:
            self._blame(error)
            return Refused(self.trouble)
        except Exception as error:
            if given:
                raise
            self._blame(error)
            return Refused(self.trouble)

    def _blame(self, error: Exception) -> None:
        if trouble.lasting(error):
            self._condemn(trouble.told(error))
        else:
            self._fail(trouble.told(error))
            self._stale = trouble.stale(error)

    def _condemn(self, words: str) -> None:
        """Not to be touched again until a person has done something."""
        self._fail(words)
        self.close()  # which may remove the -wal and the -shm file
        self._bad = _stat_all(self.path)

    def _fail(self, words: str) -> None:
        self.trouble = f"state file {self.path} {words}"
        self._retry_at = self._clock() + RETRY


def _uri(path: Path | None, mode: str) -> str:
    return ":memory:" if path is None else f"{path.absolute().as_uri()}?mode={mode}"


def _connection(uri: str) -> sqlite3.Connection:
    return sqlite3.connect(uri, uri=True, timeout=LOCK_PATIENCE, isolation_level=None)


def _unfit(db: sqlite3.Connection) -> str:
    """Why the file must not be used; nothing when it may."""
    if schema.number(db, "application_id") != schema.APPLICATION and not schema.empty(db):
        return trouble.FOREIGN
    version = schema.number(db, "user_version")
    if version > schema.VERSION:
        return trouble.newer(version)
    found = str(db.execute("PRAGMA quick_check(1)").fetchone()[0])
    return "" if found == "ok" else trouble.damaged(found)


def _write(db: sqlite3.Connection, work: Callable[[sqlite3.Connection], _T], *, durable: bool) -> _T:
    db.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
    return _transaction(db, "BEGIN IMMEDIATE", work)


def _transaction(db: sqlite3.Connection, begin: str, work: Callable[[sqlite3.Connection], _T]) -> _T:
    """All of it or nothing; nothing when `work` refuses."""
    db.execute(begin)
    try:
        result = work(db)
        db.execute("ROLLBACK" if isinstance(result, Refused) else "COMMIT")
    finally:
        if db.in_transaction:
            with suppress(sqlite3.Error):
                db.execute("ROLLBACK")
    return result


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """No other gateway makes a file here meanwhile; what was made survives a power cut."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flock(opened, LOCK_EX)
        yield
        os.fsync(opened)
    finally:
        os.close(opened)


def _put_aside(path: Path, now: int) -> None:
    """What is left of a file that was moved away without its companions: SQLite would apply it to the new one."""
    path.with_name(f"{path.name}-shm").unlink(missing_ok=True)
    with suppress(FileNotFoundError):
        _wal(path).rename(f"{_wal(path)}.left-{now}")


def _wal(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def _stat(path: Path | None) -> _Identity:
    """Device and inode first, then what changes when somebody writes."""
    if path is not None:
        with suppress(OSError):
            found = path.stat()
            return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
    return ()


def _stat_all(path: Path | None) -> _Identity:
    return (*_stat(path), -1, *(_stat(_wal(path)) if path is not None else ()))
