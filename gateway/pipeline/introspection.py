"""The methods that every endpoint has: `system.*` introspection and `rpc.discover`; and those that it does not have.

They are local routes, answered from the mapping and the IDL without any call. `rpc.discover` answers with the OpenRPC
document of the endpoint (spec.open-rpc.org, 1.3), with JSON Schema of D-Bus types. Types of parameters and results are
in the routes. Members of results and errors are read from the mapping files when a client first asks, in a thread: it
takes a second for some thousand methods.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Any, TypeAlias

from msgspec import Struct

from gateway import __version__
from gateway.core.dbus.names import quoted
from gateway.core.dbus.signature import INTEGER_RANGES, Type, parse_one
from gateway.core.dbus.target import Parameter
from gateway.core.interfaces import Dialect
from gateway.core.migration.modes import Mode
from gateway.core.routing.route import LocalTarget, Route, local_route
from gateway.core.rpc.model import Call, Fault, FaultCode, Outcome, Reply, Value
from gateway.mapping.changes.surface import MethodSurface, Surface, surface
from gateway.mapping.table import EndpointTable, Table
from gateway.migration.active_overrides import ActiveOverrides

# The names of XML-RPC's introspection convention (system.methodSignature) for D-Bus types.
XMLRPC_TYPES: Mapping[str, str] = {
    **dict.fromkeys("ynqi", "int"),
    **dict.fromkeys("uxt", "i8"),
    **dict.fromkeys("sog", "string"),
    "b": "boolean",
    "d": "double",
    "(": "array",
    "v": "any",
}

MULTICALL = "system.multicall"
DISCOVER = "rpc.discover"

# system.getCapabilities: the extensions of each protocol that the gateway has, and where each is specified.
CAPABILITIES: Mapping[str, Mapping[str, tuple[str, int]]] = {
    "xmlrpc": {
        "xmlrpc": ("http://xmlrpc.com/spec.md", 1),
        "introspection": ("http://xmlrpc-c.sourceforge.net/introspection.html", 1),
        "system.multicall": ("http://xmlrpc-c.sourceforge.net/doc/libxmlrpc_server.html#system.multicall", 1),
        "faults_interop": ("http://xmlrpc-epi.sourceforge.net/specs/rfc.fault_codes.php", 20010516),
        "nil": ("http://ontosys.com/xml-rpc/extensions.php", 20010518),
        "i8": ("http://ws.apache.org/xmlrpc/types.html", 1),
    },
    "jsonrpc": {
        "json-rpc-2.0": ("https://www.jsonrpc.org/specification", 2),
        "json-rpc-1.0": ("https://www.jsonrpc.org/specification_v1", 1),
        "openrpc": ("https://spec.open-rpc.org/", 1),
    },
    "xenstore": {"xenstore": ("https://xenbits.xen.org/docs/unstable/misc/xenstore.txt", 1)},
}


_NOT_LISTED = Fault(
    FaultCode.INVALID_PARAMS, "$.params[0]: expected the name of a method that system.listMethods lists"
)


def introspection_routes(
    table: EndpointTable,
    codec: str,
    others: Mapping[str, Route] = MappingProxyType({}),
    answers: Callable[[Route], bool] = lambda _route: True,
    discover: Callable[[], Awaitable[Value]] | None = None,
) -> Mapping[str, Route]:
    """The built-in methods of one endpoint, each answered by the gateway itself. A mapped method of that name wins.

    Where unmapped methods pass through, so do `system.*`: old clients get the legacy service's own description. The
    gateway still takes `system.multicall` apart, because a mode may govern a call inside, and answers `rpc.discover`.

    `others`: further methods that the gateway answers. `answers`: whether a mapped method is answered now.
    `discover`: makes the OpenRPC document; None: there is none.
    """
    routes: dict[str, Route] = {}

    async def capabilities(_values: Sequence[Value]) -> Value:
        found = CAPABILITIES[codec].items()
        return {name: {"specUrl": url, "specVersion": version} for name, (url, version) in found}

    async def names(_values: Sequence[Value]) -> Value:
        mapped = (name for name, route in table.routes.items() if answers(route))
        return [*sorted({*others, *mapped}), *routes]

    async def describe(tell: Callable[[Route], Value], values: Sequence[Value]) -> Value | Fault:
        """Describe the method of this name, in any spelling, but not the form of one that returns a task."""
        name = values[0]
        if not isinstance(name, str):
            return _NOT_LISTED
        route, task_prefix = table.find(name)
        found = route if route is not None and not task_prefix else routes.get(name, others.get(name))
        return _NOT_LISTED if found is None else tell(found)

    async def nested(call: Call) -> Outcome:
        return Fault(FaultCode.INVALID_REQUEST, f"{call.method} cannot be called inside another {call.method}")

    if table.passthrough_to is None:
        text = "The specifications that this endpoint follows."
        routes["system.getCapabilities"] = _built_in("system.getCapabilities", "a{sv}", text, capabilities)
        routes["system.listMethods"] = _built_in("system.listMethods", "as", "The names of all methods.", names)
        for method, result, text, tell in _ABOUT_METHODS:
            name = Parameter("method", parse_one("s"))
            routes[method] = _built_in(method, result, text, partial(describe, tell), (name,))
    if codec == "jsonrpc" and discover is not None:
        text = "The OpenRPC document of this endpoint."
        routes[DISCOVER] = _built_in(DISCOVER, "a{sv}", text, lambda _values: discover())
    if codec == "xmlrpc":  # the codec takes it apart: it arrives as a call only inside another one
        routes[MULTICALL] = local_route(
            MULTICALL,
            nested,
            parameters=(Parameter("calls", parse_one("aa{sv}")),),
            result=parse_one("av"),
            documentation="Make several calls in one message.",
        )
    return dict(sorted(routes.items()))


def _built_in(
    method: str,
    result: str,
    documentation: str,
    answer: Callable[[Sequence[Value]], Awaitable[Value | Fault]],
    parameters: tuple[Parameter, ...] = (),
) -> Route:
    """A route whose parameters are counted before it is answered."""

    async def answer_call(call: Call) -> Outcome:
        expected, received = len(parameters), len(call.params) + len(call.named)
        # XenAPI clients may put the session in front of a method without parameters; it is not counted.
        if received != expected and (received, expected) != (1, 0):
            data: Value = {"expected": expected, "received": received}
            message = f"{call.method}: expected {expected} parameters, got {received}"
            return Fault(FaultCode.PARAMETER_COUNT, message, data=data)
        found = await answer([*call.params, *call.named.values()])
        return found if isinstance(found, Fault) else Reply(found)

    return local_route(
        method, answer_call, parameters=parameters, result=parse_one(result), documentation=documentation
    )


def _xmlrpc_type(kind: Type | None) -> str:
    if kind is None:
        return "struct"
    if kind.code == "a":
        return "struct" if kind.is_dict else "base64" if kind.children[0].code == "y" else "array"
    return XMLRPC_TYPES[kind.code]


def _signatures(route: Route) -> Value:
    """One signature for each number of parameters that may be sent: [result, parameter...]."""
    result = "nil" if route.result is None else _xmlrpc_type(route.result)
    types = [_xmlrpc_type(parameter.type) for parameter in route.parameters]
    fewest = sum(1 for parameter in route.parameters if parameter.required)
    return [[result, *types[:count]] for count in range(fewest, len(types) + 1)]


def _help(route: Route) -> Value:
    lines = [route.documentation] if route.documentation else []
    for parameter in route.parameters:
        optional = "" if parameter.required else " (optional)"
        about = f": {parameter.documentation}" if parameter.documentation else ""
        lines.append(f"  {parameter.name}{optional}{about}")
    target = "Answered by the gateway itself." if isinstance(route.target, LocalTarget) else f"D-Bus: {route.target}"
    return "\n".join([*lines, target])


# What describes a method: its result, a line of help, and what it answers.
_ABOUT_METHODS: Sequence[tuple[str, str, str, Callable[[Route], Value]]] = (
    ("system.methodHelp", "s", "Describe a method and its parameters.", _help),
    ("system.methodSignature", "aas", "One signature for each number of parameters.", _signatures),
)


async def answer_unknown(
    table: EndpointTable,
    dialect: Dialect,
    toggles: ActiveOverrides,
    check: Callable[[Call], Awaitable[Fault | None]],
    call: Call,
) -> Outcome:
    """Refuse a call of a method that is not mapped, or answer an echo of the dialect, which needs no session.

    Where sessions are those of the D-Bus side, the first parameter of such a call is one, which is checked first.
    """
    if dialect.echo and call.method.startswith(dialect.echo):
        if call.params:
            return Reply(call.params[0])
        data: Value = {"expected": 1, "received": 0}
        return Fault(FaultCode.PARAMETER_COUNT, f"{call.method}: expected a parameter, got none", data=data)
    logins = (route for route in table.routes.values() if route.login is not None)
    if call.params and any(toggles.setting(route).mode is Mode.DBUS for route in logins):
        invalid = await check(call)
        if invalid is not None:
            return invalid
    if table.is_removed(call.method):
        return Fault(FaultCode.APPLICATION, f"removed method {quoted(call.method)}", name="MESSAGE_REMOVED", data=[])
    return Fault(FaultCode.UNKNOWN_METHOD, f"unknown method {quoted(call.method)}")


# OpenRPC


APPLICATION = 1  # the number of errors whose code is a name; their message begins with it (adapters/codecs/jsonrpc.py)
MOST_ERRORS = 24  # of a method; of more, only those that are its own, since the document would be too large


class MethodDescription(Struct, frozen=True):
    """The members of a result, with their types, and the names of errors in `Described.errors`."""

    members: Mapping[str, str]
    errors: tuple[str, ...]


class Described(Struct, frozen=True):
    """What routes do not have. `methods`: by service and name."""

    methods: Mapping[tuple[str, str], MethodDescription]
    errors: Mapping[str, Value]


Schema: TypeAlias = "dict[str, Value]"


class Describer:
    """Describes the methods of a table, once, in a thread."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._describing: asyncio.Future[Described] | None = None

    async def document(
        self, endpoint: EndpointTable, servers: Callable[[], Sequence[str]], notifications: Sequence[Value] = ()
    ) -> Value:
        """The OpenRPC document of an endpoint of the table; while it is described first, the event loop goes on."""
        if self._describing is None:
            self._describing = asyncio.get_running_loop().run_in_executor(None, lambda: describe(surface(self._table)))
        described = await asyncio.shield(self._describing)  # who asked first may leave, and others wait for it
        return openrpc(endpoint, described, servers(), notifications)


def describe(found: Surface) -> Described:
    """Describe all methods."""
    errors: dict[str, Value] = {}
    shared: dict[tuple[str, ...], tuple[str, ...]] = {}  # so that equal lists are one
    methods = {}
    for key, method in found.methods.items():
        listed = tuple(dict.fromkeys(_errors_of(method, errors)))
        methods[key] = MethodDescription(method.result.members, shared.setdefault(listed, listed))
    return Described(methods, errors)


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
