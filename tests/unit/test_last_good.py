"""The files that were live last; file descriptors for what a config needs."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from gateway import config, descriptors, wiring
from gateway.config import parse
from gateway.last_good import LastGood
from gateway.mapping.table import Table
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
    assert kept.path is not None
    assert stat.S_IMODE(kept.path.stat().st_mode) == 0o600
    assert (other.load(), none.load()) == (None, None)
    assert list(folder.path.glob(".state.db*")) == []
    with pytest.raises(OSError, match="No such file"):
        LastGood(folder.path / "none" / "state.db", folder.config).save(table(folder))


def test_what_cannot_be_used_is_as_if_it_were_not_there(folder: Folder) -> None:
    kept = LastGood(folder.path / "state.db", folder.config)
    assert kept.path is not None
    for content in (b"", b"garbage", b"\xff", b'{"format":2,"revision":"","mappings":{},"idl":{}}'):
        kept.path.write_bytes(content)
        assert kept.load() is None
    kept.path.unlink()
    os.mkfifo(kept.path)  # does not hold the start up
    assert kept.load() is None


# File descriptors


MINIMAL: dict[str, object] = {
    "bus": {"b": {"address": "unix:path=/nowhere", "services": ["*"]}},
    "listener": {"a": {"bind": ["tcp:127.0.0.1:0"]}},
    "mappings": {"directories": ["."]},
}

FIT = """
import json, resource, sys, tomllib
from pathlib import Path
from gateway import config, descriptors
for soft, hard in ((256, 5000), (4000, 5000), (512, 1024), (64, 64)):
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    fitted = descriptors.fitted(config.parse(json.loads(sys.argv[1]), Path("x.toml")))
    limits = [each.max_connections for each in fitted.listener.values()]
    print(json.dumps([resource.getrlimit(resource.RLIMIT_NOFILE), limits, descriptors.needed(fitted)]))
"""


def test_listeners_take_as_many_connections_as_the_limit_of_the_process_lets_them() -> None:
    document = {
        **MINIMAL,
        "listener": {"a": {"bind": ["tcp:127.0.0.1:0"]}, "b": {"bind": ["tcp:127.0.0.1:0"], "max_connections": 256}},
    }
    command = [sys.executable, "-c", FIT, json.dumps(document)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    told = [line for line in done.stdout.splitlines() if not line.startswith("[")]
    raised, enough, low, tiny = (json.loads(line) for line in done.stdout.splitlines() if line.startswith("["))
    assert raised[:2] == [[raised[2], 5_000], [1024, 256]]  # the soft limit is raised as far as the config needs
    assert enough[:2] == [[4_000, 5_000], [1024, 256]]
    (both, ((one, other), needed)) = low[0], (low[1], low[2])
    assert both == [1024, 1024]
    assert needed <= 1024
    assert (one < 1024, one // other) == (True, 4)
    assert tiny[1] == [descriptors.LEAST, descriptors.LEAST]
    text = "\n".join(told) + done.stderr
    assert text.count("too few file descriptors") == 2


def test_a_store_takes_none() -> None:
    document = {**MINIMAL, "listener": {"guests": {"bind": ["xenstore:"]}}}
    with_listener = parse(MINIMAL, Path("x.toml"))
    assert descriptors.needed(with_listener) - descriptors.needed(parse(document, Path("x.toml"))) == 1024
