"""Commands of xcp-gateway, run in this process: a process of its own takes a second to start.

The command tree is built once, since that takes longer than most commands.
"""

from __future__ import annotations

import functools
from pathlib import Path

from typer import testing

from gateway.cli import app

testing._get_command = functools.cache(testing._get_command)  # type: ignore[attr-defined]


def command(*words: object, socket: Path | str | None = None) -> testing.Result:
    """Run a command in a terminal of 200 columns; `socket`: of the admin API."""
    where = ["--socket", str(socket)] if socket is not None else []
    done = testing.CliRunner().invoke(app, [*map(str, words), *where], env={"COLUMNS": "200"})
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def succeed(*words: object, socket: Path | str | None = None) -> str:
    """Run a command that must succeed; return what it prints."""
    done = command(*words, socket=socket)
    assert done.exit_code == 0, done.output
    return done.stdout


def outcome(*words: object) -> tuple[int, str, str]:
    """Run a command; return its exit status, what it prints, and what it says besides."""
    done = command(*words)
    return done.exit_code, done.stdout, done.stderr
