"""Where JSON-RPC 1.0 differs from 2.0 (https://www.jsonrpc.org/specification_v1); knows no bytes of messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.core.model import Call, Fault, FaultCode, Outcome, Reply

# Both members always; the order is that of the old servers.
RESULT = b'{"result":%b,"error":null,"id":%b}'
ERROR = b'{"result":null,"error":%b,"id":%b}'
CALL = b'{"method":%b,"params":%b,"id":1}'  # the old servers want a number or a text
NOTIFICATION = b'{"method":%b,"params":%b,"id":null}'


def read_call(message: Mapping[str, Any]) -> Call | Fault:
    """Section 1.1: params is an array; an id of null makes it a notification (1.2)."""
    method, params = message.get("method"), message.get("params")
    if type(method) is not str:
        return Fault(FaultCode.INVALID_REQUEST, "$.method: expected text")
    if type(params) is not list:
        return Fault(FaultCode.INVALID_REQUEST, "$.params: expected an array")
    if "id" not in message:
        return Fault(FaultCode.INVALID_REQUEST, "$.id: expected one, or null where no answer is wanted")
    return Call(method, tuple(params), oneway=message["id"] is None)


def read_response(message: Mapping[str, Any]) -> Outcome | None:
    """Section 1.1: one of result and error is null, and both are for a void reply; None when this is no response."""
    if message.get("error") is not None:
        return read_error(message["error"])
    return Reply(message["result"]) if "result" in message and "error" in message else None


def read_error(error: Any) -> Fault:
    """An error may be any value; what it means is for a dialect to say."""
    first = error[0] if isinstance(error, list) and error else error
    return Fault(FaultCode.REMOTE, first if isinstance(first, str) else "an error without a text", wire=error)
