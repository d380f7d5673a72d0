"""Holds the house to its plan: one-way imports, a test for every source, mappings that compile, true papers."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup
from typer.testing import CliRunner

from gateway.cli import app

ROOT = Path(__file__).parents[1]
PLAN = "docs/architecture.md"  # also names what is to come
PAGES = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/*.md"))
ROOTS = "gateway|adapters|mappings|docker|docs|scripts|tests|unit|interop|property|scenarios|soak|bench|fuzz"
PAPERS = ["README.md", "CONTRIBUTING.md", "SECURITY.md", *(page for page in PAGES if page != PLAN)]


def test_imports_go_one_way() -> None:
    done = _run(str(Path(sys.executable).with_name("lint-imports")), "--no-cache")
    assert done.returncode == 0, done.stdout


def test_every_shipped_mapping_compiles_without_a_problem() -> None:
    done = _run(sys.executable, "-m", "gateway", "check", "--json", "mappings")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["files"] == len(list((ROOT / "mappings").glob("*.yaml"))) > 0


def test_every_shipped_mapping_names_its_schema_for_editors() -> None:
    for path in sorted((ROOT / "mappings").glob("*.yaml")):
        first, _, _ = path.read_text().partition("\n")
        prefix, _, schema = first.partition("$schema=")
        assert prefix == "# yaml-language-server: ", path
        assert (path.parent / schema).is_file(), path


@pytest.mark.parametrize("paper", PAPERS)
def test_every_make_target_a_paper_names_exists(paper: str) -> None:
    named = {target for line in _code(paper) for target in re.findall(r"(?:^|[\s;&])make ((?!-)[\w-]+)", line)}
    for target in sorted(named):
        assert _run("make", "--dry-run", target).returncode == 0, f"{paper}: make {target}"


@pytest.mark.parametrize("paper", PAPERS)
def test_every_command_and_option_a_paper_names_exists(paper: str) -> None:
    for line in _code(paper):
        for name, rest in re.findall(r"(?:^|[\s/])xcp-gateway ([a-z][a-z-]*)([^|;&]*)", line):
            assert name in _command().commands, f"{paper}: {line}"
            options = {option for each in _meant(name, rest) for option in (*each.opts, *each.secondary_opts)}
            assert set(re.findall(r"(?<= )--[a-z-]+", rest)) <= options | {"--help"}, f"{paper}: {line}"


@pytest.mark.parametrize("paper", PAPERS)
def test_every_path_a_paper_names_exists(paper: str) -> None:
    text = (ROOT / paper).read_text()
    named = re.findall(rf"`((?:{ROOTS})/[\w./*-]*)`", text)
    linked = [link for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text) if "://" not in link]
    wrong = [path for path in named if not list(ROOT.glob(path)) and not list((ROOT / "tests").glob(path))]
    wrong += [link for link in linked if not ((ROOT / paper).parent / link).exists()]
    assert not wrong, paper


def test_every_command_has_a_help_text() -> None:
    for name, command in _command().commands.items():
        inner = [[name, each] for each in command.commands] if isinstance(command, TyperGroup) else []
        for words in [[name], *inner]:
            shown = CliRunner().invoke(app, [*words, "--help"])
            assert shown.exit_code == 0, shown.output


def _meant(name: str, rest: str) -> Sequence[Any]:
    """The parameters of a command, or of the one of a group that the next word names."""
    command = _command().commands[name]
    inner = rest.split(maxsplit=1)[0] if rest.split() else ""
    return (command.commands[inner] if isinstance(command, TyperGroup) and inner else command).params


def _command() -> TyperGroup:
    command = typer.main.get_command(app)
    assert isinstance(command, TyperGroup)
    return command


def _code(paper: str) -> Iterator[str]:
    """The lines of a paper's code blocks, and its code spans."""
    prose_and_code = re.split(r"^ *```.*$", (ROOT / paper).read_text(), flags=re.MULTILINE)
    for prose in prose_and_code[0::2]:
        yield from re.findall(r"`([^`]+)`", prose)
    for block in prose_and_code[1::2]:
        yield from block.replace("\\\n", " ").splitlines()


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
