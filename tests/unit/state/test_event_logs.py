"""The tables of events: what a log has written is read whole, or not at all."""

from __future__ import annotations

import sqlite3

import pytest

from gateway.core.admin.records import SavedLog, SavedObject
from gateway.state import tables
from gateway.state.tables import read_log, save_log
from tests.kit.cases import each_case

VM1 = SavedObject("vm", "1", 3, 5, is_deleted=False, digest=b"one")
VM2 = SavedObject("vm", "2", 4, 6, is_deleted=True, digest=None, before=((1, 2),))


def log(epoch: int = 7, saved: int = 6, *objects: SavedObject, service: str = "xapi", forgotten: int = 0) -> SavedLog:
    return SavedLog(service, epoch, saved, forgotten, objects)


def test_a_log_is_read_as_it_was_written_and_then_added_to(db: sqlite3.Connection) -> None:
    assert save_log(db, log(7, 6, VM1, VM2), None, 1.0)
    assert read_log(db, "xapi", 7, 6) == log(7, 6, VM1, VM2)
    changed = VM1._replace(modified=8, digest=None)
    assert save_log(db, log(7, 8, changed), 6, 2.0)
    assert read_log(db, "xapi", 7, 7) == log(7, 8, changed, VM2)


def test_deletions_that_the_log_has_forgotten_are_forgotten(db: sqlite3.Connection) -> None:
    assert save_log(db, log(7, 6, VM1, VM2), None, 1.0)
    assert save_log(db, log(7, 7, forgotten=6), 6, 2.0)
    assert read_log(db, "xapi", 7, 6) == log(7, 7, VM1, forgotten=6)
    assert read_log(db, "xapi", 7, 5) is None


@each_case(
    ("service", "epoch", "generation"),
    [("other", 7, 6), ("xapi", 8, 6), ("xapi", 7, 7), ("xapi", 10**20 - 1, 6), ("xapi", 0, 0), ("xapi", 7, 10**20 - 1)],
)
def test_another_log_and_a_later_generation_are_not_there(
    service: str, epoch: int, generation: int, db: sqlite3.Connection
) -> None:
    save_log(db, log(7, 6, VM1), None, 1.0)
    assert read_log(db, service, epoch, generation) is None


@each_case("after", [5, 7])
def test_a_part_is_added_only_to_what_its_writer_has_written(after: int, db: sqlite3.Connection) -> None:
    save_log(db, log(7, 6, VM1), None, 1.0)
    assert not save_log(db, log(7, 9, VM2), after, 2.0)
    assert not save_log(db, log(8, 9, VM2), after, 2.0)
    assert read_log(db, "xapi", 7, 6) == log(7, 6, VM1)


def test_a_row_that_cannot_be_read_makes_nothing_certain(db: sqlite3.Connection) -> None:
    save_log(db, log(7, 6, VM1, VM2), None, 1.0)
    db.execute("UPDATE event_object SET before = '[[1' WHERE ref = '2'")
    assert read_log(db, "xapi", 7, 6) is None


def test_of_each_service_the_newest_logs_are_kept_and_of_all_so_many_objects(
    db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "MOST_LOGS", 2)
    for epoch in (1, 2, 3):
        save_log(db, log(epoch, 6, VM1), None, float(epoch))
    save_log(db, log(4, 6, VM1, service="other"), None, 4.0)
    assert [read_log(db, "xapi", epoch, 6) is not None for epoch in (1, 2, 3)] == [False, True, True]
    monkeypatch.setattr(tables, "MOST_OBJECTS", 3)
    save_log(db, log(5, 6, VM1, VM2, service="other"), None, 5.0)
    assert [row[0] for row in db.execute("SELECT DISTINCT epoch FROM event_object ORDER BY epoch")] == [4, 5]
    assert [row[0] for row in db.execute("SELECT epoch FROM event_log ORDER BY epoch")] == [4, 5]
