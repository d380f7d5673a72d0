"""Checks answers of the admin API against its OpenAPI document."""

from __future__ import annotations

from typing import Any

from jsonschema import Draft202012Validator

from gateway.admin.api import document

DOCUMENT: dict[str, Any] = document()


def operation(verb: str, path: str) -> dict[str, Any]:
    """What the document says of a path, whatever stands behind its question mark."""
    found: dict[str, Any] = DOCUMENT["paths"][path.partition("?")[0]][verb.lower()]
    return found


def held(verb: str, path: str, status: int, answer: object) -> None:
    """Fails unless the document knows this status there, and what it looks like."""
    content = operation(verb, path)["responses"][str(status)]["content"]
    validator(content["application/json"]["schema"]).validate(answer)


def validator(schema: dict[str, Any]) -> Draft202012Validator:
    """For a schema that may point into the document."""
    return Draft202012Validator({**schema, "components": DOCUMENT["components"]})
