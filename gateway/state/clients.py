"""Who still calls what over which protocol, as rows of the state file. Knows SQL; no thread and no transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from gateway.core.kept import IDENTITIES, OTHERS, ClientKey, MethodId, Seen

CLIENTS = 10_000  # rows; past it those that were seen least recently are told together, as callers that are "(others)"
FRESH = 7 * 86_400.0  # seconds; of one peer those stay that were seen within, call most often, and came first
TEXT = 200  # characters of what a client says of itself

_NOBODY = -1  # the domid of a client that has none: NULL would equal nothing
_ADD = """INSERT INTO client (service, method, protocol, peer, agent, user, domid, count, first, last)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET count = count + excluded.count,
    first = min(first, excluded.first), last = max(last, excluded.last)"""
_CROWDED = """SELECT peer, protocol, domid FROM client WHERE agent != ?1
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


def add(db: sqlite3.Connection, clients: Mapping[ClientKey, Seen]) -> None:
    """Add what one process has seen."""
    if not clients:
        return
    db.executemany(_ADD, [(*_columns(key), seen.count, seen.first, seen.last) for key, seen in clients.items()])
    for peer, protocol, domid in db.execute(_CROWDED, (OTHERS, IDENTITIES)).fetchall():
        _fold(db, "peer, ?4", "domid", _CROWD, (peer, protocol, domid, OTHERS, IDENTITIES, FRESH))
    (rows,) = db.execute("SELECT count(*) FROM client WHERE peer != ?", (OTHERS,)).fetchone()
    if rows > CLIENTS:
        _fold(db, "?1, ?1", str(_NOBODY), _OLDEST, (OTHERS, rows - CLIENTS))


def read(
    db: sqlite3.Connection, service: str | None, method: str | None, protocol: str | None, since: float, limit: int
) -> dict[ClientKey, Seen]:
    """Clients that called since then, the latest first; None stands for all."""
    rows = db.execute(_READ, (service, method, protocol, since, limit))
    return {_key(row): Seen(*row[7:]) for row in rows}


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
