"""The tables: made once, strict about types, known by their number."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest

from gateway.state import schema


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as made:
        yield made


def test_a_new_file_is_empty_until_its_tables_are_made(db: sqlite3.Connection) -> None:
    assert schema.empty(db)
    schema.create(db)
    assert not schema.empty(db)
    assert schema.number(db, "user_version") == schema.VERSION
    assert schema.number(db, "application_id") == schema.APPLICATION


def test_a_file_of_another_program_is_not_empty(db: sqlite3.Connection) -> None:
    db.execute("CREATE TABLE x (y)")
    assert not schema.empty(db)


def test_every_table_refuses_a_value_of_the_wrong_type(db: sqlite3.Connection) -> None:
    schema.create(db)
    rows = db.execute("SELECT name, strict FROM pragma_table_list WHERE name NOT LIKE 'sqlite%'").fetchall()
    assert rows
    assert all(strict for _, strict in rows)
