"""`scaffold xenapi`: IDL and mapping of a XenAPI datamodel.

A datamodel is the JSON that xapi ships, or a subset of it: a list of classes. A class has `name`, `fields` (`name`,
`type`), `messages` (`name`, `params`, `result`; `implicit` for those that every class may have, whose `params` may be
missing) and `enums`. Other members are ignored.

Every class becomes an interface with a property for each field and a method for each message, and a manager with the
messages that have no object. The mapping file binds them again; what the naming rules do not give back is listed there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from xml.sax.saxutils import quoteattr

from msgspec import Struct

from gateway.core.dbus.introspection_xml import Argument, IdlMethod, IdlProperty, Interface
from gateway.core.dbus.signature import parse_one
from gateway.mapping.classes.fields import legacy_name, member_name
from gateway.scaffold import SourceError
from gateway.scaffold.description import idl_lines

SCALARS: Mapping[str, str] = {"string": "s", "int": "x", "float": "d", "bool": "b", "datetime": "x", "void": ""}
SESSION = "session_id"  # the parameter that the mapping file handles for all methods
# Messages that follow from the fields and objects of a class.
READERS = frozenset(
    {"get_all", "get_all_records", "get_all_records_where", "get_record", "get_by_uuid", "get_by_name_label"}
)

PATH = "org.xen.xcp.ObjectPath"
# A session is opened and checked before a method, and events come from signals: neither is a class of objects here.
SERVED_OTHERWISE = frozenset({"session", "event"})
READING_HA = ("ha_compute_", "ha_failover_")
READING = ("assert_", "compute_", "query_", "list_", "has_", "retrieve_", "precheck", "probe", *READING_HA)
MOST_TAGS = 8  # an enum with more is named only
NO_OBJECT = "org.freedesktop.DBus.Error.UnknownObject"
# Parameters that a client may leave out. The JSON of xapi does not say so.
OPTIONAL: Mapping[str, Mapping[str, str]] = {
    "Bond.create": {"mode": "balance-slb", "properties": "{}"},
    "GPU_group.create": {"name_label": '""', "name_description": '""', "other_config": "{}"},
    "Repository.introduce": {"gpgkey_path": '""'},
    "SDN_controller.introduce": {"protocol": "ssl", "address": '""', "port": "0"},
    "SR.create_new_blob": {"public": "false"},
    "USB_group.create": {"name_label": '""', "name_description": '""', "other_config": "{}"},
    "VDI.clone": {"driver_params": "{}"},
    "VDI.copy": {"base_vdi": '"OpaqueRef:NULL"', "into_vdi": '"OpaqueRef:NULL"'},
    "VDI.snapshot": {"driver_params": "{}"},
    "VGPU.create": {"device": '"0"', "other_config": "{}", "type": '"OpaqueRef:NULL"'},
    "VIF.configure_ipv4": {"address": '""', "gateway": '""'},
    "VIF.configure_ipv6": {"address": '""', "gateway": '""'},
    "VM.assert_can_migrate": {"vgpu_map": "{}"},
    "VM.create_new_blob": {"public": "false"},
    "VM.migrate_send": {"vgpu_map": "{}"},
    "VM.snapshot": {"ignore_vdis": "[]"},
    "VUSB.create": {"other_config": "{}"},
    "blob.create": {"public": "false"},
    "host.apply_edition": {"force": "false"},
    "host.create_new_blob": {"public": "false"},
    "host.disable_external_auth": {"config": "{}"},
    "host.emergency_ha_disable": {"soft": "false"},
    "host.evacuate": {"network": '"OpaqueRef:NULL"', "evacuate_batch_size": "0"},
    "host.install_server_certificate": {"certificate_chain": '""'},
    "network.create_new_blob": {"public": "false"},
    "pool.create_new_blob": {"public": "false"},
    "pool.disable_external_auth": {"config": "{}"},
    "pool.sync_updates": {"force": "false", "token": '""', "token_id": '""'},
    "tunnel.create": {"protocol": "gre"},
}


# The datamodel


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


# The files


class Scaffold(NamedTuple):
    """What is written: the introspection XML and the mapping file."""

    idl: str
    mapping: str


class Names(Struct, frozen=True):
    """Where the service is: `bus_name` is also the prefix of the interfaces, `idl` the name of the IDL file."""

    bus_name: str
    object_path: str
    idl: str

    def interface(self, cls: DatamodelClass) -> str:
        """The interface of the objects of a class."""
        return f"{self.bus_name}.{cls.name[:1].upper()}{cls.name[1:]}1"

    def manager(self, cls: DatamodelClass) -> str:
        """The interface of the manager of a class."""
        return f"{self.interface(cls)[:-1]}Manager1"

    def path(self, cls: DatamodelClass) -> str:
        """The object path of the manager; the objects are below it."""
        return f"{self.object_path}/{cls.name.lower()}"


def make(classes: Sequence[DatamodelClass], names: Names) -> Scaffold:
    """Make both files; raises SourceError for a type that D-Bus does not have."""
    known = {each.name: each for each in classes if each.name not in SERVED_OTHERWISE}
    try:
        return Scaffold(_idl(known, names), "\n".join(_mapping(known, names)) + "\n")
    except ValueError as error:
        raise SourceError(f"a type of the datamodel is none of D-Bus: {error}") from error


def is_bound(cls: DatamodelClass) -> bool:
    """Tell whether the mapping has the class: a removed class, and a record that travels by value, have no readers."""
    return cls.name not in SERVED_OTHERWISE and bool(cls.readers or not cls.fields)


# IDL


def _idl(classes: Mapping[str, DatamodelClass], names: Names) -> str:
    interfaces: list[Interface] = []
    paths: dict[str, Mapping[str, str]] = {}
    for cls in classes.values():
        text, texts = DatamodelType("string"), DatamodelType("set", items=(DatamodelType("ref", cls.name),))
        lookups = {
            "get_all": DatamodelMessage("get_all", (), texts, static=True),
            "get_by_uuid": DatamodelMessage("get_by_uuid", (("uuid", text),), texts.items[0], static=True),
            "get_by_name_label": DatamodelMessage("get_by_name_label", (("label", text),), texts, static=True),
        }
        messages = [*cls.messages, *(each for name, each in lookups.items() if name in cls.readers)]
        methods = {each.name: _method(each, classes) for each in messages}
        own = {methods[each.name].name: methods[each.name] for each in messages if not each.static}
        others = {methods[each.name].name: methods[each.name] for each in messages if each.static}
        fields = {each.name: _property(each, cls.enums) for each in cls.fields}
        about = f"An object of the class {cls.name}."
        interfaces.append(Interface(names.interface(cls), own, fields, documentation=about))
        about = f"The objects of the class {cls.name}, and its messages that have no object."
        interfaces.append(Interface(names.manager(cls), others, documentation=about))
        paths[names.interface(cls)] = {PATH: f"{names.path(cls)}/{{{cls.name.lower()}}}"}
        paths[names.manager(cls)] = {PATH: names.path(cls)}
    about = "The classes of XenAPI, written by `xcp-gateway scaffold xenapi`."
    return "\n".join(idl_lines(about, interfaces, f"<node name={quoteattr(names.object_path)}>", paths)) + "\n"


def _method(message: DatamodelMessage, classes: Mapping[str, DatamodelClass]) -> IdlMethod:
    def argument(name: str, kind: DatamodelType) -> Argument:
        return Argument(name, parse_one(kind.signature), f"{kind}", _legacy_type(kind, classes))

    outs = [argument("result", message.result)] if message.result.kind != "void" else []
    ins = [argument(name, kind) for name, kind in message.parameters]
    return IdlMethod(member_name(message.name), ins, outs, f"Message {message.name}.")


def _property(field: DatamodelField, enums: Mapping[str, Sequence[str]]) -> IdlProperty:
    inner = field.type.innermost
    tags = enums.get(inner.name, ()) if inner.kind == "enum" else ()
    shown = f": {', '.join(tags)}" if 0 < len(tags) <= MOST_TAGS else ""
    access, kind = "readwrite" if field.writable else "read", parse_one(field.type.signature)
    return IdlProperty(
        member_name(field.name),
        kind,
        access,
        f"Field {field.name}, {field.type}{shown}",
        legacy_type=_legacy_type(field.type, {}),
    )


def _legacy_type(kind: DatamodelType, classes: Mapping[str, DatamodelClass]) -> str:
    """The annotation that the mapping of classes reads."""
    inner = kind.innermost
    if inner.kind == "datetime":
        return "datetime"
    is_record = inner.kind == "record" and inner.name in classes and is_bound(classes[inner.name])
    return f"{inner.name} record" if is_record else ""


# Mapping


def _mapping(classes: Mapping[str, DatamodelClass], names: Names) -> Iterator[str]:
    yield "mapping: 1"
    yield "service: xapi"
    yield "summary: The XenAPI of a pool, written by `xcp-gateway scaffold xenapi`. Complete it by hand."
    yield ""
    yield f"dbus: {{bus_name: {names.bus_name}, object_path: {names.object_path}, idl: {names.idl}}}"
    yield ""
    yield "# Add `session`, the check of sessions, and name the listeners of your config."
    yield "expose:"
    yield "  - {listener: rpc, path: /, codec: xmlrpc, dialect: xenapi}"
    yield "  - {listener: rpc, path: /jsonrpc, codec: jsonrpc, dialect: xenapi}"
    yield ""
    yield "defaults: {coerce: legacy}"
    yield f'errors: {{{NO_OBJECT}: {{code: HANDLE_INVALID, args: ["{{class}}", "{{self}}"]}}}}'
    yield "methods: {}"
    removed: list[str] = []
    for cls in classes.values():
        if is_bound(cls):
            removed += [f"{cls.name}.{name}" for name in cls.removed]
        elif cls.removed:
            removed.append(f"{cls.name}.*")  # of a class without objects all messages
    if removed:
        yield ""
        yield "removed:"
        yield from (f"  - {name}" for name in removed)
    yield ""
    yield "classes:"
    for cls in classes.values():
        if is_bound(cls):
            yield from _stanza(cls, names, classes)


def _stanza(cls: DatamodelClass, names: Names, classes: Mapping[str, DatamodelClass]) -> Iterator[str]:
    path = names.path(cls)
    yield f"  {cls.name}:"
    yield f"    object_path: {path}/{{{cls.name.lower()}}}"
    yield f"    interface: {names.interface(cls)}"
    yield f"    manager: {{object_path: {path}, interface: {names.manager(cls)}}}"
    fields = [field.name for field in cls.fields if legacy_name(member_name(field.name)) != field.name]
    if fields:
        yield "    fields:"
        yield from (f"      {name}: {member_name(name)}" for name in fields)
    messages = dict(_messages(cls, classes))
    if messages:
        yield "    messages:"
        yield from (f"      {name}: {{{keys}}}" for name, keys in messages.items())


def _messages(cls: DatamodelClass, classes: Mapping[str, DatamodelClass]) -> Iterator[tuple[str, str]]:
    """The messages that deviate from the rules, with their keys."""
    for message in cls.messages:
        keys = []
        if legacy_name(member_name(message.name)) != message.name:
            keys.append(f"member: {member_name(message.name)}")
        if message.name.startswith(READING):
            keys.append("effect: read")
        inner = message.result.innermost
        if inner.kind == "record" and inner.name in classes and not is_bound(classes[inner.name]):
            by_value = ", ".join(f"{each.name}: {member_name(each.name)}" for each in classes[inner.name].fields)
            keys.append(f"result: {{fields: {{{by_value}}}}}")
        optional = OPTIONAL.get(f"{cls.name}.{message.name}", {})
        given = [f"{name}: {optional[name]}" for name, _ in message.parameters if name in optional]
        if given:
            keys.append(f"optional: {{{', '.join(given)}}}")
        if keys:
            yield message.name, ", ".join(keys)
