"""Problems as a command prints them."""

from __future__ import annotations

import pytest
import typer

from gateway.cli.output import PROBLEMS, report_problems
from gateway.mapping.problem import Problem


def test_the_exit_status_is_that_of_the_first_level_that_failed(capsys: pytest.CaptureFixture[str]) -> None:
    problems = [Problem("a.yaml", 1, 2, "$", "no", "live"), Problem("b.yaml", 3, 4, "$", "no", "idl")]
    with pytest.raises(typer.Exit) as ended:
        report_problems(problems, as_json=False)
    assert ended.value.exit_code == PROBLEMS["idl"]
    assert capsys.readouterr().err.splitlines() == [*map(str, problems), "2 problems in 2 files"]
