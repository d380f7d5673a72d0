from __future__ import annotations

from gateway.mapping.problem import Problem, did_you_mean, one_of, place


def test_a_problem_is_one_line_that_editors_can_follow() -> None:
    problem = Problem("mappings/xenopsd.yaml", 31, 13, "methods.VM.stat.result", "'memory' is no out-argument", "idl")
    assert str(problem) == "mappings/xenopsd.yaml:31:13: methods.VM.stat.result: 'memory' is no out-argument"
    assert str(Problem("a.yaml", 1, 1, "", "is no YAML", "schema")) == "a.yaml:1:1: is no YAML"


def test_a_problem_is_printable_whatever_stands_in_the_file() -> None:
    problem = Problem("a.yaml", 1, 1, "methods.a\nb", "'\x1b[2J\ud800ä' is no method", "idl")
    assert str(problem) == "a.yaml:1:1: methods.a\\nb: '\\x1b[2J\\ud800ä' is no method"


def test_problems_are_sorted_by_where_they_are() -> None:
    places = [("b", 1, 1), ("a", 10, 1), ("a", 9, 2), ("a", 9, 1)]
    problems = [Problem(*where, "", "", "schema") for where in places]
    assert [(one.file, one.line, one.column) for one in sorted(problems)] == sorted(places)


def test_a_place_is_keys_and_indexes() -> None:
    assert place(("methods", "VM.stat", "params", 1, "to")) == "methods.VM.stat.params[1].to"


def test_a_near_miss_is_hinted_at() -> None:
    assert did_you_mean("memori", ["name", "memory"]) == " (did you mean 'memory'?)"
    assert did_you_mean("x", ["name", "memory"]) == ""


def test_names_that_exist_are_listed() -> None:
    assert one_of(["a", "b"]) == "a, b"
    assert one_of([]) == "none"
