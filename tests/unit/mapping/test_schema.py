from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from gateway.mapping import load, schema
from tests.kit.mappings import HEAD


def _check(text: str) -> list[str]:
    document, _ = load.parse(Path("f.yaml"), text.encode())
    assert document is not None
    return [str(problem) for problem in schema.check(document)[0]]


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


def test_the_schema_is_valid_json_schema_2020_12() -> None:
    assert schema.schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    Draft202012Validator.check_schema(schema.schema())


def test_every_key_has_a_description_for_editors() -> None:
    keys = dict(_named(schema.schema(), ""))
    assert len(keys) > 60
    assert [path for path, item in keys.items() if not item.get("description")] == []


def test_every_struct_refuses_unknown_keys() -> None:
    named = {**schema.schema()["$defs"], "the file": schema.schema()}
    assert [name for name, item in named.items() if "properties" in item and item["additionalProperties"]] == []


def test_a_good_file_has_no_problems() -> None:
    assert _check(HEAD + "  m: {member: A}\n") == []


KINDS = "member, property, set_property, all_properties, managed_objects"

# what stands in a good file, what stands there instead, what is said of it
PROBLEMS = [
    ("service:", "servce:", "f.yaml:2:1: servce: unknown key 'servce' (did you mean 'service'?)"),
    ("service: example", "", "f.yaml:1:1: 'service' is missing"),
    ("mapping: 1", "mapping: 2", "f.yaml:1:10: mapping: expected 1, got 2"),
    ("mapping: 1", "mapping: true", "f.yaml:1:10: mapping: expected 1, got true"),
    ("service: example", "service: 5", "f.yaml:2:10: service: expected text, got 5"),
    ("service: example", "service: ''", "f.yaml:2:10: service: must not be empty"),
    ("{member: A}", "5", "f.yaml:13:6: methods.m: expected a struct, got 5"),
    ("{member: A}", "{meber: A}", "f.yaml:13:7: methods.m.meber: unknown key 'meber' (did you mean 'member'?)"),
    ("{member: A}", "{}", f"f.yaml:13:6: methods.m: expected exactly one of {KINDS}, got none"),
    (
        "{member: A}",
        "{member: A, property: B}",
        f"f.yaml:13:6: methods.m: expected exactly one of {KINDS}, got member and property",
    ),
    (
        "A}",
        "A, effect: reed}",
        "f.yaml:13:26: methods.m.effect: expected read or idempotent or write, got \"reed\" (did you mean 'read'?)",
    ),
    (
        "A}",
        "A, timeout: 10}",
        "f.yaml:13:27: methods.m.timeout: expected text, got 10",
    ),
    (
        "A}",
        "A, timeout: 10 s}",
        'f.yaml:13:27: methods.m.timeout: got "10 s", expected: A time with its unit: `500ms`, `30s`, `10m`, `1h`.',
    ),
    ("A}", "A, params: [1]}", "f.yaml:13:27: methods.m.params[0]: expected text or a struct, got 1"),
    ("A}", "A, params: [{to: x}]}", "f.yaml:13:27: methods.m.params[0]: 'name' is missing"),
    (
        "A}",
        "A, params: [{name: x, defalt: y}]}",
        "f.yaml:13:37: methods.m.params[0].defalt: unknown key 'defalt' (did you mean 'default'?)",
    ),
    ("A}", "A, params: [{name: x, drop: false}]}", "f.yaml:13:43: methods.m.params[0].drop: expected true, got false"),
    ("A}", "A, result: []}", "f.yaml:13:26: methods.m.result: must not be empty"),
    ("A}", "A, result: 5}", "f.yaml:13:26: methods.m.result: expected text or a list or a struct, got 5"),
    ("A}", "A, result: {from: a, x: b}}", "f.yaml:13:36: methods.m.result.x: unknown key 'x'"),
    ("A}", "A, result: {struct: [a, a]}}", "f.yaml:13:35: methods.m.result.struct: names one of its items twice"),
    (
        "A}",
        "A, args: {a: {const: 1, gather: [b]}}}",
        (
            "f.yaml:13:28: methods.m.args.a: got a struct, expected: "
            "A constant, `{const: ...}` where the constant is itself a mapping, or `{gather: ...}`."
        ),
    ),
    ("A}", "A, errors: {x: {}}}", "f.yaml:13:27: methods.m.errors.x: 'code' is missing"),
    (
        "path: /rpc",
        "path: rpc",
        'f.yaml:11:27: expose[0].path: got "rpc", expected: The path of the request: `/RPC2`.',
    ),
]


@pytest.mark.parametrize(("good", "bad", "problem"), PROBLEMS)
def test_what_has_not_the_shape_is_a_problem_with_its_place(good: str, bad: str, problem: str) -> None:
    text = HEAD + "  m: {member: A}\n"
    assert good in text
    assert problem in _check(text.replace(good, bad))


@pytest.mark.parametrize("text", ["5", "[]", "null", "text"])
def test_a_document_that_is_no_struct_is_a_problem(text: str) -> None:
    assert _check(text)[0].startswith("f.yaml:1:1: expected a struct, got ")


def test_methods_of_good_shape_are_kept_beside_bad_ones() -> None:
    document, _ = load.parse(Path("f.yaml"), f"{HEAD}  m: 5\n  n: {{member: A}}\n".encode())
    assert document is not None
    _, good = schema.check(document)
    assert good is not None
    assert isinstance(good.data, dict)
    assert good.data["methods"] == {"n": {"member": "A"}}
    assert not good.complete


@pytest.mark.parametrize("text", [f"{HEAD}  m: 5\n", f"{HEAD}  m: {{member: A}}\nx: 5\n", f"{HEAD}  []\n"])
def test_nothing_is_kept_of_a_file_that_is_bad_as_a_whole(text: str) -> None:
    document, _ = load.parse(Path("f.yaml"), text.encode())
    assert document is not None
    assert schema.check(document)[1] is None
