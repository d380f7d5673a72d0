"""The tables of the state file, their version, and what their rows have in common. Knows SQL."""

from __future__ import annotations

import sqlite3

import msgspec

APPLICATION = 0x78637067  # "xcpg", the application id in the file's header
VERSION = 2  # of the tables below; also in the file's header

# One statement each. JSON columns are never searched; moments are seconds since 1970.
TABLES = (
    """CREATE TABLE override (
        pattern TEXT NOT NULL, set_by TEXT NOT NULL, setting TEXT NOT NULL, who TEXT NOT NULL, moment REAL NOT NULL,
        why TEXT NOT NULL, until REAL, PRIMARY KEY (pattern, set_by)) WITHOUT ROWID, STRICT""",
    """CREATE TABLE rollout (
        name TEXT PRIMARY KEY, document TEXT NOT NULL, version INTEGER NOT NULL) WITHOUT ROWID, STRICT""",
    """CREATE TABLE lease (
        name TEXT PRIMARY KEY, holder TEXT NOT NULL, boot TEXT NOT NULL, until REAL NOT NULL) WITHOUT ROWID, STRICT""",
    """CREATE TABLE audit (
        id INTEGER PRIMARY KEY AUTOINCREMENT, moment REAL NOT NULL, who TEXT NOT NULL, what TEXT NOT NULL,
        subject TEXT NOT NULL, why TEXT NOT NULL, numbers TEXT NOT NULL) STRICT""",
    """CREATE TABLE evidence (
        service TEXT NOT NULL, method TEXT NOT NULL, instance TEXT NOT NULL, counters TEXT NOT NULL,
        histograms TEXT NOT NULL, seen REAL NOT NULL, PRIMARY KEY (service, method, instance)) WITHOUT ROWID, STRICT""",
    """CREATE TABLE pair (
        id INTEGER PRIMARY KEY AUTOINCREMENT, moment REAL NOT NULL, service TEXT NOT NULL, method TEXT NOT NULL,
        document TEXT NOT NULL) STRICT""",
    "CREATE INDEX pair_method ON pair (service, method, id)",
    """CREATE TABLE client (
        service TEXT NOT NULL, method TEXT NOT NULL, protocol TEXT NOT NULL, peer TEXT NOT NULL, agent TEXT NOT NULL,
        user TEXT NOT NULL, domid INTEGER NOT NULL, count INTEGER NOT NULL, first REAL NOT NULL, last REAL NOT NULL,
        received INTEGER NOT NULL, sent INTEGER NOT NULL, redirects INTEGER NOT NULL,
        PRIMARY KEY (service, method, protocol, peer, agent, user, domid)) STRICT""",
    "CREATE INDEX client_last ON client (last)",
    """CREATE TABLE task (
        ref TEXT PRIMARY KEY, holder TEXT NOT NULL, moment REAL NOT NULL, document TEXT NOT NULL)
        WITHOUT ROWID, STRICT""",
    "CREATE TABLE session (digest TEXT PRIMARY KEY, document TEXT NOT NULL) WITHOUT ROWID, STRICT",
    """CREATE TABLE event_log (
        epoch INTEGER PRIMARY KEY, service TEXT NOT NULL, saved INTEGER NOT NULL, forgotten INTEGER NOT NULL,
        moment REAL NOT NULL) STRICT""",
    """CREATE TABLE event_object (
        epoch INTEGER NOT NULL, class TEXT NOT NULL, ref TEXT NOT NULL, created INTEGER NOT NULL,
        modified INTEGER NOT NULL, is_deleted INTEGER NOT NULL, digest BLOB, before TEXT NOT NULL,
        PRIMARY KEY (epoch, class, ref)) WITHOUT ROWID, STRICT""",
    "CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID, STRICT",
    "INSERT INTO counter VALUES ('version', 0), ('probe', 0)",
)


def number(db: sqlite3.Connection, pragma: str) -> int:
    """Return the value of a PRAGMA."""
    return int(db.execute(f"PRAGMA {pragma}").fetchone()[0])


def empty(db: sqlite3.Connection) -> bool:
    """Return whether the file has no tables yet."""
    return number(db, "schema_version") == 0 and number(db, "user_version") == 0


def create(db: sqlite3.Connection) -> None:
    """Create the tables, in the caller's transaction."""
    for statement in TABLES:
        db.execute(statement)
    db.execute(f"PRAGMA application_id={APPLICATION}")
    db.execute(f"PRAGMA user_version={VERSION}")


class Unreadable(sqlite3.DatabaseError):
    """A row of an undamaged file cannot be decoded; the text names the row."""


def to_json(document: object) -> str:
    """Return a document as JSON text."""
    return msgspec.json.encode(document).decode()
