"""Reads a recording of `xcp-gateway record`: the types of parameters and results from the values that were sent.

A value shows what was there, not what may be. A place that always held the same type has it, any other is a variant.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import reduce
from typing import Any, NamedTuple

from msgspec import Struct, field

from gateway.core.comparison.redaction import HIDDEN, REDACTED
from gateway.core.comparison.serialization import LEFT_OUT
from gateway.core.comparison.serialization import read as read_value
from gateway.core.dbus.signature import Type, parse_one
from gateway.core.routing.call_record import ReadRecord, parse, recorded
from gateway.core.rpc.model import Value
from gateway.scaffold import SourceError
from gateway.scaffold.legacy import ANY, LegacyMethod, LegacyParameter, array, dictionary, zero

MAX_LINES = 1_000_000
MAX_DEPTH = 12
NOTHING = Type("nothing")  # of an empty list: its items may have any type
MOMENT = Type("moment")  # a dateTime


class _Seen(Struct):
    """What was seen of one method."""

    calls: int = 0
    positions: list[Type] = field(default_factory=list)
    names: dict[str, Type] = field(default_factory=dict)
    counts: set[int] = field(default_factory=set)  # numbers of positional parameters
    named_calls: Counter[str] = field(default_factory=Counter)
    result: Type | None = None  # None: nothing was returned


class Recorded(NamedTuple):
    """What a recording tells. `endpoints`: the path and codec of each endpoint that clients of a connection used."""

    methods: list[LegacyMethod]
    endpoints: tuple[tuple[str, str], ...]


def read(lines: Iterable[bytes]) -> Recorded:
    """The methods and endpoints of a recording; raises SourceError with the line."""
    seen: dict[str, _Seen] = {}
    endpoints: dict[tuple[str, str], None] = {}
    for number, line in enumerate(lines, 1):
        if number > MAX_LINES:
            raise SourceError(f"line {number}: expected at most {MAX_LINES:,} lines")
        if line.strip():
            try:
                document = parse(line)
                if "method" in document:
                    call = recorded(document)
                    _count(seen, call, document)
                    if call.codec in ("xmlrpc", "jsonrpc"):
                        endpoints[call.path, call.codec] = None
            except ValueError as error:
                raise SourceError(f"line {number}: {error}") from error
    if not seen:
        raise SourceError("expected a recording with at least one call")
    return Recorded([_method(name, found) for name, found in sorted(seen.items())], tuple(endpoints))


def _count(seen: dict[str, _Seen], call: ReadRecord, document: Mapping[str, Any]) -> None:
    found = seen.setdefault(call.method, _Seen())
    found.calls += 1
    found.counts.add(len(call.params))
    for at, value in enumerate(call.params):
        if at == len(found.positions):
            found.positions.append(NOTHING)
        found.positions[at] = merged(found.positions[at], type_of(value))
    for name, value in call.named.items():
        found.names[name] = merged(found.names.get(name, NOTHING), type_of(value))
        found.named_calls[name] += 1
    if "reply" in document and (reply := read_value(document["reply"])) is not None:
        found.result = merged(found.result or NOTHING, type_of(reply))


def _method(name: str, found: _Seen) -> LegacyMethod:
    decide = [f"types, from {found.calls} call{'' if found.calls == 1 else 's'}"]
    if found.positions and found.names:
        decide.append("names: parameters were passed by position and by name")
    elif found.positions:
        decide.append("names of the parameters")
    fewest = min(found.counts)
    kinds = [(f"arg{at + 1}", kind, at < fewest) for at, kind in enumerate(found.positions)]
    kinds += [(each, kind, found.named_calls[each] == found.calls) for each, kind in found.names.items()]
    parameters = []
    for label, kind, required in sorted(kinds, key=lambda each: not each[2]):  # required ones first
        whole = _whole(kind)
        form = "datetime" if kind == MOMENT else ""
        parameters.append(LegacyParameter(label, whole, None if required else zero(whole), format=form))
    result = None if found.result is None else _whole(found.result)
    return LegacyMethod(name, parameters, result, "datetime" if found.result == MOMENT else "", "", decide)


def type_of(value: Value, depth: int = 0) -> Type:
    """The type of a value: int is x, a struct a dictionary, a redacted secret text."""
    scalar = {bool: "b", int: "x", float: "d", str: "s", bytes: "ay"}.get(type(value))
    if scalar is not None:
        return parse_one(scalar)
    if isinstance(value, datetime):
        return MOMENT
    if depth > MAX_DEPTH:
        return ANY
    if isinstance(value, list):
        return array(reduce(merged, (type_of(each, depth + 1) for each in value), NOTHING))
    if isinstance(value, dict):
        if REDACTED in value or LEFT_OUT in value or any(HIDDEN in key for key in value):
            return parse_one("s") if value.get(REDACTED) == "text" else ANY
        return dictionary(ANY)
    return ANY


def merged(one: Type, other: Type) -> Type:
    """The type of both; a variant where they differ. Whole numbers among others are doubles."""
    if one in (NOTHING, other):
        return other
    if other == NOTHING:
        return one
    if {one.code, other.code} == {"x", "d"}:
        return parse_one("d")
    if one.code == other.code == "a" and not one.is_dict and not other.is_dict:
        return array(merged(one.children[0], other.children[0]))
    return ANY


def _whole(kind: Type) -> Type:
    """A D-Bus type: what was never seen is any value, a moment is seconds."""
    if kind in (NOTHING, MOMENT):
        return ANY if kind == NOTHING else parse_one("x")
    return Type(kind.code, tuple(ANY if child == MOMENT else _whole(child) for child in kind.children))
