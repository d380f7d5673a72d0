"""The JSON Schema of gateway.toml, made from the sections of settings.py. `xcp-gateway schema --config` prints it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import jsonschema_rs
import msgspec
from msgspec import inspect

from gateway.config.settings import INTERNAL, Config, Seconds, Size, WorkerCount
from gateway.core.rpc import units

MAX_WORKERS = 64

_UNITS: Mapping[type, Mapping[str, Any]] = {
    Seconds: {
        "type": "string",
        "pattern": f"^{units.DURATION.pattern}$",
        "title": "a duration such as 500ms, 30s, 10m or 1h",
    },
    WorkerCount: {
        "type": ["integer", "string"],
        "minimum": 1,
        "pattern": "^auto$",
        "title": f'a whole number from 1 to {MAX_WORKERS}, or "auto"',
    },
    Size: {"type": "string", "pattern": f"^{units.SIZE.pattern}$", "title": "a size such as 512B, 300KiB or 32MiB"},
}


@cache
def schema() -> Mapping[str, Any]:
    """The JSON Schema."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "xcp-gateway config file",
        **_schema(inspect.type_info(Config)),
    }


@cache
def validator() -> jsonschema_rs.Validator:
    """A validator for it."""
    return jsonschema_rs.validator_for(dict(schema()))


def _schema(kind: inspect.Type) -> dict[str, Any]:
    if isinstance(kind, inspect.Metadata):
        return {**_schema(kind.type), **(kind.extra_json_schema or {})}
    return _KINDS[type(kind)](kind)


def _struct(kind: Any) -> dict[str, Any]:
    fields = [field for field in kind.fields if (kind.cls, field.name) != INTERNAL]
    return {
        "type": "object",
        "description": " ".join((kind.cls.__doc__ or "").split()),
        "additionalProperties": False,
        "required": [field.name for field in fields if field.required],
        "properties": {field.name: {**_schema(field.type), **_default(field)} for field in fields},
    }


def _default(field: inspect.Field) -> dict[str, Any]:
    value = field.default
    if value is msgspec.NODEFAULT or value is None or isinstance(value, msgspec.Struct):
        return {}
    if isinstance(value, Seconds | Size):
        return {"default": units.written(value, units.SECONDS if isinstance(value, Seconds) else units.BYTES)}
    if isinstance(value, WorkerCount):
        return {"default": int(value)}
    return {"default": list(value) if isinstance(value, tuple) else value}


def _union(kind: Any) -> dict[str, Any]:
    """TOML has no null: a key without a value is left out."""
    (one,) = [each for each in kind.types if not isinstance(each, inspect.NoneType)]
    return _schema(one)


def _limits(kind: Any, **names: str) -> dict[str, Any]:
    return {key: value for name, key in names.items() if (value := getattr(kind, name)) is not None}


def _dictionary(kind: Any) -> dict[str, Any]:
    names = _schema(kind.key_type)
    named = {"propertyNames": names} if "pattern" in names else {}
    return {
        "type": "object",
        **named,
        "additionalProperties": _schema(kind.value_type),
        **_limits(kind, min_length="minProperties"),
    }


_KINDS: Mapping[type, Callable[[Any], dict[str, Any]]] = {
    inspect.StructType: _struct,
    inspect.UnionType: _union,
    inspect.DictType: _dictionary,
    inspect.CustomType: lambda kind: dict(_UNITS[kind.cls]),
    inspect.VarTupleType: lambda kind: {
        "type": "array",
        "items": _schema(kind.item_type),
        **_limits(kind, min_length="minItems"),
    },
    inspect.LiteralType: lambda kind: {"enum": list(kind.values)},
    inspect.StrType: lambda kind: {"type": "string", **_limits(kind, pattern="pattern", min_length="minLength")},
    inspect.IntType: lambda kind: {"type": "integer", **_limits(kind, ge="minimum")},
    inspect.BoolType: lambda _kind: {"type": "boolean"},
}
