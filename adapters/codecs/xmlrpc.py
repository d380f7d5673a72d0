"""XML-RPC codec (http://xmlrpc.com/spec.md): messages to envelopes and outcomes, and back.

`system.multicall` is a batch: each of its calls is an entry of the envelope, and the answer is an array of [value] and
fault structs. As a client this codec writes and reads one call at a time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree.ElementTree import Element

from msgspec.structs import replace

from adapters.codecs import shared
from adapters.codecs import xmlrpc_plain as plain
from adapters.codecs.shared import NAMED, is_number, split_name, unreadable_answer, with_name
from adapters.codecs.xmlrpc_parser import Within, XmlError, short, shown, tree
from adapters.codecs.xmlrpc_reader import bad, children, items_of, name_and_value, only_child, repeated, text_of, value
from adapters.codecs.xmlrpc_writer import INT_MAX, INT_MIN, Unwritable, check_characters, escape, visible, write
from gateway.core import interfaces
from gateway.core.rpc.model import Call, Envelope, Fault, FaultCode, MessageLimits, Outcome, Reply, Value

MULTICALL = "system.multicall"

FAULT_CODES = {**shared.FAULT_CODES, FaultCode.REMOTE: -32500, FaultCode.UNAVAILABLE: -32300}  # faultCode
FROM_FAULT_CODE: dict[int, FaultCode] = {number: code for code, number in FAULT_CODES.items()}

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]").search

_REPLY = b'<?xml version="1.0"?><methodResponse><params><param>%b</param></params></methodResponse>'
_BEFORE, _, _AFTER = _REPLY.partition(b"%b")
_FAULT = b'<?xml version="1.0"?><methodResponse><fault>%b</fault></methodResponse>'
_ITEM = b"<value><array><data>%b</data></array></value>"
_BEFORE_ITEM, _, _AFTER_ITEM = _ITEM.partition(b"%b")
_CALL = b'<?xml version="1.0"?><methodCall><methodName>%b</methodName><params>%b</params></methodCall>'
_PARAM = b"<param>%b</param>"

_ITEM_MEMBERS = ("methodName", "params")
_LIMITS = MessageLimits()


class Codec(interfaces.Codec):
    """XML-RPC in both directions, within `limits`."""

    name = "xmlrpc"
    content_type = "text/xml"

    def __init__(self, limits: MessageLimits = _LIMITS) -> None:
        self._limits = limits

    def decode(self, body: bytes, charset: str = "") -> Envelope:
        """Read a <methodCall>; a system.multicall is a batch."""
        read = plain.call(body, self._limits, charset)
        if read is not None and read[0] != MULTICALL:
            return Envelope((Call(*read),))
        try:
            return self._envelope(tree(body, self._limits, charset))
        except XmlError as refused:
            return Envelope((Fault(refused.code, str(refused)),))
        except RecursionError:
            return Envelope((Fault(FaultCode.TOO_LARGE, "nested deeper than can be read"),))

    def encode(self, envelope: Envelope, outcomes: Sequence[Outcome]) -> bytes:
        """Write the <methodResponse>."""
        if envelope.batch:
            items = [_written(outcome, _BEFORE_ITEM, _AFTER_ITEM, b"%b") for outcome in outcomes]
            return _REPLY % (_ITEM % b"".join(items))
        return _written(outcomes[0], _BEFORE, _AFTER, _FAULT)

    def encode_call(self, call: Call) -> bytes:
        """Write a <methodCall>; raises ValueError that names the value which cannot be carried."""
        if call.named:
            raise ValueError("$.named: expected positional parameters only; XML-RPC has no named ones")
        if not call.method or _CONTROL(call.method):
            raise ValueError(f"method: expected text without control characters, got {shown(call.method)}")
        try:
            check_characters(call.method, "method: ")
            params = [write(param, f"$.params[{at}]") for at, param in enumerate(call.params)]
        except Unwritable as unwritable:
            raise ValueError(str(unwritable)) from None
        return _CALL % (escape(call.method).encode(), b"".join([_PARAM % param for param in params]))

    def decode_outcome(self, body: bytes, charset: str = "") -> Outcome:
        """Read a <methodResponse>; an invalid one is a PARSE_ERROR. The last of two members of one name counts."""
        read = plain.result(body, self._limits, charset)
        if read is not None:
            return Reply(*read)
        try:
            return self._outcome(tree(body, self._limits, charset))
        except XmlError as refused:
            return unreadable_answer(refused.code, str(refused))
        except RecursionError:
            return Fault(FaultCode.TOO_LARGE, "nested deeper than can be read")

    def decode_answers(self, body: bytes, envelope: Envelope, charset: str = "") -> Sequence[Outcome]:
        """Read the answer to a message; a system.multicall has an item for each call."""
        outcome = self.decode_outcome(body, charset)
        if not envelope.batch:
            return [outcome]
        items = outcome.value if isinstance(outcome, Reply) else outcome
        if isinstance(items, list) and len(items) == len(envelope.entries):
            return [_read_item(item) for item in items]
        if isinstance(items, Fault):  # many legacy servers lack system.multicall; it answers none of the calls
            wrong = replace(items, code=FaultCode.PARSE_ERROR)
        else:
            wrong = Fault(FaultCode.PARSE_ERROR, f"expected an array of {len(envelope.entries)} answers")
        return [wrong] * len(envelope.entries)

    def _envelope(self, root: Element) -> Envelope:
        with Within(code=FaultCode.INVALID_REQUEST):
            method, elements = _call_frame(root)
        if method == MULTICALL:
            return self._batch(elements)
        params: list[Value] = []
        for at, element in enumerate(elements):
            with Within(f"$.params[{at}]"):
                params.append(value(element, self._limits.depth))
        return Envelope((Call(method, tuple(params)),))

    def _batch(self, params: Sequence[Element]) -> Envelope:
        with Within(code=FaultCode.INVALID_REQUEST):
            if len(params) != 1:
                raise bad(f"expected one array of calls, got {len(params)} parameters", "$.params")
            with Within("$.params[0]"):
                items = items_of(only_child(params[0], "array"))
        if len(items) > self._limits.batch:
            raise XmlError(FaultCode.TOO_LARGE, f"expected at most {self._limits.batch} calls, got {len(items)}")
        return Envelope(tuple([self._entry(item, at) for at, item in enumerate(items)]), batch=True)

    def _entry(self, item: Element, at: int) -> Call | Fault:
        """Read one call of a system.multicall; an error concerns this call only."""
        step = ""
        try:
            method, element = _item_frame(item)
            if element is None:
                return Call(method)
            step = ".params"
            params = value(element, self._limits.depth - 2)  # inside a struct in an array
            if isinstance(params, list):
                return Call(method, tuple(params))
            refused = bad("expected an array")
        except XmlError as error:
            refused = error
        refused.steps += (step, f"$.params[0][{at}]")
        return Fault(refused.code if step else FaultCode.INVALID_REQUEST, str(refused))

    def _outcome(self, root: Element) -> Outcome:
        if root.tag != "methodResponse":
            raise bad(f"expected <methodResponse>, got <{short(root.tag)}>")
        is_fault = root.find("fault") is not None
        parent = only_child(root, "fault") if is_fault else only_child(only_child(root, "params"), "param")
        element = only_child(parent, "value")
        try:
            found = value(element, self._limits.depth, last_wins=True)
        except XmlError as refused:
            refused.steps.append("$")
            raise
        return _read_fault(found) if is_fault else Reply(found)


def _call_frame(root: Element) -> tuple[str, list[Element]]:
    """Return the method of a <methodCall> and the <value> of each parameter; <params> is optional."""
    if root.tag != "methodCall":
        raise bad(f"expected <methodCall>, got <{short(root.tag)}>")
    name, *params = children(root, "methodName", "params", optional=1)
    method = _checked_method(text_of(name))
    return method, [only_child(param, "value") for each in params for param in repeated(each, "param")]


def _checked_method(method: object) -> str:
    if not isinstance(method, str) or not method or _CONTROL(method):
        raise bad(f"methodName: expected text without control characters, got {shown(str(method))}")
    return method


def _item_frame(item: Element) -> tuple[str, Element | None]:
    """Return the method and the <value> of the parameters of {methodName, params}; other members are ignored."""
    found: dict[str, Element] = {}
    for name, content in map(name_and_value, repeated(only_child(item, "struct"), "member")):
        if name in found and name in _ITEM_MEMBERS:
            raise bad(f"expected the member {name} once")
        found[name] = content
    if "methodName" not in found:
        raise bad(f"expected the members methodName and params, got {shown(', '.join(sorted(found)))}")
    method = _checked_method(value(found["methodName"], 0))
    if method == MULTICALL:
        raise bad(f"{MULTICALL} cannot be nested", ".methodName")
    return method, found.get("params")


def _written(outcome: Outcome, before: bytes, after: bytes, fault: bytes) -> bytes:
    """Write a reply between two texts, or a fault in its frame."""
    if isinstance(outcome, Reply):
        try:
            return write(outcome.value, before=before, after=after)
        except Unwritable as unwritable:
            outcome = Fault(FaultCode.UNREPRESENTABLE, str(unwritable))
    number = FAULT_CODES[outcome.code]
    if outcome.code in NAMED and is_number(outcome.name) and INT_MIN <= int(outcome.name) <= INT_MAX:
        number = int(outcome.name)
    text = outcome.message or (", ".join(map(_argument, outcome.data)) if isinstance(outcome.data, list) else "")
    if FROM_FAULT_CODE.get(number) in NAMED:  # readers expect a name
        text = with_name(outcome.name if outcome.code in NAMED else "", text)
    return fault % write({"faultCode": number, "faultString": visible(text)})


def _read_item(item: Value) -> Outcome:
    """Read one answer of a system.multicall: an array of one value, or a fault struct."""
    if isinstance(item, list) and len(item) == 1:
        return Reply(item[0])
    try:
        return _read_fault(item)
    except XmlError as refused:
        return Fault(FaultCode.PARSE_ERROR, str(refused))


def _argument(argument: Value) -> str:
    try:
        return str(argument)
    except (ValueError, RecursionError):  # an integer of thousands of digits, or nested too deeply
        return f"({type(argument).__name__})"


def _read_fault(struct: Value) -> Fault:
    """Read a fault: an unknown number, or a text, becomes the name of a REMOTE fault. Other members are ignored."""
    if not isinstance(struct, dict) or "faultString" not in struct:
        raise bad("expected a fault to be a struct of faultCode and faultString")
    number, text = struct.get("faultCode"), _argument(struct["faultString"])
    if isinstance(number, str) and is_number(number):
        number = int(number)
    if type(number) is not int:
        return Fault(FaultCode.REMOTE, text, name="" if number is None else _argument(number))
    code = FROM_FAULT_CODE.get(number)
    if code is None:
        return Fault(FaultCode.REMOTE, text, name=_argument(number))
    if code not in NAMED:
        return Fault(code, text)
    name, message = split_name(text)
    return Fault(code, message, name=name)
