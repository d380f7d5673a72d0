"""One call taken through an exchange step by step, each step's value written down. What `call --explain` shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from msgspec import structs

from gateway.core.dbus.target import MethodCall
from gateway.core.routing.route import Route
from gateway.core.rpc.model import Call, Envelope, Fault, Outcome, Peer, RefusedCall, Value
from gateway.pipeline.endpoint import RpcEndpoint

AGENT = "xcp-gateway call"


@dataclass(frozen=True, slots=True)
class Step:
    """What stood at one point of the path."""

    name: str
    value: str


async def explain(
    exchange: RpcEndpoint, method: str, params: Sequence[Value], peer: Peer
) -> tuple[Outcome, list[Step]]:
    """Make a call as a client of this exchange would; raises ValueError when the protocol cannot carry the call."""
    steps: list[Step] = []
    codec, dialect = exchange.codec, exchange.dialect
    request = codec.encode_call(dialect.wrap_call(Call(method, tuple(params))))
    steps.append(Step(f"the client sends ({codec.name})", _text(request)))
    envelope = codec.decode(request)
    entry = envelope.entries[0]
    steps.append(Step("decoded", _show(entry)))
    if isinstance(entry, Fault):
        return entry, steps
    call = structs.replace(dialect.unwrap_call(entry), peer=peer, extensions={**exchange.known, "agent": AGENT})
    steps.append(Step(f"without the dialect ({dialect.name})", _show(call)))
    outcome = await _ask(exchange, call, steps)
    steps.append(Step("outcome", _show(outcome)))
    return _back(exchange, envelope, call, outcome, steps), steps


async def _ask(exchange: RpcEndpoint, call: Call, steps: list[Step]) -> Outcome:
    route, task_prefix = exchange.table.find(call.method)
    if route is None:
        steps.append(Step("route", f"none at {exchange.table.key}; answered by the gateway itself, or unknown"))
        return exchange.own(call)
    steps.append(Step("route", f"{route.source} -> {route.target}"))
    asked = exchange.resolve(route, task_prefix, call)
    if isinstance(asked, RefusedCall):
        steps.append(Step("who answers", f"nobody: {asked.fault.message}"))
        return asked.fault
    assert asked.route is not None
    if route.migration.upstream is not None:
        answer = asked.plan.answer
        steps.append(Step("who answers", f"{answer.value if answer else 'nobody'}: {asked.plan.why}"))
    outcome, _ = await exchange.dispatcher.answered(_recording(asked.route, steps), call, asked.plan)
    return outcome


def _recording(route: Route, steps: list[Step]) -> Route:
    """The same route, writing down what goes to the bus and what comes from it."""

    def encode_arguments(call: Call) -> MethodCall:
        bound = route.encode_arguments(call)
        steps.append(Step("method call", show_method_call(bound)))
        return bound

    def decode_result(body: Sequence[object]) -> Value:
        steps.append(Step("method return", f"{route.target.reply_signature or '(empty)'} {_items(body)}".rstrip()))
        return route.decode_result(body)

    def map_error(fault: Fault, call: Call) -> Fault:
        steps.append(Step("error", _show(fault)))
        return route.map_error(fault, call)

    session_check = None if route.session_check is None else _recording(route.session_check, steps)
    return replace(
        route,
        encode_arguments=encode_arguments,
        decode_result=decode_result,
        map_error=map_error,
        session_check=session_check,
    )


def _back(exchange: RpcEndpoint, envelope: Envelope, call: Call, outcome: Outcome, steps: list[Step]) -> Outcome:
    wrapped = exchange.dialect.wrap_outcome(outcome, call)
    answer = exchange.codec.encode(envelope, (wrapped,)) or b""
    steps.append(Step("the client gets", _text(answer)))
    return exchange.dialect.unwrap_outcome(exchange.client.decode_outcome(answer), call)


def show_method_call(bound: MethodCall) -> str:
    """A method call in the order of `busctl call`."""
    head = f"{bound.bus_name} {bound.object_path} {bound.interface} {bound.member}"
    return f"{head} {bound.signature} {_items(bound.body)}".rstrip()


def _items(body: Sequence[object]) -> str:
    return " ".join(map(repr, body))


def _text(message: bytes) -> str:
    return message.decode("utf-8", "backslashreplace")


def _show(what: Call | Outcome) -> str:
    if isinstance(what, Call):
        named = "".join(f", {name}={value!r}" for name, value in what.named.items())
        return f"{what.method}({', '.join(map(repr, what.params))}{named})"
    if isinstance(what, Fault):
        return f"fault {what.code.value}: {what.message}" + (f" [{what.name}] {what.data!r}" if what.name else "")
    return f"reply {what.value!r}"
