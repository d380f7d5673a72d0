"""Problems of mapping files as a command prints them, and the exit status that belongs to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer

from gateway.cli.showing import count, err, print_json

PROBLEMS = {"schema": 3, "idl": 4, "live": 5}  # `check`: the first level that failed


def report_problems(problems: Sequence[Any], *, as_json: bool) -> None:
    """Print every problem, then end with the status of the first level that failed."""
    if as_json:
        print_json({"problems": problems})
    else:
        for problem in problems:
            err.print(str(problem), markup=False, soft_wrap=True)
        names = {problem.file for problem in problems}
        err.print(f"{count(len(problems), 'problem')} in {count(len(names), 'file')}", style="bold")
    levels = {problem.level for problem in problems}
    raise typer.Exit(next(status for level, status in PROBLEMS.items() if level in levels))
