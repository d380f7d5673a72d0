"""The files that were live last; file descriptors for what a config needs."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from gateway import config, wiring
from gateway.mapping.table import Table
from gateway.start import LEAST, LastGood
from tests.kit.cases import present
from tests.kit.gateway import Folder


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
    found = present(kept.load())
    after, problems = wiring.compile_mappings(config.load(folder.config), *found)
    assert (problems, after.revision, len(after.routes())) == ([], before.revision, len(before.routes()))


def test_it_is_private_and_one_for_each_config_that_has_a_state_file(folder: Folder) -> None:
    state = folder.path / "state.db"
    kept, other, none = LastGood(state, folder.config), LastGood(state, folder.path / "x.toml"), LastGood(None, state)
    for each in (kept, none):
        each.save(table(folder))
    assert stat.S_IMODE(present(kept.path).stat().st_mode) == 0o600
    assert (other.load(), none.load(), list(folder.path.glob(".state.db*"))) == (None, None, [])
    with pytest.raises(OSError, match="No such file"):
        LastGood(folder.path / "none" / "state.db", folder.config).save(table(folder))


def test_what_cannot_be_used_is_as_if_it_were_not_there(folder: Folder) -> None:
    kept = LastGood(folder.path / "state.db", folder.config)
    path = present(kept.path)
    for content in (b"", b"garbage", b"\xff", b'{"format":2,"revision":"","mappings":{},"idl":{}}'):
        path.write_bytes(content)
        assert kept.load() is None
    path.unlink()
    os.mkfifo(path)  # does not hold the start up
    assert kept.load() is None


# File descriptors


FIT = """
import json, resource, sys
from pathlib import Path
from gateway import config, start
for soft, hard in ((256, 5000), (4000, 5000), (512, 1024), (64, 64)):
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    fitted = start.fitted(config.parse(json.loads(sys.argv[1]), Path("x.toml")))
    limits = [each.max_connections for each in fitted.listener.values()]
    print(json.dumps([resource.getrlimit(resource.RLIMIT_NOFILE), limits, start.needed(fitted)]))
"""


def test_listeners_take_as_many_connections_as_the_limit_of_the_process_lets_them() -> None:
    """A xenstore takes none."""
    listeners: dict[str, dict[str, object]] = {
        "a": {},
        "b": {"max_connections": 256},
        "store": {"bind": ["xenstore:"], "max_connections": 9000},
    }
    document = {
        "bus": {"b": {"address": "unix:path=/nowhere", "services": ["*"]}},
        "listener": {name: {"bind": ["tcp:127.0.0.1:0"], **each} for name, each in listeners.items()},
        "mappings": {"directories": ["."]},
    }
    command = [sys.executable, "-c", FIT, json.dumps(document)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    raised, enough, low, tiny = (json.loads(line) for line in done.stdout.splitlines() if line.startswith("["))
    assert raised[:2] == [[raised[2], 5_000], [1024, 256, 9000]]  # the soft limit is raised as far as is needed
    assert enough[:2] == [[4_000, 5_000], [1024, 256, 9000]]
    limits, (one, other, _), needed = low
    assert (limits, needed <= 1024, one < 1024, one // other) == ([1024, 1024], True, True, 4)
    assert tiny[1] == [LEAST, LEAST, 9000]
    assert (done.stdout + done.stderr).count("too few file descriptors") == 2
