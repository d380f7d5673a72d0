"""Decode the body of a method return to the legacy result, and map a D-Bus error to the client's fault.

The mapping compiler builds these converters once, when a mapping is loaded.
"""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from operator import itemgetter
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

from msgspec import Struct, field

from gateway.core.dbus.formats import Show
from gateway.core.dbus.marshal import Decode, from_dbus, same
from gateway.core.dbus.names import unescape_path_element
from gateway.core.dbus.patterns import TextPattern
from gateway.core.dbus.scalars import MarshalError, absent, placed
from gateway.core.dbus.signature import INTEGER_RANGES, Type
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
    return lambda body: convert(body[index])


def array(items: Sequence[Item]) -> DecodeResult:
    """Return several out-arguments as an array."""
    return lambda body: [placed(name, convert, body[index]) for index, convert, name in items]


def struct(members: Mapping[str, Item]) -> DecodeResult:
    """Return several out-arguments as a struct."""
    steps = tuple(members.items())
    return lambda body: {shown: placed(name, convert, body[index]) for shown, (index, convert, name) in steps}


def then(convert: Decode, show: Show | None) -> Decode:
    """Return the composition of `convert` and `show`."""
    if show is None:
        return convert
    return lambda value: show(convert(value))


# Other forms of values


def struct_of_fields(kind: Type, names: Sequence[str]) -> Show:
    """Convert the array of a D-Bus struct to a struct with these names, also inside arrays and dictionaries."""

    def show(fields: Value) -> Value:
        assert isinstance(fields, list)
        return dict(zip(names, fields, strict=True))

    return _inside(kind, lambda inner: inner.code == "(", show)


def picked(kind: Type, members: Mapping[str, tuple[str, Show | None]]) -> Show:
    """Pick and rename members of a dictionary, also inside arrays and dictionaries. Absent members stay absent."""
    return picked_record(kind, members, {})


def picked_record(kind: Type, members: Mapping[str, tuple[str, Show | None]], defaults: Mapping[str, Value]) -> Show:
    """As `picked`; members that are absent have the default."""
    steps = [(name, source, show) for name, (source, show) in members.items()]

    def pick(value: Value) -> Value:
        assert isinstance(value, dict)
        record = dict(defaults)
        for name, source, show in steps:
            if source in value:
                record[name] = value[source] if show is None else show(value[source])
        return record

    return _inside(kind, lambda inner: inner.is_dict and not holds_dict(inner.children[0].children[1]), pick)


def _inside(kind: Type, is_meant: Callable[[Type], bool], show: Show) -> Show:
    """Apply `show` to the values of the type that is meant, in the arrays and dictionaries around it."""
    if is_meant(kind):
        return show
    if kind.is_dict:
        shown = _inside(kind.children[0].children[1], is_meant, show)
        return lambda value: {key: shown(item) for key, item in value.items()}  # type: ignore[union-attr]  # a dict
    shown = _inside(kind.children[0], is_meant, show)
    return lambda value: [shown(item) for item in value]  # type: ignore[union-attr]  # an array is a list


def holds_dict(kind: Type) -> bool:
    """Return whether a type is a dictionary with text keys, or arrays or dictionaries of such."""
    if kind.code != "a":
        return False
    if not kind.is_dict:
        return holds_dict(kind.children[0])
    key, item = kind.children[0].children
    return key.code == "s" or holds_dict(item)


# Properties: variants whose type the IDL gives


def property_decoder(kind: Type, variants: Variants) -> Decode:
    """Return a converter from a property's variant to its value; the variant must have the type of the IDL.

    Some services put a variant around the variant: it is unwrapped. Others leave out that of a property of type `v`.
    """
    convert, expected = from_dbus(kind, variants=variants), str(kind)

    def decode_same(variant: Any) -> Value:  # most properties
        value: Value = variant.value if variant.signature == expected else decode(variant)
        return value

    def decode(variant: Any) -> Value:
        if variant.signature != expected:
            if expected == "v":
                return convert(variant)
            if variant.signature == "v":
                return decode(variant.value)
            raise MarshalError(f"{expected} from the service", f"a variant of {variant.signature}")
        return convert(variant.value)

    return decode_same if convert is same and expected != "v" else decode


class Record(Struct, frozen=True):
    """Convert the properties of an object to a struct: all of them by their own names, or those picked.

    `members`: name in the struct -> property and converter. `others`: the converter of properties without an entry.
    `defaults`: name in the struct -> value where the object lacks the property, or where there is no property.
    """

    members: Mapping[str, tuple[str, Decode]]
    others: Decode | None = None
    defaults: Mapping[str, Value] = field(default_factory=dict)

    def __call__(self, properties: Mapping[str, Any]) -> Value:
        """Return the struct; a property that the object lacks stays absent, unless it has a default."""
        record: dict[str, Value] = {}
        place = ""
        try:
            for place, (source, convert) in self.members.items():
                if source in properties:
                    record[place] = convert(properties[source])
            if self.others is not None:
                for place, variant in properties.items():
                    if place not in record:
                        record[place] = self.others(variant)
        except MarshalError as error:
            error.at(place)
            raise
        for name in self.defaults:
            record.setdefault(name, self.defaults[name])
        return record


# Functions from an object's path and properties to the key of its record; None if it has no key.
RecordKey: TypeAlias = Callable[[str, Mapping[str, Any]], str | None]


def element_key(path: str, _properties: Mapping[str, Any]) -> str:
    """Return the last path element, unescaped if it was escaped."""
    return unescape_path_element(path.rpartition("/")[2])


def plain_element_key(path: str, _properties: Mapping[str, Any]) -> str:
    """Return the last path element as it is."""
    return path.rpartition("/")[2]


def path_key(path: str, _properties: Mapping[str, Any]) -> str:
    """Return the whole path."""
    return path


def property_key(name: str, convert: Decode) -> RecordKey:
    """Return the value of a property as text."""

    def key(path: str, properties: Mapping[str, Any]) -> str | None:
        return str(placed(path, convert, properties[name])) if name in properties else None

    return key


# Functions from the interfaces of an object to the properties of its record.
Merge: TypeAlias = Callable[[Mapping[str, Mapping[str, Any]]], Mapping[str, Any]]


def merged(interfaces: Sequence[str], shared: Collection[str]) -> Merge:
    """Return the properties of these interfaces as one; an interface that the object lacks is left out.

    `shared`: properties that several of the interfaces have; they are named with their interface (`org.x.A.Name`).
    """

    def merge(found: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
        properties: dict[str, Any] = {}
        for interface in interfaces:
            for name, value in found.get(interface, {}).items():
                is_plain = name not in shared and name not in properties
                properties[name if is_plain else f"{interface}.{name}"] = value
        return properties

    return merge


def several(interfaces: Sequence[str], shared: Collection[str], record: Callable[[Any], Value]) -> DecodeResult:
    """Return the record of several method returns of GetAll, one for each interface in their order."""
    merge = merged(interfaces, shared)
    return lambda bodies: record(merge(dict(zip(interfaces, bodies, strict=True))))


def records(
    interface: str,
    key: RecordKey,
    record: Callable[[Any], Value],
    *,
    refuse: bool = False,
    merge: Merge | None = None,
) -> Decode:
    """Convert GetManagedObjects: the objects with the interface become a struct of records.

    An object without a unique key gets its path as key, or is refused. `merge`: for records of several interfaces.
    """
    properties_of = merge or itemgetter(interface)

    def decode(objects: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Value:
        of_interface = {path: properties_of(found) for path, found in objects.items() if interface in found}
        keys = {path: key(path, properties) for path, properties in of_interface.items()}
        times = Counter(keys.values())
        found: dict[str, Value] = {}
        for path, properties in of_interface.items():
            name = keys[path]
            if name is None or times[name] > 1 or (name in of_interface and name != path):
                if refuse:
                    expected = "a key for the record" if name is None else "a key for the record that no other has"
                    raise (absent(expected) if name is None else MarshalError(expected, name)).at(path)
                name = path
            found[name] = placed(name, record, properties)
        return found

    return decode


# Errors

Part: TypeAlias = Callable[[Fault, Call], Value]

NO_GROUPS: Mapping[str, Part] = MappingProxyType({})
PARAMETER = "params."  # before the name of a parameter that is called `name` or `message`
_TEMPLATE = re.compile(r"\{([^{}]*)\}")


class ErrorEntry(Struct, frozen=True):
    """The fault for a D-Bus error. `message`: None for the text of the D-Bus error.

    `match`: a pattern that the text of the error must match. An entry that makes an empty code does not apply.
    """

    code: str | Part
    args: tuple[Part, ...] = ()
    message: Part | None = None
    match: TextPattern | None = None


NO_ENTRIES: Mapping[str, Sequence[ErrorEntry]] = MappingProxyType({})


def error_mapper(
    entries: Mapping[str, ErrorEntry | Sequence[ErrorEntry]], shared: Mapping[str, Sequence[ErrorEntry]] = NO_ENTRIES
) -> Callable[[Fault, Call], Fault]:
    """Return the function that maps a fault by its D-Bus error name, then by "*"; unnamed faults are unchanged.

    Of several entries of a name the first that applies is used. `shared`: the entries of other names, for many mappers.
    """
    listed = {name: (found,) if isinstance(found, ErrorEntry) else tuple(found) for name, found in entries.items()}
    rest = listed.get("*") or shared.get("*", ())

    def translate(fault: Fault, call: Call) -> Fault:
        found = listed.get(fault.name) or shared.get(fault.name, ())
        for entry in (*found, *rest) if fault.name else ():
            if entry.match is not None and entry.match.match(_text_of(fault)) is None:
                continue
            code = entry.code if isinstance(entry.code, str) else _as_text(entry.code(fault, call))
            if code:
                message = _text_of(fault) if entry.message is None else entry.message(fault, call)
                args = [part(fault, call) for part in entry.args]
                return Fault(FaultCode.APPLICATION, _as_text(message), name=code, data=args)
        return fault

    return translate


def group_of(pattern: TextPattern, name: str) -> Part:
    """Return the text of a named group of a pattern in the text of the error."""
    return lambda fault, _call: (pattern.match(_text_of(fault)) or {}).get(name, "")


def template_names(template: str) -> list[str]:
    """Return the names in braces in a template."""
    return _TEMPLATE.findall(template)


def stray_brace(template: str) -> str:
    """Return the first brace of a template that belongs to no pair, or ""."""
    return next((each for each in _TEMPLATE.sub("", template) if each in "{}"), "")


def template(
    text: str, parameters: Mapping[str, Callable[[Call], Value]], groups: Mapping[str, Part] = NO_GROUPS
) -> Part:
    """Compile a template. A template that is one pair of braces keeps the type of its value; any other gives text."""
    pieces = _TEMPLATE.split(text)  # text, name, text, name, ..., text
    parts = [groups.get(name) or _part(name, parameters) for name in pieces[1::2]]
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
    """Return a constant, for a value that is not a template."""
    return lambda _fault, _call: value


def with_case(part: Part, case: str) -> Part:
    """Return the text of a part in "lower" or "upper" case."""
    change = {"lower": str.lower, "upper": str.upper}[case]
    return lambda fault, call: change(_as_text(part(fault, call)))


def with_values(part: Part, values: Mapping[str, Value]) -> Part:
    """Return the value that a table has for the text of a part; a part that it does not have is unchanged."""

    def look_up(fault: Fault, call: Call) -> Value:
        value = part(fault, call)
        return values.get(_as_text(value), value)

    return look_up


def _part(name: str, parameters: Mapping[str, Callable[[Call], Value]]) -> Part:
    if name.isdecimal():
        index = int(name)
        return lambda fault, _call: _argument(fault, index)
    if name == "name":
        return lambda fault, _call: fault.name
    if name == "message":
        return lambda fault, _call: _text_of(fault)
    find = parameters.get(name.removeprefix(PARAMETER))
    if find is None:
        return constant("")

    def given(_fault: Fault, call: Call) -> Value:
        value = find(call)
        return "" if value is None else value

    return given


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


_INTEGER = re.compile(r"-?[0-9]{1,20}").fullmatch
_DOUBLE = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?").fullmatch


def coerce_numbers(value: Value, kind: Type) -> Value:
    """Convert the numbers of a result; a value that does not fit its type is unchanged."""
    code, children = kind.code, kind.children
    if isinstance(value, str):
        if code in INTEGER_RANGES and _INTEGER(value):
            return int(value)
        return float(value) if code == "d" and _DOUBLE(value) else value
    if kind.is_dict:
        if isinstance(value, dict):
            return {name: coerce_numbers(item, children[0].children[1]) for name, item in value.items()}
    elif isinstance(value, list):
        if code == "a":
            return [coerce_numbers(item, children[0]) for item in value]
        if code == "(" and len(value) == len(children):
            return [coerce_numbers(item, child) for item, child in zip(value, children, strict=True)]
    return value
