"""scripts/setup installs every program that the demo and the tests run."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from demo.environment import PROGRAMS, STORE_PROGRAMS
from tests.kit.other_servers import OTHER_SERVERS
from tests.kit.programs import ROOT, promised


def test_every_program_of_set_up_is_here_and_the_demo_needs_no_other() -> None:
    assert [name for name in promised() if shutil.which(name) is None] == []
    assert {**PROGRAMS, **STORE_PROGRAMS}.items() <= promised().items()


def test_the_programs_of_others_are_listed_with_their_packages() -> None:
    """Where one is missing its test is skipped; `make day-one` installs them."""
    own = {"python"}
    tools = {"bash", "chromium", "dpkg", "dpkg-deb", "lintian", "man", "promtool", "prometheus"}
    tools |= {"cockpit-bridge", "cockpit-ws"}
    assert {*OTHER_SERVERS, "node", *tools} - own == promised("--optional").keys()
    assert not promised("--optional").keys() & promised().keys()


@pytest.mark.parametrize("program", ["no-such-program", "/usr/bin/no-such-program"])
def test_a_test_that_runs_a_program_which_set_up_does_not_bring_fails(program: str) -> None:
    with pytest.raises(AssertionError, match=f"{program}: not in PACKAGE of scripts/setup"):
        subprocess.run([program], check=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a fresh machine")
def test_where_no_mirror_answers_the_fresh_machine_says_so_by_its_status(tmp_path: Path) -> None:
    """Status 69 is neither success nor failure for .ci/run."""
    environment = {**os.environ, "MIRROR": "http://127.0.0.1:1/", "SCRATCH": str(tmp_path)}
    command = [ROOT / "scripts/fresh-machine"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (69, "")
    assert "http://127.0.0.1:1/ does not answer" in done.stderr
    assert list(tmp_path.iterdir()) == []
