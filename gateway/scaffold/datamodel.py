"""Reads a XenAPI datamodel: the JSON that xapi ships, or a subset of it.

The file is a list of classes. A class has `name`, `fields` (`name`, `type`), `messages` (`name`, `params`, `result`;
`implicit` for those that every class may have, whose `params` may be missing) and `enums`. Other members are ignored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from gateway.scaffold import SourceError

SCALARS: Mapping[str, str] = {"string": "s", "int": "x", "float": "d", "bool": "b", "datetime": "x", "void": ""}
SESSION = "session_id"  # the parameter that the mapping file handles for all methods
# Messages that follow from the fields and objects of a class.
READERS = frozenset(
    {"get_all", "get_all_records", "get_all_records_where", "get_record", "get_by_uuid", "get_by_name_label"}
)


class DatamodelType(Struct, frozen=True):
    """A type. `kind`: a scalar, enum, ref, record, set, map or option; `name`: of the enum or class."""

    kind: str
    name: str = ""
    items: tuple[DatamodelType, ...] = ()  # of a set or option, key and value of a map

    @property
    def signature(self) -> str:
        """The D-Bus type. A record is a dictionary of properties, a reference and an enum are text."""
        inner = "".join(item.signature for item in self.items)
        kinds = {
            "enum": "s",
            "ref": "s",
            "record": "a{sv}",
            "set": f"a{inner}",
            "map": f"a{{{inner}}}",
            "option": inner,
        }
        return kinds[self.kind] if self.kind in kinds else SCALARS[self.kind]

    @property
    def innermost(self) -> DatamodelType:
        """The type inside all sets, maps and options."""
        return self.items[-1].innermost if self.items else self

    def __str__(self) -> str:
        words = {"enum": f"enum {self.name}", "ref": f"{self.name} ref", "record": f"{self.name} record"}
        if self.kind == "map":
            return f"({self.items[0]} -> {self.items[1]}) map"
        return f"{self.items[0]} {self.kind}" if self.items else words.get(self.kind, self.kind)


class DatamodelField(Struct, frozen=True):
    """A field; `writable`: a message sets it directly."""

    name: str
    type: DatamodelType
    writable: bool


class DatamodelMessage(Struct, frozen=True):
    """A message that becomes a D-Bus method. `static`: it has no object of the class as its first parameter."""

    name: str
    parameters: tuple[tuple[str, DatamodelType], ...]  # without the session and the object
    result: DatamodelType
    static: bool


class DatamodelClass(Struct, frozen=True):
    """A class. `readers`: which of READERS it has; `removed`: the messages that it no longer has."""

    name: str
    fields: tuple[DatamodelField, ...]
    messages: tuple[DatamodelMessage, ...]
    readers: frozenset[str]
    removed: tuple[str, ...]
    enums: Mapping[str, Sequence[str]]


def read(content: bytes) -> list[DatamodelClass]:
    """Read a datamodel; raises SourceError."""
    try:
        data = json.loads(content)
    except ValueError as error:
        raise SourceError(f"expected the JSON of a datamodel, a list of classes: {error}") from error
    if not isinstance(data, list):
        raise SourceError(f"expected a list of classes, got {type(data).__name__}")
    return [_Reader(entry, f"class {index}").read() for index, entry in enumerate(data)]


class _Reader:
    """Reads one class; `where` names the place for errors."""

    def __init__(self, entry: Any, where: str) -> None:
        self._where = where
        self._entry = entry
        self._name = str(self._get(entry, "name", str))
        self._where = f"class {self._name}"

    def read(self) -> DatamodelClass:
        messages = [(str(self._get(each, "name", str)), each) for each in self._get(self._entry, "messages", list)]
        implicit = {name for name, each in messages if each.get("implicit")}
        states = {name: str(each.get("lifecycle", {}).get("state", "")) for name, each in messages}
        removed = tuple(name for name, _ in messages if states[name].startswith("removed"))
        fields = tuple(self._field(each, implicit) for each in self._get(self._entry, "fields", list))
        made = [self._message(name, each, fields) for name, each in messages if name not in removed]
        enums = {each["name"]: [tag["name"] for tag in each["values"]] for each in self._entry.get("enums", ())}
        readers = READERS & {name for name, _ in messages if name not in removed}
        return DatamodelClass(self._name, fields, tuple(each for each in made if each), readers, removed, enums)

    def _field(self, entry: Any, implicit: set[str]) -> DatamodelField:
        name = str(self._get(entry, "name", str))
        return DatamodelField(name, self._type(entry.get("type"), f"field {name}"), f"set_{name}" in implicit)

    def _message(self, name: str, entry: Any, fields: tuple[DatamodelField, ...]) -> DatamodelMessage | None:
        """The message; None for one that follows from a field or from the objects."""
        if name in READERS:
            return None
        if entry.get("implicit"):
            return self._implicit(name, {field.name: field.type for field in fields})
        place = f"message {name}"
        params = [
            (str(self._get(each, "name", str)), self._type(each.get("type"), place))
            for each in self._get(entry, "params", list)
            if each.get("name") != SESSION
        ]
        result = self._type((self._get(entry, "result", list) or ["void"])[0], place)
        static = not params or params[0][1] != DatamodelType("ref", self._name)
        return DatamodelMessage(name, tuple(params if static else params[1:]), result, static)

    def _implicit(self, name: str, fields: Mapping[str, DatamodelType]) -> DatamodelMessage | None:
        void, text = DatamodelType("void"), DatamodelType("string")
        if name == "create":
            record = DatamodelType("record", self._name)
            return DatamodelMessage(name, (("record", record),), DatamodelType("ref", self._name), static=True)
        if name == "destroy":
            return DatamodelMessage(name, (), void, static=False)
        for prefix, kind in (("add_to_", "map"), ("remove_from_", "map"), ("add_", "set"), ("remove_", "set")):
            held = fields.get(name.removeprefix(prefix))
            if held is not None and name.startswith(prefix) and held.kind == kind:
                value = ("value", held.items[-1])
                given = {"add_to_": (("key", text), value), "remove_from_": (("key", text),)}
                return DatamodelMessage(name, given.get(prefix, (value,)), void, static=False)
        return None

    def _get(self, entry: Any, key: str, kind: type) -> Any:
        if not isinstance(entry, dict) or not isinstance(entry.get(key), kind):
            found = type(entry.get(key)).__name__ if isinstance(entry, dict) else type(entry).__name__
            raise SourceError(f"{self._where}: expected '{key}' as a {kind.__name__}, got {found}")
        return entry[key]

    def _type(self, text: object, place: str) -> DatamodelType:
        if not isinstance(text, str):
            raise SourceError(f"{self._where}, {place}: expected 'type' as a text, got {type(text).__name__}")
        found = _parse(text)
        if found is None:
            raise SourceError(f"{self._where}, {place}: unknown type '{text}'")
        return found


def _parse(text: str) -> DatamodelType | None:
    """`VM ref set`, `(string -> enum vm_operations) map`, `an event batch`; None for no type."""
    head, _, last = text.rpartition(" ")
    if last in ("set", "option"):
        inner = _parse(head)
        return inner and DatamodelType(last, items=(inner,))
    if last == "map" and head.startswith("(") and head.endswith(")"):
        key, value = (_parse(side) for side in _sides(head[1:-1]))
        return DatamodelType("map", items=(key, value)) if key and value else None
    if head == "enum":
        return DatamodelType("enum", last)
    if last in ("ref", "record") and head:
        return DatamodelType(last, head)
    if text == "an event batch":
        return DatamodelType("record", "event batch")
    return DatamodelType(text) if text in SCALARS else None


def _sides(text: str) -> tuple[str, str]:
    """Both sides of the arrow that is in no parentheses."""
    depth = 0
    for at, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0 and text.startswith(" -> ", at):
            return text[:at], text[at + 4 :]
    return text, ""
