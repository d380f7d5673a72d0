"""Rows of the state file: call counts and differing pairs. Knows SQL; no thread and no transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping

import msgspec

from gateway.core.admin.records import Counts, MethodId, MismatchRecord
from gateway.state.schema import Unreadable, to_json

PAIRS_OF_METHOD = 50  # the newest
PAIRS = 2_000  # of all methods
DOCUMENT = 256 * 1024  # characters of one pair
RETIRED = 3600.0  # seconds after its last flush until the row of a process is merged

_COARSE = 76  # buckets of histograms of older versions, which have other bounds and are dropped
_ENDED = ""  # the instance of the merged rows
_COUNT = """INSERT INTO evidence (service, method, instance, counters, histograms, seen) VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET counters = excluded.counters, histograms = excluded.histograms, seen = excluded.seen"""
_CROWDED = """DELETE FROM pair WHERE service = ?1 AND method = ?2 AND id <=
    (SELECT id FROM pair WHERE service = ?1 AND method = ?2 ORDER BY id DESC LIMIT 1 OFFSET ?3)"""
_FULL = "DELETE FROM pair WHERE id <= (SELECT id FROM pair ORDER BY id DESC LIMIT 1 OFFSET ?)"
_NEWEST = """SELECT id, moment, service, method, document FROM pair
    WHERE (?1 IS NULL OR (service = ?1 AND method = ?2)) ORDER BY id DESC LIMIT ?3"""


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


def clear(db: sqlite3.Connection, method: MethodId) -> None:
    """Delete counts and pairs of a method."""
    db.execute("DELETE FROM evidence WHERE service = ? AND method = ?", method)
    db.execute("DELETE FROM pair WHERE service = ? AND method = ?", method)


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
        kept = _histograms(histograms)
        return Counts(_counters(counters), {side: each for side, each in kept.items() if len(each) != _COARSE})
    except ValueError as error:
        raise Unreadable(f"evidence: {error}") from error


_counters = msgspec.json.Decoder(dict[str, int]).decode
_histograms = msgspec.json.Decoder(dict[str, list[int]]).decode
