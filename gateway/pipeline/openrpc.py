"""The OpenRPC document of an endpoint (spec.open-rpc.org, 1.3), with JSON Schema of D-Bus types.

Types of parameters and results are in the routes. Members of results and errors are read from the mapping files when a
client first asks, in a thread: it takes a second for some thousand methods.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from threading import Lock
from types import MappingProxyType
from typing import Any, TypeAlias

from msgspec import Struct, field

from gateway import __version__
from gateway.core.dbus.signature import INTEGER_RANGES, Type, parse_one
from gateway.core.routing.route import Route
from gateway.core.rpc.model import Value
from gateway.mapping.changes.surface import MethodSurface, Surface, surface
from gateway.mapping.table import EndpointTable, Table

APPLICATION = 1  # the number of errors whose code is a name; their message begins with it (adapters/codecs/jsonrpc.py)
MOST_ERRORS = 24  # of a method; of more, only those that are its own, since the document would be too large


class MethodDescription(Struct, frozen=True):
    """The members of a result, with their types, and the names of errors in `Described.errors`."""

    members: Mapping[str, str]
    errors: tuple[str, ...]


class Described(Struct, frozen=True):
    """What routes do not have. `methods`: by service and name."""

    methods: Mapping[tuple[str, str], MethodDescription] = field(default_factory=dict)
    errors: Mapping[str, Value] = field(default_factory=dict)


NOTHING = Described()
Schema: TypeAlias = "dict[str, Value]"


class Describer:
    """Describes the methods of a table, once, in a thread."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._lock = Lock()
        self._described: Described | None = None

    async def document(
        self, endpoint: EndpointTable, servers: Callable[[], Sequence[str]], notifications: Sequence[Value] = ()
    ) -> Value:
        """The OpenRPC document of an endpoint of the table; while it is described first, the event loop goes on."""
        described = self._described
        if described is None:
            described = await asyncio.to_thread(self._describe)
        return openrpc(endpoint, described, servers(), notifications)

    def _describe(self) -> Described:
        with self._lock:
            if self._described is None:
                self._described = describe(surface(self._table))
            return self._described


def describe(found: Surface) -> Described:
    """Describe all methods."""
    errors: dict[str, Value] = {}
    shared: dict[tuple[str, ...], tuple[str, ...]] = {}  # so that equal lists are one
    methods = {}
    for key, method in found.methods.items():
        listed = tuple(dict.fromkeys(_errors_of(method, errors)))
        methods[key] = MethodDescription(method.result.members, shared.setdefault(listed, listed))
    return Described(MappingProxyType(methods), MappingProxyType(errors))


def _errors_of(method: MethodSurface, errors: dict[str, Value]) -> list[str]:
    """The names of the errors of a method, which are added to `errors`."""
    table = method.errors if len(method.errors) <= MOST_ERRORS else method.own_errors
    names = []
    for dbus_name, entries in table.items():
        for entry in entries if isinstance(entries, list) else [entries]:
            code, message = str(entry["code"]), str(entry.get("message", ""))
            name = f"{code} ({dbus_name})"
            errors.setdefault(name, _error(code, message, entry.get("args")))
            names.append(name)
    return names


def _error(code: str, message: str, args: Any) -> Value:
    is_number = code.removeprefix("-").isdecimal()
    text = message if is_number else f"{code}: {message}" if message else code
    error: dict[str, Value] = {"code": int(code) if is_number else APPLICATION, "message": text or code}
    return {**error, "data": args} if args else error


# The document


def openrpc(
    table: EndpointTable, described: Described, servers: Sequence[str], notifications: Sequence[Value] = ()
) -> Value:
    """The document. `servers`: the URLs of the endpoint.

    `notifications`: what the endpoint sends unasked. OpenRPC has no word for them: they are in an extension.
    """
    title = f"xcp-gateway, {table.key.listener} {table.key.path}"
    document: dict[str, Value] = {"openrpc": "1.3.2", "info": {"title": title, "version": __version__}}
    if servers:
        document["servers"] = [{"name": table.key.listener, "url": url} for url in servers]
    methods = {name: described.methods.get((each.service, each.method)) for name, each in table.routes.items()}
    document["methods"] = [_method(name, table.routes[name], about) for name, about in sorted(methods.items())]
    if notifications:
        document["x-notification"] = [*notifications]
    used = {name for about in methods.values() if about is not None for name in about.errors}
    if used:
        document["components"] = {"errors": {_key(name): described.errors[name] for name in sorted(used)}}
    return document


def _method(name: str, route: Route, about: MethodDescription | None) -> Value:
    members = {} if about is None else about.members
    method: dict[str, Value] = {
        "name": name,
        "summary": route.documentation,
        "paramStructure": "either",
        "params": [
            {
                "name": parameter.name,
                "summary": parameter.documentation,
                "required": parameter.required,
                "schema": {} if parameter.type is None else json_schema(parameter.type),
            }
            for parameter in route.parameters
        ],
        "result": {
            "name": "result",
            "schema": {"type": "null"} if route.result is None else with_members(route.result, members),
        },
    }
    if about is not None and about.errors:
        method["errors"] = [{"$ref": f"#/components/errors/{_key(error)}"} for error in about.errors]
    return method


@lru_cache(maxsize=4096)
def _key(name: str) -> str:
    """The name of a component: letters, digits, `.`, `-` and `_`."""
    return "".join(letter if letter.isalnum() or letter in ".-_" else "_" for letter in name).rstrip("_")


def with_members(kind: Type, members: Mapping[str, str]) -> Schema:
    """The schema of a result whose innermost dictionaries have these members, each with its type."""
    if not members or kind.code != "a":
        return json_schema(kind)
    inner = kind.children[0]
    if not kind.is_dict:
        return {"type": "array", "items": with_members(inner, members)}
    if inner.children[1].code == "a":
        return {"type": "object", "additionalProperties": with_members(inner.children[1], members)}
    return {"type": "object", "properties": {name: _member(text) for name, text in members.items()}}


@lru_cache(maxsize=1024)
def _member(text: str) -> Schema:
    """The schema of a member: a D-Bus type, or a type and a form, which makes text. It must not be changed."""
    if "format" in text:
        return {"type": "string"}
    try:
        return json_schema(parse_one(text.partition(" ")[0]))
    except ValueError:
        return {}


def json_schema(kind: Type) -> dict[str, Value]:
    """The JSON Schema of the JSON form of a D-Bus type."""
    if kind.code in INTEGER_RANGES:
        low, high = INTEGER_RANGES[kind.code]
        return {"type": "integer", "minimum": low, "maximum": high}
    if kind.is_dict:
        return {"type": "object", "additionalProperties": json_schema(kind.children[0].children[1])}
    if kind.code == "a" and kind.children[0].code == "y":
        return {"type": "string", "contentEncoding": "base64"}
    if kind.code == "a":
        return {"type": "array", "items": json_schema(kind.children[0])}
    if kind.code == "(":
        count = len(kind.children)
        fields: list[Value] = [json_schema(child) for child in kind.children]
        return {"type": "array", "items": fields, "minItems": count, "maxItems": count}
    scalar: dict[str, dict[str, Value]] = {"b": {"type": "boolean"}, "d": {"type": "number"}, "v": {}}
    return scalar.get(kind.code, {"type": "string"})
