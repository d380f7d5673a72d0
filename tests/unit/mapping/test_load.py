from __future__ import annotations

from pathlib import Path

import pytest

from gateway.mapping import load

FILE = Path("f.yaml")


def test_a_document_is_plain_data_by_the_rules_of_yaml_1_2() -> None:
    document, problems = load.parse(
        FILE, b"a: [1, 0x1f, 0o17, 1_0, 1.5, .inf, true, null, off, 2020-01-01, '5']\nb: {1: x}\n"
    )
    assert problems == []
    assert document is not None
    assert document.data == {
        "a": [1, 31, 15, 10, 1.5, float("inf"), True, None, "off", "2020-01-01", "5"],
        "b": {"1": "x"},
    }


def test_every_node_remembers_its_place() -> None:
    document, _ = load.parse(FILE, b"a:\n  - x\n  - b: {c: 1}\n")
    assert document is not None
    assert str(document.problem(("a", 1, "b", "c"), "wrong")) == "f.yaml:3:12: a[1].b.c: wrong"
    assert str(document.problem(("a", 1, "b", "c"), "wrong", key=True)) == "f.yaml:3:9: a[1].b.c: wrong"
    assert document.line(("a",)) == 1


def test_a_problem_with_what_is_not_there_stands_at_what_is_around_it() -> None:
    document, _ = load.parse(FILE, b"a:\n  b: {}\n")
    assert document is not None
    assert str(document.problem(("a", "b", "c", "d"), "missing")) == "f.yaml:2:6: a.b.c.d: missing"


def test_anchors_and_aliases_are_written_out() -> None:
    document, _ = load.parse(FILE, b"a: &x {b: 1}\nc: *x\nd: &x 2\n")
    assert document is not None
    assert document.data == {"a": {"b": 1}, "c": {"b": 1}, "d": 2}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"a: 1\nb: {c: 1, c: 2}\na: 2\n", "f.yaml:2:11: b.c: this key is there twice, first in line 2"),
        (b"a: [1\nb: {", "f.yaml:2:2: is no YAML: expected ',' or ']', but got ':'"),
        (b"a: 1\nb: \xff", "f.yaml:2:4: is no UTF-8"),
        (b"a: \0", "f.yaml:1:1: is no YAML: unacceptable character #x0000"),
        (b"", "f.yaml:1:1: the file is empty"),
        (b"a: 1\n---\nb: 1\n", "f.yaml:2:1: is no YAML: but found another document"),
        (b"a: !ruby/object 1\n", "f.yaml:1:4: a: the tag '!ruby/object' is not used in mapping files"),
        (b"a: !!set {b}\n", "f.yaml:1:4: a: the tag 'tag:yaml.org,2002:set' is not used in mapping files"),
        (b"a: !!int x\n", "f.yaml:1:4: a: the value is no int"),
        (b"? [a]\n: 1\n", "f.yaml:1:3: a key must be text"),
        (b"a: *b\n", "f.yaml:1:4: is no YAML: found undefined alias 'b'"),
        (b"[" * 100, "f.yaml:1:101: is no YAML"),
        (b"[" * 9999, "f.yaml:1:1: nests more than 64 levels"),
        (b"[" * 70 + b"]" * 70, "f.yaml:1:66: nests more than 64 levels"),
        (b"a: &a [*a]\n", "f.yaml:1:4: nests more than 64 levels"),
    ],
)
def test_what_cannot_be_read_is_a_problem_with_its_place(content: bytes, problem: str) -> None:
    document, problems = load.parse(FILE, content)
    assert document is None
    assert str(problems[0]).startswith(problem)


def test_every_key_that_is_there_twice_is_named() -> None:
    _, problems = load.parse(FILE, b"a: 1\na: 2\nb: 1\nb: 2\n")
    assert [problem.place for problem in problems] == ["a", "b"]


def test_aliases_that_multiply_end_at_the_limit() -> None:
    lines = [b"a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [b"a%d: &a%d [%s]" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 10)) for n in range(1, 9)]
    document, problems = load.parse(FILE, b"\n".join(lines))
    assert document is None
    assert [problem.message for problem in problems] == ["holds more than 100000 nodes"]


def test_a_directory_is_its_yaml_files_in_order(tmp_path: Path) -> None:
    for name in ("b.yaml", "a.yml", "c.xml", "d.yaml~"):
        (tmp_path / name).touch()
    files, problems = load.find([tmp_path, tmp_path / "b.yaml", tmp_path / "x"])
    assert [file.name for file in files] == ["a.yml", "b.yaml", "x"]
    assert problems == []


def test_an_empty_directory_is_a_problem(tmp_path: Path) -> None:
    files, problems = load.find([tmp_path])
    assert files == []
    assert [problem.message for problem in problems] == ["the directory holds no mapping file (.yaml or .yml)"]


def test_a_file_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    document, problems = load.read(tmp_path / "none.yaml")
    assert document is None
    assert [problem.message for problem in problems] == ["cannot be read: No such file or directory"]
