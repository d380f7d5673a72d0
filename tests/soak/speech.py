"""Calls and answers in the form of old clients, with the codecs of the standard library instead of our own."""

from __future__ import annotations

import json
import re
import xmlrpc.client
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from xml.parsers.expat import ExpatError

from adapters.codecs.jsonrpc import FROM_ERROR_CODE
from adapters.codecs.xmlrpc import FROM_FAULT_CODE
from gateway.core.rpc.model import FaultCode


class WrongError(Exception):
    """The answer does not belong to the request; the text says why."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One call to be made."""

    token: str
    service: str
    method: str
    params: Mapping[str, Any]
    oneway: bool = False

    @property
    def name(self) -> str:
        """The method as the mapping has it."""
        return f"{self.service}.{self.method}"

    def is_right(self, heard: Heard) -> bool:
        return RIGHT[self.method](self, heard)


@dataclass(frozen=True, slots=True)
class Heard:
    """The answer to one call: a value, or a fault with its text."""

    value: object = None
    text: str | None = None
    code: FaultCode | None = None


def as_text(value: Any) -> Any:
    """Return the value as the xapi_idl dialect writes the integers of a struct."""
    return {name: str(item) if type(item) is int else item for name, item in value.items()}


RIGHT: Mapping[str, Callable[[Wanted, Heard], bool]] = {
    "read": lambda call, heard: heard == Heard(f"{call.service}:{call.params['text']}"),
    "write": lambda call, heard: heard == Heard(f"done:{call.token}"),
    "record": lambda call, heard: (
        heard.text is None and heard.value in (call.params["record"], as_text(call.params["record"]))
    ),
    "refuse": lambda call, heard: heard.text is not None and f"refused {call.token}" in heard.text,
}

# Texts of faults without a number: the dialect xapi_idl has texts only.
TEXTS: Mapping[str, FaultCode] = {
    r"too many calls .*not sent|calls in flight; nothing was executed": FaultCode.BUSY,
    r"not sent|ServiceUnknown|NameHasNoOwner|nothing was executed": FaultCode.UNAVAILABLE,
    r"no answer from": FaultCode.TIMEOUT,
    r"unknown whether|is unknown|Error\.NoReply": FaultCode.NO_REPLY,
}


# XML-RPC


def _say_xml(calls: Sequence[Wanted]) -> bytes:
    (call,) = calls
    return xmlrpc.client.dumps(tuple(call.params.values()), call.name).encode()


def _hear_xml(body: bytes, _calls: Sequence[Wanted]) -> Sequence[Heard]:
    return [_xml(body)]


def _say_idl(calls: Sequence[Wanted]) -> bytes:
    """Named parameters in a leading struct."""
    (call,) = calls
    return xmlrpc.client.dumps((dict(call.params),), call.name).encode()


def _hear_idl(body: bytes, _calls: Sequence[Wanted]) -> Sequence[Heard]:
    match _xml(body).value:
        case {"Status": "Success", "Value": value}:
            return [Heard(value)]
        case {"Status": "Failure", "ErrorDescription": [str(), str(text)]}:
            code = next((code for pattern, code in TEXTS.items() if re.search(pattern, text)), None)
            return [Heard(text=text, code=code)]
    raise WrongError(f"no Status struct: {body[:300]!r}")


def _say_multicall(calls: Sequence[Wanted]) -> bytes:
    items = [{"methodName": call.name, "params": [*call.params.values()]} for call in calls]
    return xmlrpc.client.dumps((items,), "system.multicall").encode()


def _hear_multicall(body: bytes, calls: Sequence[Wanted]) -> Sequence[Heard]:
    items = _xml(body).value
    if not isinstance(items, list) or len(items) != len(calls):
        raise WrongError(f"expected {len(calls)} answers: {body[:300]!r}")
    return [Heard(item[0]) if isinstance(item, list) else _xml_fault(**item) for item in items]


def _xml(body: bytes) -> Heard:
    try:
        ((value,), _) = xmlrpc.client.loads(body)
    except xmlrpc.client.Fault as fault:
        return _xml_fault(fault.faultCode, fault.faultString)
    except (ExpatError, xmlrpc.client.Error, ValueError, TypeError) as error:
        raise WrongError(f"no methodResponse ({error!r}): {body[:300]!r}") from error
    return Heard(value)


def _xml_fault(faultCode: int, faultString: str) -> Heard:  # noqa: N803 # the protocol's names
    return Heard(text=faultString, code=FROM_FAULT_CODE.get(faultCode))


# JSON-RPC. The id of a request is its token


def _say_json(calls: Sequence[Wanted], *, two: bool = True, by_name: bool = False, batch: bool = False) -> bytes:
    requests = []
    for call in calls:
        params = dict(call.params) if by_name else [*call.params.values()]
        request: dict[str, Any] = {"jsonrpc": "2.0"} if two else {}
        request |= {"method": call.name, "params": params}
        requests.append(request if call.oneway else {**request, "id": call.token})
    return json.dumps(requests if batch else requests[0]).encode()


def _hear_json(body: bytes, calls: Sequence[Wanted], *, batch: bool = False) -> Sequence[Heard | None]:
    """Match answers by id: each id once, and no other."""
    wanted = [call.token for call in calls if not call.oneway]
    try:
        message: Any = json.loads(body) if body else []
        answers: list[dict[str, Any]] = [*message] if batch or not body else [message]
        found = {answer["id"]: _json_heard(answer) for answer in answers}
    except (ValueError, TypeError, LookupError) as error:
        raise WrongError(f"no response ({error!r}): {body[:300]!r}") from error
    if sorted(map(str, found)) != sorted(wanted) or len(answers) != len(wanted):
        raise WrongError(f"expected answers to {wanted}: {body[:300]!r}")
    return [found.get(call.token) for call in calls]


def _json_heard(answer: Mapping[str, Any]) -> Heard:
    error = answer.get("error")
    if error is None:
        return Heard(answer["result"])
    return Heard(text=error["message"], code=FROM_ERROR_CODE.get(error["code"]))


@dataclass(frozen=True)
class Speech:
    """A way to write calls as one message, and to read its answer: one for each call, None where none was wanted.

    `hear` raises WrongError. `together`: several calls in one message; `oneway`: calls without an answer among them.
    """

    path: str
    say: Callable[[Sequence[Wanted]], bytes]
    hear: Callable[[bytes, Sequence[Wanted]], Sequence[Heard | None]]
    together: bool = False
    oneway: bool = False


SPEECHES: Mapping[str, Speech] = {
    "XML-RPC": Speech("/RPC2", _say_xml, _hear_xml),
    "XML-RPC xapi_idl": Speech("/idl", _say_idl, _hear_idl),
    "XML-RPC multicall": Speech("/RPC2", _say_multicall, _hear_multicall, together=True),
    "JSON-RPC 2.0": Speech("/jsonrpc", _say_json, _hear_json),
    "JSON-RPC 2.0 by name": Speech("/jsonrpc", partial(_say_json, by_name=True), _hear_json),
    "JSON-RPC 1.0": Speech("/jsonrpc", partial(_say_json, two=False), _hear_json),
    "JSON-RPC batch": Speech(
        "/jsonrpc", partial(_say_json, batch=True), partial(_hear_json, batch=True), together=True, oneway=True
    ),
    "JSON-RPC notification": Speech("/jsonrpc", _say_json, _hear_json, oneway=True),
}
