"""Commands for rollouts, against an API that serves a real state."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner, Result

from gateway.cli import app
from gateway.cli.rollout import rollout
from tests.kit.admin import Served, served


def run(api: Served, *words: str) -> Result:
    return CliRunner().invoke(app, ["rollout", *words, "--socket", api.socket], env={"COLUMNS": "200"})


def test_a_rollout_is_started_held_and_ended(tmp_path: Path) -> None:
    with served(tmp_path) as api:
        assert run(api, "list").stdout == "no rollouts\n"
        begun = run(api, "start", "VM.get_state", "--why", "try")
        assert begun.stdout.startswith("xenopsd/VM.get_state: running at step 1 of 5, shadow (plan default)\n")
        assert "paused" in run(api, "pause", "VM.get_state").stdout
        assert json.loads(run(api, "resume", "VM.get_state", "--json").stdout)["state"] == "running"
        listed = run(api, "list").stdout.splitlines()
        assert listed[1].startswith("xenopsd/VM.get_state  default  running  1 of 5: shadow")
        assert "aborted" in run(api, "abort", "VM.get_state").stdout
        assert json.loads(run(api, "list", "--json").stdout)[0]["state"] == "aborted"


def test_an_order_that_makes_no_sense_is_told(tmp_path: Path) -> None:
    with served(tmp_path) as api:
        ended = run(api, "approve", "VM.get_state")
        assert (ended.exit_code, ended.stdout) == (2, "")
        assert ended.stderr == "there is no rollout of xenopsd/VM.get_state\n"


def test_every_order_has_a_help_text_with_an_example() -> None:
    for command in rollout.registered_commands:
        assert command.callback is not None
        assert "Example: `xcp-gateway rollout " in (command.callback.__doc__ or "")
