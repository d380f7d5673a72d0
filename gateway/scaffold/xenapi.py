"""`scaffold xenapi`: IDL and mapping of a XenAPI datamodel.

Every class becomes an interface with a property for each field and a method for each message, and a manager with the
messages that have no object. The mapping file binds them again; what the naming rules do not give back is listed there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple
from xml.sax.saxutils import quoteattr

from msgspec import Struct

from gateway.core.dbus.introspection_xml import Argument, IdlMethod, IdlProperty, Interface
from gateway.core.dbus.signature import parse_one
from gateway.mapping.classes.fields import legacy_name, member_name
from gateway.scaffold import SourceError
from gateway.scaffold.datamodel import DatamodelClass, DatamodelField, DatamodelMessage, DatamodelType
from gateway.scaffold.description import idl_lines

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
