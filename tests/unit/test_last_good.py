"""The mapping files that were live last, in a file beside the state's."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from gateway import config, wiring
from gateway.last_good import LastGood
from gateway.mapping.table import Table
from tests.kit.gateway import TOY_MAPPING, Folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path)
    folder.buses({"toolstack": (f"unix:path={tmp_path}/bus", "org.example.*")})
    return folder


def table(folder: Folder) -> Table:
    made, problems = wiring.compile_mappings(config.load(folder.config))
    assert problems == []
    return made


def test_what_was_kept_compiles_to_the_same_revision_whatever_the_files_say_now(folder: Folder) -> None:
    kept = LastGood(folder.path / "state.db", folder.config)
    before = table(folder)
    kept.save(before)
    folder.mapping("nonsense")
    (folder.mappings / "toy.xml").unlink()
    found = kept.load()
    assert found is not None
    after, problems = wiring.compile_mappings(config.load(folder.config), *found)
    assert (problems, after.revision, len(after.routes())) == ([], before.revision, len(before.routes()))


def test_it_is_private_and_one_for_each_config(folder: Folder) -> None:
    state = folder.path / "state.db"
    kept, other = LastGood(state, folder.config), LastGood(state, folder.path / "other.toml")
    kept.save(table(folder))
    assert kept.path is not None
    assert stat.S_IMODE(kept.path.stat().st_mode) == 0o600
    assert other.load() is None
    assert list(folder.path.glob(".state.db*")) == []


def test_without_a_state_file_nothing_is_kept(folder: Folder) -> None:
    kept = LastGood(None, folder.config)
    kept.save(table(folder))
    assert kept.load() is None


@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff", b'{"format":2,"revision":"","mappings":{},"idl":{}}'])
def test_what_cannot_be_used_is_as_if_it_were_not_there(folder: Folder, content: bytes) -> None:
    kept = LastGood(folder.path / "state.db", folder.config)
    assert kept.path is not None
    kept.path.write_bytes(content)
    assert kept.load() is None


def test_a_fifo_does_not_hold_the_start_up(folder: Folder) -> None:
    kept = LastGood(folder.path / "state.db", folder.config)
    assert kept.path is not None
    os.mkfifo(kept.path)
    assert kept.load() is None


def test_the_mapping_of_before_stays_where_the_new_one_cannot_be_written(folder: Folder) -> None:
    kept = LastGood(folder.path / "none" / "state.db", folder.config)
    with pytest.raises(OSError, match="No such file"):
        kept.save(table(folder))
    assert TOY_MAPPING
