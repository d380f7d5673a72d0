"""The command without a gateway: help, version, schema, check of files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway.cli import app
from tests.kit.buses import private_bus
from tests.kit.gateway import TOY_MAPPING, Folder

run = CliRunner()


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


MOVING = ["mode", "explain", "diff", "audit", "rollback", "rollout"]


@pytest.mark.parametrize("command", ["run", "check", "routes", "call", "demo", "schema", "reload", "status", *MOVING])
def test_every_command_has_help(command: str) -> None:
    shown = run.invoke(app, [command, "--help"])
    assert shown.exit_code == 0
    assert "Usage" in shown.stdout


def test_schema_prints_the_json_schema_of_mapping_files() -> None:
    schema = json.loads(run.invoke(app, ["schema"]).stdout)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_schema_prints_the_document_of_the_control_socket_too() -> None:
    document = json.loads(run.invoke(app, ["schema", "--admin"]).stdout)
    assert (document["openapi"], "/v1/mode" in document["paths"]) == ("3.1.0", True)


def test_check_says_what_it_looked_at(folder: Folder) -> None:
    shown = run.invoke(app, ["check", str(folder.mappings)])
    assert shown.exit_code == 0, shown.output
    assert shown.stdout == "7 methods in 1 file: no problems (schema and IDL)\n"


def test_check_ends_with_the_first_level_that_failed(folder: Folder) -> None:
    folder.mapping(TOY_MAPPING.replace("member: Echo", "member: Ecko"))
    assert run.invoke(app, ["check", str(folder.mappings)]).exit_code == 4
    folder.mapping(TOY_MAPPING.replace("member: Echo", "meber: Echo"))
    shown = run.invoke(app, ["check", str(folder.mappings)])
    assert shown.exit_code == 3
    assert "toy.yaml:9" in shown.stderr
    assert "2 problems in 1 file" in shown.stderr


def test_check_prints_json_for_machines(folder: Folder) -> None:
    folder.mapping(TOY_MAPPING.replace("member: Echo", "member: Ecko"))
    shown = run.invoke(app, ["check", str(folder.mappings), "--json"])
    (problem,) = json.loads(shown.stdout)["problems"]
    assert (problem["level"], problem["line"]) == ("idl", 9)
    assert problem["place"].startswith("methods.echo")


def test_a_config_that_is_not_there_is_named(tmp_path: Path) -> None:
    shown = run.invoke(app, ["check", "--config", str(tmp_path / "none.toml")])
    assert shown.exit_code == 2
    assert "none.toml: cannot be read" in shown.stderr.replace("\n", "")


def test_a_live_check_that_could_look_at_nothing_says_so_and_ends_with_1(folder: Folder) -> None:
    with private_bus() as bus:
        folder.buses({"toolstack": (bus.address, "org.example.*")})
        shown = run.invoke(app, ["check", "--live", "--config", str(folder.config)])
    assert shown.exit_code == 1
    assert "no problems (schema and IDL)" in shown.stdout
    assert "7 of 7 uses of an interface could not be checked live" in shown.stdout
