"""The methods every endpoint has: `system.*` introspection and `rpc.discover`, answered from mapping and IDL alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gateway import __version__
from gateway.core.dbus.signature import INTEGER_RANGES, Type
from gateway.core.routing.route import Route
from gateway.core.rpc.model import Call, Fault, FaultCode, Outcome, Reply, Value
from gateway.mapping.table import NOT_MAPPED, EndpointTable

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

# system.getCapabilities: what each front can do beyond the bare protocol, and where that is specified.
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


class Introspection:
    """The built-in methods of one endpoint; a mapped method of the same name goes first."""

    def __init__(self, table: EndpointTable, codec: str) -> None:
        self._routes = table.routes
        self._find = table.find
        self._codec = codec
        self._title = f"{table.key.listener} {table.key.path}"
        self._methods: dict[str, Callable[[], Value]] = {
            "system.listMethods": self._list_methods,
            "system.getCapabilities": self._capabilities,
        }
        self._about: dict[str, Callable[[Route], Value]] = {
            "system.methodSignature": _signatures,
            "system.methodHelp": _help,
        }
        if codec == "jsonrpc":
            self._methods["rpc.discover"] = self._openrpc
        multicall = ["system.multicall"] if codec == "xmlrpc" else []
        self._names = sorted([*self._methods, *self._about, *multicall])

    def answer(self, call: Call) -> Outcome | None:
        """Answer a built-in method; None when `call` is none of them."""
        if call.method in self._methods:
            return _arity(call, 0) or Reply(self._methods[call.method]())
        if call.method in self._about:
            return _arity(call, 1) or self._describe(self._about[call.method], _only_argument(call))
        return None

    def _describe(self, about: Callable[[Route], Value], name: Value) -> Outcome:
        route, task_prefix = self._find(name) if isinstance(name, str) else NOT_MAPPED
        if route is not None and not task_prefix:
            return Reply(about(route))
        if isinstance(name, str) and name in self._names:
            return Reply("undef" if about is _signatures else f"{name} is answered by the gateway itself.")
        return Fault(
            FaultCode.INVALID_PARAMS, "$.params[0]: expected the name of a method that system.listMethods lists"
        )

    def _list_methods(self) -> Value:
        return [*sorted(self._routes), *self._names]

    def _capabilities(self) -> Value:
        return {
            name: {"specUrl": url, "specVersion": version} for name, (url, version) in CAPABILITIES[self._codec].items()
        }

    def _openrpc(self) -> Value:
        return {
            "openrpc": "1.3.2",
            "info": {"title": f"xcp-gateway, {self._title}", "version": __version__},
            "methods": [_openrpc_method(name, route) for name, route in sorted(self._routes.items())],
        }


def _arity(call: Call, expected: int) -> Fault | None:
    """XenAPI clients may put the session in front of what a system.* method needs; that one is not counted."""
    received = len(call.params) + len(call.named)
    if received == expected or (received == expected + 1 and expected == 0):
        return None
    data: Value = {"expected": expected, "received": received}
    message = f"{call.method}: expected {expected} parameters, got {received}"
    return Fault(FaultCode.PARAMETER_COUNT, message, data=data)


def _only_argument(call: Call) -> Value:
    return call.params[0] if call.params else next(iter(call.named.values()))


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
    return "\n".join([*lines, f"D-Bus: {route.target}"])


def _openrpc_method(name: str, route: Route) -> Value:
    return {
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
            "schema": {"type": "null"} if route.result is None else json_schema(route.result),
        },
    }


def json_schema(kind: Type) -> dict[str, Value]:
    """The JSON Schema of what a D-Bus type looks like in JSON."""
    if kind.code in INTEGER_RANGES:
        low, high = INTEGER_RANGES[kind.code]
        return {"type": "integer", "minimum": low, "maximum": high}
    if kind.code == "a":
        return _array_schema(kind)
    if kind.code == "(":
        count = len(kind.children)
        fields: list[Value] = [json_schema(child) for child in kind.children]
        return {"type": "array", "items": fields, "minItems": count, "maxItems": count}
    scalar: dict[str, dict[str, Value]] = {"b": {"type": "boolean"}, "d": {"type": "number"}, "v": {}}
    return scalar.get(kind.code, {"type": "string"})


def _array_schema(kind: Type) -> dict[str, Value]:
    element = kind.children[0]
    if kind.is_dict:
        return {"type": "object", "additionalProperties": json_schema(element.children[1])}
    if element.code == "y":
        return {"type": "string", "contentEncoding": "base64"}
    return {"type": "array", "items": json_schema(element)}
