"""Rows of the state file: who still calls what over which protocol. Knows SQL; no thread and no transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from gateway.core.admin.records import IDENTITIES, OTHERS, ClientKey, ClientRecord, MethodId

CLIENTS = 10_000  # rows; beyond it, the least recently seen callers are merged into "(others)"
FRESH = (
    7 * 86_400.0
)  # seconds; of one peer, clients seen within this time stay, then those with most calls, then the oldest
TEXT = 200  # characters kept of a client-supplied text

_NOBODY = -1  # stored for a client without a domid, because NULL equals nothing
_ADD = """INSERT INTO client (service, method, protocol, peer, agent, user, domid, count, first, last, received, sent,
    redirects) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET count = count + excluded.count,
    first = min(first, excluded.first), last = max(last, excluded.last), received = received + excluded.received,
    sent = sent + excluded.sent, redirects = redirects + excluded.redirects"""
_CROWDED = """SELECT peer, protocol, domid FROM client WHERE agent != ?1
    GROUP BY peer, protocol, domid HAVING count(DISTINCT agent || char(0) || user) > ?2"""
_CROWD = """peer = ?1 AND protocol = ?2 AND domid = ?3 AND agent != ?4 AND (agent, user) NOT IN
    (SELECT agent, user FROM client WHERE peer = ?1 AND protocol = ?2 AND domid = ?3 AND agent != ?4
    GROUP BY agent, user ORDER BY max(last) < (SELECT max(last) FROM client) - ?6, sum(count) DESC, min(first)
    LIMIT ?5)"""
_OLDEST = """peer != ?1 AND rowid IN (SELECT rowid FROM client WHERE peer != ?1 ORDER BY last LIMIT ?2)"""
_TOGETHER = """INSERT INTO client (service, method, protocol, peer, agent, user, domid, count, first, last, received,
    sent, redirects) SELECT service, method, protocol, {}, '', {}, sum(count), min(first), max(last), sum(received),
    sum(sent), sum(redirects) FROM client WHERE {} GROUP BY service, method, protocol, peer, domid
    ON CONFLICT DO UPDATE SET count = count + excluded.count, first = min(first, excluded.first),
    last = max(last, excluded.last), received = received + excluded.received, sent = sent + excluded.sent,
    redirects = redirects + excluded.redirects"""
_READ = """SELECT service, method, protocol, peer, agent, user, domid, count, first, last, received, sent, redirects
    FROM client
    WHERE (?1 IS NULL OR service = ?1) AND last >= ?2 ORDER BY last DESC LIMIT ?3"""


def add_clients(db: sqlite3.Connection, clients: Mapping[ClientKey, ClientRecord]) -> None:
    """Add the calls that one process has counted."""
    if not clients:
        return
    db.executemany(_ADD, [(*_columns(key), *_counted(seen)) for key, seen in clients.items()])
    for peer, protocol, domid in db.execute(_CROWDED, (OTHERS, IDENTITIES)).fetchall():
        _fold(db, "peer, ?4", "domid", _CROWD, (peer, protocol, domid, OTHERS, IDENTITIES, FRESH))
    (rows,) = db.execute("SELECT count(*) FROM client WHERE peer != ?", (OTHERS,)).fetchone()
    if rows > CLIENTS:
        _fold(db, "?1, ?1", str(_NOBODY), _OLDEST, (OTHERS, rows - CLIENTS))


def read_clients(
    db: sqlite3.Connection, service: str | None, since: float, limit: int
) -> dict[ClientKey, ClientRecord]:
    """Return the clients that called since then, the latest first; None means any service."""
    return {_key(row): ClientRecord(*row[7:]) for row in db.execute(_READ, (service, since, limit))}


def _fold(db: sqlite3.Connection, who: str, domid: str, which: str, values: tuple[str | float, ...]) -> None:
    """Merge these rows into "(others)" of their methods. Counts stay, names go."""
    db.execute(_TOGETHER.format(who, domid, which), values)
    db.execute(f"DELETE FROM client WHERE {which}", values)  # noqa: S608 - texts of this module


def _columns(key: ClientKey) -> tuple[str | int, ...]:
    domid = _NOBODY if key.domid is None else key.domid
    return (*key.method, key.protocol, *map(_text, (key.peer, key.agent, key.user)), domid)


def _counted(seen: ClientRecord) -> tuple[int | float, ...]:
    """Return the columns after the key."""
    return seen.count, seen.first, seen.last, seen.received, seen.sent, seen.redirects


def _text(said: str) -> str:
    """Return a client-supplied text, shortened and in valid UTF-8."""
    return said[:TEXT].encode("utf-8", "replace").decode()


def _key(row: tuple[str, str, str, str, str, str, int, int, float, float, int, int, int]) -> ClientKey:
    service, method, protocol, peer, agent, user, domid, *_ = row
    return ClientKey(MethodId(service, method), protocol, peer, agent, user, None if domid == _NOBODY else domid)
