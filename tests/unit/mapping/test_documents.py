"""Mapping files as documents: YAML, positions, the schema, and scopes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import jsonschema_rs
from jsonschema import Draft202012Validator

from gateway.mapping import load, schema
from gateway.mapping.load import MappingDocument
from tests.kit.cases import each_case, expect, present
from tests.kit.mappings import HEAD
from tests.kit.programs import ROOT

FILE = Path("f.yaml")


def parsed(content: str) -> MappingDocument:
    document, problems = load.parse(FILE, content.encode())
    assert problems == []
    return present(document)


def test_a_document_is_plain_data_by_the_rules_of_yaml_1_2() -> None:
    document = parsed("a: [1, 0x1f, 0o17, 1_0, 1.5, .inf, true, null, off, 2020-01-01, '5']\nb: {1: x}\n")
    assert document.data == {
        "a": [1, 31, 15, 10, 1.5, float("inf"), True, None, "off", "2020-01-01", "5"],
        "b": {"1": "x"},
    }
    assert parsed("a: &x {b: 1}\nc: *x\nd: &x 2\n").data == {"a": {"b": 1}, "c": {"b": 1}, "d": 2}


def test_every_node_has_its_position_and_a_missing_one_that_of_the_node_around_it() -> None:
    document = parsed("a:\n  - x\n  - b: {c: 1}\n")
    assert str(document.problem(("a", 1, "b", "c"), "wrong")) == "f.yaml:3:12: a[1].b.c: wrong"
    assert str(document.problem(("a", 1, "b", "c"), "wrong", key=True)) == "f.yaml:3:9: a[1].b.c: wrong"
    assert document.line(("a",)) == 1
    assert str(document.problem(("a", 1, "b", "d", "e"), "missing")) == "f.yaml:3:8: a[1].b.d.e: missing"


@each_case(
    ("content", "problem"),
    [
        (b"a: 1\nb: {c: 1, c: 2}\na: 2\n", "f.yaml:2:11: b.c: duplicate key; the first is in line 2"),
        (b"a: [1\nb: {", "f.yaml:2:2: invalid YAML: expected ',' or ']', but got ':'"),
        (b"a: 1\nb: \xff", "f.yaml:2:4: invalid UTF-8"),
        (b"a: \0", "f.yaml:1:1: invalid YAML: unacceptable character #x0000"),
        (b"", "f.yaml:1:1: the file is empty"),
        (b"a: 1\n---\nb: 1\n", "f.yaml:2:1: invalid YAML: but found another document"),
        (b"a: !ruby/object 1\n", "f.yaml:1:4: a: unsupported YAML tag '!ruby/object'"),
        (b"a: !!set {b}\n", "f.yaml:1:4: a: unsupported YAML tag 'tag:yaml.org,2002:set'"),
        (b"a: !!int x\n", "f.yaml:1:4: a: invalid value for the tag 'tag:yaml.org,2002:int'"),
        (b"? [a]\n: 1\n", "f.yaml:1:3: expected text as key, got a list or a mapping"),
        (b"a: *b\n", "f.yaml:1:4: invalid YAML: found undefined alias 'b'"),
        (b"[" * 100, "f.yaml:1:101: invalid YAML"),
        (b"[" * 1000, "f.yaml:1:1: nested deeper than 64 levels"),
        (b"[" * 70 + b"]" * 70, "f.yaml:1:66: nested deeper than 64 levels"),
        (b"a: &a [*a]\n", "f.yaml:1:4: nested deeper than 64 levels"),
    ],
)
def test_invalid_yaml_is_reported_with_its_place(content: bytes, problem: str) -> None:
    document, problems = load.parse(FILE, content)
    assert document is None
    assert str(problems[0]).startswith(problem)


def test_aliases_that_multiply_end_at_the_limit() -> None:
    lines = [b"a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [b"a%d: &a%d [%s]" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 10)) for n in range(1, 9)]
    document, problems = load.parse(FILE, b"\n".join(lines))
    assert (document, [each.message for each in problems]) == (None, ["more than 100000 nodes, with aliases expanded"])


def test_the_yaml_files_of_a_directory_are_read_in_order(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    files, problems = load.find([tmp_path / "empty"])
    assert (files, [each.message for each in problems]) == ([], ["no mapping file (.yaml or .yml) in this directory"])
    for name in ("b.yaml", "a.yml", "c.xml", "d.yaml~"):
        (tmp_path / name).touch()
    files, problems = load.find([tmp_path, tmp_path / "b.yaml", tmp_path / "x"])
    assert ([file.name for file in files], problems) == (["a.yml", "b.yaml", "x"], [])


def _check(text: str) -> list[str]:
    return [str(problem) for problem in schema.check(parsed(text))[0]]


def _named(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every schema of a key, with the path to it."""
    if isinstance(node, dict):
        for name, item in node.get("properties", {}).items():
            yield f"{path}.{name}", item
            yield from _named(item, f"{path}.{name}")
        for name, item in node.items():
            if name != "properties":
                yield from _named(item, f"{path}/{name}")
    elif isinstance(node, list):
        for item in node:
            yield from _named(item, path)


def _description(item: Any) -> str:
    """That of a schema, or of the one that it refers to."""
    while "description" not in item:
        referred = schema.schema()
        for step in item["$ref"].removeprefix("#/").split("/"):
            referred = referred[step]
        item = referred
    return str(item["description"])


def test_the_schema_is_valid_json_schema_2020_12_and_rejects_unknown_keys() -> None:
    assert schema.schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    Draft202012Validator.check_schema(schema.schema())
    named = {**schema.schema()["$defs"], "the file": schema.schema()}
    assert [name for name, item in named.items() if "properties" in item and item["additionalProperties"]] == []


def test_every_key_has_a_description_for_editors_and_every_key_and_word_is_documented() -> None:
    text = (ROOT / "docs" / "mapping.md").read_text()
    documented = set(re.findall(r"[\w-]+", " ".join(re.findall(r"`([^`\n]+)`", text))))
    keys = dict(_named(schema.schema(), ""))
    assert len(keys) > 60
    assert [path for path, item in keys.items() if not _description(item)] == []
    words = {str(word) for item in keys.values() for word in item.get("enum", ())}
    assert ({path.rpartition(".")[2] for path in keys} | words) - documented == set()


@each_case(
    ("good", "bad", "problem"),
    [
        ("service:", "servce:", "f.yaml:2:1: servce: unknown key 'servce' (did you mean 'service'?)"),
        ("service: example", "", "f.yaml:1:1: 'service' is missing"),
        ("mapping: 1", "mapping: 2", "f.yaml:1:10: mapping: expected 1, got 2"),
        ("mapping: 1", "mapping: true", "f.yaml:1:10: mapping: expected 1, got true"),
        ("service: example", "service: 5", "f.yaml:2:10: service: expected text, got 5"),
        ("service: example", "service: ''", "f.yaml:2:10: service: must not be empty"),
        ("path: /rpc", "path: rpc", "f.yaml:11:27: expose[0].path: expected the path of the request"),
    ],
)
def test_a_schema_problem_is_reported_with_its_place(good: str, bad: str, problem: str) -> None:
    assert any(found.startswith(problem) for found in _check((HEAD + "  m: {member: A}\n").replace(good, bad)))


def test_a_document_must_be_a_mapping() -> None:
    assert _check("[]")[0].startswith("f.yaml:1:1: expected a mapping, got ")


def test_a_date_of_toml_is_a_problem_like_any_other_value() -> None:
    described = {"properties": {"a": {"type": "string"}}}
    (error,) = schema.errors({"a": date(2026, 12, 1)}, described, jsonschema_rs.validator_for(described))
    assert [*map(str, schema.explain(parsed("a: 1\n"), error))] == ["f.yaml:1:4: a: expected text, got 2026-12-01"]


def test_methods_without_schema_problems_are_kept() -> None:
    good = present(schema.check(parsed(f"{HEAD}  m: 5\n  n: {{member: A}}\n"))[1])
    assert (expect(dict, good.data)["methods"], good.complete) == ({"n": {"member": "A"}}, False)


@each_case("text", [f"{HEAD}  m: 5\n", f"{HEAD}  m: {{member: A}}\nx: 5\n", f"{HEAD}  []\n"])
def test_a_file_with_a_problem_outside_its_methods_is_left_out(text: str) -> None:
    assert schema.check(parsed(text))[1] is None
