"""Checks the shipped mappings, and what the documents claim. `make lint` checks import contracts and sizes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import typer
from typer.core import TyperGroup
from typer.testing import CliRunner

from gateway.cli import app
from tests.kit.cases import expect
from tests.kit.programs import ROOT

PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/**/*.md")),
]
MAX_LINES = 200  # of README.md and docs/architecture.md: details go to their own pages


@pytest.mark.parametrize("page", ["README.md", "docs/architecture.md"])
def test_the_first_pages_are_short(page: str) -> None:
    assert len((ROOT / page).read_text().splitlines()) <= MAX_LINES


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/architecture.md"])
def test_every_path_that_a_page_names_exists(page: str) -> None:
    named = re.findall(r"(?<![\w./-])((?:gateway|adapters|docs|docker|mappings|tests|scripts)/[\w./-]*\w)", _text(page))
    missing = {path for path in named if not (ROOT / path).exists()}
    assert missing - {"tests/gateway/__init__.py"} == set(), "that one must not exist, as the page says"


@pytest.mark.parametrize("page", PAGES)
def test_every_link_between_pages_leads_to_a_file_and_its_heading(page: str) -> None:
    for link, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", _text(page)):
        target = (ROOT / page).parent / link if link else ROOT / page
        assert target.exists(), f"{page}: {link}"
        assert not anchor or anchor in _headings(target.read_text()), f"{page}: {link}#{anchor}"


@pytest.mark.parametrize(("folder", "number"), [("mappings", 10), ("mappings/examples", 3)])
def test_every_shipped_mapping_compiles_without_a_problem(folder: str, number: int) -> None:
    done = _run(sys.executable, "-m", "gateway", "check", "--json", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["files"] == number


def test_every_shipped_mapping_names_its_schema_for_editors() -> None:
    for path in sorted((ROOT / "mappings").rglob("*.yaml")):
        first, _, _ = path.read_text().partition("\n")
        prefix, _, schema = first.partition("$schema=")
        assert prefix == "# yaml-language-server: ", path
        assert (path.parent / schema).is_file(), path


@pytest.mark.parametrize("page", PAGES)
def test_every_make_target_that_a_page_names_exists(page: str) -> None:
    named = {target for line in _code(page) for target in re.findall(r"(?:^|[\s;&])make ((?!-)[\w-]+)", line)}
    for target in sorted(named):
        assert _run("make", "--dry-run", target).returncode == 0, f"{page}: make {target}"


@pytest.mark.parametrize("page", PAGES)
def test_every_command_and_option_that_a_page_names_exists(page: str) -> None:
    for line in _code(page):
        for name, rest in re.findall(r"(?:^|[\s/])xcp-gateway ([a-z][a-z-]*)([^|;&]*)", line):
            assert name in _command().commands, f"{page}: {line}"
            options = {option for each in _parameters(name, rest) for option in (*each.opts, *each.secondary_opts)}
            assert set(re.findall(r"(?<= )--[a-z-]+", rest)) <= options | {"--help"}, f"{page}: {line}"


def test_every_command_has_a_help_text() -> None:
    for name, command in _command().commands.items():
        inner = [[name, each] for each in command.commands] if isinstance(command, TyperGroup) else []
        for words in [[name], *inner]:
            shown = CliRunner().invoke(app, [*words, "--help"])
            assert shown.exit_code == 0, shown.output


def _parameters(name: str, rest: str) -> Sequence[Any]:
    """The parameters of a command, or of the one of a group that the next word names."""
    command = _command().commands[name]
    inner = rest.split(maxsplit=1)[0] if rest.split() else ""
    return (command.commands[inner] if isinstance(command, TyperGroup) and inner else command).params


def _command() -> TyperGroup:
    return expect(TyperGroup, typer.main.get_command(app))


def _code(page: str) -> Iterator[str]:
    """The lines of a page's code blocks, and its code spans."""
    prose_and_code = re.split(r"^ *```.*$", _text(page), flags=re.MULTILINE)
    for prose in prose_and_code[0::2]:
        yield from re.findall(r"`([^`]+)`", prose)
    for block in prose_and_code[1::2]:
        yield from block.replace("\\\n", " ").splitlines()


def _headings(text: str) -> set[str]:
    """The anchors of a page, as GitHub makes them from its headings."""
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", outside, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def _text(page: str) -> str:
    return (ROOT / page).read_text()


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
