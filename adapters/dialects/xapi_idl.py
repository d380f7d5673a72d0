"""The xapi-idl dialect: named parameters in a leading struct, errors as [tag, payload] or as a tag.

Over XML-RPC an outcome is {Status, Value} or {Status, ErrorDescription}, and each integer is decimal text. Over
JSON-RPC it is the result or error itself. Variants inside a result are the mapping's task.
"""

from __future__ import annotations

import re

from msgspec.structs import replace

from adapters.dialects import status
from gateway.core import interfaces
from gateway.core.rpc.model import Call, Fault, FaultCode, Outcome, Reply, Value
from gateway.core.rpc.spelling import AS_WRITTEN

_PLACE = re.compile(r"^\$\.params\[([0-9]+)\]")
INTERNAL_ERROR = "Internal_error"  # what nearly every interface makes of an exception it has no word for


class Dialect(interfaces.Dialect):
    """`unwrap(wrap(x)) == x`, except for what the convention cannot express.

    Calls: a call without named parameters whose first parameter is a struct. Outcomes: an error comes back as
    APPLICATION with its tag as message; one argument that is a list comes back as several; over XML-RPC integers come
    back as text.
    """

    name = "xapi_idl"
    spelling = AS_WRITTEN

    def __init__(self, protocol: str) -> None:
        self._status = protocol == "xmlrpc"

    def unwrap_call(self, call: Call) -> Call:
        """Turn the members of a leading struct into named parameters."""
        if call.params and isinstance(call.params[0], dict):
            return replace(call, params=call.params[1:], named={**call.named, **call.params[0]})
        return call

    def wrap_outcome(self, outcome: Outcome, call: Call) -> Outcome:
        """Write an outcome in the services' form; a void result is nil."""
        if isinstance(outcome, Reply):
            return status.success(outcome.value) if self._status else outcome
        tag, arguments = _error(outcome, has_named=bool(call.named))
        error: Value = tag
        if arguments:  # several arguments are one array
            error = [tag, arguments[0] if len(arguments) == 1 else arguments]
        if self._status:
            return status.failure(error)
        return Fault(FaultCode.APPLICATION, tag, name=tag, data=arguments, wire=error)

    def wrap_call(self, call: Call) -> Call:
        """Put named parameters into a leading struct; without any there is none."""
        return replace(call, params=(dict(call.named), *call.params), named={}) if call.named else call

    def unwrap_outcome(self, outcome: Outcome, _call: Call) -> Outcome:
        """Read an outcome in the services' form; any other outcome is returned unchanged."""
        if isinstance(outcome, Fault):
            told = _read_variant(outcome.wire)
            if told is None and outcome.code is FaultCode.APPLICATION and not outcome.name:  # the tag of JSON-RPC 2.0
                told = Fault(FaultCode.APPLICATION, outcome.message, name=outcome.message, data=outcome.data)
            return told or outcome
        return status.read(outcome, _read_error) if self._status else outcome


def _error(fault: Fault, *, has_named: bool) -> tuple[str, list[Value]]:
    """The tag and the arguments. Positional parameters stand behind a struct of named ones, as the client counts."""
    if fault.code is FaultCode.APPLICATION and fault.name:
        return fault.name, fault.data if isinstance(fault.data, list) else []
    message = fault.message
    if has_named and fault.code is FaultCode.INVALID_PARAMS:
        message = _PLACE.sub(lambda found: f"$.params[{int(found[1]) + 1}]", message)
    return INTERNAL_ERROR, [f"{fault.name}: {message}" if fault.name else message]


def _read_variant(error: Value) -> Fault | None:
    match error:
        case str():
            return Fault(FaultCode.APPLICATION, error, name=error, data=[])
        case [str(tag), [_, _, *_] as several]:
            return Fault(FaultCode.APPLICATION, tag, name=tag, data=[*several])
        case [str(tag), payload]:
            return Fault(FaultCode.APPLICATION, tag, name=tag, data=[payload])
    return None


def _read_error(error: Value) -> Fault:
    neither = Fault(FaultCode.REMOTE, "an error that is neither a tag nor [tag, payload]", data=[error])
    return _read_variant(error) or neither
