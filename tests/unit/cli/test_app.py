"""What all commands share: help, exit status, errors as text and as JSON, problems of mapping files."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from gateway import __version__
from gateway.cli import app
from gateway.cli.app import EPILOG, FAILED, FILES, GATEWAY, MIGRATION, UNREACHABLE, UNUSABLE, error_text
from gateway.cli.output import PROBLEMS, report_problems
from gateway.mapping.problem import Problem
from tests.kit.admin import served
from tests.kit.gateway import Folder

run = CliRunner()


def test_help_lists_the_exit_statuses_and_sorts_the_commands() -> None:
    for status in (0, FAILED, UNUSABLE, *PROBLEMS.values(), UNREACHABLE):
        assert f"{status} " in EPILOG
    shown = run.invoke(app, ["-h"]).stdout
    places = [shown.index(f"─ {panel} ─") for panel in (GATEWAY, FILES, MIGRATION)]
    assert places == sorted(places)
    assert "Usage: " in run.invoke(app, ["rollout", "start", "-h"]).stdout


def test_the_version_is_one_line() -> None:
    assert run.invoke(app, ["--version"]).stdout == f"xcp-gateway {__version__}\n"


BAD_ARGUMENTS = [
    ["nope"],
    ["status", "--nope"],
    ["status", "a", "b"],
    ["mode", "set", "VM.get_state"],
    ["mode", "clear"],
    ["mode", "VM.get_state", "dbsu"],
    ["mode", "VM.nope", "dbus"],
    ["mode", "VM.get_state", "dbus", "--duration", "soon"],
    ["explain", "VM.nope"],
    ["diff", "--reset"],
    ["diff", "--limit", "0"],
    ["rollback"],
    ["rollout", "start", "VM.nope"],
    ["clients", "--since", "yesterday"],
    ["promote", "VM.nope"],
    ["record", "VM.nope", "--out", "-"],
    ["replay", "/nowhere"],
]


@pytest.mark.parametrize("words", BAD_ARGUMENTS, ids=" ".join)
def test_a_bad_argument_ends_with_status_2_and_one_error(tmp_path: Path, words: list[str]) -> None:
    with served(tmp_path) as api:
        socket = [] if words == ["nope"] else ["--socket", api.socket]
        ended = run.invoke(app, [*words, *socket])
        assert (ended.exit_code, ended.stdout) == (2, "")
        assert "Traceback" not in ended.stderr
        if words[0] in ("mode", "status", "explain", "clients", "nope"):
            ended = run.invoke(app, [*words, *socket, "--json"])
            assert (ended.exit_code, ended.stderr) == (2, "")
            error = json.loads(ended.stdout)
            assert (error["status"], error.keys()) == (2, {"error", "status"})


def test_without_a_gateway_the_socket_is_named_and_the_exit_status_is_69(tmp_path: Path) -> None:
    says = f"no gateway answers on {tmp_path}/admin: is it running?"
    shown = run.invoke(app, ["status", "--socket", str(tmp_path / "admin")])
    assert (shown.exit_code, shown.stderr) == (69, says + "\n")
    shown = run.invoke(app, ["status", "--json", "--socket", str(tmp_path / "admin")])
    assert (shown.exit_code, json.loads(shown.stdout)) == (69, {"error": says, "status": 69})


def test_an_error_has_no_number_of_python() -> None:
    assert error_text(OSError(errno.EADDRINUSE, "cannot listen on tcp:1")) == "cannot listen on tcp:1"
    assert "gone.toml" in error_text(FileNotFoundError(errno.ENOENT, "No such file", "gone.toml"))


def test_the_exit_status_is_that_of_the_first_level_that_failed(capsys: pytest.CaptureFixture[str]) -> None:
    problems = [Problem("a.yaml", 1, 2, "$", "no", "live"), Problem("b.yaml", 3, 4, "$", "no", "idl")]
    with pytest.raises(typer.Exit) as ended:
        report_problems(problems)
    assert ended.value.exit_code == PROBLEMS["idl"]
    assert capsys.readouterr().err.splitlines() == [*map(str, problems), "2 problems in 2 files"]


def test_routes_of_files_need_no_gateway(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    rows = json.loads(run.invoke(app, ["routes", str(folder.mappings), "--json"]).stdout)
    assert {row["method"] for row in rows} == {"echo", "label", "hold", "held", "release", "hang", "leave"}
    assert rows[0]["target"] == "org.example.toy /org/example/toy org.example.Toy1.Echo"


def test_status_has_a_row_for_each_method_that_has_two_sides(tmp_path: Path) -> None:
    with served(tmp_path) as api:
        shown = run.invoke(app, ["status", "--socket", api.socket]).stdout
        assert "mode of the mapping, not called yet: " in shown
        shown = run.invoke(app, ["status", "*", "--socket", api.socket]).stdout
        assert "VM.get_state  legacy" in shown
        shown = run.invoke(app, ["status", "group:life", "--socket", api.socket]).stdout
        assert "VM.start" in shown
        assert "VM.get_state" not in shown
        rows = json.loads(run.invoke(app, ["status", "--json", "--socket", api.socket]).stdout)["methods"]
        assert [row["method"] for row in rows] == ["VM.get_state", "VM.start"]
