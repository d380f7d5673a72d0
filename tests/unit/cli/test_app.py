"""What every command shares: how it fails, and how it finds its words."""

from __future__ import annotations

import errno

import pytest
import typer
from typer.testing import CliRunner

from gateway.cli import app
from gateway.cli.app import EPILOG, FAILED, FILES, GATEWAY, MOVING, OTHER, UNREACHABLE, UNUSABLE, fail, words
from gateway.cli.output import PROBLEMS


def test_help_lists_every_exit_status() -> None:
    for status in (0, FAILED, UNUSABLE, *PROBLEMS.values(), UNREACHABLE):
        assert f"{status} " in EPILOG


def test_help_sorts_the_commands() -> None:
    shown = CliRunner().invoke(app, ["--help"]).stdout
    places = [shown.index(f"─ {panel} ─") for panel in (GATEWAY, FILES, MOVING, OTHER)]
    assert places == sorted(places)


def test_a_failure_is_told_on_the_error_output(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended:
        fail("no [such] thing", FAILED)
    assert ended.value.exit_code == FAILED
    assert capsys.readouterr() == ("", "no [such] thing\n")


def test_an_error_is_told_without_pythons_number() -> None:
    assert words(OSError(errno.EADDRINUSE, "cannot listen on tcp:1")) == "cannot listen on tcp:1"
    assert "gone.toml" in words(FileNotFoundError(errno.ENOENT, "No such file", "gone.toml"))
