"""The XenAPI dialect: results in a Status struct, errors as lists of texts.

Over XML-RPC an outcome is {Status, Value} or {Status, ErrorDescription}, each integer is decimal text, and characters
that XML cannot carry are omitted, as xapi omits them. Over JSON-RPC it is the result or error itself. A method without
a result returns the empty text. The session remains the first parameter.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, TypeAlias

from msgspec.structs import replace

from adapters.dialects import plain, status
from gateway.core.rpc.model import Call, Fault, FaultCode, Int32, Outcome, Reply, Value
from gateway.core.rpc.spelling import MethodSpelling
from gateway.core.rpc.units import compact

Error: TypeAlias = list[str]  # the code and its arguments

# Methods that are answered without the Status struct over XML-RPC.
BARE = ("system.listMethods", "system.methodSignature", "system.methodHelp", "system.getCapabilities")

# The one place where XenAPI has integers of 32 bits: a struct of counts in the result of this method.
EVENT_FROM, REF_COUNTS = frozenset({"event.from", "event_from"}), "valid_ref_counts"

METHOD_UNKNOWN = "MESSAGE_METHOD_UNKNOWN"
PARAMETER_COUNT = "MESSAGE_PARAMETER_COUNT_MISMATCH"
INVALID_VALUE = "INVALID_VALUE"
PERMISSION_DENIED = "PERMISSION_DENIED"
INTERNAL_ERROR = "INTERNAL_ERROR"


def value(of: Value) -> Value:
    """Return a result as it stands in XenAPI's XML: integers as text, without characters that XML cannot carry."""
    return status.integers_as_text(of, status.carriable)


def text(value: Value) -> str:
    """Return an error argument as text: decimal integers, true or false, XenAPI's dateTime, the empty text for None."""
    return _TEXTS.get(type(value), _json)(value)


def _message(fault: Fault, _call: Call) -> Error:
    return [INTERNAL_ERROR, fault.message]


def _parameter_count(fault: Fault, call: Call) -> Error:
    """Map a wrong number of parameters; the numbers do not count the session."""
    counts = fault.data if isinstance(fault.data, dict) else {}
    return [PARAMETER_COUNT, call.method, text(counts.get("expected")), text(counts.get("received"))]


def _invalid_value(fault: Fault, _call: Call) -> Error:
    """Split `$.params[1]: expected u, got -1` into the place and the rest."""
    place, _, problem = fault.message.partition(": ")
    return [INVALID_VALUE, place, problem]


def _arguments(data: Value) -> list[str]:
    return [text(item) for item in data] if isinstance(data, list) else []


# The closest error of XenAPI for each fault; the others are INTERNAL_ERROR with the message.
ERROR_CODES: Mapping[FaultCode, Callable[[Fault, Call], Error]] = {
    **dict.fromkeys(FaultCode, _message),
    FaultCode.UNKNOWN_METHOD: lambda fault, call: [METHOD_UNKNOWN, call.method, *_arguments(fault.data)],
    FaultCode.PARAMETER_COUNT: _parameter_count,
    FaultCode.INVALID_PARAMS: _invalid_value,
    FaultCode.ACCESS_DENIED: lambda fault, _call: [PERMISSION_DENIED, fault.message],
    FaultCode.APPLICATION: lambda fault, call: (
        [fault.name, *_arguments(fault.data)] if fault.name else _message(fault, call)
    ),
    FaultCode.REMOTE: lambda fault, _call: [INTERNAL_ERROR, fault.name or fault.message, *_arguments(fault.data)],
}


class Dialect(plain.Dialect):
    """Calls are plain ones, as the mapping handles the session.

    `unwrap_outcome(wrap_outcome(x)) == x`, except for what the convention cannot express. An error comes back as
    APPLICATION with texts as arguments and its code as message; a void reply comes back as the empty text; over XML-RPC
    integers come back as text. Wrapping these again gives the same bytes.
    """

    name = "xenapi"
    malformed_as_page = True
    has_notifications = False
    echo = "system.isAlive:"
    spelling = MethodSpelling(joined="_", task_prefixes=("Async.", "InternalAsync."))

    def __init__(self, protocol: str) -> None:
        super().__init__(protocol)
        self._status = protocol == "xmlrpc"

    def wrap_outcome(self, outcome: Outcome, call: Call) -> Outcome:
        """Write an outcome in XenAPI's form."""
        if isinstance(outcome, Fault):
            error = ERROR_CODES[outcome.code](outcome, call)
            if self._status:
                return status.failure([*error], status.carriable)
            code, *arguments = error
            return Fault(FaultCode.APPLICATION, code, name=code, data=[*arguments], wire=[*error])
        if not self._status:
            return Reply("") if outcome.value is None else outcome
        if call.method in BARE:
            return outcome
        value = "" if outcome.value is None else outcome.value
        return status.success(_with_counts(value) if call.method in EVENT_FROM else value, status.carriable)

    def unwrap_outcome(self, outcome: Outcome, call: Call) -> Outcome:
        """Read an outcome in XenAPI's form; any other outcome is returned unchanged."""
        if isinstance(outcome, Reply):
            told = status.read(outcome, _read) if self._status else outcome
            return outcome if isinstance(told, Reply) and call.method in BARE else told
        if outcome.wire is not None:  # JSON-RPC 1.0 sends the whole error, 2.0 the code as message
            return _read(outcome.wire)
        is_code = outcome.code is FaultCode.APPLICATION and not outcome.name
        return replace(outcome, name=outcome.message) if is_code else outcome


def _read(error: Value) -> Fault:
    match error:
        case [str(code), *arguments] if all(isinstance(argument, str) for argument in arguments):
            return Fault(FaultCode.APPLICATION, code, name=code, data=arguments)
    return Fault(FaultCode.REMOTE, "an error that is not a list of texts", data=[error])


def _with_counts(value: Value) -> Value:
    """Return the result of `event.from` with its counts as integers of 32 bits, which do not become text."""
    counts = value.get(REF_COUNTS) if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(counts, dict):
        return value
    return {**value, REF_COUNTS: {name: Int32(n) if type(n) is int else n for name, n in counts.items()}}


def _json(value: Value) -> str:
    """Write an array or a struct, which XenAPI itself never sends here."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=text)


_TEXTS: Mapping[type, Callable[[Any], str]] = {
    str: str,
    bool: lambda value: "true" if value else "false",
    type(None): lambda _value: "",
    bytes: lambda value: b64encode(value).decode(),
    datetime: lambda moment: "".join(compact(moment)),
    int: str,
    float: repr,
}
