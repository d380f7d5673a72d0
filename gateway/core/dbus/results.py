"""Decode the body of a method return to the legacy result, and map a D-Bus error to the client's fault.

The mapping compiler builds these converters once, when a mapping is loaded.
"""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias

from gateway.core.dbus.formats import Show
from gateway.core.dbus.marshal import Decode, from_dbus, same
from gateway.core.dbus.names import unescape_path_element
from gateway.core.dbus.scalars import MarshalError
from gateway.core.dbus.signature import Type
from gateway.core.dbus.target import Variants
from gateway.core.rpc.model import Call, Fault, FaultCode, Value

Body: TypeAlias = Sequence[Any]
DecodeResult: TypeAlias = Callable[[Body], Value]


class Item(NamedTuple):
    """One out-argument: its index in the body and its converter. `name` is for messages."""

    at: int
    convert: Decode
    name: str = ""


# Results


def void(_body: Body) -> None:
    """Ignore the body; the client gets no value."""


def one(item: Item) -> DecodeResult:
    """Return one out-argument."""
    index, convert, _name = item
    if convert is same:
        return itemgetter(index)

    def shape(body: Body) -> Value:
        return convert(body[index])

    return shape


def array(items: Sequence[Item]) -> DecodeResult:
    """Return several out-arguments as an array."""

    def shape(body: Body) -> Value:
        return [_shown(item, body) for item in items]

    return shape


def struct(members: Mapping[str, Item]) -> DecodeResult:
    """Return several out-arguments as a struct."""
    steps = tuple(members.items())

    def shape(body: Body) -> Value:
        return {name: _shown(item, body) for name, item in steps}

    return shape


def _shown(item: Item, body: Body) -> Value:
    index, convert, name = item
    try:
        return convert(body[index])
    except MarshalError as error:
        error.at(name)
        raise


def then(convert: Decode, show: Show | None) -> Decode:
    """Return the composition of `convert` and `show`."""
    if show is None:
        return convert
    return lambda value: show(convert(value))


# Other forms of values


def struct_of_fields(kind: Type, names: Sequence[str]) -> Show:
    """Convert the array of a D-Bus struct to a struct with these names, also inside arrays and dictionaries."""
    if kind.code == "(":
        return lambda fields: dict(zip(names, fields, strict=True))  # type: ignore[arg-type]  # a struct is an array
    if kind.is_dict:
        return _each_value(struct_of_fields(kind.children[0].children[1], names))
    return _each_item(struct_of_fields(kind.children[0], names))


def picked(kind: Type, members: Mapping[str, tuple[str, Show | None]]) -> Show:
    """Pick and rename members of a dictionary, also inside arrays and dictionaries. Absent members stay absent."""
    inner = kind.children[0].children[1] if kind.is_dict else kind.children[0]
    if kind.is_dict and not holds_dict(inner):
        return _pick(members)
    return _each_value(picked(inner, members)) if kind.is_dict else _each_item(picked(inner, members))


def holds_dict(kind: Type) -> bool:
    """Return whether a type is a dictionary with text keys, or arrays or dictionaries of such."""
    if kind.code != "a":
        return False
    if not kind.is_dict:
        return holds_dict(kind.children[0])
    key, item = kind.children[0].children
    return key.code == "s" or holds_dict(item)


def _pick(members: Mapping[str, tuple[str, Show | None]]) -> Show:
    steps = [(name, source, show) for name, (source, show) in members.items()]

    def show_picked(value: Value) -> Value:
        assert isinstance(value, dict)
        return {
            name: value[source] if show is None else show(value[source])
            for name, source, show in steps
            if source in value
        }

    return show_picked


def _each_item(show: Show) -> Show:
    return lambda value: [show(item) for item in value]  # type: ignore[union-attr]  # an array is a list


def _each_value(show: Show) -> Show:
    return lambda value: {key: show(item) for key, item in value.items()}  # type: ignore[union-attr]  # a dictionary


# Properties: variants whose type the IDL gives


def property_decoder(kind: Type, variants: Variants) -> Decode:
    """Return a converter from a property's variant to its value; the variant must have the type of the IDL."""
    convert, expected = from_dbus(kind, variants=variants), str(kind)

    def decode(variant: Any) -> Value:
        if variant.signature != expected:
            raise MarshalError(f"{expected} from the service", f"a variant of {variant.signature}")
        return convert(variant.value)

    return decode


@dataclass(frozen=True, slots=True)
class Record:
    """Convert the properties of an object to a struct: all of them by their own names, or those picked.

    `members`: name in the struct -> property and converter. `others`: the converter of properties without an entry.
    """

    members: Mapping[str, tuple[str, Decode]]
    others: Decode | None = None

    def __call__(self, properties: Mapping[str, Any]) -> Value:
        """Return the struct; a property that the object lacks stays absent."""
        record: dict[str, Value] = {}
        for name, (source, convert) in self.members.items():
            if source in properties:
                record[name] = _placed(name, convert, properties[source])
        if self.others is not None:
            for source, variant in properties.items():
                if source not in record:
                    record[source] = _placed(source, self.others, variant)
        return record


# Functions from an object's path and properties to the key of its record; None if it has no key.
RecordKey: TypeAlias = Callable[[str, Mapping[str, Any]], str | None]


def element_key(path: str, _properties: Mapping[str, Any]) -> str:
    """Return the last path element, unescaped if it was escaped."""
    return unescape_path_element(path.rpartition("/")[2])


def path_key(path: str, _properties: Mapping[str, Any]) -> str:
    """Return the whole path."""
    return path


def property_key(name: str, convert: Decode) -> RecordKey:
    """Return the value of a property as text."""

    def key(path: str, properties: Mapping[str, Any]) -> str | None:
        return str(_placed(path, convert, properties[name])) if name in properties else None

    return key


def records(interface: str, key: RecordKey, record: Callable[[Any], Value], *, refuse: bool = False) -> Decode:
    """Convert GetManagedObjects: the objects with the interface become a struct of records.

    An object without a unique key gets its path as key, or is refused.
    """

    def decode(objects: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Value:
        of_interface = {path: interfaces[interface] for path, interfaces in objects.items() if interface in interfaces}
        keys = {path: key(path, properties) for path, properties in of_interface.items()}
        times = Counter(keys.values())
        found: dict[str, Value] = {}
        for path, properties in of_interface.items():
            name = keys[path]
            if name is None or times[name] > 1 or (name in of_interface and name != path):
                if refuse:
                    raise _without_key(path, name)
                name = path
            found[name] = _placed(name, record, properties)
        return found

    return decode


def _without_key(path: str, name: str | None) -> MarshalError:
    expected = "a key for the record" if name is None else "a key for the record that no other has"
    error = MarshalError(expected, name).at(path)
    if name is None:
        error.got = "nothing"
    return error


def _placed(step: str, convert: Callable[[Any], Value], value: Any) -> Value:
    try:
        return convert(value)
    except MarshalError as error:
        error.at(step)
        raise


# Errors

Part: TypeAlias = Callable[[Fault, Call], Value]

_TEMPLATE = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class ErrorEntry:
    """The fault for a D-Bus error. `message`: None for the text of the D-Bus error."""

    code: str
    args: tuple[Part, ...] = ()
    message: Part | None = None


def error_mapper(entries: Mapping[str, ErrorEntry]) -> Callable[[Fault, Call], Fault]:
    """Return the function that maps a fault by its D-Bus error name, then by "*"; unnamed faults are unchanged."""
    rest = entries.get("*")

    def translate(fault: Fault, call: Call) -> Fault:
        entry = entries.get(fault.name, rest)
        if entry is None or not fault.name:
            return fault
        message = _text_of(fault) if entry.message is None else entry.message(fault, call)
        args = [part(fault, call) for part in entry.args]
        return Fault(FaultCode.APPLICATION, _as_text(message), name=entry.code, data=args)

    return translate


def template_names(template: str) -> list[str]:
    """Return the names in braces in a template."""
    return _TEMPLATE.findall(template)


def template(text: str, parameters: Mapping[str, Callable[[Call], Value]]) -> Part:
    """Compile a template. A template that is one pair of braces keeps the type of its value; any other gives text."""
    pieces = _TEMPLATE.split(text)  # text, name, text, name, ..., text
    parts = [_part(name, parameters) for name in pieces[1::2]]
    if len(parts) == 1 and pieces[0] == pieces[2] == "":
        return parts[0]
    texts = pieces[::2]

    def fill(fault: Fault, call: Call) -> Value:
        filled = texts[0]
        for part, after in zip(parts, texts[1:], strict=True):
            filled += _as_text(part(fault, call)) + after
        return filled

    return fill


def constant(value: Value) -> Part:
    """Return a constant, for a value that is no template."""
    return lambda _fault, _call: value


def _part(name: str, parameters: Mapping[str, Callable[[Call], Value]]) -> Part:
    if name.isdecimal():
        index = int(name)
        return lambda fault, _call: _argument(fault, index)
    if name == "name":
        return lambda fault, _call: fault.name
    if name == "message":
        return lambda fault, _call: _text_of(fault)
    find = parameters.get(name)
    return constant("") if find is None else lambda _fault, call: _present(find(call))


def _present(value: Value) -> Value:
    return "" if value is None else value


def _argument(fault: Fault, index: int) -> Value:
    """Return an argument of the error; the empty text if there is no argument of this number."""
    return fault.data[index] if isinstance(fault.data, list) and index < len(fault.data) else ""


def _text_of(fault: Fault) -> str:
    first = _argument(fault, 0)
    return first if isinstance(first, str) and first else fault.message


def _as_text(value: Value) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_plain)


def _plain(value: object) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value.isoformat() if isinstance(value, datetime) else str(value)


# Numbers that a legacy service writes as text: over XML-RPC the legacy services write 42 and "42" alike, and over
# xenstore everything is text. The mapping says which values are numbers.


_INTEGERS = frozenset("ynqiuxt")
_INTEGER = re.compile(r"-?[0-9]{1,20}").fullmatch
_DOUBLE = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?").fullmatch


def coerce_numbers(value: Value, kind: Type) -> Value:
    """Convert the numbers of a result; a value that does not fit its type is unchanged."""
    if isinstance(value, str):
        return _number(value, kind.code)
    if isinstance(value, list):
        return _items(value, kind)
    if isinstance(value, dict) and kind.is_dict:
        item = kind.children[0].children[1]
        return {name: coerce_numbers(each, item) for name, each in value.items()}
    return value


def _number(text: str, code: str) -> Value:
    if code in _INTEGERS and _INTEGER(text):
        return int(text)
    return float(text) if code == "d" and _DOUBLE(text) else text


def _items(items: list[Value], kind: Type) -> Value:
    if kind.code == "a" and not kind.is_dict:
        return [coerce_numbers(item, kind.children[0]) for item in items]
    if kind.code == "(" and len(items) == len(kind.children):
        return [coerce_numbers(item, child) for item, child in zip(items, kind.children, strict=True)]
    return items
