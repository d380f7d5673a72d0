"""Counts of many processes add up, pairs are bounded."""

from __future__ import annotations

import sqlite3

import pytest

from gateway.core.admin.records import Counts, Json, MethodId, MismatchRecord
from gateway.state import tables
from gateway.state.tables import Unreadable
from tests.kit.migrations import VM_START, VM_STOP, counts_batch, mismatch


def test_deltas_are_added_and_processes_summed(db: sqlite3.Connection) -> None:
    tables.add(db, "a", counts_batch(equal=1, different=2).evidence, 1.0)
    tables.add(db, "a", counts_batch(equal=10).evidence, 2.0)
    tables.add(db, "b", counts_batch(equal=100).evidence, 3.0)
    tables.add(db, "b", counts_batch(VM_STOP, dropped=1).evidence, 3.0)
    assert tables.total(db) == {
        VM_START: Counts({"equal": 111, "different": 2}, {"dbus": [3, 6]}),
        VM_STOP: Counts({"dropped": 1}, {"dbus": [1, 2]}),
    }


def test_what_ended_processes_have_counted_is_kept_in_one_row_a_method(db: sqlite3.Connection) -> None:
    for number in range(5):
        tables.add(db, f"process {number}", counts_batch(equal=1).evidence, float(number))
    tables.add(db, "alive", counts_batch(equal=1).evidence, 9000.0)
    before = tables.total(db)
    tables.retire(db, 10_000.0)
    tables.retire(db, 20_000.0 - 9000.0)
    assert tables.total(db) == before
    assert db.execute("SELECT instance FROM evidence ORDER BY 1").fetchall() == [("",), ("alive",)]


def test_clearing_forgets_one_method_and_no_other(db: sqlite3.Connection) -> None:
    for method in (VM_START, VM_STOP):
        tables.add(db, "a", counts_batch(method, equal=1).evidence, 1.0)
        tables.add_pairs(db, [mismatch(1, method)])
    tables.clear(db, VM_START)
    assert list(tables.total(db)) == [VM_STOP]
    assert tables.pairs(db, None, 9) == [mismatch(1, VM_STOP)]


def test_pairs_are_read_newest_first_of_a_method_or_of_all(db: sqlite3.Connection) -> None:
    tables.add_pairs(db, [mismatch(1), mismatch(2, VM_STOP), mismatch(3)])
    assert tables.pairs(db, None, 2) == [mismatch(3), mismatch(2, VM_STOP)]
    assert tables.pairs(db, VM_START, 9) == [mismatch(3), mismatch(1)]
    assert tables.pairs(db, MethodId("xapi", "VM.start"), 9) == []
    assert tables.pairs_after(db, 1, 1) == [(2, mismatch(2, VM_STOP))]


def test_the_newest_pairs_of_a_method_are_kept_and_those_of_others_stay(db: sqlite3.Connection) -> None:
    tables.add_pairs(db, [mismatch(0, VM_STOP)])
    for number in range(60):
        tables.add_pairs(db, [mismatch(number)])
    kept = tables.pairs(db, VM_START, 1000)
    assert [one.when for one in kept] == [float(number) for number in range(59, 9, -1)]
    assert tables.pairs(db, VM_STOP, 9) == [mismatch(0, VM_STOP)]


def test_the_number_of_pairs_has_a_bound(db: sqlite3.Connection) -> None:
    for number in range(tables.PAIRS // 50 + 2):
        tables.add_pairs(db, [mismatch(number, MethodId("s", f"m{number}")) for _ in range(50)])
    (count,) = db.execute("SELECT count(*) FROM pair").fetchone()
    assert count == tables.PAIRS
    assert tables.pairs(db, MethodId("s", "m0"), 9) == []


@pytest.mark.parametrize("document", ["x" * tables.DOCUMENT, {"half": "\ud800"}])
def test_a_document_that_cannot_be_kept_is_replaced_and_costs_no_other(db: sqlite3.Connection, document: Json) -> None:
    tables.add_pairs(db, [MismatchRecord(1.0, VM_START, document), mismatch(2)])
    fine, replaced = tables.pairs(db, VM_START, 9)
    assert fine == mismatch(2)
    assert isinstance(replaced.document, dict)
    assert list(replaced.document) == ["omitted"]


def test_rows_that_cannot_be_read_are_errors_of_the_file(db: sqlite3.Connection) -> None:
    tables.add(db, "a", counts_batch(equal=1).evidence, 1.0)
    tables.add_pairs(db, [mismatch(1)])
    db.execute("UPDATE evidence SET counters = '[1]'")
    db.execute("UPDATE pair SET document = '{'")
    with pytest.raises(Unreadable, match="evidence"):
        tables.total(db)
    with pytest.raises(Unreadable, match="pair 1"):
        tables.pairs(db, None, 1)


def test_a_histogram_with_the_bounds_of_an_older_version_is_left_out(db: sqlite3.Connection) -> None:
    tables.add(db, "old", {VM_START: Counts({"equal": 1}, {"dbus": [1] * 76})}, 1.0)
    tables.add(db, "new", {VM_START: Counts({"equal": 2}, {"dbus": [1] * 340})}, 1.0)
    assert tables.total(db) == {VM_START: Counts({"equal": 3}, {"dbus": [1] * 340})}
