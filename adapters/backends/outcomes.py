"""What every backend does with a route before and after its call: bind, shape. Knows no bus."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.core.binding import ParameterCountError
from gateway.core.marshal import MarshalError
from gateway.core.model import Call, Fault, FaultCode, Outcome, Reply, Value
from gateway.core.route import MethodCall, Route


def bind(route: Route, call: Call) -> MethodCall | Fault:
    """The method call that this call becomes, or why it becomes none."""
    try:
        return route.bind(call)
    except MarshalError as error:
        return Fault(FaultCode.INVALID_PARAMS, str(error))
    except ParameterCountError as error:
        counts: dict[str, Value] = {"expected": error.expected, "received": error.received}
        missing: dict[str, Value] = {"missing": error.missing} if error.missing else {}
        return Fault(FaultCode.PARAMETER_COUNT, str(error), data={**counts, **missing})


def shape(route: Route, body: Sequence[object]) -> Outcome:
    """The body of a method return as the client is told it."""
    try:
        return Reply(route.shape(body))
    except MarshalError as error:
        return Fault(FaultCode.UNREPRESENTABLE, str(error))
