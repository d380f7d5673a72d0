"""The tables of the state file and the number of their version. Knows no error and no path."""

from __future__ import annotations

import sqlite3

APPLICATION = 0x78637067  # "xcpg", in the file's header: whose file it is
VERSION = 1  # of the tables below, in the file's header too

# One statement each. JSON columns hold what nobody searches; moments are seconds since 1970.
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
        PRIMARY KEY (service, method, protocol, peer, agent, user, domid)) STRICT""",
    "CREATE INDEX client_last ON client (last)",
    "CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID, STRICT",
    "INSERT INTO counter VALUES ('version', 0), ('probe', 0)",
)


def number(db: sqlite3.Connection, pragma: str) -> int:
    """What a PRAGMA says."""
    return int(db.execute(f"PRAGMA {pragma}").fetchone()[0])


def empty(db: sqlite3.Connection) -> bool:
    """Whether nobody has written anything to the file yet."""
    return number(db, "schema_version") == 0 and number(db, "user_version") == 0


def create(db: sqlite3.Connection) -> None:
    """Make the tables, inside a transaction of the caller's."""
    for statement in TABLES:
        db.execute(statement)
    db.execute(f"PRAGMA application_id={APPLICATION}")
    db.execute(f"PRAGMA user_version={VERSION}")
