"""One state file, opened and kept open, or the words for why not. Synchronous.

While there is trouble the copies in memory stay, and the file is tried again and again until it is good.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from fcntl import LOCK_EX, flock
from pathlib import Path
from time import monotonic, time
from typing import TypeAlias, TypeVar

from gateway.core.admin.records import Change, StateRefused, StoredState, applied, unconditional
from gateway.state import tables
from gateway.state.tables import VERSION, Unreadable

# Messages: what is wrong with a state file, and what to do about it.


# SQLite's primary result codes: https://www.sqlite.org/rescode.html
WORDS: Mapping[int, str] = {
    sqlite3.SQLITE_FULL: "cannot grow, the disk is full: free some space",
    sqlite3.SQLITE_READONLY: "can only be read: let the gateway's user write it, its -wal and -shm, and its directory",
    sqlite3.SQLITE_PERM: "cannot be opened: let the gateway's user read and write it",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened: its directory must exist, and the gateway's user must write there",
    sqlite3.SQLITE_BUSY: "is locked by another program: end that program (`fuser` on the file tells which it is)",
    sqlite3.SQLITE_CORRUPT: "is damaged: {move_away}",
    sqlite3.SQLITE_NOTADB: "is damaged, or no state file at all: {move_away}",
    sqlite3.SQLITE_IOERR: "cannot be read or written: look for a full disk, or one that fails",
}
OTHER = "cannot be used"
MOVE_AWAY = (
    "move it away together with its -wal and -shm files; a new one is then made with the modes that are in force now"
)
LONGEST = 200  # characters of an error's own words, which may quote what is in the file
LASTING = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})  # no use to try again with the same file
STALE = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, 0})  # stays as it was opened


FOREIGN = f"belongs to another program: name another file in the config, or {MOVE_AWAY}"
SILENT = "has not answered for {seconds:g} s: look for a disk or a network file system that hangs"
UNKNOWN = "it is unknown whether this was written"
GONE = "was moved away or replaced: it is opened again in a moment"


def newer(version: int) -> str:
    """About a file of a gateway to come."""
    return f"was written by a newer gateway (format {version}, this one knows {VERSION}): run that one, or {MOVE_AWAY}"


def damaged(found: str) -> str:
    """About a file whose inside does not fit together."""
    return f"{WORDS[sqlite3.SQLITE_CORRUPT].format(move_away=MOVE_AWAY)} ({found.splitlines()[-1][:LONGEST]})"


def describe_error(error: Exception) -> str:
    """What an operator has to know about an error; the error's own words stand in brackets."""
    if isinstance(error, OSError):
        return f"{WORDS[sqlite3.SQLITE_CANTOPEN]} ({error.strerror})"
    if not isinstance(error, sqlite3.Error):
        return damaged(f"{type(error).__name__}: {error}")
    if isinstance(error, Unreadable):
        return f"holds what this gateway cannot read ({str(error)[:LONGEST]}): mend that, or {MOVE_AWAY}"
    if _is_no_text(error):
        return damaged(str(error))
    words = WORDS.get(primary(error), OTHER).format(move_away=MOVE_AWAY)
    name = getattr(error, "sqlite_errorname", "")
    return f"{words} ({str(error)[:LONGEST]}{f', {name}' if name else ''})"


def is_permanent(error: Exception) -> bool:
    """Whether only another file helps."""
    return not isinstance(error, OSError | sqlite3.Error) or primary(error) in LASTING or _is_no_text(error)


def is_stale(error: Exception) -> bool:
    """Whether it has to be opened anew, and looked through, before it can be well."""
    return primary(error) in STALE


def _is_no_text(error: Exception) -> bool:
    """Python's own error, which has no code of SQLite's: a text in the file that is no UTF-8."""
    return isinstance(error, sqlite3.OperationalError) and str(error).startswith("Could not decode to UTF-8")


def primary(error: Exception) -> int:
    """SQLite's kind of an error; 0 when it has none."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


LOCK_PATIENCE = 0.5  # seconds to wait for another process's transaction
RETRY = 1.0  # seconds between two attempts at a file that is in trouble

_T = TypeVar("_T")
_Identity: TypeAlias = tuple[int, ...]  # which file a path leads to; nothing when there is none


class StateFile:
    """The file of one process. One thread calls all methods and reads `kept` and `trouble`."""

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
            self._fail(GONE)
        if self.trouble:
            self._retry()
        else:
            self._attempt(self._follow)

    def read(self, work: Callable[[sqlite3.Connection], _T]) -> _T | StateRefused:
        """Read something, all of it as it was at one moment."""
        return self._attempt(lambda db: _transaction(db, "BEGIN", work))

    def write(self, work: Callable[[sqlite3.Connection], _T | StateRefused], *, durable: bool) -> _T | StateRefused:
        """Write something whole or not at all. Durable: once this has returned it survives a power cut."""
        if self._db is None or self._held:
            self._retry()
        if self._held:
            return StateRefused(self.trouble)
        result = self._attempt(lambda db: _write(db, work, durable=durable), given=True)
        if not isinstance(result, StateRefused):
            self.trouble = ""
        return result

    def decide(self, change: Change) -> StateRefused | None:
        """Write one decision down, and take it over."""
        result = self.write(lambda db: tables.decide(db, change), durable=True)
        if isinstance(result, StateRefused):
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
            if isinstance(self._attempt(lambda db: _write(db, self._catch_up, durable=True)), StateRefused):
                return
            del self._held[0]
        kept = self._attempt(lambda db: _write(db, self._probe, durable=True))
        if not isinstance(kept, StateRefused):
            self.kept = kept
            self.trouble = ""

    def _catch_up(self, db: sqlite3.Connection) -> StoredState | StateRefused:
        """What was held is a fact by now; but a rollout that others have gone on with meanwhile stays theirs."""
        result = tables.decide(db, self._held[0])
        return tables.decide(db, unconditional(self._held[0])) if isinstance(result, StateRefused) else result

    def _probe(self, db: sqlite3.Connection) -> StoredState:
        tables.retire(db, self._now())
        db.execute("UPDATE counter SET value = value + 1 WHERE name = 'probe'")
        return tables.load(db)

    def _follow(self, db: sqlite3.Connection) -> None:
        """Take over what another process has decided."""
        version = tables.number(db, "data_version")
        if version != self._version:
            self.kept = _transaction(db, "BEGIN", tables.load)
            self._version = version

    def _connect(self) -> None:
        """Open the file. One that was moved away is let rest once, until every gateway has let go of it."""
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
        if tables.empty(db):
            self._fill(db)
        self._version = tables.number(db, "data_version")
        kept = _transaction(db, "BEGIN", tables.load)
        if not self._held:
            self.kept = kept

    def _create(self, db: sqlite3.Connection) -> None:
        if tables.empty(db):  # no other process was quicker
            tables.create(db)
            if self.kept != StoredState():
                tables.restore(db, self.kept, self._now())

    def _peek(self) -> None:
        """On a read-only file system SQLite reads such a file only if told that nobody changes it: for its modes."""
        path = self.path
        if path is None or self._bad or self.kept != StoredState() or _stat(_wal(path)):
            return
        if os.access(path.parent, os.W_OK, effective_ids=True):
            return
        with suppress(Exception), closing(_connection(f"{_uri(path, 'ro')}&immutable=1")) as db:  # told already
            if not _unfit(db):
                self.kept = tables.load(db)

    def _attempt(self, work: Callable[[sqlite3.Connection], _T], *, given: bool = False) -> _T | StateRefused:
        """Do something with the file; the one place where errors become words.

        What SQLite hands out of a damaged file may fail in any way (text that is no UTF-8, a number that is none): all
        of it is damage. `given`: the work writes what others give, which may be wrong without any fault of the file.
        """
        if self._db is None:
            return StateRefused(self.trouble)
        try:
            return work(self._db)
        except (sqlite3.Error, UnicodeDecodeError) as error:
            self._blame(error)
            return StateRefused(self.trouble)
        except Exception as error:
            if given:
                raise
            self._blame(error)
            return StateRefused(self.trouble)

    def _blame(self, error: Exception) -> None:
        if is_permanent(error):
            self._condemn(describe_error(error))
        else:
            self._fail(describe_error(error))
            self._stale = is_stale(error)

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
    if tables.number(db, "application_id") != tables.APPLICATION and not tables.empty(db):
        return FOREIGN
    version = tables.number(db, "user_version")
    if version > tables.VERSION:
        return newer(version)
    found = str(db.execute("PRAGMA quick_check(1)").fetchone()[0])
    return "" if found == "ok" else damaged(found)


def _write(db: sqlite3.Connection, work: Callable[[sqlite3.Connection], _T], *, durable: bool) -> _T:
    db.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
    return _transaction(db, "BEGIN IMMEDIATE", work)


def _transaction(db: sqlite3.Connection, begin: str, work: Callable[[sqlite3.Connection], _T]) -> _T:
    """All of it or nothing; nothing when `work` refuses."""
    db.execute(begin)
    try:
        result = work(db)
        db.execute("ROLLBACK" if isinstance(result, StateRefused) else "COMMIT")
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
