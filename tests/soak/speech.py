"""Calls and answers in the form of old clients, with the codecs of the standard library instead of our own."""

from __future__ import annotations

import itertools
import json
import re
import xmlrpc.client
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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


def code_of(text: str) -> FaultCode | None:
    return next((code for pattern, code in TEXTS.items() if re.search(pattern, text)), None)


class Speech:
    """One way to write calls, and to read the answers to them."""

    path: str
    together = False  # several calls in one message
    oneway = False  # calls without an answer may be among them

    def say(self, calls: Sequence[Wanted]) -> bytes:
        """Write one message."""
        raise NotImplementedError

    def hear(self, body: bytes, calls: Sequence[Wanted]) -> Sequence[Heard | None]:
        """Read its answer: one for each call, None where none was wanted; raises WrongError."""
        raise NotImplementedError


class XmlRpc(Speech):
    """One call by position."""

    path = "/RPC2"

    def say(self, calls: Sequence[Wanted]) -> bytes:
        (call,) = calls
        return xmlrpc.client.dumps(self._params(call), call.name).encode()

    def hear(self, body: bytes, calls: Sequence[Wanted]) -> Sequence[Heard]:
        return [_xml(body)]

    def _params(self, call: Wanted) -> tuple[Any, ...]:
        return tuple(call.params.values())


class XapiIdl(XmlRpc):
    """Named parameters in a leading struct; answers {Status, Value} or {Status, ErrorDescription}."""

    path = "/idl"

    def hear(self, body: bytes, calls: Sequence[Wanted]) -> Sequence[Heard]:
        match _xml(body).value:
            case {"Status": "Success", "Value": value}:
                return [Heard(value)]
            case {"Status": "Failure", "ErrorDescription": [str(), str(text)]}:
                return [Heard(text=text, code=code_of(text))]
        raise WrongError(f"no Status struct: {body[:300]!r}")

    def _params(self, call: Wanted) -> tuple[Any, ...]:
        return (dict(call.params),)


class Multicall(XmlRpc):
    """Several calls in a system.multicall."""

    together = True

    def say(self, calls: Sequence[Wanted]) -> bytes:
        items = [{"methodName": call.name, "params": [*call.params.values()]} for call in calls]
        return xmlrpc.client.dumps((items,), "system.multicall").encode()

    def hear(self, body: bytes, calls: Sequence[Wanted]) -> Sequence[Heard]:
        items = _xml(body).value
        if not isinstance(items, list) or len(items) != len(calls):
            raise WrongError(f"expected {len(calls)} answers: {body[:300]!r}")
        return [Heard(item[0]) if isinstance(item, list) else _xml_fault(**item) for item in items]


class JsonRpc(Speech):
    """One request or notification; the version says which dialect of the two, `by_name` how parameters go."""

    path = "/jsonrpc"
    _ids = itertools.count(1)

    def __init__(self, version: str | None = "2.0", *, by_name: bool = False, oneway: bool = False) -> None:
        self._version = {"jsonrpc": version} if version else {}
        self._by_name = by_name
        self.oneway = oneway
        self._asked: list[object] = []

    def say(self, calls: Sequence[Wanted]) -> bytes:
        """Write one message; its ids are remembered for the answer."""
        self._asked = []
        return json.dumps(self._message([self._request(call) for call in calls])).encode()

    def hear(self, body: bytes, calls: Sequence[Wanted]) -> Sequence[Heard | None]:
        """Match answers by id: each id once, and no other."""
        wanted = [asked for asked in self._asked if asked is not None]
        try:
            answers = self._answers(json.loads(body)) if body else []
            found = {answer["id"]: _json_heard(answer) for answer in answers}
        except (ValueError, TypeError, LookupError) as error:
            raise WrongError(f"no response ({error!r}): {body[:300]!r}") from error
        if sorted(map(str, found)) != sorted(map(str, wanted)) or len(answers) != len(wanted):
            raise WrongError(f"expected answers to {wanted}: {body[:300]!r}")
        return [None if asked is None else found[asked] for asked in self._asked]

    def _message(self, requests: list[dict[str, Any]]) -> object:
        (request,) = requests
        return request

    def _answers(self, message: Any) -> list[dict[str, Any]]:
        return [message]

    def _request(self, call: Wanted) -> dict[str, Any]:
        asked = None if call.oneway else next(self._ids)
        self._asked.append(asked)
        params = dict(call.params) if self._by_name else [*call.params.values()]
        request = {**self._version, "method": call.name, "params": params}
        return request if call.oneway and self._version else {**request, "id": asked}


class JsonBatch(JsonRpc):
    """Requests and notifications in one array."""

    together = True

    def _message(self, requests: list[dict[str, Any]]) -> object:
        return requests

    def _answers(self, message: Any) -> list[dict[str, Any]]:
        return [*message]


SPEECHES: Mapping[str, Callable[[], Speech]] = {
    "XML-RPC": XmlRpc,
    "XML-RPC xapi_idl": XapiIdl,
    "XML-RPC multicall": Multicall,
    "JSON-RPC 2.0": JsonRpc,
    "JSON-RPC 2.0 by name": lambda: JsonRpc(by_name=True),
    "JSON-RPC 1.0": lambda: JsonRpc(None),
    "JSON-RPC batch": lambda: JsonBatch(oneway=True),
    "JSON-RPC notification": lambda: JsonRpc(oneway=True),
}


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


def _json_heard(answer: Mapping[str, Any]) -> Heard:
    error = answer.get("error")
    if error is None:
        return Heard(answer["result"])
    return Heard(text=error["message"], code=FROM_ERROR_CODE.get(error["code"]))
