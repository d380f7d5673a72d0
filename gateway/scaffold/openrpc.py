"""Reads an OpenRPC document (spec.open-rpc.org): the file, or the answer to `rpc.discover`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from gateway.core.dbus.marshal import to_dbus
from gateway.core.dbus.scalars import MarshalError
from gateway.core.dbus.signature import INTEGER_RANGES, Type, parse_one
from gateway.scaffold import SourceError
from gateway.scaffold.legacy import ANY, LegacyMethod, LegacyParameter, array, dictionary, zero
from gateway.scaffold.mapping import flow

MAX_DEPTH = 12  # of schemas inside each other; what is deeper is any value
MAX_REFERENCES = 16  # that lead to each other


def read(content: bytes) -> list[LegacyMethod]:
    """The methods of a document; raises SourceError."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"expected the JSON of an OpenRPC document: {error}") from error
    if isinstance(document, dict) and isinstance(document.get("result"), dict):
        document = document["result"]  # of rpc.discover
    if not isinstance(document, dict) or not isinstance(document.get("methods"), list):
        raise SourceError("expected an OpenRPC document, an object with `methods`")
    reader = _Reader(document)
    return [reader.method(reader.resolve(each), f"methods[{at}]") for at, each in enumerate(document["methods"])]


class _Reader:
    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document

    def method(self, data: Any, place: str) -> LegacyMethod:
        if not isinstance(data, dict) or not isinstance(data.get("name"), str) or not data["name"]:
            raise SourceError(f"{place}: expected an object with `name`")
        where = f"{place} ({data['name']})"
        params = data.get("params", [])
        if not isinstance(params, list):
            raise SourceError(f"{where}: expected `params` as a list")
        decide: list[str] = []
        parameters = [self._parameter(self.resolve(each), where, decide) for each in params]
        result = self.resolve(data.get("result"))
        schema = self.resolve(result.get("schema", {})) if isinstance(result, dict) else {"type": "null"}
        is_null = isinstance(schema, dict) and schema.get("type") == "null"
        kind = None if is_null else self.type(schema, "the result", decide)
        return LegacyMethod(data["name"], parameters, kind, _format(schema), _about(data), decide)

    def _parameter(self, data: Any, where: str, decide: list[str]) -> LegacyParameter:
        if not isinstance(data, dict) or not isinstance(data.get("name"), str):
            raise SourceError(f"{where}: expected each parameter as an object with `name`")
        schema = self.resolve(data.get("schema", {}))
        kind = self.type(schema, f"'{data['name']}'", decide)
        default = None
        if not data.get("required", False):
            given = schema.get("default") if isinstance(schema, dict) else None
            fits = given is not None and _fits(kind, given)
            default = flow(given) if fits else zero(kind)
            if not fits:
                decide.append(f"default of '{data['name']}'")
        return LegacyParameter(data["name"], kind, default, _about(data), _format(schema))

    def resolve(self, data: Any) -> Any:
        """The object that `$ref` leads to, inside the document."""
        for _ in range(MAX_REFERENCES):
            if not isinstance(data, dict) or not isinstance(data.get("$ref"), str):
                return data
            pointer = data["$ref"]
            if not pointer.startswith("#/"):
                raise SourceError(f"$ref '{pointer}': expected one inside the document, #/...")
            data = self._document
            for step in pointer[2:].split("/"):
                name = step.replace("~1", "/").replace("~0", "~")
                if not isinstance(data, dict) or name not in data:
                    raise SourceError(f"$ref '{pointer}' leads nowhere")
                data = data[name]
        raise SourceError(f"$ref: more than {MAX_REFERENCES} references lead to each other")

    def type(self, schema: Any, what: str, decide: list[str], depth: int = 0) -> Type:
        """The D-Bus type of a schema. What D-Bus has no type for is a variant, and said in `decide`."""
        schema = self.resolve(schema)
        kind = schema.get("type") if isinstance(schema, dict) else None
        if depth > MAX_DEPTH or not isinstance(kind, str) or kind not in _TYPES:
            if isinstance(schema, dict) and depth <= MAX_DEPTH and _is_text(schema):
                return parse_one("s")
            decide.append(f"type of {what}")
            return ANY

        def inside(part: Any) -> Type:
            return self.type(part, what, decide, depth + 1)

        if kind == "array":
            listed = schema.get("prefixItems", schema.get("items"))
            if isinstance(listed, list) and listed:
                return Type("(", tuple(map(inside, listed)))
            return array(inside(listed) if isinstance(listed, dict) else ANY)
        if kind == "object":
            more = schema.get("additionalProperties")
            named = isinstance(schema.get("properties"), dict) and schema["properties"]
            return dictionary(inside(more) if isinstance(more, dict) and more and not named else ANY)
        if kind == "integer":
            return parse_one(_integer(schema))
        return parse_one("ay" if schema.get("contentEncoding") == "base64" else _TYPES[kind])


_TYPES = {"string": "s", "integer": "x", "number": "d", "boolean": "b", "array": "", "object": ""}


def _integer(schema: Mapping[str, Any]) -> str:
    """The least type with the range of the schema; a 64-bit one where it has none."""
    low, high = schema.get("minimum"), schema.get("maximum")
    if not isinstance(low, int) or not isinstance(high, int):
        return "t" if isinstance(low, int) and low >= 0 and high is None else "x"
    fitting = (code for code, (least, most) in INTEGER_RANGES.items() if least <= low and high <= most)
    return next(fitting, "x")


def _fits(kind: Type, value: Any) -> bool:
    """Whether a default is a value of its type."""
    try:
        to_dbus(kind)(value)
    except MarshalError:
        return False
    return True


def _about(data: Mapping[str, Any]) -> str:
    return " ".join(str(data.get("summary") or data.get("description") or "").split())


def _format(schema: Any) -> str:
    is_text = isinstance(schema, dict) and schema.get("type") == "string"
    return "datetime" if is_text and schema.get("format") == "date-time" else ""


def _is_text(schema: Mapping[str, Any]) -> bool:
    """Whether every value is text, by an `enum` or `const`."""
    listed = schema.get("enum")
    values = [*(listed if isinstance(listed, list) else ()), *([schema["const"]] if "const" in schema else ())]
    return bool(values) and all(isinstance(each, str) for each in values)
