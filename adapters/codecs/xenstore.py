"""Codec `xenstore`: requests and answers as nodes, with paths relative to the request or the response.

A request is a list of netstrings: the method as a path element, then the path and the value of each node:
`4:echo,3:kib,6:262144,`. An answer consists of nodes alone; a node with the empty path is the answer itself. Nodes that
are numbered from 0 are an array (in a request: parameters by position), other nodes below a node are members of a
struct. All values are text in the forms of docs/types.md.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeAlias

from adapters.codecs.shared import NAMED, is_number, split_name, unreadable_answer, with_name
from gateway.core import interfaces
from gateway.core.dbus.scalars import MarshalError, render
from gateway.core.rpc.model import Call, Envelope, Fault, FaultCode, MessageLimits, Outcome, Reply, Value
from gateway.core.xenstore.paths import element, index_of, member, node_text, pack, text_of, unpack

# `code` of an error. 1, 2 and 3 are those of squeezed's server (unknown function, exception, missing argument). A fault
# whose name is a number is sent with that number as its code; services use numbers from 1000 on.
FAULT_CODES: dict[FaultCode, int] = {
    FaultCode.UNKNOWN_METHOD: 1,
    FaultCode.INTERNAL: 2,
    FaultCode.PARAMETER_COUNT: 3,
    FaultCode.PARSE_ERROR: 100,
    FaultCode.INVALID_REQUEST: 101,
    FaultCode.TOO_LARGE: 102,
    FaultCode.INVALID_PARAMS: 103,
    FaultCode.ACCESS_DENIED: 104,
    FaultCode.NOT_FOUND: 105,
    FaultCode.BUSY: 106,
    FaultCode.UNAVAILABLE: 107,
    FaultCode.TIMEOUT: 108,
    FaultCode.NO_REPLY: 109,
    FaultCode.UNREPRESENTABLE: 110,
    FaultCode.APPLICATION: 111,
    FaultCode.REMOTE: 112,
}
FROM_CODE: dict[int, FaultCode] = {number: code for code, number in FAULT_CODES.items()}

CODE, DESCRIPTION = "code", "description"  # an answer with both of these nodes is an error

_MISSING = re.compile(r"\$\.params\.([A-Za-z0-9_]+): expected a parameter of this name, got nothing").fullmatch

_LIMITS = MessageLimits()
_BYTES_OF_A_LEVEL = 8  # least bytes for one level of a path, `2:a/,1:b,`; reading it costs some hundred bytes
_SPARE = 8192  # bytes

Place: TypeAlias = tuple[str | int, ...]
_Tree: TypeAlias = "dict[str, _Tree | str]"  # by element, as written


class _Refused(Exception):  # noqa: N818 - it carries a fault
    """The nodes are invalid; carries the fault to where the codec returns it."""

    def __init__(self, code: FaultCode, message: str) -> None:
        super().__init__(message)
        self.fault = Fault(code, message)


class Codec(interfaces.Codec):
    """Reads and writes both directions, within `limits`."""

    name = "xenstore"
    content_type = "application/x-xenstore-nodes"

    def __init__(self, limits: MessageLimits = _LIMITS) -> None:
        self._limits = limits

    def decode(self, body: bytes, charset: str = "") -> Envelope:  # noqa: ARG002 - UTF-8, always
        """Read the nodes of a request."""
        try:
            method, *items = self._items(body) or [b""]
            tree = self._tree(items)
            return Envelope((_call(_name(method.decode("latin-1")), tree),))
        except _Refused as refused:
            return Envelope((refused.fault,))

    def encode(self, envelope: Envelope, outcomes: Sequence[Outcome]) -> bytes:
        """Write the nodes of an answer."""
        outcome = outcomes[0]
        if isinstance(outcome, Reply):
            try:
                return pack(_reply(outcome.value))
            except MarshalError as error:
                outcome = Fault(FaultCode.UNREPRESENTABLE, str(error))
            except RecursionError:
                outcome = Fault(FaultCode.UNREPRESENTABLE, "$: nested too deeply")
        entry = envelope.entries[0]
        number, text = _code_and_text(outcome, entry.method if isinstance(entry, Call) else "")
        description = text.replace("\0", "\\x00").encode("utf-8", "backslashreplace")
        return pack([CODE.encode(), str(number).encode(), DESCRIPTION.encode(), description])

    def encode_call(self, call: Call) -> bytes:
        """Write the nodes of a request. Raises ValueError naming the place of a value that nodes cannot hold."""
        items = [element(call.method).encode()]
        try:
            for parameters in ([*call.params], {**call.named}):
                if parameters:
                    _add_nodes(items, "", parameters)
        except MarshalError as error:
            raise ValueError(str(error.at("params"))) from None
        except RecursionError as error:
            raise ValueError(str(error)) from None
        return pack(items)

    def decode_outcome(self, body: bytes, charset: str = "") -> Outcome:  # noqa: ARG002 - UTF-8, always
        """Read the nodes of an answer; PARSE_ERROR for invalid ones. Every value is text, array or struct."""
        try:
            tree = self._tree(self._items(body))
            if tree.keys() == {""}:
                return Reply(_value(tree[""]))
            return _read_error(tree) or Reply(_value(tree) if tree else None)
        except _Refused as refused:
            return unreadable_answer(refused.fault.code, refused.fault.message)

    def _items(self, body: bytes) -> list[bytes]:
        if len(body) > self._limits.body:
            raise _Refused(FaultCode.TOO_LARGE, f"expected at most {self._limits.body} bytes, got {len(body)}")
        try:
            items = unpack(body)
        except ValueError as error:
            raise _Refused(FaultCode.PARSE_ERROR, str(error)) from None
        levels = len(items) // 2 + sum(item.count(b"/") for item in items[-2::-2])  # of paths, and a node is one
        if levels > self._limits.elements or levels * _BYTES_OF_A_LEVEL > len(body) + _SPARE:
            raise _Refused(FaultCode.TOO_LARGE, f"expected at most {self._limits.elements} nodes")
        return items

    def _tree(self, items: Sequence[bytes]) -> _Tree:
        """The nodes as a tree. A node with nodes below it must not have a value."""
        if len(items) % 2:
            raise _Refused(FaultCode.PARSE_ERROR, "expected a value for every node")
        tree: _Tree = {}
        for written, value in zip(items[::2], items[1::2], strict=True):
            path, inner = written.decode("latin-1"), tree
            *above, last = path.split("/")
            if path and ("" in above or not last):
                raise _invalid(f"node {_shown(path)} has an element without a name")
            if len(above) >= self._limits.depth:
                raise _Refused(FaultCode.TOO_LARGE, f"expected at most {self._limits.depth} levels of nodes")
            for each in above:
                below = inner.setdefault(each, {})
                if isinstance(below, str):
                    raise _invalid(f"node {_shown(each)} has a value, and nodes below it")
                inner = below
            if last in inner:
                raise _invalid(f"node {_shown(last)} is there twice, or has a value and nodes below it")
            try:
                inner[last] = value.decode()
            except UnicodeDecodeError:
                raise _Refused(FaultCode.INVALID_PARAMS, f"node {_shown(last)}: expected UTF-8 text") from None
        return tree


# Reading


def _invalid(message: str) -> _Refused:
    return _Refused(FaultCode.INVALID_REQUEST, message)


def _shown(written: str) -> str:
    return ascii(written if len(written) <= 60 else written[:60] + "...")


def _name(written: str) -> str:
    try:
        return text_of(written)
    except ValueError as error:
        raise _invalid(str(error)) from None


def _call(method: str, tree: _Tree) -> Call:
    """Nodes with numbers are parameters by position. The request's own node must not have a value."""
    if not method:
        raise _invalid("the method has no name")
    if tree.pop("", ""):
        raise _invalid("the request's own node has a value")
    numbered, others = _parted(tree)
    named = {(name := _name(written)): _value(inner, ("params", name)) for written, inner in others.items()}
    return Call(method, tuple(_array(numbered, ("params",))), named)


def _value(inner: _Tree | str, place: Place = ()) -> Value:
    if isinstance(inner, str):
        return inner
    numbered, others = _parted(inner)
    if not others:
        return _array(numbered, place)
    if numbered:
        raise _invalid(f"{render(place)}: expected nodes with numbers or nodes with names, got both")
    return {(name := _name(written)): _value(each, (*place, name)) for written, each in others.items()}


def _parted(tree: _Tree) -> tuple[dict[int, _Tree | str], _Tree]:
    """The nodes with numbers, and the others."""
    numbered: dict[int, _Tree | str] = {}
    others: _Tree = {}
    for written, inner in tree.items():
        at = index_of(written)
        if at is None:
            others[written] = inner
        else:
            numbered[at] = inner
    return numbered, others


def _array(numbered: dict[int, _Tree | str], place: Place) -> list[Value]:
    if sorted(numbered) != list(range(len(numbered))):
        raise _invalid(f"{render(place)}: expected nodes numbered from 0 without a gap")
    return [_value(numbered[at], (*place, at)) for at in range(len(numbered))]


def _read_error(tree: _Tree) -> Fault | None:
    """The error in an answer; None for another answer. An unknown code becomes the name of a REMOTE fault."""
    number, text = tree.get(CODE), tree.get(DESCRIPTION)
    if not isinstance(number, str) or not isinstance(text, str):
        return None
    code = FROM_CODE.get(int(number)) if is_number(number) else None
    if code is None:
        return Fault(FaultCode.REMOTE, text, name=number)
    name, message = split_name(text) if code in NAMED else ("", text)
    return Fault(code, message, name=name)


# Writing


def _reply(value: Value) -> list[bytes]:
    items: list[bytes] = []
    if isinstance(value, dict) and {CODE, DESCRIPTION} <= value.keys():
        raise MarshalError("a struct without the members code and description, which say an error", value)
    if value is not None and value != [] and value != {}:
        _add_nodes(items, "", value)
    return items


def _add_nodes(items: list[bytes], path: str, value: Value) -> None:
    """Add path and text of each node of a value. An empty array or struct is an empty node."""
    if not isinstance(value, list | dict) or not value:
        items += (path.encode("ascii"), b"" if isinstance(value, list | dict) else node_text(value))
        return
    steps: list[tuple[str, str | int, Value]]
    if isinstance(value, list):
        steps = [(str(at), at, item) for at, item in enumerate(value)]
    else:
        steps = [(_member(name), name, item) for name, item in value.items()]
    for written, step, inner in steps:
        try:
            _add_nodes(items, f"{path}/{written}" if path else written, inner)
        except MarshalError as error:
            error.at(step)
            raise


def _member(name: object) -> str:
    if not isinstance(name, str):
        raise MarshalError("text as the name of a member", name)
    try:
        return member(name)
    except ValueError:
        raise MarshalError("the name of a member without lone surrogates", name) from None


# Errors


def _code_and_text(fault: Fault, method: str) -> tuple[int, str]:
    """The code and the description. For codes 1 and 3 the old clients expect a name alone as the description."""
    if fault.code is FaultCode.UNKNOWN_METHOD and method:
        return FAULT_CODES[fault.code], method
    missing = _missing(fault)
    if missing:
        return FAULT_CODES[FaultCode.PARAMETER_COUNT], missing
    if fault.code not in NAMED:
        return FAULT_CODES[fault.code], fault.message
    text = _arguments(fault.data) or fault.message
    if is_number(fault.name):
        return int(fault.name), text
    return FAULT_CODES[fault.code], with_name(fault.name, text)


def _missing(fault: Fault) -> str:
    """The parameter that a call lacks; empty when it lacks none."""
    if fault.code is FaultCode.INVALID_PARAMS:
        found = _MISSING(fault.message)
        return found[1] if found else ""
    data = fault.data if fault.code is FaultCode.PARAMETER_COUNT and isinstance(fault.data, dict) else {}
    return str(data.get("missing", ""))


def _arguments(data: Value) -> str:
    """The arguments of an error with commas between them: `needed,free`, `domid,domid`."""
    if not isinstance(data, list):
        return ""
    try:
        return ",".join([_arguments(item) if isinstance(item, list) else _argument(item) for item in data])
    except RecursionError:
        return ""


def _argument(item: Value) -> str:
    try:
        return node_text(item).decode()
    except MarshalError:
        return ""
