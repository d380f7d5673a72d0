"""Checks a document against mapping.schema.json and words the errors of jsonschema as problems, also for the config.

The schema covers the structure of a mapping file only; names that the IDL or the config define are checked by the
compiler.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.resources import files
from typing import Any, TypeAlias

import jsonschema_rs
from msgspec.structs import replace

from gateway.mapping.load import MappingDocument
from gateway.mapping.problem import Positioned, Problem, did_you_mean

# jsonschema's ValidationError; its type says that fields may be unset, which those of a validator's errors never are.
_Error: TypeAlias = Any

_TYPES: Mapping[str, str] = {
    "string": "text",
    "object": "a mapping",
    "array": "a list",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
}


@cache
def schema() -> Mapping[str, Any]:
    """The JSON Schema of mapping files."""
    document: Mapping[str, Any] = json.loads(files("gateway.mapping").joinpath("mapping.schema.json").read_bytes())
    return document


@cache
def _validator() -> jsonschema_rs.Validator:
    return jsonschema_rs.validator_for(dict(schema()))


def check(document: MappingDocument) -> tuple[list[Problem], MappingDocument | None]:
    """The schema problems of a document, and the document without the methods that have one.

    None instead of a document when a problem is outside `methods`, or when no method is left.
    """
    found: dict[Problem, None] = {}
    bad: set[object] = set()
    for error in errors(document.data, schema(), _validator()):
        found.update(dict.fromkeys(explain(document, error)))
        inside, *method = [*error.absolute_path, None][:2]
        bad.add(method[0] if inside == "methods" and method else None)
    if not bad or None in bad:
        return list(found), None if bad else document
    data: Any = document.data
    left = {name: method for name, method in data["methods"].items() if name not in bad}
    return list(found), replace(document, data={**data, "methods": left}, complete=False) if left else None


def errors(data: object, described: Mapping[str, Any], validator: jsonschema_rs.Validator) -> Sequence[_Error]:
    """The errors of data that does not conform to a schema, in the order of the schema.

    Nearly all files conform. The compiled validator says so at once, and jsonschema need not be imported.
    """
    with suppress(ValueError):  # a value that it cannot represent: a larger integer, a number that is none
        if validator.is_valid(data):
            return ()
    from jsonschema import Draft202012Validator

    return list(Draft202012Validator(described).iter_errors(data))


def explain(document: Positioned, error: _Error) -> Iterator[Problem]:
    """The problems of one error of a validator. Of a value the `title` of its schema says what is expected."""
    path = tuple(error.absolute_path)
    if "propertyNames" in error.absolute_schema_path:
        yield document.problem((*path, error.instance), _word(error), key=True)
    elif error.validator == "additionalProperties":
        known = error.schema["properties"]
        for key in error.instance:
            if key not in known:
                message = f"unknown key '{key}'{did_you_mean(key, known)}"
                yield document.problem((*path, key), message, key=True)
    elif error.validator == "required":
        for key in error.validator_value:
            if key not in error.instance:
                yield document.problem(path, f"'{key}' is missing", key=bool(path) and isinstance(path[-1], str))
    elif error.validator != "oneOf" or isinstance(error.instance, dict):  # else the type is reported already
        yield document.problem(path, _word(error))


def _shown(value: object) -> str:
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    in_json = isinstance(value, str | int | float | None)  # TOML has dates too
    text = json.dumps(value, ensure_ascii=False) if in_json else str(value)
    return text if len(text) <= 60 else text[:60] + "..."


def _in_sentence(description: str) -> str:
    """A description without its default, as part of a sentence."""
    return description[:1].lower() + description[1:].partition(" Default:")[0].rstrip(".")


def _word(error: _Error) -> str:
    """The message of an error. Of a text or number the `title` of its schema, or its description, says what it is."""
    wanted, instance, schema = error.validator_value, error.instance, error.schema
    match str(error.validator):
        case "type" if "title" not in schema or wanted == "object":
            types = [wanted] if isinstance(wanted, str) else wanted
            return f"expected {' or '.join(_TYPES[name] for name in types)}, got {_shown(instance)}"
        case "minimum" if "title" not in schema:
            return f"expected a number, at least {wanted}, got {_shown(instance)}"
        case "type" | "pattern" | "not" | "minimum" | "maxProperties":
            return f"expected {schema.get('title') or _in_sentence(schema['description'])}, got {_shown(instance)}"
        case "enum":
            hint = did_you_mean(instance, wanted) if isinstance(instance, str) else ""
            values = schema.get("title") or f"{'one of ' if len(wanted) > 1 else ''}{', '.join(wanted)}"
            return f"expected {values}, got {_shown(instance)}{hint}"
        case "const":
            return f"expected {_shown(wanted)}, got {_shown(instance)}"
        case "oneOf":
            keys = [branch["required"][0] for branch in wanted if "required" in branch]
            given = [key for key in keys if key in instance]
            return f"expected exactly one of {', '.join(keys)}, got {' and '.join(given) or 'none'}"
        case "minLength" | "minItems" | "minProperties":
            return "must not be empty"
        case "uniqueItems":
            return "duplicate item"
    return str(error.message)
