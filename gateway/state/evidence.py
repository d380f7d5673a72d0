"""Rows of the state file: call counts, differing pairs, clients. Knows SQL; no thread and no transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping

import msgspec

from gateway.core.admin.records import (
    IDENTITIES,
    OTHERS,
    ClientKey,
    ClientRecord,
    Counts,
    MethodId,
    MismatchRecord,
)
from gateway.state.tables import Unreadable, to_json

PAIRS_OF_METHOD = 50  # the newest
PAIRS = 2_000  # of all methods
DOCUMENT = 256 * 1024  # characters of one pair
RETIRED = 3600.0  # seconds after its last flush until the row of a process is merged

_ENDED = ""  # the instance of the merged rows
_COUNT = """INSERT INTO evidence (service, method, instance, counters, histograms, seen) VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET counters = excluded.counters, histograms = excluded.histograms, seen = excluded.seen"""
_CROWDED = """DELETE FROM pair WHERE service = ?1 AND method = ?2 AND id <=
    (SELECT id FROM pair WHERE service = ?1 AND method = ?2 ORDER BY id DESC LIMIT 1 OFFSET ?3)"""
_FULL = "DELETE FROM pair WHERE id <= (SELECT id FROM pair ORDER BY id DESC LIMIT 1 OFFSET ?)"
_NEWEST = """SELECT id, moment, service, method, document FROM pair
    WHERE (?1 IS NULL OR (service = ?1 AND method = ?2)) ORDER BY id DESC LIMIT ?3"""

CLIENTS = 10_000  # rows; beyond it, the least recently seen callers are merged into "(others)"
# Seconds; of one peer, clients seen within this time stay, then those with most calls, then the oldest.
FRESH = 7 * 86_400.0
TEXT = 200  # characters kept of a client-supplied text

_NOBODY = -1  # stored for a client without a domid, because NULL equals nothing
_ROW = "service, method, protocol, peer, agent, user, domid, count, first, last, received, sent, redirects"
_ADDED = """ON CONFLICT DO UPDATE SET count = count + excluded.count, first = min(first, excluded.first),
    last = max(last, excluded.last), received = received + excluded.received, sent = sent + excluded.sent,
    redirects = redirects + excluded.redirects"""
_ADD = f"INSERT INTO client ({_ROW}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) {_ADDED}"  # noqa: S608 - texts of this module, here and below
_PEERS_CROWDED = """SELECT peer, protocol, domid FROM client WHERE agent != ?1
    GROUP BY peer, protocol, domid HAVING count(DISTINCT agent || char(0) || user) > ?2"""
_CROWD = """peer = ?1 AND protocol = ?2 AND domid = ?3 AND agent != ?4 AND (agent, user) NOT IN
    (SELECT agent, user FROM client WHERE peer = ?1 AND protocol = ?2 AND domid = ?3 AND agent != ?4
    GROUP BY agent, user ORDER BY max(last) < (SELECT max(last) FROM client) - ?6, sum(count) DESC, min(first)
    LIMIT ?5)"""
_OLDEST = """peer != ?1 AND rowid IN (SELECT rowid FROM client WHERE peer != ?1 ORDER BY last LIMIT ?2)"""
_TOGETHER = f"""INSERT INTO client ({_ROW}) SELECT service, method, protocol, {{}}, '', {{}}, sum(count), min(first),
    max(last), sum(received), sum(sent), sum(redirects) FROM client WHERE {{}}
    GROUP BY service, method, protocol, peer, domid {_ADDED}"""  # noqa: S608
_READ = f"""SELECT {_ROW} FROM client
    WHERE (?1 IS NULL OR service = ?1) AND last >= ?2 ORDER BY last DESC LIMIT ?3"""  # noqa: S608


def add(db: sqlite3.Connection, instance: str, deltas: Mapping[MethodId, Counts], now: float) -> None:
    """Add the counts of one process to its row."""
    for method, counts in deltas.items():
        row = db.execute(
            "SELECT counters, histograms FROM evidence WHERE service = ? AND method = ? AND instance = ?",
            (*method, instance),
        ).fetchone()
        total = _counts(*row) + counts if row else counts
        db.execute(_COUNT, (*method, instance, to_json(total.counters), to_json(total.histograms), now))


def total(db: sqlite3.Connection) -> dict[MethodId, Counts]:
    """Return the sums over all processes."""
    sums: dict[MethodId, Counts] = {}
    for service, name, *row in db.execute("SELECT service, method, counters, histograms FROM evidence"):
        method = MethodId(service, name)
        sums[method] = sums.get(method, Counts()) + _counts(*row)
    return sums


def retire(db: sqlite3.Connection, now: float) -> None:
    """Merge the rows of processes that have ended, so that restarts do not make the file grow."""
    rows = db.execute(
        "SELECT service, method, counters, histograms FROM evidence WHERE seen < ? AND instance != ?",
        (now - RETIRED, _ENDED),
    ).fetchall()
    for service, method, *row in rows:
        add(db, _ENDED, {MethodId(service, method): _counts(*row)}, now)
    db.execute("DELETE FROM evidence WHERE seen < ? AND instance != ?", (now - RETIRED, _ENDED))


def add_pairs(db: sqlite3.Connection, pairs: Iterable[MismatchRecord]) -> None:
    """Store pairs and delete the oldest beyond the limits of each method and of all."""
    rows = [(pair.when, *pair.method, _document(pair)) for pair in pairs]
    if not rows:
        return
    db.executemany("INSERT INTO pair (moment, service, method, document) VALUES (?, ?, ?, ?)", rows)
    for service, method in {(row[1], row[2]) for row in rows}:
        db.execute(_CROWDED, (service, method, PAIRS_OF_METHOD))
    db.execute(_FULL, (PAIRS,))


def pairs(db: sqlite3.Connection, method: MethodId | None, limit: int) -> list[MismatchRecord]:
    """Return the newest pairs of a method or of all, newest first."""
    return [_pair(row) for row in db.execute(_NEWEST, (*(method or (None, None)), limit))]


def _document(pair: MismatchRecord) -> str:
    try:
        text = to_json(pair.document)
    except (TypeError, ValueError, OverflowError):  # a lone surrogate, or a number outside of JSON
        return to_json({"omitted": "not representable in JSON"})
    return text if len(text) <= DOCUMENT else to_json({"omitted": f"{len(text)} characters, more than {DOCUMENT}"})


def _pair(row: tuple[int, float, str, str, str]) -> MismatchRecord:
    number, when, service, method, document = row
    try:
        return MismatchRecord(when, MethodId(service, method), msgspec.json.decode(document))
    except ValueError as error:
        raise Unreadable(f"pair {number}: {error}") from error


def _counts(counters: str, histograms: str) -> Counts:
    try:
        return Counts(_counters(counters), _histograms(histograms))
    except ValueError as error:
        raise Unreadable(f"evidence: {error}") from error


_counters = msgspec.json.Decoder(dict[str, int]).decode
_histograms = msgspec.json.Decoder(dict[str, list[int]]).decode


# Who still calls what over which protocol.


def add_clients(db: sqlite3.Connection, clients: Mapping[ClientKey, ClientRecord]) -> None:
    """Add the calls that one process has counted."""
    if not clients:
        return
    rows = []
    for key, seen in clients.items():
        said = (text[:TEXT].encode("utf-8", "replace").decode() for text in (key.peer, key.agent, key.user))
        domid = _NOBODY if key.domid is None else key.domid
        counted = seen.count, seen.first, seen.last, seen.received, seen.sent, seen.redirects
        rows.append((*key.method, key.protocol, *said, domid, *counted))
    db.executemany(_ADD, rows)
    for peer, protocol, domid in db.execute(_PEERS_CROWDED, (OTHERS, IDENTITIES)).fetchall():
        _fold(db, "peer, ?4", "domid", _CROWD, (peer, protocol, domid, OTHERS, IDENTITIES, FRESH))
    (count,) = db.execute("SELECT count(*) FROM client WHERE peer != ?", (OTHERS,)).fetchone()
    if count > CLIENTS:
        _fold(db, "?1, ?1", str(_NOBODY), _OLDEST, (OTHERS, count - CLIENTS))


def read_clients(
    db: sqlite3.Connection, service: str | None, since: float, limit: int
) -> dict[ClientKey, ClientRecord]:
    """Return the clients that called since then, the latest first; None means any service."""
    found = {}
    for of, method, protocol, peer, agent, user, domid, *counted in db.execute(_READ, (service, since, limit)):
        who = None if domid == _NOBODY else domid
        found[ClientKey(MethodId(of, method), protocol, peer, agent, user, who)] = ClientRecord(*counted)
    return found


def _fold(db: sqlite3.Connection, who: str, domid: str, which: str, values: tuple[str | float, ...]) -> None:
    """Merge these rows into "(others)" of their methods. Counts stay, names go."""
    db.execute(_TOGETHER.format(who, domid, which), values)
    db.execute(f"DELETE FROM client WHERE {which}", values)  # noqa: S608
