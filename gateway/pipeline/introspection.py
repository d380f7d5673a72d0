"""The methods that every endpoint has: `system.*` introspection and `rpc.discover`; and those that it does not have.

They are local routes, answered from the mapping and the IDL without any call.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType

from gateway.core.dbus.names import quoted
from gateway.core.dbus.signature import Type, parse_one
from gateway.core.dbus.target import Parameter
from gateway.core.interfaces import Dialect
from gateway.core.migration.modes import Mode
from gateway.core.routing.route import LocalTarget, Route, local_route
from gateway.core.rpc.model import Call, Fault, FaultCode, Outcome, Reply, Value
from gateway.mapping.table import NOT_MAPPED, EndpointTable
from gateway.migration.active_overrides import ActiveOverrides
from gateway.pipeline.openrpc import Described, nothing_described, openrpc

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


def introspection_routes(
    table: EndpointTable,
    codec: str,
    others: Mapping[str, Route] = MappingProxyType({}),
    answers: Callable[[Route], bool] = lambda _route: True,
    describe: Callable[[], Awaitable[Described]] = nothing_described,
    servers: Callable[[], Sequence[str]] = tuple,
    notifications: Sequence[Value] = (),
) -> Mapping[str, Route]:
    """The built-in methods of one endpoint, each answered by the gateway itself. A mapped method of that name wins.

    Where unmapped methods pass through, so do `system.*`: old clients get the legacy service's own description. The
    gateway still takes `system.multicall` apart, because a mode may govern a call inside, and answers `rpc.discover`.

    `others`: further methods that the gateway answers. `answers`: whether a mapped method is answered now.
    `describe` and `servers` complete the OpenRPC document: fields and errors, and the URLs of the endpoint.
    `notifications`: what the endpoint sends without being asked, as OpenRPC describes a method.
    """
    routes: dict[str, Route] = {}
    if table.passthrough_to is None:
        _add_system_methods(routes, table, codec, others, answers)
    if codec == "jsonrpc":
        routes[DISCOVER] = _discover(table, describe, servers, notifications)
    if codec == "xmlrpc":  # the codec takes it apart: it arrives as a call only inside another one
        routes[MULTICALL] = local_route(
            MULTICALL,
            _nested,
            parameters=(Parameter("calls", parse_one("aa{sv}")),),
            result=parse_one("av"),
            documentation="Make several calls in one message.",
        )
    return dict(sorted(routes.items()))


def _add_system_methods(
    routes: dict[str, Route],
    table: EndpointTable,
    codec: str,
    others: Mapping[str, Route],
    answers: Callable[[Route], bool],
) -> None:
    """Add the methods of XML-RPC's introspection convention; they describe what is in `routes` when they are called."""

    def find(name: Value) -> Route | Fault:
        route, task_prefix = table.find(name) if isinstance(name, str) else NOT_MAPPED
        if route is not None and not task_prefix:
            return route
        own = {**others, **routes}
        return own.get(name, _NOT_LISTED) if isinstance(name, str) else _NOT_LISTED

    def add(method: str, result: str, documentation: str, answer: Callable[[], Value]) -> None:
        async def answer_call(call: Call) -> Outcome:
            return _arity(call, 0) or Reply(answer())

        routes[method] = local_route(method, answer_call, result=parse_one(result), documentation=documentation)

    def add_about(method: str, result: str, documentation: str, describe: Callable[[Route], Value]) -> None:
        async def answer_call(call: Call) -> Outcome:
            wrong = _arity(call, 1)
            if wrong is not None:
                return wrong
            found = find(call.params[0] if call.params else next(iter(call.named.values())))
            return found if isinstance(found, Fault) else Reply(describe(found))

        parameters = (Parameter("method", parse_one("s")),)
        routes[method] = local_route(
            method, answer_call, parameters=parameters, result=parse_one(result), documentation=documentation
        )

    add(
        "system.getCapabilities",
        "a{sv}",
        "The specifications that this endpoint follows.",
        lambda: _capabilities(codec),
    )
    add(
        "system.listMethods",
        "as",
        "The names of all methods.",
        lambda: [*sorted({*others, *(name for name, route in table.routes.items() if answers(route))}), *routes],
    )
    add_about("system.methodHelp", "s", "Describe a method and its parameters.", _help)
    add_about("system.methodSignature", "aas", "One signature for each number of parameters.", _signatures)


def _discover(
    table: EndpointTable,
    describe: Callable[[], Awaitable[Described]],
    servers: Callable[[], Sequence[str]],
    notifications: Sequence[Value],
) -> Route:
    async def answer_call(call: Call) -> Outcome:
        return _arity(call, 0) or Reply(openrpc(table, await describe(), servers(), notifications))

    documentation = "The OpenRPC document of this endpoint."
    return local_route(DISCOVER, answer_call, result=parse_one("a{sv}"), documentation=documentation)


async def _nested(call: Call) -> Outcome:
    return Fault(FaultCode.INVALID_REQUEST, f"{call.method} cannot be called inside another {call.method}")


def _capabilities(codec: str) -> Value:
    return {name: {"specUrl": url, "specVersion": version} for name, (url, version) in CAPABILITIES[codec].items()}


_NOT_LISTED = Fault(
    FaultCode.INVALID_PARAMS, "$.params[0]: expected the name of a method that system.listMethods lists"
)


def _arity(call: Call, expected: int) -> Fault | None:
    """XenAPI clients may put the session in front of a method without parameters; it is not counted."""
    received = len(call.params) + len(call.named)
    if received == expected or (received == expected + 1 and expected == 0):
        return None
    data: Value = {"expected": expected, "received": received}
    message = f"{call.method}: expected {expected} parameters, got {received}"
    return Fault(FaultCode.PARAMETER_COUNT, message, data=data)


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


class UnknownMethods:
    """Answers the calls of methods that are not mapped, where no legacy service does.

    The first parameter of such a call is a session, which is checked first by `check`.
    """

    def __init__(
        self,
        table: EndpointTable,
        dialect: Dialect,
        toggles: ActiveOverrides,
        check: Callable[[Call], Awaitable[Fault | None]],
    ) -> None:
        self._table = table
        self._dialect = dialect
        self._toggles = toggles
        self._check = check

    async def answer(self, call: Call) -> Outcome:
        """Refuse a call, or answer an echo of the dialect, which needs no session."""
        if self._dialect.echo and call.method.startswith(self._dialect.echo):
            return _echo(call)
        invalid = await self._check(call) if call.params and self._opens_sessions() else None
        if invalid is None and self._table.is_removed(call.method):
            return Fault(
                FaultCode.APPLICATION, f"removed method {quoted(call.method)}", name="MESSAGE_REMOVED", data=[]
            )
        return invalid or Fault(FaultCode.UNKNOWN_METHOD, f"unknown method {quoted(call.method)}")

    def _opens_sessions(self) -> bool:
        """Whether sessions are those of the D-Bus side."""
        logins = (route for route in self._table.routes.values() if route.login is not None)
        return any(self._toggles.setting(route).mode is Mode.DBUS for route in logins)


def _echo(call: Call) -> Outcome:
    if call.params:
        return Reply(call.params[0])
    data: Value = {"expected": 1, "received": 0}
    return Fault(FaultCode.PARAMETER_COUNT, f"{call.method}: expected a parameter, got none", data=data)
