"""Who still calls what over which protocol, as rows of the state file. Knows SQL; no thread and no transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from gateway.core.kept import ClientKey, MethodId, Seen

CLIENTS = 10_000  # kept; those that were seen least recently go first
TEXT = 200  # characters of what a client says of itself

_NOBODY = -1  # the domid of a client that has none: NULL would equal nothing
_ADD = """INSERT INTO client (service, method, protocol, peer, agent, user, domid, count, first, last)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET count = count + excluded.count,
    first = min(first, excluded.first), last = max(last, excluded.last)"""
_FULL = """DELETE FROM client WHERE rowid IN
    (SELECT rowid FROM client ORDER BY last LIMIT max(0, (SELECT count(*) FROM client) - ?))"""
_READ = """SELECT service, method, protocol, peer, agent, user, domid, count, first, last FROM client
    WHERE (?1 IS NULL OR service = ?1) AND (?2 IS NULL OR method = ?2) AND (?3 IS NULL OR protocol = ?3) AND last >= ?4
    ORDER BY last DESC LIMIT ?5"""


def add(db: sqlite3.Connection, clients: Mapping[ClientKey, Seen]) -> None:
    """Add what one process has seen."""
    if not clients:
        return
    db.executemany(_ADD, [(*_columns(key), seen.count, seen.first, seen.last) for key, seen in clients.items()])
    db.execute(_FULL, (CLIENTS,))


def read(
    db: sqlite3.Connection, service: str | None, method: str | None, protocol: str | None, since: float, limit: int
) -> dict[ClientKey, Seen]:
    """Clients that called since then, the latest first; None stands for all."""
    rows = db.execute(_READ, (service, method, protocol, since, limit))
    return {_key(row): Seen(*row[7:]) for row in rows}


def _columns(key: ClientKey) -> tuple[str | int, ...]:
    domid = _NOBODY if key.domid is None else key.domid
    return (*key.method, key.protocol, *map(_text, (key.peer, key.agent, key.user)), domid)


def _text(said: str) -> str:
    """What a client says of itself, as far as the file can hold it."""
    return said[:TEXT].encode("utf-8", "replace").decode()


def _key(row: tuple[str, str, str, str, str, str, int, int, float, float]) -> ClientKey:
    service, method, protocol, peer, agent, user, domid, *_ = row
    return ClientKey(MethodId(service, method), protocol, peer, agent, user, None if domid == _NOBODY else domid)
