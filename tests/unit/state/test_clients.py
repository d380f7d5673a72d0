"""Clients: counted, bounded, found again."""

from __future__ import annotations

import sqlite3
from dataclasses import replace

import pytest

from gateway.core.admin.records import IDENTITIES, OTHERS, ClientKey, ClientRecord
from gateway.state import tables
from tests.kit.migrations import VM_START, VM_STOP, client_batch


def test_a_client_is_counted_on_and_its_first_and_last_moments_stay(db: sqlite3.Connection) -> None:
    for last in (5.0, 9.0, 7.0):
        tables.add_clients(db, client_batch("10.0.0.1", last).clients)
    ((key, seen),) = tables.read_clients(db, None, None, None, 0.0, 9).items()
    assert key == ClientKey(VM_START, "xmlrpc", "10.0.0.1", "curl", "root")
    assert seen == ClientRecord(3, 4.0, 9.0)


def test_clients_are_found_by_service_method_protocol_and_time_the_latest_first(db: sqlite3.Connection) -> None:
    tables.add_clients(db, client_batch("a", 2.0).clients)
    tables.add_clients(db, client_batch("b", 4.0, method=VM_STOP, domid=7).clients)
    tables.add_clients(db, client_batch("c", 3.0).clients)

    def peers(
        service: str | None = None, method: str | None = None, protocol: str | None = None, since: float = 0.0
    ) -> list[str]:
        return [key.peer for key in tables.read_clients(db, service, method, protocol, since, 9)]

    assert peers() == ["b", "c", "a"]
    assert peers("xenopsd") == ["b", "c", "a"]
    assert peers("xapi") == []
    assert peers(None, "VM.stop") == ["b"]
    assert peers(None, None, "jsonrpc") == []
    assert peers(None, None, None, 3.0) == ["b", "c"]
    assert next(iter(tables.read_clients(db, None, "VM.stop", None, 0.0, 9))).domid == 7


def test_the_agents_of_one_peer_are_bounded_and_the_others_are_counted_together(db: sqlite3.Connection) -> None:
    tables.add_clients(db, client_batch("real", 1.0).clients)
    for number in range(0, 3 * IDENTITIES, IDENTITIES):
        flood = {
            replace(key, agent=f"evil-{number + at}"): ClientRecord(1, 2.0 + number, 2.0 + number)
            for key in client_batch("crowd", 2.0).clients
            for at in range(IDENTITIES)
        }
        tables.add_clients(db, flood)
    rows = tables.read_clients(db, None, None, None, 0.0, 9999)
    crowd = {key: seen for key, seen in rows.items() if key.peer == "crowd"}
    assert len(crowd) == IDENTITIES + 1
    assert sum(seen.count for seen in crowd.values()) == 3 * IDENTITIES
    (others,) = [key for key in crowd if key.agent == OTHERS]
    assert crowd[others] == ClientRecord(2 * IDENTITIES, 2.0 + IDENTITIES, 2.0 + 2 * IDENTITIES)
    assert [key.agent for key in rows if key.peer == "real"] == ["curl"]


def test_a_client_that_is_known_keeps_its_name_in_a_crowd_of_its_peer(db: sqlite3.Connection) -> None:
    tables.add_clients(db, client_batch("host", 1.0).clients)
    (known,) = client_batch("host", 1.0).clients
    for number in range(2 * IDENTITIES):
        tables.add_clients(db, {replace(known, agent=f"evil-{number}"): ClientRecord(1, 2.0, 2.0)})
    assert known in tables.read_clients(db, None, None, None, 0.0, 9999)


def test_a_name_that_was_not_seen_for_long_gives_way(db: sqlite3.Connection) -> None:
    (known,) = client_batch("host", 1.0).clients
    tables.add_clients(db, {known: ClientRecord(1000, 1.0, 1.0)})
    late = 2.0 + tables.FRESH
    tables.add_clients(
        db, {replace(known, agent=f"new-{number}"): ClientRecord(1, late, late) for number in range(IDENTITIES)}
    )
    assert known not in tables.read_clients(db, None, None, None, 0.0, 9999)


def test_the_least_recently_seen_are_told_together(db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "CLIENTS", 2)
    for peer, last in (("a", 5.0), ("b", 3.0), ("c", 4.0)):
        tables.add_clients(db, client_batch(peer, last).clients)
    rows = tables.read_clients(db, None, None, None, 0.0, 9)
    assert [(key.peer, key.agent) for key in rows] == [("a", "curl"), ("c", "curl"), (OTHERS, OTHERS)]
    tables.add_clients(db, client_batch("d", 9.0).clients)
    rows = tables.read_clients(db, None, None, None, 0.0, 9)
    assert [(key.peer, seen.count) for key, seen in rows.items()] == [("d", 1), ("a", 1), (OTHERS, 2)]


def test_what_a_client_says_of_itself_is_cut_and_may_be_no_text_at_all(db: sqlite3.Connection) -> None:
    tables.add_clients(db, client_batch("\ud800" + "x" * 1000).clients)
    (key,) = tables.read_clients(db, None, None, None, 0.0, 9)
    assert key.peer == "?" + "x" * (tables.TEXT - 1)
