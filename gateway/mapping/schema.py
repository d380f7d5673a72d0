"""mapping.schema.json held against a document: its shape, no meaning. Says in words what jsonschema says in its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any, TypeAlias

from jsonschema import Draft202012Validator

from gateway.mapping.load import MappingDocument
from gateway.mapping.problem import Problem, did_you_mean

# jsonschema's ValidationError; its type says that fields may be unset, which those of a validator's errors never are.
_Error: TypeAlias = Any

_TYPES: Mapping[str, str] = {
    "string": "text",
    "object": "a struct",
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
def _validator() -> Draft202012Validator:
    return Draft202012Validator(schema())


def check(document: MappingDocument) -> tuple[list[Problem], MappingDocument | None]:
    """Everything in which the document has not the shape of a mapping file, and the part of it that has.

    That is the document without the methods that have problems; None when something else has, or no method is left.
    """
    found: dict[Problem, None] = {}
    bad: set[object] = set()
    for error in _validator().iter_errors(document.data):
        found.update(dict.fromkeys(_explain(document, error)))
        inside, *method = [*error.absolute_path, None][:2]
        bad.add(method[0] if inside == "methods" and method else None)
    if bad and None not in bad:
        return list(found), document.without_methods(bad)
    return list(found), None if bad else document


def _explain(document: MappingDocument, error: _Error) -> Iterator[Problem]:
    path = tuple(error.absolute_path)
    if error.validator == "additionalProperties":
        known = error.schema["properties"]
        for key in error.instance:
            if key not in known:
                message = f"unknown key '{key}'{did_you_mean(key, known)}"
                yield document.problem((*path, key), message, key=True)
    elif error.validator == "required":
        for key in error.validator_value:
            if key not in error.instance:
                yield document.problem(path, f"'{key}' is missing", key=bool(path) and isinstance(path[-1], str))
    elif error.validator != "oneOf" or isinstance(error.instance, dict):  # else its type is told already
        yield document.problem(path, _MESSAGES.get(str(error.validator), _other)(error))


def _shown(value: object) -> str:
    if isinstance(value, dict | list):
        return "a struct" if isinstance(value, dict) else "a list"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:60] + "..."


def _type(error: _Error) -> str:
    types = [error.validator_value] if isinstance(error.validator_value, str) else error.validator_value
    return f"expected {' or '.join(_TYPES[name] for name in types)}, got {_shown(error.instance)}"


def _enum(error: _Error) -> str:
    names = list(error.validator_value)
    hint = did_you_mean(error.instance, names) if isinstance(error.instance, str) else ""
    return f"expected {' or '.join(names)}, got {_shown(error.instance)}{hint}"


def _one_of(error: _Error) -> str:
    keys = [branch["required"][0] for branch in error.validator_value]
    given = [key for key in keys if key in error.instance]
    return f"expected exactly one of {', '.join(keys)}, got {' and '.join(given) or 'none'}"


def _described(error: _Error) -> str:
    return f"got {_shown(error.instance)}, expected: {error.schema['description']}"


def _empty(_error: _Error) -> str:
    return "must not be empty"


def _other(error: _Error) -> str:
    return str(error.message)


_MESSAGES: Mapping[str, Callable[[_Error], str]] = {
    "type": _type,
    "enum": _enum,
    "const": lambda error: f"expected {_shown(error.validator_value)}, got {_shown(error.instance)}",
    "oneOf": _one_of,
    "pattern": _described,
    "not": _described,
    "minimum": _described,
    "minLength": _empty,
    "minItems": _empty,
    "minProperties": _empty,
    "maxProperties": _described,
    "uniqueItems": lambda _error: "names one of its items twice",
}
