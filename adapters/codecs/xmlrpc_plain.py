"""Reads plain XML-RPC messages without a parser: what clients and legacy servers write day by day.

A plain message is made of XML-RPC's own elements in UTF-8, without attributes, comments, CDATA, carriage returns and
other entities than XML's own. Each step is one match of an expression that never goes back, so the work grows with the
bytes. Whatever does not match, or is wrong, is not a plain message: the parser then reads the whole of it and words the
error. A plain message means exactly what it means to the parser (tests/property/test_xmlrpc_plain.py).
"""

from __future__ import annotations

import re

from adapters.codecs.xmlrpc_parser import SHORTEST_VALUE, XmlError
from adapters.codecs.xmlrpc_reader import SCALARS
from gateway.core.rpc.model import MessageLimits, Value

DEEPEST = 32  # structs and arrays in each other; deeper ones are left to the parser

_S = r"[ \t\n]*+"  # white space between elements
_CHARS = r"[^&<>\x00-\x08\x0b-\x1f\ud800-\udfff\ufffe\uffff]*+"  # XML 1.0, section 2.2, without CR; compiles fast
_TEXT = rf"{_CHARS}(?:&(?:lt|gt|amp|quot|apos);{_CHARS})*+"
_DECLARED = rf"""(?:<\?xml version=(["'])1\.0\1(?: encoding=(["'])(?i:utf-8|us-ascii)\2)? ?\?>)?+{_S}"""
# A <value> of a scalar: its type with its text, or its text alone, which is a string.
_TYPE = "|".join(re.escape(name) for name in SCALARS if ":" not in name)
_SCALAR = rf"(?:<value>(?:{_S}<(?P<type>{_TYPE})(?:/>|>({_TEXT})</(?P=type)>){_S}|({_TEXT}))</value>|<value/>)"

_call = re.compile(rf"{_DECLARED}<methodCall>{_S}<methodName>(?P<method>[A-Za-z0-9_.:/-]++)</methodName>{_S}").match
_params = re.compile(rf"<params>{_S}").match
_call_end = re.compile(rf"</params>{_S}</methodCall>{_S}").fullmatch
_end_without_params = re.compile(rf"(?:<params/>{_S})?+</methodCall>{_S}").fullmatch
_response = re.compile(rf"{_DECLARED}<methodResponse>{_S}<params>{_S}<param>{_S}").match
_response_end = re.compile(rf"{_S}</param>{_S}</params>{_S}</methodResponse>{_S}").fullmatch

_scalar = re.compile(_SCALAR).match
_scalar_param = re.compile(rf"<param>{_S}{_SCALAR}{_S}</param>{_S}").match
_scalar_item = re.compile(rf"{_SCALAR}{_S}").match
_scalar_member = re.compile(rf"<member>{_S}<name>({_TEXT})</name>{_S}{_SCALAR}{_S}</member>{_S}").match
_param = re.compile(rf"<param>{_S}").match
_param_end = re.compile(rf"{_S}</param>{_S}").match
_member = re.compile(rf"<member>{_S}<name>({_TEXT})</name>{_S}").match
_member_end = re.compile(rf"{_S}</member>{_S}").match
_space = re.compile(_S).match
_empty = re.compile(rf"<value>{_S}<(?:(struct)/>|array/>|array>{_S}<data/>{_S}</array>){_S}</value>").match
_struct = re.compile(rf"<value>{_S}<struct>{_S}").match
_struct_end = re.compile(rf"</struct>{_S}</value>").match
_array = re.compile(rf"<value>{_S}<array>{_S}<data>{_S}").match
_array_end = re.compile(rf"</data>{_S}</array>{_S}</value>").match


class _NotPlainError(Exception):
    """The message is left to the parser."""


def call(body: bytes, limits: MessageLimits, charset: str) -> tuple[str, tuple[Value, ...]] | None:
    """Method and parameters of a plain <methodCall>; None: it is none."""
    try:
        text = _decoded(body, limits, charset)
        found = _call(text)
        if found is None:
            return None
        method, params = found["method"], []
        found = _params(text, at := found.end())
        if found is None:
            return (method, ()) if _end_without_params(text, at) else None
        at, room = found.end(), min(limits.depth, DEEPEST)
        while text.startswith("<param>", at):
            found = _scalar_param(text, at)
            if found is not None:
                params.append(_typed(*found.groups()))
            else:
                value, at = _value(text, _end(_param(text, at)), room, last_wins=False)
                params.append(value)
                found = _param_end(text, at)
            at = _end(found)
        return (method, tuple(params)) if _call_end(text, at) else None
    except (_NotPlainError, XmlError):
        return None


def result(body: bytes, limits: MessageLimits, charset: str) -> tuple[Value] | None:
    """The one value of a plain <methodResponse> without a fault; None: it is none. The last of two members counts."""
    try:
        text = _decoded(body, limits, charset)
        found = _response(text)
        if found is None:
            return None
        value, at = _value(text, found.end(), min(limits.depth, DEEPEST), last_wins=True)
        return (value,) if _response_end(text, at) else None
    except (_NotPlainError, XmlError):
        return None


def _decoded(body: bytes, limits: MessageLimits, charset: str) -> str:
    if len(body) > limits.body or len(body) >= limits.elements * SHORTEST_VALUE:  # there may be too many values
        raise _NotPlainError
    if charset and not body.isascii() and charset.lower() != "utf-8":
        raise _NotPlainError
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise _NotPlainError from None


def _end(found: re.Match[str] | None) -> int:
    """The place behind a match."""
    if found is None:
        raise _NotPlainError
    return found.end()


def _typed(kind: str | None, typed: str | None, text: str | None) -> Value:
    """A scalar by the three groups of _SCALAR."""
    content = typed or text or ""
    if "&" in content:
        content = _unescaped(content)
    return content if kind is None or kind == "string" else SCALARS[kind](content)


def _unescaped(text: str) -> str:
    text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"').replace("&apos;", "'")
    return text.replace("&amp;", "&")


def _value(text: str, at: int, room: int, *, last_wins: bool) -> tuple[Value, int]:
    """The <value> at a place, whose structs and arrays nest at most `room` deep, and the place behind it."""
    found = _scalar(text, at)
    if found is not None:
        return _typed(*found.groups()), found.end()
    if room <= 0:
        raise _NotPlainError
    found = _struct(text, at)
    if found is not None:
        return _members(text, found.end(), room - 1, last_wins=last_wins)
    found = _array(text, at)
    if found is not None:
        return _items(text, found.end(), room - 1, last_wins=last_wins)
    found = _empty(text, at)
    return {} if found is not None and found[1] else [], _end(found)


def _members(text: str, at: int, room: int, *, last_wins: bool) -> tuple[Value, int]:
    members: dict[str, Value] = {}
    while text.startswith("<member>", at):
        found = _scalar_member(text, at)
        if found is not None:
            name, kind, typed, plain = found.groups()
            value = _typed(kind, typed, plain)
        else:
            found = _member(text, at)
            value, at = _value(text, _end(found), room, last_wins=last_wins)
            name = found[1] if found is not None else ""
            found = _member_end(text, at)
        name = _unescaped(name) if "&" in name else name
        if name in members and not last_wins:
            raise _NotPlainError
        members[name], at = value, _end(found)
    return members, _end(_struct_end(text, at))


def _items(text: str, at: int, room: int, *, last_wins: bool) -> tuple[Value, int]:
    items: list[Value] = []
    while text.startswith("<value", at):
        found = _scalar_item(text, at)
        if found is not None:
            items.append(_typed(*found.groups()))
        else:
            value, at = _value(text, at, room, last_wins=last_wins)
            items.append(value)
            found = _space(text, at)
        at = _end(found)
    return items, _end(_array_end(text, at))
