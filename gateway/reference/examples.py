"""Examples of calls: values for each type, and the same call for xmlrpc.client, curl and busctl.

A value is made from the type alone, so an example shows the form of a call. What it names does not exist.
"""

from __future__ import annotations

import json
import shlex
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from xmlrpc.client import dumps

from gateway.core.dbus.legacy_types import LegacyType, parse_type
from gateway.core.dbus.object_paths import placeholders
from gateway.core.dbus.signature import Type, parse, parse_one
from gateway.core.dbus.target import PropertyTarget
from gateway.mapping.changes.surface import MethodSurface, ParameterSurface
from gateway.mapping.table import EndpointTable

MOST_LEVELS = 4  # of lists and dictionaries in a value of a type of the mapping
TEXT, MOMENT = "text", "2026-01-31T09:05:00Z"
SAMPLES: dict[str, Any] = {
    **dict.fromkeys("ynqiuxt", 1),
    "b": True,
    "d": 1.5,
    "s": TEXT,
    "o": "/org/example/object",
    "g": "s",
    "v": TEXT,
}


def sample(kind: Type) -> Any:
    """A legacy value of a type; bytes for `ay`."""
    if kind.is_dict:
        key, value = kind.children[0].children
        return {str(sample(key)): sample(value)}
    if kind.code == "a":
        return b"data" if kind.children[0].code == "y" else [sample(kind.children[0])]
    return [sample(child) for child in kind.children] if kind.code == "(" else SAMPLES[kind.code]


def value_of(parameter: ParameterSurface) -> Any:
    """A value for a parameter."""
    if parameter.legacy is not None:
        return _of_legacy(parameter.legacy, parameter.definitions)
    if parameter.members is not None:
        needed = {name: member.type for name, member in parameter.members.items() if member.required}
        made = {name: sample(parse_one(kind)) if kind else TEXT for name, kind in needed.items()}
        return _in_containers(parameter.type, made)
    if parameter.subtrees:
        path = f"{parameter.subtrees[0].rstrip('/')}/x"
        return [path] if parameter.type is not None and parameter.type.code == "a" else path
    if isinstance(parameter.form, dict) and parameter.form.get("format") == "datetime":
        return MOMENT
    return TEXT if parameter.type is None else sample(parameter.type)


def _in_containers(kind: Type | None, struct: dict[str, Any]) -> Any:
    """The struct inside the arrays and dictionaries of the type."""
    if kind is None or kind.code != "a" or (kind.is_dict and str(kind) == "a{sv}"):
        return struct
    if kind.is_dict:
        return {TEXT: _in_containers(kind.children[0].children[1], struct)}
    return [_in_containers(kind.children[0], struct)]


def _of_legacy(kind: LegacyType, definitions: Mapping[str, Any], depth: int = 0) -> Any:
    """A value of a legacy type: the least that is complete. A type may contain itself in lists."""
    basic = {"string": TEXT, "bool": True, "int": 1, "float": 1.5, "any": TEXT, "option": []}
    if kind.name in basic:
        return basic[kind.name]
    if kind.name in ("list", "tuple"):
        deep = kind.name == "list" and depth > MOST_LEVELS
        return [] if deep else [_of_legacy(item, definitions, depth + 1) for item in kind.items]
    if kind.name == "dict":
        return {} if depth > MOST_LEVELS else {TEXT: _of_legacy(kind.items[0], definitions, depth + 1)}
    definition = definitions[kind.name]
    if isinstance(definition, str):
        return _of_legacy(parse_type(definition), definitions, depth + 1)
    if "record" in definition:
        record = {}
        for name, data in definition["record"].items():
            has_default = isinstance(data, dict) and "default" in data
            text = str(data["type"] if isinstance(data, dict) else data)
            if not has_default and not text.startswith("option("):
                record[name] = _of_legacy(parse_type(text), definitions, depth + 1)
        return record
    tag, payload = next(iter(definition["variant"].items()))
    return tag if payload is None else [tag, _of_legacy(parse_type(payload), definitions, depth + 1)]


def arguments(method: MethodSurface) -> dict[str, Any]:
    """The required parameters with values."""
    return {each.name: value_of(each) for each in method.parameters if each.required}


# The same call for each client


def for_xmlrpc_client(method: MethodSurface, endpoint: EndpointTable, url: str) -> str:
    """A call by Python's xmlrpc.client."""
    name = method.route.method
    is_attribute = all(part.isidentifier() for part in name.split("."))
    function = f"server.{name}" if is_attribute else f"getattr(server, {name!r})"
    values = _positional(method, endpoint)
    given = ", ".join(f"Binary({each!r})" if isinstance(each, bytes) else repr(each) for each in values)
    needs = "Binary, ServerProxy" if "Binary(" in given else "ServerProxy"
    return f"from xmlrpc.client import {needs}\n\nwith ServerProxy({url!r}) as server:\n    print({function}({given}))"


def for_curl(method: MethodSurface, endpoint: EndpointTable, url: str) -> str:
    """A call by curl."""
    name = method.route.method
    if endpoint.codec == "xmlrpc":
        body = dumps(tuple(_positional(method, endpoint)), name).partition("?>")[2].replace("\n", "")
        return f"curl -s -H 'Content-Type: text/xml' -d {shlex.quote(body)} {shlex.quote(url)}"
    message = {"jsonrpc": "2.0", "id": 1, "method": name, "params": _positional(method, endpoint)}
    body = json.dumps(message, default=lambda data: b64encode(data).decode(), ensure_ascii=False)
    return f"curl -s -d {shlex.quote(body)} {shlex.quote(url)}"


def for_busctl(method: MethodSurface) -> str:
    """The D-Bus call that follows, by busctl."""
    target = method.route.bus_target
    path = target.object_path
    for name in placeholders(path):
        found = method.parameter(name)
        value = str(value_of(found)) if found is not None and found.subtrees else "x"
        path = path.replace("{" + name + "}", value)
    where = [target.bus_name, path]
    if isinstance(target, PropertyTarget):
        known = [*where, target.owner, target.name]
        if target.member == "Get":
            return _command("get-property", known)
        assert method.value_type is not None, "a property has a type"
        return _command("set-property", [*known, str(method.value_type), *_words(method.value_type)])
    if target.member == "GetAll":
        return _command("call", [*where, target.interface, target.member, "s", method.interface])
    kinds = parse(target.signature)
    words = [word for kind in kinds for word in _words(kind)]
    signature = [target.signature] if target.signature else []
    return _command("call", [*where, target.interface, target.member, *signature, *words])


def _command(verb: str, words: Sequence[str]) -> str:
    return f"busctl {verb} {' '.join(map(shlex.quote, words))}"


def _positional(method: MethodSurface, endpoint: EndpointTable) -> list[Any]:
    """The parameters as the dialect has them: by position, or in a leading struct."""
    named = arguments(method)
    return [named] if endpoint.dialect == "xapi_idl" and named else [*named.values()]


def _words(kind: Type) -> Iterator[str]:
    """A value as busctl takes it: containers begin with the number of their elements, variants with their type."""
    if kind.is_dict:
        key, value = kind.children[0].children
        yield from ("1", *_words(key), *_words(value))
    elif kind.code == "a":
        yield from ("1", *_words(kind.children[0]))
    elif kind.code == "(":
        for child in kind.children:
            yield from _words(child)
    elif kind.code == "v":
        yield from ("s", TEXT)
    else:
        made = SAMPLES[kind.code]
        yield str(made).lower() if isinstance(made, bool) else str(made)
