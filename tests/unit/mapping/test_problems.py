"""What `check` reports: problems.txt has files with a problem, and the text of each problem.

A case is one mapping file: `@` lines are keys of the file, lines without a mark are methods (`{...}` is a method `m`),
and its last lines, with `->`, are the problems, as `line:column place: message`. `*` lines are the methods of the cases
below that have none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from textwrap import indent

from gateway.mapping.problem import Problem
from tests.kit.cases import each_case
from tests.kit.mappings import HEAD, build_files

TEXT = (Path(__file__).parent / "problems.txt").read_text()


def cases() -> Iterator[tuple[str, str]]:
    """The text of each file, and its problems."""
    case = re.compile(r"((?:[^-\n].*\n)*)((?:-> .*\n)+)")
    for section in TEXT.split("\n\n"):
        default = "".join(
            line.removeprefix("* ") for line in section.splitlines(keepends=True) if line.startswith("* ")
        )
        for lines, problems in case.findall(re.sub(r"(?m)^[#*] .*\n", "", section.rstrip() + "\n")):
            keys = "".join(re.findall(r"(?m)^@ (.*\n)", lines))
            methods = re.sub(r"(?m)^@ .*\n", "", lines) or default
            head = HEAD.partition("expose:")[0] if keys.startswith("expose:") else HEAD.removesuffix("methods:\n")
            methods = indent(f"m: {methods}" if methods.startswith("{") else methods, "  ")
            yield f"{head}{keys}methods:\n{methods}", problems.replace("-> ", "").rstrip()


CASES = list(cases())
assert sum(len(problems.splitlines()) for _, problems in CASES) == TEXT.count("\n-> ")  # no line is skipped


@each_case(("text", "problems"), CASES)
def test_a_problem_is_reported_with_its_place(tmp_path: Path, text: str, problems: str) -> None:
    expected = ["x.yaml:" + line.replace(" ", ": ", 1) for line in problems.splitlines()]
    assert build_files(tmp_path, x=text).problems == expected


def test_a_problem_is_one_printable_line_that_editors_can_follow() -> None:
    problem = Problem("a.yaml", 31, 13, "methods.a\nb", "unknown method '\x1b[2J\ud800ä'", "idl")
    assert str(problem) == "a.yaml:31:13: methods.a\\nb: unknown method '\\x1b[2J\\ud800ä'"
    assert str(Problem("a.yaml", 1, 1, "", "invalid YAML", "schema")) == "a.yaml:1:1: invalid YAML"
