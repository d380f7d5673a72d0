"""What scripts/setup brings is what demo and tests run, on a machine that had nothing before."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from gateway.demo.stage import PROGRAMS, STORE_PROGRAMS
from tests.kit.programs import promised


def test_every_program_of_set_up_is_here() -> None:
    assert [name for name in promised() if shutil.which(name) is None] == []


def test_the_demo_needs_nothing_that_set_up_does_not_bring() -> None:
    assert {**PROGRAMS, **STORE_PROGRAMS}.items() <= promised().items()


@pytest.mark.parametrize("program", ["no-such-program", "/usr/bin/no-such-program"])
def test_a_test_that_runs_a_program_which_set_up_does_not_bring_fails(program: str) -> None:
    with pytest.raises(AssertionError, match=f"{program}: PACKAGE in scripts/setup does not name it"):
        subprocess.run([program], check=False)
