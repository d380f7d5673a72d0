"""What is wrong with a state file and what to do about it, in words for an operator. Knows no file."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from gateway.state.schema import VERSION

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


class Unreadable(sqlite3.DatabaseError):
    """The file is whole, but a row in it says what nobody here has written; the text says which."""


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


def told(error: Exception) -> str:
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


def lasting(error: Exception) -> bool:
    """Whether only another file helps."""
    return not isinstance(error, OSError | sqlite3.Error) or primary(error) in LASTING or _is_no_text(error)


def stale(error: Exception) -> bool:
    """Whether it has to be opened anew, and looked through, before it can be well."""
    return primary(error) in STALE


def _is_no_text(error: Exception) -> bool:
    """Python's own error, which has no code of SQLite's: a text in the file that is no UTF-8."""
    return isinstance(error, sqlite3.OperationalError) and str(error).startswith("Could not decode to UTF-8")


def primary(error: Exception) -> int:
    """SQLite's kind of an error; 0 when it has none."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF
