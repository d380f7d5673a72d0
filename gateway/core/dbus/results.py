"""The body of a method return -> the legacy result, and a D-Bus error -> the fault the client is told.

Everything here is built once, when a mapping is loaded. Knows no mapping file and no bus.
"""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, TypeAlias

from gateway.core.dbus.formats import Show
from gateway.core.dbus.marshal import Decode, from_dbus
from gateway.core.dbus.names import unescape_path_element
from gateway.core.dbus.scalars import MarshalError
from gateway.core.dbus.signature import Type
from gateway.core.dbus.target import Variants
from gateway.core.rpc.model import Call, Fault, FaultCode, Value

Body: TypeAlias = Sequence[Any]
DecodeResult: TypeAlias = Callable[[Body], Value]


class Item(NamedTuple):
    """One out-argument, by its place in the body, and how it is shown. `name` is for messages."""

    at: int
    convert: Decode
    name: str = ""


# Results


def void(_body: Body) -> None:
    """Whatever came, the client gets no value."""


def one(item: Item) -> DecodeResult:
    """One out-argument."""
    index, convert, _name = item

    def shape(body: Body) -> Value:
        return convert(body[index])

    return shape


def array(items: Sequence[Item]) -> DecodeResult:
    """Several out-arguments, as an array."""

    def shape(body: Body) -> Value:
        return [_shown(item, body) for item in items]

    return shape


def struct(members: Mapping[str, Item]) -> DecodeResult:
    """Several out-arguments, as a struct."""
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
    """`convert`, and then `show`."""
    if show is None:
        return convert
    return lambda value: show(convert(value))


# Values in another form


def struct_of_fields(kind: Type, names: Sequence[str]) -> Show:
    """A D-Bus struct, shown as an array so far, as a struct with these names; also each in an array or dictionary."""
    if kind.code == "(":
        return lambda fields: dict(zip(names, fields, strict=True))  # type: ignore[arg-type]  # a struct is an array
    if kind.is_dict:
        return _each_value(struct_of_fields(kind.children[0].children[1], names))
    return _each_item(struct_of_fields(kind.children[0], names))


def picked(kind: Type, members: Mapping[str, tuple[str, Show | None]]) -> Show:
    """Members of a dictionary picked and renamed; also for each in an array or dictionary. Absent ones stay absent."""
    inner = kind.children[0].children[1] if kind.is_dict else kind.children[0]
    if kind.is_dict and not holds_dict(inner):
        return _pick(members)
    return _each_value(picked(inner, members)) if kind.is_dict else _each_item(picked(inner, members))


def holds_dict(kind: Type) -> bool:
    """Whether a type is a dictionary with text keys, or arrays or dictionaries of such."""
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


# Properties: a variant of a type that the IDL names


def property_decoder(kind: Type, variants: Variants) -> Decode:
    """A property's value out of its variant, which must have the type that the IDL says."""
    convert, expected = from_dbus(kind, variants=variants), str(kind)

    def decode(variant: Any) -> Value:
        if variant.signature != expected:
            raise MarshalError(f"{expected} from the service", f"a variant of {variant.signature}")
        return convert(variant.value)

    return decode


@dataclass(frozen=True, slots=True)
class Record:
    """The properties of an object as a struct: all of them by their own names, or those picked.

    `members`: the name in the struct -> the property and how it is shown. `others`: for a property without an entry.
    """

    members: Mapping[str, tuple[str, Decode]]
    others: Decode | None = None

    def __call__(self, properties: Mapping[str, Any]) -> Value:
        """The struct; a property that the object lacks stays absent."""
        record: dict[str, Value] = {}
        for name, (source, convert) in self.members.items():
            if source in properties:
                record[name] = _placed(name, convert, properties[source])
        if self.others is not None:
            for source, variant in properties.items():
                if source not in record:
                    record[source] = _placed(source, self.others, variant)
        return record


# An object's path and its properties -> the key of its record; None where it has none.
RecordKey: TypeAlias = Callable[[str, Mapping[str, Any]], str | None]


def element_key(path: str, _properties: Mapping[str, Any]) -> str:
    """The last element of the path, unescaped where it was escaped."""
    return unescape_path_element(path.rpartition("/")[2])


def path_key(path: str, _properties: Mapping[str, Any]) -> str:
    """The whole path."""
    return path


def property_key(name: str, convert: Decode) -> RecordKey:
    """The value of a property, as text."""

    def key(path: str, properties: Mapping[str, Any]) -> str | None:
        return str(_placed(path, convert, properties[name])) if name in properties else None

    return key


def records(interface: str, key: RecordKey, record: Callable[[Any], Value], *, refuse: bool = False) -> Decode:
    """GetManagedObjects: the objects that have the interface, as a struct of records.

    An object without a key of its own (it has none, or another has it too) has its path for a key, or is refused.
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
    """What a client is told instead of a D-Bus error. `message`: None for the text of the D-Bus error."""

    code: str
    args: tuple[Part, ...] = ()
    message: Part | None = None


def error_mapper(entries: Mapping[str, ErrorEntry]) -> Callable[[Fault, Call], Fault]:
    """The function that looks a fault up by its D-Bus error name, then under "*"; unnamed faults stay as they are."""
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
    """What stands in braces in a template."""
    return _TEMPLATE.findall(template)


def template(text: str, parameters: Mapping[str, Callable[[Call], Value]]) -> Part:
    """A template as a function. One pair of braces alone keeps the type of its value, otherwise all becomes text."""
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
    """A value that is no template."""
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
    """The error's argument; the empty text where it has none of this number."""
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


# Numbers that a legacy service writes as text, read as numbers again where the mapping says that they are some.
#
# Over XML-RPC the legacy services write 42 and "42" alike, and over xenstore everything is text.


_INTEGERS = frozenset("ynqiuxt")
_INTEGER = re.compile(r"-?[0-9]{1,20}").fullmatch
_DOUBLE = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?").fullmatch


def coerce_numbers(value: Value, kind: Type) -> Value:
    """A result with its numbers; what has not the shape of its type stays as it is."""
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
