"""Rows of the state file: what the change logs of events have written down. Knows SQL; no thread and no transaction.

Each log of each process has an epoch and its own rows, so that processes which share the file do not disturb each
other. A log is written whole at first, then what has changed since. A part is added only to what its writer has written
before: where that is gone (another file, or it was forgotten here for newer ones), the log is written whole again.
"""

from __future__ import annotations

import sqlite3

import msgspec

from gateway.core.admin.records import SavedLog, SavedObject
from gateway.state.tables import to_json

MOST_LOGS = 16  # of one service: those that were written last
MOST_OBJECTS = 100_000  # of all logs; the log that was written first is forgotten first
LARGEST = 2**63 - 1  # of an INTEGER

_PUT = """INSERT OR REPLACE INTO event_object (epoch, class, ref, created, modified, is_deleted, digest, before)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?)"""
_LOGS = """SELECT epoch, service, (SELECT count(*) FROM event_object WHERE event_object.epoch = event_log.epoch)
    FROM event_log ORDER BY moment DESC"""
_READ = """SELECT class, ref, created, modified, is_deleted, digest, before FROM event_object WHERE epoch = ?"""
_lives = msgspec.json.Decoder(tuple[tuple[int, int], ...]).decode


def save_log(db: sqlite3.Connection, log: SavedLog, after: int | None, now: float) -> bool:
    """Write what has changed since generation `after`; None: the whole log. False: what was written is gone."""
    found = db.execute("SELECT saved FROM event_log WHERE epoch = ?", (log.epoch,)).fetchone()
    if after is not None and (found is None or found[0] != after):
        return False
    if after is None:
        _forget(db, log.epoch)
    rows = []
    for each in log.objects:
        before = to_json(each.before) if each.before else ""
        moments = each.created, each.modified, int(each.is_deleted)
        rows.append((log.epoch, each.name, each.ref, *moments, each.digest, before))
    db.executemany(_PUT, rows)
    db.execute(
        "DELETE FROM event_object WHERE epoch = ? AND is_deleted = 1 AND modified <= ?", (log.epoch, log.forgotten)
    )
    db.execute(
        "INSERT OR REPLACE INTO event_log (epoch, service, saved, forgotten, moment) VALUES (?, ?, ?, ?, ?)",
        (log.epoch, log.service, log.saved, log.forgotten, now),
    )
    if after is None:
        _keep_newest(db, log.epoch)
    return True


def read_log(db: sqlite3.Connection, service: str, epoch: int, generation: int) -> SavedLog | None:
    """Read a log that has this generation of its epoch; None: there is none."""
    if not 0 < epoch <= LARGEST:
        return None
    query = "SELECT service, epoch, saved, forgotten FROM event_log WHERE epoch = ? AND service = ?"
    found = db.execute(query, (epoch, service)).fetchone()
    if found is None or not SavedLog(*found).has(generation):
        return None
    try:
        objects = tuple(
            SavedObject(name, ref, created, modified, bool(is_deleted), digest, _lives(before) if before else ())
            for name, ref, created, modified, is_deleted, digest, before in db.execute(_READ, (epoch,))
        )
    except ValueError:  # a row that this gateway cannot read: then nothing is certain
        return None
    return SavedLog(*found)._replace(objects=objects)


def _forget(db: sqlite3.Connection, epoch: int) -> None:
    db.execute("DELETE FROM event_object WHERE epoch = ?", (epoch,))
    db.execute("DELETE FROM event_log WHERE epoch = ?", (epoch,))


def _keep_newest(db: sqlite3.Connection, own: int) -> None:
    """Forget the oldest logs beyond the bounds, and no part of one."""
    objects, logs = 0, dict[str, int]()
    for epoch, service, count in db.execute(_LOGS).fetchall():
        objects += count
        logs[service] = logs.get(service, 0) + 1
        if epoch != own and (objects > MOST_OBJECTS or logs[service] > MOST_LOGS):
            _forget(db, epoch)
            objects -= count
