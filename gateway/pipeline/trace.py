"""Makes one call through an endpoint and writes down the value at each step: `xcp-gateway call --explain`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from gateway.core.dbus.target import MethodCall
from gateway.core.migration.modes import Side
from gateway.core.routing.route import Route
from gateway.core.rpc.model import Call, Fault, Outcome, Peer, RefusedCall, Value
from gateway.mapping.problem import did_you_mean, one_of
from gateway.mapping.table import EndpointKey, EndpointTable
from gateway.pipeline.dispatcher import UNMAPPED
from gateway.pipeline.endpoint import RpcEndpoint

AGENT = "xcp-gateway call"


class Step(Struct, frozen=True):
    """The value at one point of the path."""

    name: str
    value: str


def select_endpoint(
    endpoints: Mapping[EndpointKey, RpcEndpoint],
    method: str,
    listener: str | None = None,
    path: str | None = None,
    codec: str | None = None,
) -> RpcEndpoint:
    """The endpoint with this listener, path and codec, if possible one that maps the method; else LookupError.

    Of several on one listener that have the same route the first is as good as any; other choices are the caller's.
    """
    allowed = {
        key: endpoint
        for key, endpoint in endpoints.items()
        if listener in (None, key.listener) and path in (None, key.path) and codec in (None, endpoint.codec.name)
    }
    if not allowed:
        raise LookupError(f"no such endpoint; there are: {one_of(map(str, endpoints))}")
    mapping = {key: each for key, each in allowed.items() if each.table.find(method).route is not None}
    found = mapping or allowed
    services = {frozenset(route.service for route in _routes(each.table, method)) for each in found.values()}
    if len({key.listener for key in found}) == 1 and len(services) == 1:
        return next(iter(found.values()))
    known = {name for each in allowed.values() for name in each.table.routes}
    what = "several endpoints take this call"
    if not mapping:
        what = f"no mapped method is named '{method}'{did_you_mean(method, known)}, so any endpoint may answer it"
    example = next(iter(found))
    choose = f"choose one with --listener and --path, for example --listener {example.listener} --path {example.path}"
    raise LookupError(f"{what}: {one_of(map(str, found))}; {choose}")


def _routes(table: EndpointTable, method: str) -> Iterable[Route]:
    """The route of a method, or where it is not mapped, those of the whole endpoint."""
    route = table.find(method).route
    return table.routes.values() if route is None else (route,)


async def explain(
    endpoint: RpcEndpoint, method: str, params: Sequence[Value], peer: Peer
) -> tuple[Outcome, list[Step]]:
    """Make a call as a client of this endpoint; raises ValueError when the protocol cannot carry the call."""
    steps: list[Step] = []
    codec, dialect = endpoint.codec, endpoint.dialect
    request = codec.encode_call(dialect.wrap_call(Call(method, tuple(params))))
    steps.append(Step(f"the client sends ({codec.name})", _text(request)))
    envelope = codec.decode(request)
    entry = envelope.entries[0]
    steps.append(Step("decoded", _show(entry)))
    if isinstance(entry, Fault):
        return entry, steps
    call = replace(dialect.unwrap_call(entry), peer=peer, extensions={**endpoint.origin, "agent": AGENT})
    steps.append(Step(f"without the dialect ({dialect.name})", _show(call)))
    outcome = await _answer(endpoint, call, steps)
    steps.append(Step("outcome", _show(outcome)))
    answer = codec.encode(envelope, (dialect.wrap_outcome(outcome, call),)) or b""
    steps.append(Step("the client gets", _text(answer)))
    return dialect.unwrap_outcome(endpoint.client.decode_outcome(answer), call), steps


async def _answer(endpoint: RpcEndpoint, call: Call, steps: list[Step]) -> Outcome:
    planned = endpoint.plan(call)
    if isinstance(planned, RefusedCall):
        steps.append(Step("refused", planned.fault.message))
        return planned.fault
    route, plan = planned.route, planned.plan
    unmapped = route.service == UNMAPPED
    steps.append(Step("route", f"none at {endpoint.table.key}" if unmapped else f"{route.source} -> {route.target}"))
    if route.migration.upstream is not None:
        steps.append(Step("answered by", f"{plan.answer.value if plan.answer else 'neither side'}: {plan.why}"))
    if route.task_of is not None and plan.answer is Side.DBUS:
        return await endpoint.begin_task(planned)
    traced = replace(planned, route=_traced(route, steps))
    return (await endpoint.dispatcher.run(traced)).outcome


def _traced(route: Route, steps: list[Step]) -> Route:
    """The same route, which also writes down the method call and its reply."""

    def encode_arguments(call: Call) -> MethodCall:
        bound = route.encode_arguments(call)
        steps.append(Step("method call", show_method_call(bound)))
        return bound

    def decode_result(body: Sequence[object]) -> Value:
        steps.append(Step("method return", f"{route.bus_target.reply_signature or '(empty)'} {_items(body)}".rstrip()))
        return route.decode_result(body)

    def map_error(fault: Fault, call: Call) -> Fault:
        steps.append(Step("error", _show(fault)))
        return route.map_error(fault, call)

    session_check = None if route.session_check is None else _traced(route.session_check, steps)
    return replace(
        route,
        encode_arguments=encode_arguments,
        decode_result=decode_result,
        map_error=map_error,
        session_check=session_check,
    )


def show_method_call(bound: MethodCall) -> str:
    """A method call in the order of `busctl call`."""
    head = f"{bound.bus_name} {bound.object_path} {bound.interface} {bound.member}"
    return f"{head} {bound.signature} {_items(bound.body)}".rstrip()


def _items(body: Sequence[object]) -> str:
    return " ".join(map(_item, body))


def _item(value: object) -> str:
    """A value of a body; a variant, of whichever library, is its signature and its value in angle brackets."""
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{_item(key)}: {_item(each)}" for key, each in value.items())
        return f"{{{pairs}}}"
    if isinstance(value, list | tuple):
        items = ", ".join(map(_item, value))
        return f"[{items}]" if isinstance(value, list) else f"({items})"
    signature = getattr(value, "signature", None)
    return repr(value) if signature is None else f"<{signature} {_item(getattr(value, 'value', None))}>"


def _text(message: bytes) -> str:
    return message.decode("utf-8", "backslashreplace")


def _show(what: Call | Outcome) -> str:
    if isinstance(what, Call):
        named = "".join(f", {name}={value!r}" for name, value in what.named.items())
        return f"{what.method}({', '.join(map(repr, what.params))}{named})"
    if isinstance(what, Fault):
        return f"fault {what.code.value}: {what.message}" + (f" [{what.name}] {what.data!r}" if what.name else "")
    return f"reply {what.value!r}"
