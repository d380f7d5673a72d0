"""Commands that ask a running gateway, as far as none is needed; the rest is in tests/interop/test_command.py."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from gateway.cli import app
from tests.kit.admin import served
from tests.kit.gateway import Folder

run = CliRunner()


def test_routes_of_files_need_no_gateway(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    rows = json.loads(run.invoke(app, ["routes", str(folder.mappings), "--json"]).stdout)
    assert {row["method"] for row in rows} == {"echo", "label", "hold", "held", "release", "hang", "leave"}
    assert rows[0]["target"] == "org.example.toy /org/example/toy org.example.Toy1.Echo"


def test_without_a_gateway_the_socket_is_named_and_the_exit_status_is_69(tmp_path: Path) -> None:
    shown = run.invoke(app, ["status", "--socket", str(tmp_path / "control")])
    assert shown.exit_code == 69
    assert shown.stderr.replace("\n", "") == f"no gateway answers on {tmp_path}/control: is it running?"


def test_status_has_a_row_for_each_method_that_has_two_sides(tmp_path: Path) -> None:
    with served(tmp_path) as api:
        shown = run.invoke(app, ["status", "--socket", api.socket]).stdout
        assert "as the mapping says, and not called yet: " in shown
        shown = run.invoke(app, ["status", "*", "--socket", api.socket]).stdout
        assert "VM.get_state  legacy" in shown
        shown = run.invoke(app, ["status", "group:life", "--socket", api.socket]).stdout
        assert "VM.start" in shown
        assert "VM.get_state" not in shown
        rows = json.loads(run.invoke(app, ["status", "--json", "--socket", api.socket]).stdout)["methods"]
        assert [row["method"] for row in rows] == ["VM.get_state", "VM.start"]
