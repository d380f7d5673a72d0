"""Hand-made routes to the toy service: parameters go out as they are, so a backend can be tested without a mapping."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from gateway.core.dbus.signature import parse
from gateway.core.dbus.target import MethodCall, Target
from gateway.core.routing.route import Route
from gateway.core.rpc.model import Call, Fault, Value
from tests.kit.services import INTERFACE, OBJECT_PATH

TOY = "org.example.Toy"


def toy_route(
    member: str,
    signature: str = "",
    reply_signature: str = "",
    *,
    bus_name: str = TOY,
    bind: Callable[[Call], MethodCall] | None = None,
    translate: Callable[[Fault, Call], Fault] | None = None,
) -> Route:
    """A route whose parameters are D-Bus values already."""

    def as_they_are(call: Call) -> MethodCall:
        return MethodCall(bus_name, OBJECT_PATH, INTERFACE, member, signature, call.params)

    types = parse(reply_signature)

    def shape(body: Sequence[object]) -> Value:
        values = [plain(value) for value in body]
        return values[0] if len(values) == 1 else values or None

    return Route(
        service="toy",
        method=member,
        target=Target(bus_name, OBJECT_PATH, INTERFACE, member, signature, reply_signature),
        parameters=(),
        result=types[0] if len(types) == 1 else None,
        encode_arguments=bind or as_they_are,
        decode_result=shape,
        map_error=translate or (lambda fault, call: fault),
    )


def plain(value: Any) -> Value:
    """Variants and tuples taken off."""
    if hasattr(value, "signature"):
        return plain(value.value)
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, (list, tuple)) else cast("Value", value)


def toy_call(*params: object, oneway: bool = False) -> Call:
    """A call with these D-Bus values as parameters."""
    return Call("toy", params, oneway=oneway)  # type: ignore[arg-type] # D-Bus values pass through the hand-made bind
