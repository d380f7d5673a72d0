"""Routes made by hand, for tests of everything that only reads a route."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from gateway.core.dbus.target import MethodCall, Target
from gateway.core.migration.modes import Side
from gateway.core.routing.route import CallFinished, CallListener, Route
from gateway.core.rpc.model import Call, Fault, Outcome, Value

TARGET = Target("org.xen.xcp.toy", "/org/xen/xcp/toy", "org.xen.xcp.toy.Echo1", "Echo", "s", "s")


def bind(call: Call) -> MethodCall:
    """Every parameter as it is: what a mapping with no rules would bind to."""
    return MethodCall(
        TARGET.bus_name, TARGET.object_path, TARGET.interface, TARGET.member, TARGET.signature, list(call.params)
    )


def shape(body: Sequence[object]) -> Value:
    """The first out-argument, or void."""
    first = body[0] if body else None
    assert first is None or isinstance(first, bool | int | float | str | bytes | list | dict)
    return first


def translate(fault: Fault, call: Call) -> Fault:
    """No error table."""
    return fault


def route(method: str = "echo", **changes: object) -> Route:
    """A route to the toy service's Echo; any field can be given by name."""
    plain = Route("toy", method, TARGET, (), None, bind, shape, translate, timeout=5.0, source="toy.yaml:1")
    return replace(plain, **changes)  # type: ignore[arg-type]  # the field's own type checks it at the call site


def noting(listener: CallListener) -> Callable[[str, str, Call, Outcome, float, Side | None], object]:
    """Call it with service, method, call, outcome, seconds and side of a call that has ended."""

    def note(service: str, method: str, call: Call, outcome: Outcome, seconds: float, side: Side | None) -> object:
        return listener(CallFinished(route(method, service=service), call, outcome, side, seconds))

    return note
