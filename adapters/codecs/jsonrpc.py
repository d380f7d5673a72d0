"""JSON-RPC codec: messages to envelopes and outcomes, and back.

Version 2.0 as in https://www.jsonrpc.org/specification; section numbers refer to it. A request without the member
`jsonrpc` is read as 1.0 (https://www.jsonrpc.org/specification_v1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from adapters.codecs import shared
from adapters.codecs.json_reader import (
    DamagedJsonError,
    JsonError,
    Odd,
    damaged_items,
    first_odd,
    number_as_written,
    raw_items,
    raw_member,
    read,
)
from adapters.codecs.json_writer import WRITERS, LongIntegers, visible, write
from adapters.codecs.shared import NAMED, is_name, is_number, split_name, unreadable_answer, with_name
from gateway.core import interfaces
from gateway.core.dbus.scalars import MarshalError
from gateway.core.rpc.model import Call, Envelope, Fault, FaultCode, MessageLimits, Outcome, Reply, Value

FAULT_CODES = {**shared.FAULT_CODES, FaultCode.REMOTE: -32000, FaultCode.UNAVAILABLE: -32009}  # error.code
FROM_ERROR_CODE: dict[int, FaultCode] = {number: code for code, number in FAULT_CODES.items()}

_NULL = b"null"
_RESULT = b'{"jsonrpc":"2.0","result":%b,"id":%b}'
_ERROR = b'{"jsonrpc":"2.0","error":%b,"id":%b}'
_CALL = b'{"jsonrpc":"2.0","method":%b,"params":%b,"id":1}'
_NOTIFICATION = b'{"jsonrpc":"2.0","method":%b,"params":%b}'
# In 1.0 all members are always written, in the order of the legacy servers, which want a number or a text as id.
_OLD_RESULT = b'{"result":%b,"error":null,"id":%b}'
_OLD_ERROR = b'{"result":null,"error":%b,"id":%b}'
_OLD_CALL = b'{"method":%b,"params":%b,"id":1}'
_OLD_NOTIFICATION = b'{"method":%b,"params":%b,"id":null}'


class _Plain(msgspec.Struct, forbid_unknown_fields=True):
    """A request with all four members, as nearly all clients write it."""

    jsonrpc: Literal["2.0"]
    method: str
    params: list[Any] | dict[str, Any]
    id: int | str


_COLONS = len(_Plain.__struct_fields__)  # that a plain request without colons in its values has
_BATCH_DEPTH = 3  # of a batch of plain requests whose parameters are single values
_SHORT = 4096  # bytes; a longer request gains nothing from being read as a plain one
_decode_plain_batch = msgspec.json.Decoder(list[_Plain]).decode
_decode_plain, _encode_plain = msgspec.json.Decoder(_Plain).decode, msgspec.json.Encoder().encode


class _Tag(msgspec.Struct, frozen=True):
    """The data for answering one entry. `id`: as the client wrote it; None: no answer."""

    id: bytes | None = _NULL
    one: bool = False  # JSON-RPC 1.0


_Entry = tuple[Call | Fault, _Tag]
_LIMITS = MessageLimits()


class Codec(interfaces.Codec):
    """JSON-RPC in both directions, within `limits`. `long_integers`: how answers write integers beyond 2**53.

    Messages of both versions are read. `one`: calls are written in 1.0, for upstreams that understand only 1.0.
    """

    name = "jsonrpc"
    content_type = "application/json"

    def __init__(
        self, limits: MessageLimits = _LIMITS, long_integers: LongIntegers = "number", *, one: bool = False
    ) -> None:
        self._limits = limits
        self._longest_plain = min(_SHORT, limits.body, limits.elements)  # which cannot hold too many values
        self._longest_batch = min(limits.body, limits.elements) if limits.depth >= _BATCH_DEPTH else 0
        self._one = one
        self._write = WRITERS[long_integers]

    def decode(self, body: bytes, charset: str = "") -> Envelope:  # noqa: ARG002 - JSON is UTF-8 (RFC 8259, section 8.1)
        """Read a request, a notification or a batch of either version; an invalid entry does not affect the others."""
        plain = self._read_plain_batch(body) if body.startswith(b"[{") else self._read_plain(body)
        if plain is not None:
            return plain
        try:
            return self._envelope(read(body, self._limits), body, _read, raw_items)
        except DamagedJsonError as damaged:
            return self._envelope(damaged.value, body, _read_damaged, damaged_items)
        except JsonError as refused:
            return Envelope((Fault(refused.code, str(refused)),))

    def _envelope(
        self, message: Any, body: bytes, read_entry: Callable[..., _Entry], items_of: Callable[[bytes], list[bytes]]
    ) -> Envelope:
        """Read a request, or a batch (section 6): one entry for each request; a single error for an empty batch."""
        if type(message) is not list:
            entry, tag = read_entry(message, body)
            return Envelope((entry,), (tag,))
        if not message:
            return Envelope((Fault(FaultCode.INVALID_REQUEST, "$: expected at least one request in a batch"),))
        if len(message) > self._limits.batch:
            what = f"$: expected at most {self._limits.batch} requests in a batch, got {len(message)}"
            return Envelope((Fault(FaultCode.TOO_LARGE, what),))
        bodies = items_of(body) if any(map(_has_exact_id, message)) else [b""] * len(message)
        entries = [read_entry(each, raw, batch=True) for each, raw in zip(message, bodies, strict=True)]
        return Envelope(tuple([entry for entry, _ in entries]), tuple([tag for _, tag in entries]), batch=True)

    def _read_plain(self, body: bytes) -> Envelope | None:
        """Read a request with all four members, each of them once; None: it is to be read more closely."""
        if len(body) > self._longest_plain or b'"jsonrpc"' not in body:
            return None
        if body.count(b"[") + body.count(b"{") > self._limits.depth:
            return None
        try:
            found = _decode_plain(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        colons = body.count(b":")  # a member that came twice leaves one too many, as in `read`
        if colons != _COLONS and (b"\\u003" in body or _encode_plain(found).count(b":") != colons):
            return None
        call, tag = _plain_entry(found)
        return Envelope((call,), (tag,))

    def _read_plain_batch(self, body: bytes) -> Envelope | None:
        """Read a batch of such requests whose parameters are single values; None: it is to be read more closely."""
        count = body.count(b"{")
        if (
            len(body) > self._longest_batch
            or count > self._limits.batch
            or body.count(b":") != _COLONS * count
            or body.count(b"[") != count + 1
        ):
            return None
        try:
            found = _decode_plain_batch(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        if len(found) != count:  # a text, or what came twice, holds some of them
            return None
        entries = [_plain_entry(each) for each in found]
        return Envelope(tuple([call for call, _ in entries]), tuple([tag for _, tag in entries]), batch=True)

    def encode(self, envelope: Envelope, outcomes: Sequence[Outcome]) -> bytes | None:
        """Write the response; None for notifications (sections 4.1 and 6)."""
        tags: Sequence[_Tag] = envelope.tags if isinstance(envelope.tags, tuple) else (_Tag(),)
        if not envelope.batch:
            return self._response(outcomes[0], tags[0])
        answers = [answer for answer in map(self._response, outcomes, tags) if answer is not None]
        return b"[%b]" % b",".join(answers) if answers else None

    def encode_call(self, call: Call) -> bytes:
        """Write a request or notification; raises ValueError that names the value which cannot be carried."""
        if call.params and call.named:
            raise ValueError("$.params: expected positional or named parameters, JSON-RPC has no call with both")
        if call.named and self._one:
            raise ValueError("$.params: expected positional parameters only, JSON-RPC 1.0 has no others")
        try:
            method = _placed("method", call.method)
            params = _placed("params", dict(call.named) if call.named else list(call.params))
        except MarshalError as error:
            raise ValueError(str(error)) from None
        if self._one:
            return (_OLD_NOTIFICATION if call.oneway else _OLD_CALL) % (method, params)
        return (_NOTIFICATION if call.oneway else _CALL) % (method, params)

    def decode_outcome(self, body: bytes, charset: str = "") -> Outcome:  # noqa: ARG002 - see decode
        """Read a response of either version and any id; an invalid one is a PARSE_ERROR.

        The last of two members of one name counts.
        """
        try:
            message = read(body, self._limits, last_wins=True)
        except JsonError as refused:
            return unreadable_answer(refused.code, str(refused))
        return _read_response(message) or Fault(
            FaultCode.PARSE_ERROR, "expected a response with an id and either result or error"
        )

    def decode_answers(self, body: bytes, envelope: Envelope, charset: str = "") -> Sequence[Outcome]:
        """Read the answer to a message; responses to a batch may come in any order (section 6)."""
        tags: Sequence[_Tag] = envelope.tags if isinstance(envelope.tags, tuple) else (_Tag(_NULL),)
        if not envelope.batch:
            return [self.decode_outcome(body, charset) if tags[0].id is not None else Reply()]
        try:
            messages = read(body, self._limits, last_wins=True) if body else []
        except JsonError as refused:
            return [Fault(FaultCode.PARSE_ERROR, str(refused)) for _ in tags]
        if type(messages) is not list:
            return [Fault(FaultCode.PARSE_ERROR, "expected the responses of a batch in an array") for _ in tags]
        answers: dict[bytes, list[Outcome]] = {}  # by id; several with one id keep their order
        for message, raw in zip(messages, raw_items(body) if messages else (), strict=True):
            outcome = _read_response(message)
            if outcome is not None:
                answers.setdefault(_id(message, raw) or _NULL, []).append(outcome)
        left = {key: iter(outcomes) for key, outcomes in answers.items()}
        missing = Fault(FaultCode.PARSE_ERROR, "the batch was answered without a response to this request")
        return [Reply() if tag.id is None else next(left.get(tag.id, iter(())), missing) for tag in tags]

    def _response(self, outcome: Outcome, tag: _Tag) -> bytes | None:
        if tag.id is None:
            return None
        if isinstance(outcome, Reply):
            try:
                return (_OLD_RESULT if tag.one else _RESULT) % (self._write(outcome.value), tag.id)
            except MarshalError as error:
                outcome = Fault(FaultCode.UNREPRESENTABLE, str(error.at("result")))
        try:
            text = self._write(outcome.wire if tag.one and outcome.wire is not None else _error_object(outcome))
        except MarshalError as error:
            text = self._write(_error_object(Fault(FaultCode.UNREPRESENTABLE, str(error.at("error")))))
        return (_OLD_ERROR if tag.one else _ERROR) % (text, tag.id)


# Requests


def _plain_entry(found: _Plain) -> tuple[Call, _Tag]:
    params, number = found.params, found.id
    tag = _Tag(b"%d" % number if type(number) is int else write(number))
    return (Call(found.method, tuple(params)) if type(params) is list else Call(found.method, named=params)), tag  # type: ignore[arg-type]


def _read(message: Any, body: bytes, *, batch: bool = False) -> _Entry:
    """Read one request or notification (section 4); an error concerns this entry only. A batch holds none of 1.0.

    Missing params, or null as legacy servers accept it, mean no parameters.
    """
    if type(message) is not dict:
        return _invalid("$: expected an object")
    if "jsonrpc" not in message and not batch:
        return _read_old(message, body)
    tag = _id(message, body) if "id" in message else None
    if message.get("jsonrpc") != "2.0":
        return _invalid('$.jsonrpc: expected "2.0"', tag)
    if tag is None and "id" in message:
        return _invalid("$.id: expected text, a number or null")
    method, params = message.get("method"), message.get("params")
    if type(method) is not str:
        return _invalid("$.method: expected text", tag)
    if type(params) is dict:
        return Call(method, named=params, oneway=tag is None), _Tag(tag)
    if type(params) is list or params is None:
        return Call(method, tuple(params or ()), oneway=tag is None), _Tag(tag)
    return _invalid("$.params: expected an array or an object", tag)


def _read_old(message: dict[str, Any], body: bytes) -> _Entry:
    """Read a request of 1.0: params is an array (section 1.1); a null id makes it a notification (1.2)."""
    tag = _Tag(_id(message, body) or (raw_member(body, "id") if "id" in message else _NULL), one=True)  # of any type
    method, params = message.get("method"), message.get("params")
    if type(method) is not str:
        return Fault(FaultCode.INVALID_REQUEST, "$.method: expected text"), tag
    if type(params) is not list:
        return Fault(FaultCode.INVALID_REQUEST, "$.params: expected an array"), tag
    if "id" not in message:
        return Fault(FaultCode.INVALID_REQUEST, "$.id: expected one, or null where no answer is wanted"), tag
    oneway = message["id"] is None
    return Call(method, tuple(params), oneway=oneway), _Tag(None, one=True) if oneway else tag


def _invalid(what: str, tag: bytes | None = None) -> _Entry:
    return Fault(FaultCode.INVALID_REQUEST, what), _Tag(tag or _NULL)


def _read_damaged(message: Any, body: bytes, *, batch: bool = False) -> _Entry:
    """Build the fault of an invalid entry with its id, if that is valid; a possible notification is answered too."""
    refused = first_odd(message)
    if refused is None:
        return _read(message, body, batch=batch)
    fault = Fault(refused.code, str(refused))
    members = _members(message)
    if members is None:
        return fault, _Tag()
    one = not batch and "jsonrpc" not in members and getattr(message, "member", "") != "jsonrpc"
    if first_odd(members.get("id")) is not None:
        return fault, _Tag(one=one)
    found = number_as_written(body, "id") if _has_exact_id(message) else _id({"id": members.get("id")}, b"")
    return fault, _Tag(found or _NULL, one=one)


def _members(message: Any) -> dict[str, Any] | None:
    members = message.members if type(message) is Odd else message
    return members if type(members) is dict else None


def _has_exact_id(message: Any) -> bool:
    """Return whether the id is a number whose original text must be looked up."""
    return type((_members(message) or {}).get("id")) is float


def _id(message: Mapping[str, Any], body: bytes) -> bytes | None:
    """Return the id as it is echoed; None if it is missing or of a type that is not allowed."""
    found = message.get("id", False)
    kind = type(found)
    if kind is int:
        return b"%d" % found
    if kind is str:
        return write(found)
    if kind is float:
        return raw_member(body, "id")  # 1.0 and 1e0 are one number, but not one text
    return _NULL if found is None else None


# Responses


def _error_object(fault: Fault) -> dict[str, Value]:
    """Section 5.1. All names share one number; a message that equals the name stands alone."""
    code, message, data = FAULT_CODES[fault.code], fault.message, fault.data
    if fault.code in NAMED and is_number(fault.name):
        code = int(fault.name)
    elif fault.code is FaultCode.APPLICATION:
        message = message if message == fault.name and is_name(message) else with_name(fault.name, message)
    elif fault.code is FaultCode.REMOTE:
        data = {"name": fault.name, "args": fault.data}
    error: dict[str, Value] = {"code": code, "message": visible(message)}
    return error if data is None else {**error, "data": data}


def _read_response(message: Any) -> Outcome | None:
    """Read a response: in 2.0 it has result or error, never both (section 5); in 1.0 both, of which one is null.

    None: it is no response.
    """
    if type(message) is not dict or "id" not in message:
        return None
    has_result, has_error, error = "result" in message, "error" in message, message.get("error")
    if "jsonrpc" not in message:
        has_result, has_error = has_result and has_error and error is None, error is not None
    elif message["jsonrpc"] != "2.0" or has_result == has_error:
        return None
    if has_error:
        return _read_error(error)
    return Reply(message["result"]) if has_result else None


def _read_error(error: Any) -> Fault:
    """Read an error: an unknown number becomes the name of a REMOTE fault.

    An error of 1.0 may be any value, which the dialect interprets: it is kept whole.
    """
    code, message = (error.get("code"), error.get("message")) if type(error) is dict else (None, None)
    if type(code) is not int or type(message) is not str:
        first = error[0] if isinstance(error, list) and error else error
        return Fault(FaultCode.REMOTE, first if isinstance(first, str) else "an error without a text", wire=error)
    kind, data = FROM_ERROR_CODE.get(code), error.get("data")
    if kind is None:
        return Fault(FaultCode.REMOTE, message, name=str(code), data=data)
    if kind is FaultCode.REMOTE and type(data) is dict and data.keys() == {"name", "args"}:
        return Fault(kind, message, name=str(data["name"]), data=data["args"])
    name, message = split_name(message) if kind is FaultCode.APPLICATION else ("", message)
    return Fault(kind, message, name=name, data=data)


def _placed(place: str, value: Value) -> bytes:
    try:
        return write(value)
    except MarshalError as error:
        error.at(place)
        raise
