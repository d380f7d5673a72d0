"""What an operator sees in a terminal of 120 columns, during a migration: each table fits, and has its colours.

The pictures in docs/screens are made here, where SCREENS=1 asks for it.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import xmlrpc.client
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
from rich.console import Console
from rich.text import Text

from demo.environment import Environment, start_environment
from demo.http_clients import PASSWORD, USER, WEB
from demo.migration import DB, FIELD, METHOD
from gateway.cli import client
from tests.kit.programs import ROOT, until

pytestmark = pytest.mark.bus

SCREENS = ROOT / "docs/screens"
WIDTH = 120  # columns
CALLS = 12
LIVE = "xapi/VM.get_power_state"


@pytest.fixture(scope="module")
def migrating() -> Iterator[Environment]:
    """A method in shadow mode whose answers differ, and one whose rollout has begun."""
    with start_environment() as environment:
        shown(environment, "mode", "set", METHOD, "shadow", "--why", "first look")
        shown(environment, "rollout", "start", LIVE, "--why", "equal for a week")
        until(lambda: are_compared(environment))
        yield environment


def make_calls(environment: Environment) -> None:
    with xmlrpc.client.ServerProxy(environment.url) as server:
        answer = server.session.login_with_password(USER, PASSWORD, "1.0", "console")
        assert isinstance(answer, dict)
        for number in range(CALLS):
            if number == CALLS // 2:
                environment.switches.write_text(json.dumps({METHOD: {"wrong": {FIELD: "2097152"}}}))
            for vm in (WEB, DB):
                server.VM.get_record(answer["Value"], vm)
        for vm in (WEB, DB):  # too few for its rollout to judge by: on a busy machine D-Bus may be too slow for it
            server.VM.get_power_state(answer["Value"], vm)


def are_compared(environment: Environment) -> bool:
    """Call, and return whether each method was compared: on a busy machine the two sides may run too far apart."""
    make_calls(environment)
    rows = [
        client.ask(environment.admin, "GET", f"/v1/methods?{urlencode({'pattern': method})}")[0]
        for method in (METHOD, LIVE)
    ]
    mismatches = client.ask(environment.admin, "GET", f"/v1/diff?method={METHOD}")
    return all(row["comparisons"] for row in rows) and bool(mismatches)


def shown(environment: Environment, *words: str) -> str:
    """The output of a command, with its colours."""
    command = [sys.executable, "-m", "gateway", *words, "--socket", str(environment.admin)]
    variables = {**os.environ, "FORCE_COLOR": "1", "COLUMNS": str(WIDTH), "TERM": "xterm-256color"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=variables, cwd=ROOT)
    return done.stdout + done.stderr


def picture(command: str, output: Text, file: Path) -> None:
    """Write the output as SVG, without a font of another host."""
    console = Console(record=True, width=WIDTH, file=io.StringIO())
    console.print(output, soft_wrap=False)
    svg = console.export_svg(title=f"$ {command}", unique_id="screen")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.DOTALL))


@pytest.mark.parametrize(
    ("name", "words", "says"),
    [
        ("status", ["status"], [METHOD, "shadow", "differs"]),
        ("diff", ["diff", METHOD, "--limit", "1"], [f"$.{FIELD}", "control", "candidate"]),
        ("rollout", ["rollout", "list"], [LIVE, "running", "waits: "]),
        ("clients", ["clients"], [f"xapi/{METHOD}", "Python-xmlrpc", USER]),
    ],
    ids=str,
)
def test_a_table_fits_a_terminal(migrating: Environment, name: str, words: list[str], says: list[str]) -> None:
    output = shown(migrating, *words)
    place = re.escape(str(migrating.directory))
    output = re.sub(rf"{place}(\S*)(?=  )", lambda found: f"/run{found[1]}".ljust(len(found[0])), output)
    text = Text.from_ansi(re.sub(place, "/run", output))
    assert "\x1b[" in output
    assert [each for each in says if each not in text.plain] == [], text.plain
    rows = [line.rstrip() for line in text.plain.splitlines() if "  " in line and not line.startswith("listening")]
    assert [row for row in rows if len(row) > WIDTH] == []  # sentences are not broken by us, but by the terminal
    if os.environ.get("SCREENS"):
        picture(f"xcp-gateway {' '.join(words)}", text, SCREENS / f"terminal-{name}.svg")
