"""What the codecs share: faults with a name in protocols whose errors have a number and a text, and long values."""

from __future__ import annotations

import re

from gateway.core.rpc.model import Fault, FaultCode

# The numbers of errors that XML-RPC (http://xmlrpc-epi.sourceforge.net/specs/rfc.fault_codes.php) and JSON-RPC 2.0
# (section 5.1) have in common, else numbers of their range for servers (-32099..-32000). An APPLICATION or REMOTE fault
# whose name is a number is written with that number.
FAULT_CODES: dict[FaultCode, int] = {
    FaultCode.PARSE_ERROR: -32700,
    FaultCode.INVALID_REQUEST: -32600,
    FaultCode.UNKNOWN_METHOD: -32601,
    FaultCode.INVALID_PARAMS: -32602,
    FaultCode.INTERNAL: -32603,
    FaultCode.TOO_LARGE: -32001,
    FaultCode.PARAMETER_COUNT: -32002,
    FaultCode.ACCESS_DENIED: -32003,
    FaultCode.NOT_FOUND: -32004,
    FaultCode.BUSY: -32005,
    FaultCode.TIMEOUT: -32006,
    FaultCode.NO_REPLY: -32007,
    FaultCode.UNREPRESENTABLE: -32008,
    FaultCode.APPLICATION: 1,  # what the legacy servers send, whatever the error
}

NAMED = (FaultCode.APPLICATION, FaultCode.REMOTE)  # faults that have a name of their own
is_number = re.compile(r"0|-?[1-9][0-9]{0,9}").fullmatch  # a name that is sent as the number of its error
is_name = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*").fullmatch

_FEW = 4  # a Status struct and the result of event.from have fewer items


def with_name(name: str, message: str) -> str:
    """Return `NAME: message`, the inverse of `split_name`; an empty name keeps a message whole."""
    if is_name(name):
        return f"{name}: {message}"
    return message if split_name(message) == ("", message) else f": {message}"


def split_name(text: str) -> tuple[str, str]:
    """Split `NAME: message`; returns ("", text) for any other text."""
    name, colon, message = text.partition(": ")
    return (name, message) if colon and (not name or is_name(name)) else ("", text)


def unreadable_answer(code: FaultCode, message: str) -> Fault:
    """The fault in place of an answer that cannot be read."""
    return Fault(code if code is FaultCode.TOO_LARGE else FaultCode.PARSE_ERROR, message)


def is_long(value: object, most: int, depth: int = 3) -> bool:
    """Whether a value, or one that it holds beside few others, has more than `most` items."""
    if type(value) is not dict and type(value) is not list:
        return False
    if len(value) > _FEW:
        return len(value) > most
    for item in value.values() if type(value) is dict else value:  # a generator costs as much again
        if (type(item) is dict or type(item) is list) and depth and is_long(item, most, depth - 1):
            return True
    return False
