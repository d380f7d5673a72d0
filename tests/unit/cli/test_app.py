"""What all commands share, and the commands that need no gateway."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner, Result

from gateway import __version__
from gateway.cli import app
from gateway.cli.app import EPILOG, FAILED, UNREACHABLE, UNUSABLE
from gateway.cli.commands import FILES, GATEWAY, MIGRATION
from gateway.cli.output import PROBLEMS, report_problems
from gateway.config import schema as config_schema
from gateway.mapping.problem import Problem
from tests.kit.admin import Served
from tests.kit.buses import private_bus
from tests.kit.cases import each_case
from tests.kit.gateway import TOY_MAPPING, Folder
from tests.kit.toy_service import toy_service

run = CliRunner()


def test_help_lists_the_exit_statuses_and_sorts_the_commands() -> None:
    for status in (0, FAILED, UNUSABLE, *PROBLEMS.values(), UNREACHABLE):
        assert f"{status} " in EPILOG
    shown = run.invoke(app, ["-h"]).stdout
    places = [shown.index(f"─ {panel} ─") for panel in (GATEWAY, FILES, MIGRATION)]
    assert places == sorted(places)
    assert run.invoke(app, ["--version"]).stdout == f"xcp-gateway {__version__}\n"
    for words, expected in {
        ("call",): "call [OPTIONS] METHOD [ARG...]",
        ("check",): "check [OPTIONS] [PATH...]",
        ("mode",): "mode [OPTIONS] ",
        ("rollout", "start"): "rollout start [OPTIONS] METHOD",
        ("scaffold", "introspection"): "scaffold introspection [OPTIONS] FILE...",
    }.items():
        shown = run.invoke(app, [*words, "-h"], prog_name="xcp-gateway").stdout
        assert f"Usage: xcp-gateway {expected}" in shown
        assert "<bool>" not in shown, "a flag has no type"


# What is wrong, and what is said; nothing where the words are of the library.
BAD_ARGUMENTS = {
    "nope": "",
    "status --nope": "",
    "mode set VM.get_state": "mode set: expected METHOD MODE, got VM.get_state",
    "mode clear": "mode clear: expected METHOD, got nothing",
    "mode VM.strt dbus": "no mapped method is named 'VM.strt' (did you mean 'VM.start'?)",
    "mode VM.get_state dbus --duration soon": "expected a duration such as 500ms",
    "mode set VM.start shadow": "shadow is refused: each call would run twice, and these are writes",
    "diff --reset": "--reset: METHOD is missing",
    "diff --limit 0": "",
    "rollback": "expected --all or --undo; for one method use `xcp-gateway mode set METHOD legacy`",
    "rollback --all --undo": "expected --all or --undo",
    "mode VM.get_state canary --percent many": "",
    "mode VM.get_state shadow --control left": "",
    "check /nowhere.yaml": "/nowhere.yaml: no such file or directory",
    "check --config /nowhere.toml": "/nowhere.toml:1:1: cannot be read",
    "routes /nowhere.yaml": "/nowhere.yaml: no such file or directory",
    "rollout approve VM.get_state": "there is no rollout of xenopsd/VM.get_state: `xcp-gateway rollout list` shows",
    "clients --since yesterday": "expected a duration such as 500ms,",
    "replay /nowhere": "/nowhere: No such file or directory",
}


def test_a_bad_argument_ends_with_status_2_and_one_error(api: Served) -> None:
    for line, says in BAD_ARGUMENTS.items():
        words = line.split()
        socket = [] if words[-1].startswith(("nope", "/nowhere.")) else ["--socket", api.socket]
        ended = run.invoke(app, [*words, *socket])
        assert (ended.exit_code, ended.stdout) == (2, ""), words
        assert says in ended.stderr
        assert "Traceback" not in ended.stderr
        if words[0] in ("mode", "status", "explain", "clients", "nope"):
            ended = run.invoke(app, [*words, *socket, "--json"])
            assert (ended.exit_code, ended.stderr) == (2, ""), words
            error = json.loads(ended.stdout)
            assert (error["status"], error.keys()) == (2, {"error", "status"})


def test_without_a_gateway_the_socket_is_named_and_the_exit_status_is_69(tmp_path: Path) -> None:
    says = f"no gateway answers on {tmp_path}/admin: is it running? `--socket` names another socket"
    shown = run.invoke(app, ["status", "--socket", str(tmp_path / "admin")])
    assert (shown.exit_code, shown.stderr) == (69, says + "\n")
    shown = run.invoke(app, ["status", "--json", "--socket", str(tmp_path / "admin")])
    assert (shown.exit_code, json.loads(shown.stdout)) == (69, {"error": says, "status": 69})


# What fails for each command that can print JSON; {0} is a folder without anything.
FAILING: dict[str, str] = {
    "check": "{0}/none.yaml", "routes": "{0}/none.yaml", "docs": "{0}/none.yaml", "replay": "{0}/none",
    "demo": "--nope", "promote": "", "reload": "", "status": "", "web": "", "watch": "", "audit": "", "clients": "",
    "call": "VM.start", "mode": "", "explain": "VM.start", "diff": "", "rollback": "", "record": "-o {0}/calls",
    "rollout list": "", **{f"rollout {verb}": "VM.start" for verb in ("start", "pause", "resume", "approve", "abort")},
    "scaffold xenapi": "{0}/none", "scaffold bus": "org.x.Y --address unix:path={0}/none",
    "scaffold introspection": "{0}/none", "scaffold openrpc": "{0}/none --bus-name org.x.Y",
    "scaffold methods": "http://127.0.0.1:1 --bus-name org.x.Y", "scaffold recording": "{0}/none --bus-name org.x.Y",
}  # fmt: skip
WITHOUT_JSON = {"run", "schema"}  # one logs, the other prints a JSON document anyway


def commands(inside: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    for word, each in inside.commands.items():
        if hasattr(each, "commands"):
            yield from commands(each, f"{word} ")
        else:
            yield name + word, each


def test_every_command_tells_a_failure_as_one_document_of_one_shape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.check.BUS_TIMEOUT", 0.05)
    able = {name for name, each in commands(get_command(app)) if any("--json" in one.opts for one in each.params)}
    assert able == FAILING.keys()
    assert {name for name, _ in commands(get_command(app))} - able == WITHOUT_JSON
    for name, words in FAILING.items():
        line = [*name.split(), *words.format(tmp_path).split(), "--json"]
        ended = run.invoke(app, line, env={"XCP_GATEWAY_SOCKET": str(tmp_path / "admin")})
        document = json.loads(ended.stdout)
        assert (ended.stderr, document["status"]) == ("", ended.exit_code), line
        assert (ended.exit_code != 0, document.keys()) == (True, {"error", "status"}), line
    assert list(tmp_path.iterdir()) == []


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
    assert (Path(rows[0]["file"]).name, rows[0]["line"], rows[0]["access"]) == ("toy.yaml", 9, "call")


def test_status_has_a_row_for_each_method_that_has_two_sides(api: Served) -> None:
    shown = api.run("status", "group:life").stdout
    assert ("VM.start" in shown, "VM.get_state" in shown) == (True, False)
    answer = json.loads(api.run("status", "--json").stdout)
    assert (answer["in_flight"], [row["method"] for row in answer["methods"]]) == (3, ["VM.get_state", "VM.start"])
    api.api.toy.ready = False
    ended = api.run("status", "VM.*")
    assert (ended.exit_code, ended.stdout.splitlines()[0]) == (1, "not ready: no bus")


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_schemas_are_those_of_mapping_files_of_the_config_and_of_the_admin_socket() -> None:
    schema = json.loads(run.invoke(app, ["schema"]).stdout)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    document = json.loads(run.invoke(app, ["schema", "--admin"]).stdout)
    assert (document["openapi"], "/v1/mode" in document["paths"]) == ("3.1.0", True)
    schema = json.loads(run.invoke(app, ["schema", "--config"]).stdout)
    assert schema == json.loads(json.dumps(config_schema()))
    assert run.invoke(app, ["schema", "--config", "--admin"]).exit_code == 2


def test_check_says_what_it_looked_at_and_ends_with_the_first_level_that_failed(folder: Folder) -> None:
    def check(*words: str) -> Result:
        return run.invoke(app, ["check", str(folder.mappings), *words])

    shown = check()
    assert (shown.exit_code, shown.stdout) == (0, "7 methods in 1 file: no problems (schema and IDL)\n")
    folder.mapping(TOY_MAPPING.replace("member: Echo", "member: Ecko"))
    assert check().exit_code == 4
    (problem,) = json.loads(check("--json").stdout)["problems"]
    assert (problem["level"], problem["line"], problem["place"][:12]) == ("idl", 9, "methods.echo")
    folder.mapping(TOY_MAPPING.replace("member: Echo", "meber: Echo"))
    shown = check()
    assert shown.exit_code == 3
    assert "toy.yaml:9" in shown.stderr
    assert "2 problems in 1 file" in shown.stderr


def test_a_live_check_says_what_it_could_not_look_at_which_is_an_error_where_strict_or_everything(
    folder: Folder,
) -> None:
    live = ["check", "--live", "--config", str(folder.config)]
    with private_bus() as bus:
        folder.buses({"toolstack": (bus.address, "org.example.*")})
        nothing = run.invoke(app, live)
        head = TOY_MAPPING.partition("methods:")[0]
        echo = "  echo: {member: Echo, params: [text], bus_name: org.example.none}\n"
        ping = "  ping: {member: Ping, interface: org.freedesktop.DBus.Peer}\n"
        folder.mapping(f"{head}methods:\n{echo}{ping}")
        with toy_service(bus.address, "org.example.toy"):
            shown, strict = run.invoke(app, live), run.invoke(app, [*live, "--strict"])
    assert (nothing.exit_code, shown.exit_code, strict.exit_code) == (1, 0, 1)
    assert "no problems (schema and IDL)" in nothing.stdout
    for told, counts in (
        (nothing, "0 of 7 uses of an interface checked, 7"),
        (shown, "1 of 2 uses of an interface checked, 1"),
    ):
        assert f"live: {counts} could not be: see the notes with `not checked`" in told.stdout


# What is written where


AFTER = "No such option: --socket: options stand after the command: `xcp-gateway "


@each_case(
    ("line", "params"),
    [
        ("call m -1", [-1]),
        ("call m -1 --path /x -0.5 -1e-5 a", [-1, -0.5, -1e-5, "a"]),
        ("call m -1 -- -x", [-1, "-x"]),
        ("call m --path /x -1 -x", "No such option: -1"),
        ("call m -1 --pth /x", "No such option: -1"),
        ("call m --pth -1", "No such option: --pth"),
        ("--socket x status", f"{AFTER}COMMAND"),
        ("rollout --socket x", f"{AFTER}rollout"),
    ],
)
def test_a_negative_number_is_an_argument_and_options_stand_after_the_command(
    line: str, params: object, api: Served
) -> None:
    ended = run.invoke(app, line.split(), env={"XCP_GATEWAY_SOCKET": api.socket})
    if isinstance(params, str):
        assert (ended.exit_code, ended.stderr[: len(params)]) == (2, params)
    else:
        assert (ended.exit_code, json.loads(ended.stdout)) == (0, params), ended.output


def test_each_sentence_of_an_error_is_one_line_also_in_a_pipe() -> None:
    ended = run.invoke(app, ["call", "x", "--no-such-option-of-any-command-that-would-break-at-eighty-columns"])
    no_option, usage = ended.stderr.splitlines()
    assert no_option == "No such option: --no-such-option-of-any-command-that-would-break-at-eighty-columns"
    assert usage.startswith("Usage: xcp-gateway call [OPTIONS]")
    assert usage.endswith("`xcp-gateway call -h` shows more")


def test_every_problem_of_the_config_is_told_at_once_and_as_json(folder: Folder) -> None:
    folder.buses({"toolstack": ("unix:path=/nowhere", "org.example.*")})
    text = folder.config.read_text()
    folder.config.write_text(text.replace("[mappings]", "[mapings]").replace("bind =", "bnid ="))
    shown = run.invoke(app, ["check", "--config", str(folder.config)])
    ran = run.invoke(app, ["run", "--config", str(folder.config)])
    assert (shown.exit_code, shown.stdout, ran.exit_code) == (2, "", 2)
    assert shown.stderr == ran.stderr
    assert "unknown key 'mapings' (did you mean 'mappings'?)" in shown.stderr
    *problems, total = shown.stderr.splitlines()
    assert total == f"{len(problems)} problems in 1 file"
    assert all(line.startswith(f"{folder.config}:") for line in problems)
    document = json.loads(run.invoke(app, ["check", "--config", str(folder.config), "--json"]).stdout)
    assert (document["status"], document["error"]) == (2, total)
    assert [problem["level"] for problem in document["problems"]] == ["config"] * len(problems)
    folder.config.write_text(f'user = "no-such-user"\n{text}')
    ran = run.invoke(app, ["run", "--config", str(folder.config)])
    says = f"{folder.config}:1:8: user: unknown user 'no-such-user'\n1 problem in 1 file\n"
    assert (ran.exit_code, ran.stderr) == (2, says)


def test_a_reload_is_refused_as_one_document_or_names_the_first_methods_that_have_changed(api: Served) -> None:
    api.api.toy.problems = ["a.yaml:1:1: no"]
    ended = api.run("reload", "--json")
    assert (ended.exit_code, ended.stderr) == (1, "")
    error = "reload refused; revision r1 stays live"
    assert json.loads(ended.stdout) == {"error": error, "status": 1, "revision": "r1", "problems": ["a.yaml:1:1: no"]}
    api.api.toy.problems = []
    assert "nothing has changed" in api.run("reload").stdout
    api.api.toy.changed = [f"VM.m{number}" for number in range(22)]
    told = api.run("reload").stdout
    assert told.endswith("VM.m18, VM.m19 and 2 more\n")
    assert "  changed: VM.m0, VM.m1, " in told
    listed = api.run("reload", "--json").stdout
    assert json.loads(listed)["changed"] == api.api.toy.changed


# Completion


def complete(socket: object, *words: str) -> list[str]:
    line = " ".join(("xcp-gateway", *words))
    variables = {"COMP_WORDS": line, "COMP_CWORD": str(len(words)), "XCP_GATEWAY_SOCKET": str(socket)}
    shown = run.invoke(app, [], env={**variables, "_XCP_GATEWAY_COMPLETE": "complete_bash"}, prog_name="xcp-gateway")
    assert shown.stderr == ""
    return shown.stdout.split()


def test_completion_knows_methods_groups_modes_and_services_and_nothing_without_a_gateway(
    api: Served, tmp_path: Path
) -> None:
    for words, expected in {
        ("mode", "cl"): ["clear"],
        ("mode", "VM."): ["VM.get_state", "VM.start"],
        ("mode", "set", "VM.st"): ["VM.start"],
        ("mode", "set", "VM.start", ""): ["legacy", "shadow", "canary", "dbus", "off"],
        ("mode", "VM.start", "d"): ["dbus"],
        ("mode", "clear", "VM.start", ""): [],
        ("status", "gro"): ["group:life"],
        ("explain", "xenopsd/VM.g"): ["xenopsd/VM.get_state"],
        ("clients", "--service", "x"): ["xenopsd"],
        ("rollout", "start", "VM.g"): ["VM.get_state"],
        ("call", "--protocol", "x"): ["xmlrpc"],
    }.items():
        assert complete(api.socket, *words) == expected
    assert complete(tmp_path / "none", "status", "V") == []
