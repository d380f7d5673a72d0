"""XenAPI's classes as tables: what each has as fields and messages, with the names and types these have on D-Bus.

The source is xenapi_classes.json, in the form in which xapi writes its datamodel. The D-Bus side follows by rules: a
class is an interface, a field a property, a message a method. A message whose first parameter is not an object of the
class is a method of the class's manager.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from service import NAMES, ROOT

PATH = f"{ROOT}/xapi"
NULL_REF = "OpaqueRef:NULL"
DATAMODEL = Path(__file__).parents[1] / "xenapi_classes.json"
SCALARS = {"string": "s", "int": "x", "float": "d", "bool": "b", "datetime": "x", "void": ""}
ZEROS: Mapping[str, Any] = {"s": "", "x": 0, "d": 0.0, "b": False}
SERVED_OTHERWISE = ("session", "event")  # sessions have Session1, and events are the signals of all objects
READERS = ("get_all", "get_all_records", "get_all_records_where", "get_record", "get_by_uuid", "get_by_name_label")


@dataclass(frozen=True)
class Type:
    """A type of the datamodel: `kind` is string, int, ..., enum, ref, record, set, map or option."""

    kind: str
    name: str = ""  # of the enum, or of the class of a ref or record
    key: Type | None = None
    item: Type | None = None  # of a set, map or option

    @property
    def signature(self) -> str:
        """Its D-Bus type; a record that travels by value is a dictionary of properties."""
        if self.kind in ("enum", "ref"):
            return "s"
        if self.kind == "record":
            return "a{sv}"
        if self.kind == "map":
            return f"a{{{self.key.signature}{self.item.signature}}}"
        if self.kind == "option":
            return self.item.signature
        return f"a{self.item.signature}" if self.kind == "set" else SCALARS[self.kind]

    @property
    def target(self) -> str:
        """The class that a reference, or a set of references, points to; else empty."""
        held = self.item if self.kind == "set" else self
        return held.name if held.kind == "ref" else ""


@dataclass(frozen=True)
class Field:
    """A field; `default` is the value that a new object has."""

    name: str
    type: Type
    writable: bool
    constructor: bool  # a parameter of the class's constructor
    default: Any
    tags: tuple[str, ...]  # of an enum

    @property
    def property(self) -> str:
        """The D-Bus property."""
        return camel(self.name)


@dataclass(frozen=True)
class Message:
    """A message that is a D-Bus method."""

    name: str  # "VM.clone"
    parameters: tuple[tuple[str, Type], ...]  # without session and object
    result: Type
    static: bool
    constructor: bool = False  # its one parameter is the record of a new object

    @property
    def member(self) -> str:
        """The D-Bus method."""
        return camel(self.name.partition(".")[2])

    @property
    def signature(self) -> str:
        """The D-Bus types of its parameters."""
        return "".join(kind.signature for _, kind in self.parameters)


@dataclass(frozen=True)
class Class:
    """A class: its fields by name, its D-Bus methods by member."""

    name: str
    fields: Mapping[str, Field]
    methods: Mapping[str, Message]  # of an object
    statics: Mapping[str, Message]  # of the manager
    readers: frozenset[str]  # which of READERS it has

    @property
    def interface(self) -> str:
        """The interface of its objects."""
        return f"{NAMES}.xapi.{self.name[0].upper()}{self.name[1:]}1"

    @property
    def manager(self) -> str:
        """The interface of its manager."""
        return f"{self.interface[:-1]}Manager1"

    @property
    def path(self) -> str:
        """The path of the manager."""
        return f"{PATH}/{self.name.lower()}"

    @property
    def by_property(self) -> Mapping[str, Field]:
        """Its fields by D-Bus property."""
        return _by_property(self.name)


def camel(name: str) -> str:
    """The D-Bus name of a field or message: name_label is NameLabel, VCPUs_max is VCPUsMax."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


@cache
def classes() -> Mapping[str, Class]:
    """Every class by its name."""
    datamodel = json.loads(DATAMODEL.read_text())
    enums = {each["name"]: tuple(tag["name"] for tag in each["values"]) for cls in datamodel for each in cls["enums"]}
    return {cls["name"]: _class(cls, enums) for cls in datamodel}


@cache
def _by_property(name: str) -> Mapping[str, Field]:
    return {each.property: each for each in classes()[name].fields.values()}


def removed(entry: Mapping[str, Any]) -> bool:
    """Tell whether the datamodel says that a message was removed."""
    return entry.get("lifecycle", {}).get("state") == "removed_s"


def _class(cls: Mapping[str, Any], enums: Mapping[str, tuple[str, ...]]) -> Class:
    implicit = frozenset(each["name"] for each in cls["messages"] if each.get("implicit"))
    fields = {each["name"]: _field(each, implicit, enums) for each in cls["fields"]}
    methods: dict[str, Message] = {}
    statics: dict[str, Message] = {}
    for each in _messages(cls, fields):
        (statics if each.static else methods)[each.member] = each
    readers = frozenset(each["name"] for each in cls["messages"] if each["name"] in READERS and not removed(each))
    return Class(cls["name"], fields, methods, statics, readers)


def _field(entry: Mapping[str, Any], implicit: frozenset[str], enums: Mapping[str, tuple[str, ...]]) -> Field:
    kind = parse(entry["type"])
    tags = enums[kind.name] if kind.kind == "enum" else ()
    default = _default(entry["default"], kind) if "default" in entry else _zero(kind, tags)
    writable = f"set_{entry['name']}" in implicit
    constructor = entry["qualifier"] in ("RW", "RO/constructor")
    return Field(entry["name"], kind, writable, constructor, default, tags)


def _messages(cls: Mapping[str, Any], fields: Mapping[str, Field]) -> Iterator[Message]:
    """The messages that are methods: not those that the properties and the object manager answer."""
    name = cls["name"]
    for each in cls["messages"]:
        message = each["name"]
        if removed(each) or message in READERS:
            continue
        if each.get("implicit"):
            parameters = _implicit(name, message, fields)
            if parameters is not None:
                made = message == "create"
                result = Type("ref", name) if made else Type("void")
                yield Message(f"{name}.{message}", parameters, result, static=made, constructor=made)
        else:
            given = [(one["name"], parse(one["type"])) for one in each["params"] if one["name"] != "session_id"]
            static = not given or given[0][1] != Type("ref", name)
            own = tuple(given if static else given[1:])
            yield Message(f"{name}.{message}", own, parse(each["result"][0]), static)


def _implicit(cls: str, message: str, fields: Mapping[str, Field]) -> tuple[tuple[str, Type], ...] | None:
    """The parameters of a message that every class may have; None for one that a property answers."""
    if message == "create":
        return (("record", Type("record", cls)),)
    if message == "destroy":
        return ()
    text = Type("string")
    for prefix in ("add_to_", "remove_from_", "add_", "remove_"):
        kind = fields[message.removeprefix(prefix)].type if message.removeprefix(prefix) in fields else None
        if kind and message.startswith(prefix) and kind.kind == ("map" if "_" in prefix[:-1] else "set"):
            value = {"add_to_": (("key", text), ("value", text)), "remove_from_": (("key", text),)}
            return value.get(prefix, (("value", kind.item or text),))
    return None


def parse(text: str) -> Type:
    """Read a type of the datamodel: "VM ref set", "(string -> enum vm_operations) map"."""
    for kind in ("set", "option"):
        if text.endswith(f" {kind}"):
            return Type(kind, item=parse(text[: -len(kind) - 1]))
    if text.endswith(" map"):
        key, value = _sides(text[1:-5])
        return Type("map", key=parse(key), item=parse(value))
    if text.startswith("enum "):
        return Type("enum", text[5:])
    head, _, kind = text.rpartition(" ")
    if kind in ("ref", "record"):
        return Type(kind, head)
    return Type(text if text in SCALARS else "record")


def _sides(text: str) -> tuple[str, str]:
    depth = 0
    for at, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0 and text.startswith(" -> ", at):
            return text[:at], text[at + 4 :]
    raise ValueError(text)


def _zero(kind: Type, tags: tuple[str, ...]) -> Any:
    if kind.kind in ("set", "map"):
        return {} if kind.kind == "map" else []
    if kind.kind == "ref":
        return NULL_REF
    return tags[0] if tags else ZEROS.get(kind.signature, "")


def _default(text: str, kind: Type) -> Any:
    """The default as xapi writes it: {"a" -> "b"}, {0}, "text", 1., Null, 19700101T00:00:00Z."""
    if kind.kind == "map":
        return dict(re.findall(r'"([^"]*)" -> "([^"]*)"', text))
    if kind.kind == "set":
        return [_default(each, kind.item) for each in text[1:-1].split(", ") if each]
    if kind.kind == "ref":
        return text if text.startswith("OpaqueRef:") else NULL_REF
    if kind.kind == "datetime":
        return int(datetime.strptime(text, "%Y%m%dT%H:%M:%S%z").timestamp())
    readers = {"int": int, "float": float, "bool": "true".__eq__, "string": lambda each: each[1:-1]}
    return readers.get(kind.kind, str)(text)
