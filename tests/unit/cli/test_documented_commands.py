"""Each `xcp-gateway` command in the documents is one that there is, with options that it has.

Blocks marked `sh` are run as they are: those of the tutorial, and the one of docs/install.md that has a name. Blocks
marked `console` are recorded sessions. They have prompts, and are only read here.
"""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

from typer.main import get_command

from gateway.cli import app
from tests.kit.programs import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(page: Path) -> Iterator[list[str]]:
    """The words after `xcp-gateway` of each command. In a block with prompts the other lines are output."""
    text = page.read_text().replace("\\\n", " ")
    lines = re.findall(r"`(xcp-gateway [^`]*)`", _BLOCK.sub("", text))
    for block in _BLOCK.findall(text):
        prompted = re.findall(r"^ *[$#] (.*)", block, re.MULTILINE) if re.search(r"^[$#] ", block) else None
        lines += block.splitlines() if prompted is None else prompted
    for line in lines:
        if found := re.match(r" *(?:sudo )?xcp-gateway (\S.*)", line):
            parser = shlex.shlex(found[1], posix=True, punctuation_chars="|&;<>")
            parser.whitespace_split = True
            yield list(takewhile(lambda word: not set(word) <= set("|&;<>"), parser))


_BLOCK = re.compile(r"^```.*?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


_tree = functools.cache(lambda: get_command(app))  # to build it takes long


def problem(words: list[str]) -> str:
    """Why the command line is none of ours; empty if it is."""
    inside: Any = _tree()
    rest = list(words)
    while hasattr(inside, "commands") and rest and not rest[0].startswith("-"):
        if rest[0] not in inside.commands:
            return f"no command {rest[0]!r}"
        inside = inside.commands[rest.pop(0)]
    context = inside.make_context(inside.name, [], resilient_parsing=True)
    try:
        _, left, _ = inside.make_parser(context).parse_args(rest)
    except Exception as error:  # noqa: BLE001 - the parser's own, of a copy of click that has no name here
        return str(error) or type(error).__name__
    return f"too many arguments: {left}" if left and not hasattr(inside, "commands") else ""


def test_each_command_in_the_documents_is_one_that_there_is() -> None:
    found = [(page.name, words) for page in PAGES for words in commands(page)]
    assert [(page, shlex.join(words), why) for page, words in found if (why := problem(words))] == []
    assert len(found) > 150


def test_a_block_is_run_or_marked_as_a_recorded_session() -> None:
    blocks = [
        (page.name, language, text)
        for page in PAGES
        for language, text in re.findall(r"^```([^\n]*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    ]
    recorded = [language for _, language, text in blocks if re.search(r"^[$#] ", text, re.MULTILINE)]
    assert "" not in recorded
    run = {(page, language) for page, language, _ in blocks if language.split(" ")[0] == "sh"}
    generated = ("mapping.md", "sh")  # in the output of `xcp-gateway docs`
    assert run - {generated} == {("tutorial.md", "sh"), ("install.md", "sh a-service-of-your-own")}
