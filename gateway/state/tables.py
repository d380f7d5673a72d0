"""The tables of the state file, and the rows of modes, rollouts, leases, tasks, event logs and the audit.

Knows SQL; no thread, no transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, get_args

import msgspec

from gateway.core.admin.records import (
    AuditEntry,
    Change,
    PutRollout,
    Rollout,
    SavedLog,
    SavedObject,
    StateRefused,
    StoredState,
    rolled_back,
)
from gateway.core.migration.modes import Mode, Setting, Side, percent, share
from gateway.core.routing.overrides import By, Override
from gateway.state.clock import ClockReading

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


# Rows

_BY: Mapping[str, By] = {by: by for by in get_args(By)}

AUDIT_KEPT = 100_000  # lines, the newest

_PUT = """INSERT INTO override (pattern, set_by, setting, who, moment, why, until) VALUES (?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET setting = excluded.setting, who = excluded.who, moment = excluded.moment,
    why = excluded.why, until = excluded.until"""
_PUT_ROLLOUT = """INSERT OR REPLACE INTO rollout (name, document, version)
    SELECT ?, ?, value FROM counter WHERE name = 'version'"""
_OVERRIDES = "SELECT pattern, setting, who, moment, why, until, set_by FROM override ORDER BY pattern, set_by"
_AUDIT = """SELECT moment, who, what, subject, why, numbers FROM audit
    WHERE moment >= ?1 AND (?2 IS NULL OR subject = ?2) ORDER BY id DESC LIMIT ?3"""


def load(db: sqlite3.Connection) -> StoredState:
    """Return the overrides and rollouts. Each process keeps a copy of them."""
    rollouts = {}
    for name, document, version in db.execute("SELECT name, document, version FROM rollout ORDER BY name"):
        with _named(f"rollout '{name}'"):
            rollouts[name] = Rollout(msgspec.json.decode(document), version)
    return StoredState(tuple(_overrides(db)), rollouts)


def decide(db: sqlite3.Connection, change: Change) -> StateRefused | StoredState:
    """Store a change and return the new state, or why it is refused. The caller rolls back a refused change."""
    for put in change.rollouts:
        row = db.execute("SELECT version FROM rollout WHERE name = ?", (put.name,)).fetchone()
        version = row[0] if row else 0
        if put.expected is not None and put.expected != version:
            now = f"at version {version} and not at {put.expected}" if version else "there no more"
            now = "there already" if put.expected == 0 else now
            why = f"rollout '{put.name}' is {now}: another operator or gateway changed it first"
            return StateRefused(why, conflict=True)
    if change.back is not None:
        _roll_back(db, change.back)
    db.executemany("DELETE FROM override WHERE pattern = ? AND set_by = ?", change.drop)
    if change.expired_by is not None:
        over = [(each.pattern, each.by) for each in _overrides(db) if each.expired(change.expired_by)]
        db.executemany("DELETE FROM override WHERE pattern = ? AND set_by = ?", over)
    db.executemany(_PUT, map(_row, change.put))
    for put in change.rollouts:
        if put.document is None:
            db.execute("DELETE FROM rollout WHERE name = ?", (put.name,))
        else:
            db.execute("UPDATE counter SET value = value + 1 WHERE name = 'version'")
            db.execute(_PUT_ROLLOUT, (put.name, to_json(put.document)))
    db.executemany("DELETE FROM evidence WHERE service = ? AND method = ?", change.clear)
    db.executemany("DELETE FROM pair WHERE service = ? AND method = ?", change.clear)
    note(db, change.audit)
    return load(db)


def restore(db: sqlite3.Connection, kept: StoredState, when: float) -> None:
    """Store what was in memory, in a new file."""
    rollouts = tuple(PutRollout(name, rollout.document) for name, rollout in kept.rollouts.items())
    numbers = {"overrides": len(kept.overrides), "rollouts": len(rollouts)}
    entry = AuditEntry(when, "gateway", "restore", "*", "the state file was new; these were in force", numbers)
    decide(db, Change((entry,), kept.overrides, rollouts=rollouts))


def note(db: sqlite3.Connection, entries: tuple[AuditEntry, ...]) -> None:
    """Append to the audit and delete its oldest lines."""
    rows = [(e.when, e.who, e.what, e.subject, e.why, to_json(e.numbers)) for e in entries]
    db.executemany("INSERT INTO audit (moment, who, what, subject, why, numbers) VALUES (?, ?, ?, ?, ?, ?)", rows)
    db.execute("DELETE FROM audit WHERE id <= (SELECT max(id) FROM audit) - ?", (AUDIT_KEPT,))


def is_noted(db: sqlite3.Connection, entry: AuditEntry) -> bool:
    """Whether the audit has this entry."""
    row = (entry.when, entry.who, entry.what, entry.subject, entry.why)
    known = "SELECT 1 FROM audit WHERE moment = ? AND who = ? AND what = ? AND subject = ? AND why = ?"
    return db.execute(known, row).fetchone() is not None


def audit(db: sqlite3.Connection, limit: int, since: float, subject: str | None) -> list[AuditEntry]:
    """Return the newest lines of the audit, newest first."""
    entries = []
    for when, who, what, about, why, numbers in db.execute(_AUDIT, (since, subject, limit)):
        with _named("audit"):
            known = msgspec.json.decode(numbers, type=dict[str, Any])
        entries.append(AuditEntry(when, who, what, about, why, known))
    return entries


def hold_lease(db: sqlite3.Connection, name: str, holder: str, boot: str, now: float, until: float) -> bool:
    """Take or renew a lease; False if another process holds it. Times are CLOCK_BOOTTIME of the host start `boot`."""
    row = db.execute("SELECT holder, boot, until FROM lease WHERE name = ?", (name,)).fetchone()
    if row is not None and row[0] != holder and row[1] == boot and row[2] > now:
        return False
    db.execute(
        "INSERT OR REPLACE INTO lease (name, holder, boot, until) VALUES (?, ?, ?, ?)", (name, holder, boot, until)
    )
    return True


def written(setting: Setting, until: float | None = None, *, guarded: bool = False) -> str:
    """Encode a setting as JSON. A setting that ends also gets the reading of the clock that its end refers to."""
    words: dict[str, str | bool] = {
        "mode": setting.mode.value,
        "share": percent(setting.buckets),
        "control": setting.control.value,
        "observe": setting.observe,
        "noise": setting.noise,
    }
    if guarded:
        words["guarded"] = True
    return to_json(words if until is None else {**words, "clock": str(ClockReading.here())})


def read(words: Mapping[str, str | bool]) -> Setting:
    """Return the setting of a document; raises ValueError, KeyError or TypeError."""
    mode, control = Mode(words["mode"]), Side(words["control"])
    return Setting(mode, share(str(words["share"])), control, bool(words["observe"]), bool(words["noise"]))


def _roll_back(db: sqlite3.Connection, back: Override) -> None:
    """Roll back what the file holds now, which other processes may have changed. Unreadable rows are skipped."""
    found = []
    for row in db.execute(_OVERRIDES).fetchall():
        with suppress(Unreadable):
            found.append(_override(row))
    db.execute("DELETE FROM override")
    db.executemany(_PUT, map(_row, rolled_back(found, back)))


def _overrides(db: sqlite3.Connection) -> Iterator[Override]:
    yield from map(_override, db.execute(_OVERRIDES))


def _override(row: tuple[str, str, str, float, str, float | None, str]) -> Override:
    """An override, whose end is by the clock of this process."""
    pattern, setting, who, when, why, until, by = row
    with _named(f"override of '{pattern}'"):
        words = msgspec.json.decode(setting, type=dict[str, str | bool])
        if until is not None:
            until = ClockReading.read(str(words["clock"])).translated(until)
        return Override(pattern, read(words), who, when, why, until, _BY[by], words.get("guarded") is True)


def _row(override: Override) -> tuple[str | float | None, ...]:
    setting = written(override.setting, override.until, guarded=override.guarded)
    return (
        override.pattern, override.by, setting, override.who, override.when, override.why, override.until
    )  # fmt: skip


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Raise Unreadable with the name of the row when its content cannot be decoded."""
    try:
        yield
    except (ValueError, KeyError, TypeError) as error:  # msgspec's errors are ValueErrors
        raise Unreadable(f"{what}: {error}") from error


# Tasks. The holder of a task that runs is the gateway that runs it, which has a lease of this name.

TASKS = 10_000  # rows

_ORPHANS = """SELECT ref, document FROM task WHERE holder != '' AND NOT EXISTS
    (SELECT 1 FROM lease WHERE name = task.holder AND boot = ? AND until > ?)"""
PUT_TASK = "INSERT OR REPLACE INTO task (ref, holder, moment, document) VALUES (?, ?, ?, ?)"


def end_orphans(
    db: sqlite3.Connection, ended: Callable[[str], str], boot: str, clock: float, now: float, oldest: float
) -> list[str]:
    """Rewrite the tasks of gateways that died and delete old tasks; returns the references of the rest."""
    for ref, document in db.execute(_ORPHANS, (boot, clock)).fetchall():
        db.execute(PUT_TASK, (ref, "", now, ended(document)))
    db.execute("DELETE FROM lease WHERE name = holder AND NOT (boot = ? AND until > ?)", (boot, clock))
    db.execute("DELETE FROM task WHERE holder = '' AND moment < ?", (oldest,))
    db.execute(
        """DELETE FROM task WHERE ref IN (SELECT ref FROM task WHERE holder = '' ORDER BY moment DESC
        LIMIT -1 OFFSET ?)""",
        (TASKS,),
    )
    return [ref for (ref,) in db.execute("SELECT ref FROM task")]


# What the change logs of events have written down. Each log of each process has an epoch and its own rows, so that
# processes which share the file do not disturb each other. A log is written whole at first, then what has changed
# since. A part is added only to what its writer has written before: where that is gone (another file, or it was
# forgotten here for newer ones), the log is written whole again.

MOST_LOGS = 16  # of one service: those that were written last
MOST_OBJECTS = 100_000  # of all logs; the log that was written first is forgotten first
LARGEST = 2**63 - 1  # of an INTEGER

_PUT_OBJECT = """INSERT OR REPLACE INTO event_object (epoch, class, ref, created, modified, is_deleted, digest, before)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?)"""
_LOGS = """SELECT epoch, service, (SELECT count(*) FROM event_object WHERE event_object.epoch = event_log.epoch)
    FROM event_log ORDER BY moment DESC"""
_READ_OBJECTS = """SELECT class, ref, created, modified, is_deleted, digest, before FROM event_object WHERE epoch = ?"""
_lives = msgspec.json.Decoder(tuple[tuple[int, int], ...]).decode


def save_log(db: sqlite3.Connection, log: SavedLog, after: int | None, now: float) -> bool:
    """Write what has changed since generation `after`; None: the whole log. False: what was written is gone."""
    found = db.execute("SELECT saved FROM event_log WHERE epoch = ?", (log.epoch,)).fetchone()
    if after is not None and (found is None or found[0] != after):
        return False
    if after is None:
        _forget_log(db, log.epoch)
    rows = []
    for each in log.objects:
        before = to_json(each.before) if each.before else ""
        moments = each.created, each.modified, int(each.is_deleted)
        rows.append((log.epoch, each.name, each.ref, *moments, each.digest, before))
    db.executemany(_PUT_OBJECT, rows)
    db.execute(
        "DELETE FROM event_object WHERE epoch = ? AND is_deleted = 1 AND modified <= ?", (log.epoch, log.forgotten)
    )
    db.execute(
        "INSERT OR REPLACE INTO event_log (epoch, service, saved, forgotten, moment) VALUES (?, ?, ?, ?, ?)",
        (log.epoch, log.service, log.saved, log.forgotten, now),
    )
    if after is None:
        _keep_newest_logs(db, log.epoch)
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
            for name, ref, created, modified, is_deleted, digest, before in db.execute(_READ_OBJECTS, (epoch,))
        )
    except ValueError:  # a row that this gateway cannot read: then nothing is certain
        return None
    return SavedLog(*found)._replace(objects=objects)


def _forget_log(db: sqlite3.Connection, epoch: int) -> None:
    db.execute("DELETE FROM event_object WHERE epoch = ?", (epoch,))
    db.execute("DELETE FROM event_log WHERE epoch = ?", (epoch,))


def _keep_newest_logs(db: sqlite3.Connection, own: int) -> None:
    """Forget the oldest logs beyond the bounds, and no part of one."""
    objects, logs = 0, dict[str, int]()
    for epoch, service, count in db.execute(_LOGS).fetchall():
        objects += count
        logs[service] = logs.get(service, 0) + 1
        if epoch != own and (objects > MOST_OBJECTS or logs[service] > MOST_LOGS):
            _forget_log(db, epoch)
            objects -= count
