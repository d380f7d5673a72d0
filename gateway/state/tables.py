"""Overrides, rollouts, leases and the audit as rows of the state file. Knows SQL; no thread and no transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import get_args

import msgspec

from gateway.core.admin.records import (
    IDENTITIES,
    OTHERS,
    AuditEntry,
    Change,
    ClientKey,
    ClientRecord,
    Counts,
    Json,
    MethodId,
    MismatchRecord,
    PutRollout,
    Rollout,
    StateRefused,
    StoredState,
    rolled_back,
)
from gateway.core.migration.modes import Mode, Setting, Side, percent, share
from gateway.core.routing.overrides import By, Override
from gateway.state.clock import ClockReading

# Who still calls what over which protocol, as rows of the state file. Knows SQL; no thread and no transaction.


CLIENTS = 10_000  # rows; past it those that were seen least recently are told together, as callers that are "(others)"
FRESH = 7 * 86_400.0  # seconds; of one peer those stay that were seen within, call most often, and came first
TEXT = 200  # characters of what a client says of itself

_NOBODY = -1  # the domid of a client that has none: NULL would equal nothing
_ADD = """INSERT INTO client (service, method, protocol, peer, agent, user, domid, count, first, last)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET count = count + excluded.count,
    first = min(first, excluded.first), last = max(last, excluded.last)"""
_CROWDED_clients = """SELECT peer, protocol, domid FROM client WHERE agent != ?1
    GROUP BY peer, protocol, domid HAVING count(DISTINCT agent || char(0) || user) > ?2"""
_CROWD = """peer = ?1 AND protocol = ?2 AND domid = ?3 AND agent != ?4 AND (agent, user) NOT IN
    (SELECT agent, user FROM client WHERE peer = ?1 AND protocol = ?2 AND domid = ?3 AND agent != ?4
    GROUP BY agent, user ORDER BY max(last) < (SELECT max(last) FROM client) - ?6, sum(count) DESC, min(first)
    LIMIT ?5)"""
_OLDEST = """peer != ?1 AND rowid IN (SELECT rowid FROM client WHERE peer != ?1 ORDER BY last LIMIT ?2)"""
_TOGETHER = """INSERT INTO client (service, method, protocol, peer, agent, user, domid, count, first, last)
    SELECT service, method, protocol, {}, '', {}, sum(count), min(first), max(last) FROM client WHERE {}
    GROUP BY service, method, protocol, peer, domid
    ON CONFLICT DO UPDATE SET count = count + excluded.count, first = min(first, excluded.first),
    last = max(last, excluded.last)"""
_READ = """SELECT service, method, protocol, peer, agent, user, domid, count, first, last FROM client
    WHERE (?1 IS NULL OR service = ?1) AND (?2 IS NULL OR method = ?2) AND (?3 IS NULL OR protocol = ?3) AND last >= ?4
    ORDER BY last DESC LIMIT ?5"""


def add_clients(db: sqlite3.Connection, clients: Mapping[ClientKey, ClientRecord]) -> None:
    """Add what one process has seen."""
    if not clients:
        return
    db.executemany(_ADD, [(*_columns(key), seen.count, seen.first, seen.last) for key, seen in clients.items()])
    for peer, protocol, domid in db.execute(_CROWDED_clients, (OTHERS, IDENTITIES)).fetchall():
        _fold(db, "peer, ?4", "domid", _CROWD, (peer, protocol, domid, OTHERS, IDENTITIES, FRESH))
    (rows,) = db.execute("SELECT count(*) FROM client WHERE peer != ?", (OTHERS,)).fetchone()
    if rows > CLIENTS:
        _fold(db, "?1, ?1", str(_NOBODY), _OLDEST, (OTHERS, rows - CLIENTS))


def read_clients(
    db: sqlite3.Connection, service: str | None, method: str | None, protocol: str | None, since: float, limit: int
) -> dict[ClientKey, ClientRecord]:
    """Clients that called since then, the latest first; None stands for all."""
    rows = db.execute(_READ, (service, method, protocol, since, limit))
    return {_key(row): ClientRecord(*row[7:]) for row in rows}


def _fold(db: sqlite3.Connection, who: str, domid: str, which: str, values: tuple[str | float, ...]) -> None:
    """Add these rows to those of the others of their methods; nobody who calls is lost, only who exactly it is."""
    db.execute(_TOGETHER.format(who, domid, which), values)
    db.execute(f"DELETE FROM client WHERE {which}", values)  # noqa: S608 - texts of this module


def _columns(key: ClientKey) -> tuple[str | int, ...]:
    domid = _NOBODY if key.domid is None else key.domid
    return (*key.method, key.protocol, *map(_text, (key.peer, key.agent, key.user)), domid)


def _text(said: str) -> str:
    """What a client says of itself, as far as the file can hold it."""
    return said[:TEXT].encode("utf-8", "replace").decode()


def _key(row: tuple[str, str, str, str, str, str, int, int, float, float]) -> ClientKey:
    service, method, protocol, peer, agent, user, domid, *_ = row
    return ClientKey(MethodId(service, method), protocol, peer, agent, user, None if domid == _NOBODY else domid)


# Tables and version


APPLICATION = 0x78637067  # "xcpg", in the file's header: whose file it is
VERSION = 1  # of the tables below, in the file's header too

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
        PRIMARY KEY (service, method, protocol, peer, agent, user, domid)) STRICT""",
    "CREATE INDEX client_last ON client (last)",
    "CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID, STRICT",
    "INSERT INTO counter VALUES ('version', 0), ('probe', 0)",
)


def number(db: sqlite3.Connection, pragma: str) -> int:
    """What a PRAGMA says."""
    return int(db.execute(f"PRAGMA {pragma}").fetchone()[0])


def empty(db: sqlite3.Connection) -> bool:
    """Whether the file is new."""
    return number(db, "schema_version") == 0 and number(db, "user_version") == 0


def create(db: sqlite3.Connection) -> None:
    """Make the tables, inside a transaction of the caller's."""
    for statement in TABLES:
        db.execute(statement)
    db.execute(f"PRAGMA application_id={APPLICATION}")
    db.execute(f"PRAGMA user_version={VERSION}")


class Unreadable(sqlite3.DatabaseError):
    """The file is whole, but a row has content that no version wrote; the text names the row."""


# Counts and differing pairs as rows of the state file. Knows SQL; no thread and no transaction.


PAIRS_OF_METHOD = 50  # the newest
PAIRS = 2_000  # of all methods
DOCUMENT = 256 * 1024  # characters of one pair
RETIRED = 3600.0  # seconds after its last flush that an instance's rows are added to those of all that have ended

_COARSE = 76  # buckets of histograms that older versions wrote, with other bounds: not to be added to these
_ENDED = ""  # the instance under which rows of processes that have ended are added up
_COUNT = """INSERT INTO evidence (service, method, instance, counters, histograms, seen) VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET counters = excluded.counters, histograms = excluded.histograms, seen = excluded.seen"""
_CROWDED = """DELETE FROM pair WHERE service = ?1 AND method = ?2 AND id <=
    (SELECT id FROM pair WHERE service = ?1 AND method = ?2 ORDER BY id DESC LIMIT 1 OFFSET ?3)"""
_FULL = "DELETE FROM pair WHERE id <= (SELECT id FROM pair ORDER BY id DESC LIMIT 1 OFFSET ?)"
_NEWEST = """SELECT id, moment, service, method, document FROM pair
    WHERE (?1 IS NULL OR (service = ?1 AND method = ?2)) ORDER BY id DESC LIMIT ?3"""
_NEXT = "SELECT id, moment, service, method, document FROM pair WHERE id > ? ORDER BY id LIMIT ?"


def add(db: sqlite3.Connection, instance: str, deltas: Mapping[MethodId, Counts], now: float) -> None:
    """Add what one process has counted to what it had counted before."""
    for method, counts in deltas.items():
        row = db.execute(
            "SELECT counters, histograms FROM evidence WHERE service = ? AND method = ? AND instance = ?",
            (*method, instance),
        ).fetchone()
        total = _counts(*row) + counts if row else counts
        db.execute(_COUNT, (*method, instance, _json(total.counters), _json(total.histograms), now))


def total(db: sqlite3.Connection) -> dict[MethodId, Counts]:
    """What all processes together have counted."""
    sums: dict[MethodId, Counts] = {}
    for service, name, *row in db.execute("SELECT service, method, counters, histograms FROM evidence"):
        method = MethodId(service, name)
        sums[method] = sums.get(method, Counts()) + _counts(*row)
    return sums


def retire(db: sqlite3.Connection, now: float) -> None:
    """Add up the rows of processes that have ended, so that restarts do not make the file grow."""
    rows = db.execute(
        "SELECT service, method, counters, histograms FROM evidence WHERE seen < ? AND instance != ?",
        (now - RETIRED, _ENDED),
    ).fetchall()
    for service, method, *row in rows:
        add(db, _ENDED, {MethodId(service, method): _counts(*row)}, now)
    db.execute("DELETE FROM evidence WHERE seen < ? AND instance != ?", (now - RETIRED, _ENDED))


def clear(db: sqlite3.Connection, method: MethodId) -> None:
    """Forget what is known of a method."""
    db.execute("DELETE FROM evidence WHERE service = ? AND method = ?", method)
    db.execute("DELETE FROM pair WHERE service = ? AND method = ?", method)


def add_pairs(db: sqlite3.Connection, pairs: Iterable[MismatchRecord]) -> None:
    """Keep pairs, and forget the oldest of their methods and of all."""
    rows = [(pair.when, *pair.method, _document(pair)) for pair in pairs]
    if not rows:
        return
    db.executemany("INSERT INTO pair (moment, service, method, document) VALUES (?, ?, ?, ?)", rows)
    for service, method in {(row[1], row[2]) for row in rows}:
        db.execute(_CROWDED, (service, method, PAIRS_OF_METHOD))
    db.execute(_FULL, (PAIRS,))


def pairs(db: sqlite3.Connection, method: MethodId | None, limit: int) -> list[MismatchRecord]:
    """The newest pairs of a method or of all, newest first."""
    return [_pair(row)[1] for row in db.execute(_NEWEST, (*(method or (None, None)), limit))]


def pairs_after(db: sqlite3.Connection, number: int, limit: int) -> list[tuple[int, MismatchRecord]]:
    """Pairs in the order in which they came, with their numbers, from the one after `number` on."""
    return [_pair(row) for row in db.execute(_NEXT, (number, limit))]


def _document(pair: MismatchRecord) -> str:
    try:
        text = _json(pair.document)
    except (TypeError, ValueError, OverflowError):  # half a surrogate pair, a number that JSON has not
        return _json({"omitted": "what JSON cannot say"})
    return text if len(text) <= DOCUMENT else _json({"omitted": f"{len(text)} characters, more than {DOCUMENT}"})


def _pair(row: tuple[int, float, str, str, str]) -> tuple[int, MismatchRecord]:
    number, when, service, method, document = row
    try:
        return number, MismatchRecord(when, MethodId(service, method), msgspec.json.decode(document))
    except ValueError as error:
        raise Unreadable(f"pair {number}: {error}") from error


def _counts(counters: str, histograms: str) -> Counts:
    try:
        kept = _histograms(histograms)
        return Counts(_counters(counters), {side: each for side, each in kept.items() if len(each) != _COARSE})
    except ValueError as error:
        raise Unreadable(f"evidence: {error}") from error


_counters = msgspec.json.Decoder(dict[str, int]).decode
_histograms = msgspec.json.Decoder(dict[str, list[int]]).decode

_BY: Mapping[str, By] = {by: by for by in get_args(By)}

AUDIT_KEPT = 100_000  # lines, the newest

_PUT = """INSERT INTO override (pattern, set_by, setting, who, moment, why, until) VALUES (?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET setting = excluded.setting, who = excluded.who, moment = excluded.moment,
    why = excluded.why, until = excluded.until"""
_OVERRIDES = "SELECT pattern, setting, who, moment, why, until, set_by FROM override ORDER BY pattern, set_by"
_AUDIT = """SELECT moment, who, what, subject, why, numbers FROM audit
    WHERE moment >= ?1 AND (?2 IS NULL OR subject = ?2) ORDER BY id DESC LIMIT ?3"""


def load(db: sqlite3.Connection) -> StoredState:
    """What every process has a copy of."""
    return StoredState(tuple(_overrides(db)), dict(_rollouts(db)))


def decide(db: sqlite3.Connection, change: Change) -> StateRefused | StoredState:
    """Write a change down; what holds after it, or why it does not come about. The caller then undoes all of it."""
    for put in change.rollouts:
        if put.expected is not None and put.expected != (version := _version(db, put.name)):
            return _outrun(put, version)
    if change.back is not None:
        _roll_back(db, change.back)
    db.executemany("DELETE FROM override WHERE pattern = ? AND set_by = ?", change.drop)
    if change.expired_by is not None:
        over = [(each.pattern, each.by) for each in _overrides(db) if each.expired(change.expired_by)]
        db.executemany("DELETE FROM override WHERE pattern = ? AND set_by = ?", over)
    db.executemany(_PUT, map(_row, change.put))
    for put in change.rollouts:
        _put_rollout(db, put)
    for method in change.clear:
        clear(db, method)
    note(db, change.audit)
    return load(db)


def restore(db: sqlite3.Connection, kept: StoredState, when: float) -> None:
    """What was in memory when a new file had to be made."""
    rollouts = tuple(PutRollout(name, rollout.document) for name, rollout in kept.rollouts.items())
    numbers = {"overrides": len(kept.overrides), "rollouts": len(rollouts)}
    entry = AuditEntry(when, "gateway", "restore", "*", "the state file was new; these were in force", numbers)
    decide(db, Change((entry,), kept.overrides, rollouts=rollouts))


def note(db: sqlite3.Connection, entries: tuple[AuditEntry, ...]) -> None:
    """Append to the audit, and forget its oldest lines."""
    rows = [(e.when, e.who, e.what, e.subject, e.why, _json(e.numbers)) for e in entries]
    db.executemany("INSERT INTO audit (moment, who, what, subject, why, numbers) VALUES (?, ?, ?, ?, ?, ?)", rows)
    db.execute("DELETE FROM audit WHERE id <= (SELECT max(id) FROM audit) - ?", (AUDIT_KEPT,))


def audit(db: sqlite3.Connection, limit: int, since: float, subject: str | None) -> list[AuditEntry]:
    """The newest lines, newest first."""
    rows = db.execute(_AUDIT, (since, subject, limit))
    return [AuditEntry(when, who, what, about, why, _numbers(numbers)) for when, who, what, about, why, numbers in rows]


def hold_lease(db: sqlite3.Connection, name: str, holder: str, boot: str, now: float, until: float) -> bool:
    """Take or prolong a lease unless another has it. Moments are of a clock that starts with the host, at `boot`."""
    row = db.execute("SELECT holder, boot, until FROM lease WHERE name = ?", (name,)).fetchone()
    if row is not None and row[0] != holder and row[1] == boot and row[2] > now:
        return False
    db.execute(
        "INSERT OR REPLACE INTO lease (name, holder, boot, until) VALUES (?, ?, ?, ?)", (name, holder, boot, until)
    )
    return True


def written(setting: Setting, until: float | None = None) -> str:
    """A setting as a person can read it in the file, with the clock of the moment until which it holds."""
    words: dict[str, str | bool] = {
        "mode": setting.mode.value,
        "share": percent(setting.buckets),
        "control": setting.control.value,
        "observe": setting.observe,
        "noise": setting.noise,
    }
    return _json(words if until is None else {**words, "clock": str(ClockReading.here())})


def read(text: str) -> Setting:
    """The same backwards; raises ValueError, KeyError or TypeError."""
    words = msgspec.json.decode(text, type=dict[str, str | bool])
    mode, control = Mode(words["mode"]), Side(words["control"])
    return Setting(mode, share(str(words["share"])), control, bool(words["observe"]), bool(words["noise"]))


def _roll_back(db: sqlite3.Connection, back: Override) -> None:
    """By what is in the file, which others may have changed; a row that cannot be read is in nobody's way."""
    found = []
    for row in db.execute(_OVERRIDES).fetchall():
        with suppress(Unreadable):
            found.append(_override(row))
    db.execute("DELETE FROM override")
    db.executemany(_PUT, map(_row, rolled_back(found, back)))


def _ends(setting: str, until: float | None) -> float | None:
    """By the clock of this process; without a word about the clock, it was the wall's."""
    if until is None:
        return None
    words = msgspec.json.decode(setting, type=dict[str, str | bool])
    written_by = words.get("clock")
    return ClockReading.read(str(written_by)).translated(until) if written_by else until


def _overrides(db: sqlite3.Connection) -> Iterator[Override]:
    yield from map(_override, db.execute(_OVERRIDES))


def _override(row: tuple[str, str, str, float, str, float | None, str]) -> Override:
    pattern, setting, who, when, why, until, by = row
    with _named(f"override of '{pattern}'"):
        return Override(pattern, read(setting), who, when, why, _ends(setting, until), _BY[by])


def _rollouts(db: sqlite3.Connection) -> Iterator[tuple[str, Rollout]]:
    for name, document, version in db.execute("SELECT name, document, version FROM rollout ORDER BY name"):
        with _named(f"rollout '{name}'"):
            yield name, Rollout(msgspec.json.decode(document), version)


def _row(override: Override) -> tuple[str | float | None, ...]:
    setting = written(override.setting, override.until)
    return (
        override.pattern, override.by, setting, override.who, override.when, override.why, override.until
    )  # fmt: skip


def _version(db: sqlite3.Connection, name: str) -> int:
    row = db.execute("SELECT version FROM rollout WHERE name = ?", (name,)).fetchone()
    return row[0] if row else 0


def _outrun(put: PutRollout, version: int) -> StateRefused:
    now = f"at version {version} and not at {put.expected}" if version else "there no more"
    if put.expected == 0:
        now = "there already"
    return StateRefused(f"rollout '{put.name}' is {now}: somebody else has decided meanwhile", conflict=True)


def _put_rollout(db: sqlite3.Connection, put: PutRollout) -> None:
    if put.document is None:
        db.execute("DELETE FROM rollout WHERE name = ?", (put.name,))
        return
    db.execute("UPDATE counter SET value = value + 1 WHERE name = 'version'")
    db.execute(
        """INSERT OR REPLACE INTO rollout (name, document, version)
        SELECT ?, ?, value FROM counter WHERE name = 'version'""",
        (put.name, _json(put.document)),
    )


def _json(document: object) -> str:
    return msgspec.json.encode(document).decode()


def _numbers(text: str) -> dict[str, Json]:
    with _named("audit"):
        numbers: dict[str, Json] = msgspec.json.decode(text, type=dict)
        return numbers


@contextmanager
def _named(what: str) -> Iterator[None]:
    """A row that cannot be read is named."""
    try:
        yield
    except (ValueError, KeyError, TypeError) as error:  # msgspec's errors are ValueErrors
        raise Unreadable(f"{what}: {error}") from error
