"""The table of commands: it says what each command says of itself, and help and completion import no command."""

from __future__ import annotations

import json
import re
import subprocess
import sys

from typer.main import get_command
from typer.testing import CliRunner

from gateway.cli import app
from gateway.cli.commands import COMMANDS

SHOW_MODULES = """
import json, sys
from gateway.cli import main
sys.argv = ["xcp-gateway", *sys.argv[1:]]
try:
    main()
except SystemExit:
    pass
print(json.dumps(sorted(sys.modules)))
"""
COMMAND_MODULES = {f"gateway.cli.{entry.module}" for entry in COMMANDS.values()}


def imported_by(*words: str, **environment: str) -> set[str]:
    """The modules that a command line has imported when it ends."""
    command = [sys.executable, "-c", SHOW_MODULES, *words]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return set(json.loads(shown.stdout.splitlines()[-1]))


def test_the_table_says_of_each_command_what_its_docstring_says_first_and_help_lists_it() -> None:
    made = get_command(app)
    for name, entry in COMMANDS.items():
        command = made.commands[name]  # type: ignore[attr-defined] # it is a group
        first = " ".join(command.help.split("\n\n")[0].split())
        assert (command.name, entry.summary) == (name, first)
    shown = CliRunner().invoke(app, ["--help"], env={"TERMINAL_WIDTH": "400", "COLUMNS": "400"}).output
    found = dict(re.findall(r"^│ (\w+) +(\S.*?) +│$", shown, re.MULTILINE))
    assert found == {name: entry.summary for name, entry in COMMANDS.items()}


def test_help_and_completion_import_no_command_and_nothing_that_commands_work_with() -> None:
    unneeded = COMMAND_MODULES | {"msgspec", "asyncio", "aiohttp", "gateway.cli.output", "gateway.cli.client"}
    assert imported_by("--help") & unneeded == set()
    completing = {"_XCP_GATEWAY_COMPLETE": "complete_bash", "COMP_WORDS": "xcp-gateway ro", "COMP_CWORD": "1"}
    assert imported_by(**completing) & unneeded == set()


def test_a_command_imports_its_own_module_alone() -> None:
    found = imported_by("schema")
    assert found & COMMAND_MODULES == {"gateway.cli.files"}
    assert "aiohttp" not in imported_by("status", "--socket", "/nowhere/admin")
    assert {"rich", "jinja2", "gateway.cli.output", "gateway.cli.client"} & imported_by("run", "--help") <= {"rich"}
