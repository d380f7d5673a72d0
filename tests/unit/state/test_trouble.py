"""Errors of SQLite and of the system in words for an operator."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from gateway.state import file, tables


def error(code: int) -> sqlite3.Error:
    made = sqlite3.OperationalError("what SQLite says")
    made.sqlite_errorcode = code
    made.sqlite_errorname = "SQLITE_X"
    return made


@pytest.mark.parametrize("code", file.WORDS)
def test_every_known_error_says_what_to_do_and_then_what_sqlite_says(code: int) -> None:
    told = file.describe_error(error(code))
    assert told.startswith(("is ", "can", "may "))
    assert ": " in told
    assert "{" not in told
    assert told.endswith("(what SQLite says, SQLITE_X)")


def test_an_extended_code_is_told_as_its_kind() -> None:
    assert "disk" in file.describe_error(error(sqlite3.SQLITE_IOERR_WRITE))
    assert file.is_permanent(error(sqlite3.SQLITE_CORRUPT_INDEX))


def test_an_error_without_a_code_is_told_all_the_same() -> None:
    assert file.describe_error(sqlite3.Error("odd")) == "cannot be used (odd)"
    assert not file.is_permanent(sqlite3.Error("odd"))


def test_only_damage_lasts_whatever_is_tried() -> None:
    lasting = {code for code in file.WORDS if file.is_permanent(error(code))}
    assert lasting == {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def test_an_errors_own_words_are_cut_since_they_may_quote_the_file() -> None:
    assert len(file.describe_error(sqlite3.OperationalError("Could not decode " + "x" * 10_000))) < 300


def test_what_was_opened_for_reading_only_has_to_be_opened_anew() -> None:
    assert file.is_stale(error(sqlite3.SQLITE_READONLY_DBMOVED))
    assert file.is_stale(tables.Unreadable("a row"))
    assert not file.is_stale(error(sqlite3.SQLITE_BUSY))
    assert not file.is_stale(error(sqlite3.SQLITE_FULL))


def test_the_systems_own_errors_name_no_path_of_theirs(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such") as caught:
        (tmp_path / "a/b").mkdir()
    assert file.describe_error(caught.value).endswith("(No such file or directory)")


def test_damage_and_what_cannot_be_read_say_that_the_file_must_be_moved_away() -> None:
    for told in (
        file.damaged("*** in database main ***\nTree 4 page 9: btreeInitPage() returns error code 11"),
        file.describe_error(tables.Unreadable("override of 'VM.*': no mode")),
        file.newer(7),
        file.FOREIGN,
    ):
        assert "move it away together with its -wal and -shm files" in told
    assert "(Tree 4 page 9" in file.damaged("*** in database main ***\nTree 4 page 9: x")
    assert "format 7" in file.newer(7)
